"""What runs with older files than those that are there is found, and restarted by the run that follows."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rendering import PROBE, evaluate, load_module

NOW = 1_800_000_000


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, for a host whose files are below `tmp_path`."""
    module = load_module("base/library/host_probe.py")
    monkeypatch.setattr(module, "READ_AT_START", {"a.service": (str(tmp_path / "a"), str(tmp_path / "a.conf"))})
    monkeypatch.setattr(module, "WORKER_UNIT", str(tmp_path / "unit"))
    monkeypatch.setattr(module, "WORKERS", str(tmp_path / "*.env"))
    return module


def written(path: Path, ago: int) -> None:
    path.touch()
    os.utime(path, (NOW - ago, NOW - ago))


@pytest.mark.parametrize(
    ("ago", "stale"),
    [
        (200, []),
        # systemd tells whole seconds
        (100, []),
        (99, ["a.service"]),
        # a clock that was put back
        (-5, []),
    ],
)
def test_a_file_that_is_newer_than_the_service_is_found(probe: Any, tmp_path: Path, ago: int, stale: list[str]) -> None:
    written(tmp_path / "a", 500)
    written(tmp_path / "a.conf", ago)
    assert probe.stale_units({"a.service": NOW - 100, "other.service": 1}, NOW) == stale


def test_a_file_of_one_worker_concerns_that_one_and_the_unit_all(probe: Any, tmp_path: Path) -> None:
    running = {f"messaging-worker@email-{number}.service": NOW - 100 for number in (1, 2, 3)}
    written(tmp_path / "unit", 500)
    written(tmp_path / "email-1.env", 500)
    written(tmp_path / "email-2.env", 50)
    assert probe.stale_units(running, NOW) == ["messaging-worker@email-2.service"]
    written(tmp_path / "unit", 50)
    # the third has left its pool
    assert probe.stale_units(running, NOW) == [f"messaging-worker@email-{number}.service" for number in (1, 2)]


def test_what_systemd_says_is_understood(probe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said = (
        "Id=a.service\nActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no\n"
        "ActiveEnterTimestamp=@1700000009\nExecMainStartTimestamp=@1700000001\n\n"
        "Id=a.socket\nActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=yes\n"
        "ActiveEnterTimestamp=@1700000002\n\n"
        "Id=a.target\nActiveState=active\nUnitFileState=disabled\nNeedDaemonReload=no\nActiveEnterTimestamp=\n\n"
        "Id=b.service\nActiveState=inactive\nUnitFileState=enabled\nNeedDaemonReload=no\n"
        "ActiveEnterTimestamp=\nExecMainStartTimestamp=@1700000003\n"
    )
    monkeypatch.setattr(probe, "said", lambda *_: said)
    units = probe.units_shown()
    assert probe.started(units) == {"a.service": 1700000001, "a.socket": 1700000002}
    assert probe.running(units, {}) == ["a.service"], "what is there to be done for the others, the run does"


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """Where a service is that says this to whoever comes, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            link, _ = server.accept()
            with link:
                link.sendall(request.param)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()
        thread.join(5)


MAILBOX, METRICS = "messaging-mailbox.service", "messaging-metrics.service"


@pytest.mark.parametrize(
    ("service", "unit", "well"),
    [
        (b"220 messaging-system ESMTP\r\n", MAILBOX, True),
        (b"421 too busy\r\n", MAILBOX, False),
        (b"", MAILBOX, False),
        (b"HTTP/1.1 200 OK\r\n\r\nx 1\n", METRICS, True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", METRICS, False),
    ],
    indirect=["service"],
)
def test_what_is_active_and_does_not_answer_is_looked_after(
    probe: Any, service: tuple[str, int], unit: str, well: bool
) -> None:
    seen = [{"Id": unit, "UnitFileState": "enabled", "NeedDaemonReload": "no"}]
    assert probe.running(seen, {unit: list(service)}) == ([unit] if well else [])


def test_nobody_there_and_a_port_that_is_none_are_no_answer(probe: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        gone = server.getsockname()
    assert not probe.answers(MAILBOX, {MAILBOX: list(gone)})
    assert not probe.answers(MAILBOX, {MAILBOX: ["127.0.0.1", "smtp"]})
    assert not probe.answers(MAILBOX, {MAILBOX: ["127.0.0.1", -1]})


@pytest.mark.parametrize(
    ("role", "unit"),
    [
        ("rabbitmq", "rabbitmq-server.service"),
        ("redis", "redis-server.service"),
        ("release", "messaging-metrics.service"),
        ("mailbox", "messaging-mailbox.service"),
        ("app", "messaging-web.service"),
        ("flower", "messaging-flower.socket"),
        ("monitoring", "messaging-monitoring-redis.service"),
        ("sshtunnel", "messaging-sshtunnel.service"),
        ("ngrok", "ngrok.service"),
        ("celery", "messaging-worker@email-1.service"),
    ],
)
def test_each_role_restarts_its_own(role: str, unit: str) -> None:
    assert evaluate(role, f"__{role}_stale") == []
    seen = {**PROBE, "stale_units": [unit, "messaging-worker@email-9.service", "other.service"]}
    assert evaluate(role, f"__{role}_stale", messaging_probe=seen) == [unit]


def test_rabbitmq_is_restarted_though_no_file_changes_now() -> None:
    files = {"__rabbitmq_files": {"changed_paths": []}}
    seen = {**PROBE, "stale_units": ["rabbitmq-server.service"]}
    assert evaluate("rabbitmq", "__rabbitmq_restart", **files) is False
    assert evaluate("rabbitmq", "__rabbitmq_restart", **files, messaging_probe=seen) is True
