"""How long the playbook takes: `converge.py INVENTORY OUTPUT ROUNDS`, from the checkout; the host is a bare one.

The first run, and in each round one that has nothing to do and one that brings a new release; in the end the checkout's
own release is live. With ROUNDS 0 the first run alone.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import OURS, Round

ROOT = Path(__file__).resolve().parents[1]
# The real playbook, without an operator's vault
PLAYBOOK = ROOT / "molecule/shared/converge.yml"
SLOWEST = 10
_TASK = re.compile(r"^(?P<name>\S.*?) -+ (?P<seconds>\d+\.\d\d)s$", re.MULTILINE)


def slowest_tasks(output: str) -> list[tuple[str, float]]:
    """Name and seconds of each task in the recap of ansible.posix.profile_tasks."""
    _, _, recap = output.partition("TASKS RECAP")
    return [(found["name"], float(found["seconds"])) for found in _TASK.finditer(recap)]


def changes(output: str) -> int:
    """Tasks that changed something, on all hosts."""
    return sum(int(count) for count in re.findall(r" changed=(\d+) ", output))


def converge(inventory: str, source: str = "") -> tuple[float, str]:
    """Run the playbook; the seconds it took, and what it printed.

    Raises:
        SystemExit: it failed.
    """
    environment = os.environ | {
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
        "PROFILE_TASKS_TASK_OUTPUT_LIMIT": str(SLOWEST),
        "ANSIBLE_NOCOLOR": "1",
    }
    command = ["ansible-playbook", "--inventory", inventory, str(PLAYBOOK)]
    if source:
        command += ["--extra-vars", json.dumps({"release_source": source})]
    begun = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - begun
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nfailed: the playbook; see above")
    return seconds, done.stdout


def other_release(folder: Path, number: int) -> str:
    """A copy of the application that differs by a comment."""
    copy = folder / f"app-{number}"
    shutil.copytree(ROOT / "app", copy, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    with (copy / "src/messaging/__init__.py").open("a") as stream:
        stream.write(f"# release {number} of the benchmark\n")
    return str(copy)


def main(inventory: str, output: str, rounds: str) -> None:
    done: list[Round] = []
    tasks: dict[str, list[tuple[str, float]]] = {}

    def note(figure: str, number: int, seconds: float, said: str, refused: str = "") -> None:
        tasks.setdefault(figure, slowest_tasks(said))
        done.append(Round("converge", OURS, number, {} if refused else {f"{figure}, s": seconds}, refused))
        Path(output).write_text(json.dumps({"rounds": [each.to_json() for each in done], "tasks": tasks}, indent=1))
        print(f"converge, {figure} {number}: {refused or f'{seconds:.1f} s'}", flush=True)

    note("first run", 1, *converge(inventory))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, int(rounds) + 1):
            seconds, said = converge(inventory)
            note("nothing to do", number, seconds, said, f"it changed {changes(said)}" if changes(said) else "")
            note("a new release", number, *converge(inventory, other_release(Path(folder), number)))
            converge(inventory)


if __name__ == "__main__":
    main(*sys.argv[1:])
