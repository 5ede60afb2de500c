import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from fake_broker import FakeBroker
from fakes import FakeRecords
from web_client import Web


@pytest.fixture(params=["in Redis", "elsewhere"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where records are: with claims and budgets, so that they are written together, or in another backend."""
    monkeypatch.setattr(FakeRecords, "in_redis", request.param == "in Redis")
    return str(request.param)


@pytest.fixture
def web(tmp_path: Path) -> Web:
    log = tmp_path / "times.log"
    log.touch()
    return Web(log)


@pytest.fixture
def broker() -> Iterator[Callable[..., FakeBroker]]:
    """Makes brokers, and ends them after the test."""
    made: list[FakeBroker] = []

    def make(address: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> FakeBroker:
        made.append(FakeBroker(address, context))
        return made[-1]

    yield make
    for each in made:
        each.kill()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    file: Path = tmp_path_factory.mktemp("ca") / "ca.crt"
    authority.cert_pem.write_to_path(str(file))
    return str(file)


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which MongoDB the tests had: a test that did not run must not look like one that passed."""
    live = "stand-in, and the server of MONGODB_URL" if os.environ.get("MONGODB_URL") else "stand-in only"
    terminalreporter.write_line(f"MongoDB: {live}" + ("" if "," in live else ", MONGODB_URL is not set"))
