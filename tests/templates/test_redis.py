"""Redis on one host and in a cluster, and who may still come with an old password."""

import re
from typing import Any

import pytest
import yaml

from rendering import ROOT, cluster, evaluate, render

VMS = {"vm1": "10.0.0.1", "vm2": "10.0.0.2", "vm3": "10.0.0.3"}
DROP_IN = "etc/systemd/system/redis-server.service.d/messaging-cluster.conf.j2"


def _settings(**values: Any) -> dict[str, str]:
    text = render("redis", "etc/redis/redis.conf.j2", **values)
    lines = (line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#"))
    return dict(lines)


def test_on_one_host_clients_come_by_loopback() -> None:
    settings = _settings()
    assert (settings["bind"], settings["port"]) == ("127.0.0.1", "6379")
    assert not [name for name in settings if name.startswith("tls")]
    assert evaluate("redis", "__redis_clients") == ["127.0.0.0/8", "::1/128"]


def test_in_a_cluster_clients_come_with_tls_only() -> None:
    settings = _settings(**cluster(VMS))
    assert (settings["bind"], settings["port"], settings["tls-port"]) == ("10.0.0.1", "0", "6379")
    assert settings["tls-cert-file"], settings["tls-key-file"]
    assert settings["unixsocketperm"] == "700"


def test_the_hosts_of_the_cluster_may_come_and_nobody_else() -> None:
    [allowed] = re.findall(r"^IPAddressAllow=(.*)$", render("redis", DROP_IN, **cluster(VMS)), re.MULTILINE)
    assert allowed.split() == ["127.0.0.0/8", "::1/128", *VMS.values()]


@pytest.mark.parametrize(
    ("redis", "run", "ends"),
    [
        ("vm1", [*VMS], True),
        ("vm1", ["vm1", "vm2"], False),
        ("vm2", [*VMS], False),
        ("vm1", ["vm1", "vm2", "vm3", "other-system"], True),
    ],
)
def test_an_old_password_ends_when_every_host_had_the_new_one(redis: str, run: list[str], ends: bool) -> None:
    """The conditions of the play, as vm1 sees them; with --limit, or after a failure, not all hosts are in it."""
    plays = yaml.safe_load((ROOT / "playbook.yml").read_text(encoding="utf-8"))
    [play] = [each for each in plays if each["name"] == "Who gets in"]
    assert play["hosts"] == "all"
    host = {**cluster(VMS, {"redis": [redis]}), "ansible_play_hosts": run}
    assert all(evaluate("redis", condition, **host) for condition in play["tasks"][0]["when"]) is ends
