"""The screen of `make status`: what is on it, and what makes it fail."""

import importlib.util
import json
from typing import Any

import pytest

from rendering import ROLES, load_module

SPEC = importlib.util.spec_from_file_location("status", ROLES / "base/filter_plugins/status.py")
assert SPEC
assert SPEC.loader
STATUS = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(STATUS)

GROUPS = ["rabbitmq", "redis", "mailbox", "app", "celery", "flower", "nginx", "ngrok", "sshtunnel"]
WEB = "messaging-web.service"
EMAIL = "messaging-worker@email-1.service"
CERTIFICATE = "/etc/letsencrypt/live/messaging-system/fullchain.pem"
RELEASE = "0.1.0-5c44fb073132"
GIB = 1024**3


def unit(state: str = "active", **properties: str) -> dict[str, str]:
    return {"ActiveState": state, "UnitFileState": "enabled", "NeedDaemonReload": "no", "NRestarts": "0", **properties}


def host(
    name: str = "vm1", groups: list[str] | None = None, tunnel: str = "", monitoring: bool = False, **changes: Any
) -> dict[str, Any]:
    """A host with everything, and all of it well."""
    names = [*STATUS.UNIT_OF.values(), "messaging-metrics.service", EMAIL, "messaging.target"]
    said = {
        "system": "debian 13",
        "uptime": 300_000.0,
        "memory_mb": [5000, 8000],
        "units": {each: unit() for each in names if not each.startswith(("ngrok", "messaging-sshtunnel"))},
        "workers": ["email-1"],
        "versions": {"rabbitmq-server": "4.0.5", "redis-server": "8.0.2", "nginx": "1.26.3", "python3": "3.13.5"},
        "release": RELEASE,
        "ready": {"rabbitmq": "ok", "redis": "ok", "log": "ok", "smtp": "ok"},
        "queues": {
            "email": {"waiting": 2, "consumers": 1},
            "delay.5": {"waiting": 1, "consumers": 0},
            "delay.60": {"waiting": 3, "consumers": 0},
            "dead": {"waiting": 0, "consumers": 0},
            "dead.notices": {"waiting": 7, "consumers": 1},
        },
        "alarms": [],
        "disks": [{"path": "/", "free": 50 * GIB, "size": 100 * GIB}],
        "certificates": {CERTIFICATE: 61.2},
        "ngrok_days": None,
        "errors": [],
        "errors_count": 0,
    }
    return {
        "name": name,
        "groups": groups or GROUPS,
        "tunnel": tunnel,
        "monitoring": monitoring,
        "said": {**said, **changes},
    }


def screen(*hosts: dict[str, Any], checkout: str = RELEASE) -> dict[str, Any]:
    made: dict[str, Any] = STATUS.status_screen(list(hosts), checkout, "2026-11-30 02:00:00")
    return made


def changed(name: str, *state: str, **properties: str) -> dict[str, Any]:
    return {**host()["said"]["units"], name: unit(*state, **properties)}


def test_all_is_well() -> None:
    made = screen(host())
    assert made["wrong"] == []
    assert made["text"] == (
        """messaging-system, 2026-11-30 02:00:00: all is well

vm1  debian 13, up 3 days, memory 4.9 GiB of 7.8 GiB free
  units     rabbitmq-server, redis-server, mailbox, web, flower, nginx, metrics, worker@email-1
  versions  release 0.1.0-5c44fb073132, RabbitMQ 4.0.5, Redis 8.0.2, nginx 1.26.3, Python 3.13.5
  disk      / 50 GiB of 100 GiB free
  expiry    /etc/letsencrypt/live/messaging-system/fullchain.pem 61 days
  errors    none in the last hour

queues
  waiting   email 2, to be tried again 4, dead 0
"""
    )


WRONG = [
    ({"units": changed(EMAIL, "failed")}, f"vm1: {EMAIL} is failed: journalctl --unit {EMAIL}"),
    ({"units": changed(WEB, "inactive")}, f"vm1: {WEB} is inactive"),
    ({"units": changed(WEB, UnitFileState="disabled")}, "would not come back after a reboot: make deploy"),
    ({"units": changed("messaging.target", "inactive")}, "vm1: is stopped: make start"),
    ({"workers": []}, "vm1: has no worker"),
    ({"workers": ["email-1", "email-2"]}, "vm1: messaging-worker@email-2.service is not there"),
    ({"ready": {}}, "vm1: the application does not answer"),
    ({"ready": {"smtp": "mail waits: 535 wrong"}}, "vm1: the application says of smtp: mail waits: 535 wrong"),
    ({"queues": None}, "vm1: RabbitMQ does not answer"),
    ({"queues": {"dead": {"waiting": 3}}}, "queues: 3 in dead: messagingctl dead list"),
    ({"queues": {"email": {"waiting": 3, "consumers": 0}}}, "queues: 3 in email, and nobody reads it"),
    ({"alarms": ["free disk space watermark"]}, "vm1: RabbitMQ has an alarm, and takes no mail: free disk"),
    ({"disks": [{"path": "/var/log", "free": GIB, "size": 20 * GIB}]}, "vm1: /var/log has 1.0 GiB of 20 GiB left"),
    ({"certificates": {CERTIFICATE: 9.7}}, f"vm1: the certificate {CERTIFICATE} ends in 10 days"),
    ({"certificates": {"/etc/redis/tls.crt": 20.0}}, "vm1: the certificate /etc/redis/tls.crt ends in 20 days"),
    ({"certificates": {CERTIFICATE: -1.0}}, f"vm1: the certificate {CERTIFICATE} has ended"),
    ({"ngrok_days": 400.0}, "vm1: ngrok's agent is 400 days old"),
]


