import os
from pathlib import Path

import pytest

from web_client import Web


@pytest.fixture
def web(tmp_path: Path) -> Web:
    log = tmp_path / "times.log"
    log.touch()
    return Web(log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which MongoDB the tests had: a test that did not run must not look like one that passed."""
    live = "stand-in, and the server of MONGODB_URL" if os.environ.get("MONGODB_URL") else "stand-in only"
    terminalreporter.write_line(f"MongoDB: {live}" + ("" if "," in live else ", MONGODB_URL is not set"))
