"""`make status` as an operator runs it: one screen, and an exit code for scripts."""

import os
import subprocess
from pathlib import Path

from testinfra.host import Host

from probe import ready, wait_until

ROOT = Path(__file__).parent.parent.parent
WORKER = "messaging-worker@email-1.service"


def status(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["mk/hosts.sh", "status", os.environ["MOLECULE_INVENTORY_FILE"], *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_it_is_well_until_a_worker_stops(host: Host) -> None:
    wait_until(lambda: ready(host), "ready before the test", 60)
    host.run("messagingctl dead purge --all --yes")
    well = status("--check")
    assert well.returncode == 0, well.stdout + well.stderr
    assert ": all is well\n" in well.stdout
    for word in ("worker@email-1", "release 0.", "RabbitMQ ", "Redis ", "nginx ", "email 0", " free", "last hour"):
        assert word in well.stdout, word
    assert "TASK" not in well.stdout, "the screen alone"
    host.check_output(f"systemctl stop {WORKER}")
    try:
        wrong = status()
    finally:
        host.check_output(f"systemctl start {WORKER}")
    assert wrong.returncode == 1
    assert ": 1 thing is wrong\n" in wrong.stdout
    assert f"{WORKER} is inactive" in wrong.stdout