@pytest.mark.parametrize(("changes", "line"), WRONG, ids=[line for _, line in WRONG])
def test_what_is_wrong_is_said_and_fails(changes: dict[str, Any], line: str) -> None:
    made = screen(host(**changes))
    assert len(made["wrong"]) == 1
    assert made["wrong"][0].startswith(line) or line in made["wrong"][0]
    assert ": 1 thing is wrong\n" in made["text"]
    shown = " ".join(made["text"].split())
    assert " ".join(made["wrong"][0].split()) in shown


def test_a_host_that_cannot_be_asked_is_wrong_and_the_others_are_shown() -> None:
    gone = {**host("vm2"), "said": {"unreachable": True, "msg": "ssh: connect to host vm2:\nConnection refused"}}
    made = screen(host(), gone)
    assert made["wrong"] == ["vm2: cannot be asked: ssh: connect to host vm2: Connection refused"]
    assert "vm1  debian 13" in made["text"]
    assert screen(gone)["wrong"]


def test_each_broker_tells_of_the_queues_that_it_leads() -> None:
    other = host("vm2", queues={"email": {"waiting": 0, "consumers": 2}, "compute": {"waiting": 5, "consumers": 1}})
    assert "waiting   compute 5, email 2, to be tried again 4, dead 0" in screen(host(), other)["text"]
    elsewhere = host("vm2", queues={"email": {"waiting": 9, "consumers": 0}})
    assert screen(host(), elsewhere)["wrong"] == [], "its consumers are told of by another host"


def test_only_what_the_inventory_lists_has_to_run() -> None:
    worker = host("vm2", groups=["celery"], queues=None, ready={}, release=RELEASE)
    worker["said"]["units"] = {name: unit() for name in ("messaging.target", "messaging-metrics.service", EMAIL)}
    assert screen(worker)["wrong"] == []
    assert screen(host(groups=["nginx"], workers=[]))["wrong"] == []


def test_what_runs_beside_the_inventory_is_told_and_does_not_fail() -> None:
    made = screen(host(groups=["app", "celery", "nginx"]))
    assert made["wrong"] == []
    for group in ("rabbitmq", "redis", "mailbox", "flower"):
        assert f"the inventory does not list the host under {group}" in " ".join(made["text"].split())
    assert "workers run, and" in screen(host(groups=["app", "flower"]))["text"]


def test_a_tunnel_has_to_run_where_it_acts() -> None:
    assert screen(host(tunnel="ngrok"))["wrong"] == ["vm1: ngrok.service is not there: make deploy"]
    assert screen(host(tunnel="ssh"))["wrong"] == ["vm1: messaging-sshtunnel.service is not there: make deploy"]


def test_releases_that_differ() -> None:
    made = screen(host(), host("vm2", release="0.1.0-000000000000"))
    assert made["wrong"] == [f"releases: not the same on all hosts: 0.1.0-000000000000 on vm2; {RELEASE} on vm1"]
    made = screen(host(), checkout="0.1.0-ffffffffffff")
    assert made["wrong"] == []
    assert "this checkout is 0.1.0-ffffffffffff: make deploy would bring it" in made["text"]


def test_what_somebody_should_know() -> None:
    made = screen(host(units=changed(EMAIL, NRestarts="4", NeedDaemonReload="yes")))
    assert made["wrong"] == []
    assert f"{EMAIL} has been changed and not read" in made["text"]
    assert f"{EMAIL} has been started 4 times by itself" in made["text"]


def test_errors_cannot_move_the_cursor_and_lines_are_short() -> None:
    said = ["01:02:03 \x1b[2J\u202eevil " + "word " * 60, "01:02:04 last"]
    text = screen(host(errors=said, errors_count=12))["text"]
    assert "12 in the last hour, the last:" in text
    assert "01:02:04 last" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_monitoring_is_missed_where_it_is_wanted_and_told_of_where_it_is_not() -> None:
    made = screen(host(monitoring=True))
    assert "vm1: messaging-monitoring-prometheus.service is not there: make deploy" in made["wrong"]
    running = {**host()["said"]["units"], **{each: unit() for each in STATUS.MONITORING}}
    assert screen(host(monitoring=True, units=running))["wrong"] == []
    made = screen(host(units=running))
    assert made["wrong"] == []
    assert "the monitoring runs, and the inventory does not want it" in made["text"]


@pytest.mark.parametrize(("queue", "seen"), [("celery_see", True), ("celery", True), ("celeryev.1f", False)])
def test_a_queue_of_work_may_be_called_as_those_of_celery(
    queue: str, seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load_module("base/library/host_status.py")
    lines = f'rabbitmq_detailed_queue_messages_ready{{vhost="messaging",queue="{queue}"}} 3\n'
    monkeypatch.setattr(module, "asked", lambda url: lines if "detailed" in url else "")
    assert module.broker() == (({queue: {"waiting": 3}} if seen else {}), [])


def test_the_last_errors_are_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """journalctl begins with the newest, on Debian 12 and 13: --grep with --lines implies --reverse."""
    module = load_module("base/library/host_status.py")
    newest_first = (
        json.dumps({"MESSAGE": f"error {number}", "PRIORITY": "3", "__REALTIME_TIMESTAMP": str(number * 1_000_000)})
        for number in (3, 2, 1)
    )
    journal = "\n".join(newest_first)
    monkeypatch.setattr(module, "said", lambda *command: journal)
    assert [line.split(" ", 1)[1] for line in module.errors()] == ["error 1", "error 2", "error 3"]
