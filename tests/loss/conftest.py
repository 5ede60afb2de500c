"""Around the host: where the requests come from and where the mail goes; and the table at the end."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host

from probe import pytest_runtest_makereport
from reckoning import Reckoning, table
from rows import N
from stage import Stage

__all__ = ["pytest_runtest_makereport"]

RESULTS = Path(__file__).resolve().parents[2] / ".test-results"

_rows: list[Reckoning] = []


@pytest.fixture
def stage(host: Host) -> Iterator[Stage]:
    """A host that is well, with a relay that is well."""
    outside = testinfra.get_host(f"docker://{os.environ.get('LOSS_OUTSIDE', 'messaging-loss-outside')}")
    stage = Stage(host, outside, "host.test")
    stage.mood("well")
    stage.ready()
    yield stage
    stage.mood("well")


def _text() -> str:
    return f"The loss matrix at N = {N}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n\n{table(_rows)}\n"


@pytest.fixture
def keep() -> Callable[[Reckoning], None]:
    """Takes a row of the table, which is in .test-results/ from then on, and printed at the end."""

    def kept(row: Reckoning) -> None:
        _rows.append(row)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"loss-{N}.md").write_text(_text())

    return kept


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _rows:
        terminalreporter.write_line(_text())
