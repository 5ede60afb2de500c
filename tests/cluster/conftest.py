"""A key for all tests, a system that works before and after each, evidence when one fails, and the table."""

import json
import os
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from load import ROLLING, Seen
from probe import wait_until
from reckoning import table as in_markdown
from rows import WANTED, N
from system import ROOT, everybody, evidence, members, queues, ready, running

RESULTS = ROOT / ".test-results"

_rows: list[Seen] = []


@pytest.fixture(scope="session", autouse=True)
def _healthy_at_first() -> None:
    wait_until(_works, "everything works before the tests", 90, every=2)


@pytest.fixture
def healthy() -> Iterator[None]:
    """The test leaves a system that works."""
    yield
    wait_until(_works, "everything works after the test", 180, every=2)


def _works() -> bool:
    brokers = sorted(members("rabbitmq"))
    return (
        all(ready(name) for name in members("app"))
        and running(brokers[0]) == brokers
        and all(queue["online"] == queue["members"] for queue in queues(brokers[0]).values())
    )


@pytest.fixture(scope="session")
def key() -> Iterator[str]:
    """An API key, made as an operator makes it: once, for all hosts."""
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory, "key")
        _play(key_action="add", key_name="cluster", key_scopes="mail,tasks,read", answer_file=str(answer))
        yield answer.read_text().strip()
    _play(key_action="revoke", key_name="cluster")


def _play(**values: str) -> None:
    command = ["ansible-playbook", "playbooks/api_key.yml", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"]]
    command += ["--extra-vars", json.dumps(values)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def table() -> Iterator[list[Seen]]:
    """The rows so far; they are printed at the end, and kept in .test-results/ as soon as they are there."""
    yield _rows
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"cluster-{N}.md").write_text(_in_markdown())


def _in_markdown() -> str:
    lines = in_markdown([seen.reckoning for seen in _rows]).splitlines()
    lines[0] += " longest gap |"
    lines[1] += "---:|"
    lines[2:] = [f"{line} {seen.gap:.1f} |" for line, seen in zip(lines[2:], _rows, strict=True)]
    return f"The cluster at N = {N}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n\n" + "\n".join(lines) + "\n"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _rows:
        terminalreporter.write_line(_in_markdown())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where rows are named, a whole run of the playbook is left out unless it is among them: it takes minutes."""
    if not WANTED or any(part in ROLLING for part in WANTED):
        return
    left_out = [item for item in items if item.path.stem == "test_6_rolling"]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Add what the hosts have to say to the report of a test that failed."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        report.sections += evidence(everybody())
