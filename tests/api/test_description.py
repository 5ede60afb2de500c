"""The API does what its description says, with generated requests, good and bad (https://schemathesis.readthedocs.io)."""

import os
import re
import subprocess
from pathlib import Path

from testinfra.host import Host

from probe import base_url, ready, secrets_on_controller, wait_until

HOOKS = Path(__file__).parent / "hooks.py"


def test_the_api_keeps_to_its_description(host: Host) -> None:
    """Every check of schemathesis, in all its phases."""
    wait_until(lambda: ready(host), "ready", 60)
    command = [
        "schemathesis", "run", f"{base_url(host)}/api/v1/openapi.json",
        "--checks", "all", "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "50",
        "--continue-on-failure", "--no-color",
        "--header", f"Authorization: Bearer {secrets_on_controller()['operator_key']}",
    ]  # fmt: skip
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(result.stdout[result.stdout.find("= SUMMARY =") :])
    assert result.returncode == 0, result.stdout[-20000:] + result.stderr[-4000:]
    assert "Authentication failed" not in result.stdout, "what only operators may do was not tried"
    tested = re.search(r"Tested: +(\d+)", result.stdout)
    assert tested, result.stdout[-4000:]
    assert int(tested.group(1)) == 7
