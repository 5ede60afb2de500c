"""What could not be run is said, and is not counted as passed."""

import os
import subprocess
import sys
from pathlib import Path

from rendering import ROOT

JUNIT = '<testsuites><testsuite name="pytest" tests="3" failures="1" errors="0" skipped="0"/></testsuites>'

# An engine that runs and has no image, and no registry to get one from
DOCKER = """#!/bin/sh
case $1 in
version) echo 28.0 ;;
*) exit 1 ;;
esac
"""


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_summary_names_what_was_not_run_and_does_not_count_it(tmp_path: Path) -> None:
    (tmp_path / "unit.xml").write_text(JUNIT)
    (tmp_path / "not-run").write_text("molecule-ubuntu: no image\n")
    done = _run(sys.executable, "mk/summary.py", str(tmp_path), "61")
    assert done.stdout == "not run: molecule-ubuntu: no image\n2 passed, 1 failed, 0 skipped in 1 min 1 s\n"


def test_ubuntu_without_a_registry_is_not_run_and_has_not_passed(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "docker").write_text(DOCKER)
    (tools / "docker").chmod(0o755)
    results = tmp_path / "results"
    done = _run(
        "mk/test.sh",
        "molecule-ubuntu",
        # beside the environment's own python, as make has it
        PATH=f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        TMPDIR=str(tmp_path),
        TEST_RESULTS=str(results),
    )
    assert "not run: no image" in done.stdout, done.stdout + done.stderr
    assert "not run: molecule-ubuntu: no image\n0 passed, 0 failed, 0 skipped in" in done.stdout
    # Alone it is a failure; beside other steps, these decide
    assert done.returncode == 1
    assert "a container registry with ubuntu:24.04 has to be in reach" in done.stderr
