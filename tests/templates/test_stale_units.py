"""What runs with older files than those that are there is found, and restarted by the run that follows."""

import os
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
    assert probe.running(units) == ["a.service"], "what is there to be done for the others, the run does"


@pytest.mark.parametrize(
    ("role", "unit"),
    [
        ("rabbitmq", "rabbitmq-server.service"),
        ("redis", "redis-server.service"),
        ("release", "messaging-metrics.service"),
        ("mailbox", "messaging-mailbox.service"),
        ("app", "messaging-web.service"),
        ("flower", "messaging-flower.socket"),
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
