"""The rules of the firewall, and the origins of security updates, for hosts that differ."""

import re
from typing import Any

import pytest

from rendering import FACTS, PROBE, cluster, evaluate, everything_on, render

UPGRADES = "etc/apt/apt.conf.d/90messaging-unattended-upgrades.j2"
RULES = "etc/nftables.d/messaging.nft.j2"
CLUSTER_RULES = "etc/nftables.d/messaging-cluster.nft.j2"
VMS = {"vm1": "10.0.0.1", "vm2": "10.0.0.2", "vm3": "10.0.0.3"}
PORTS = "tcp dport { 2525, 4369, 5671, 6379, 8000, 25672 }"


def _opened(**values: Any) -> list[str]:
    """What is let in besides answers, loopback, ICMP and DHCPv6."""
    text = render("base", RULES, base_firewall="nftables", **values)
    lines = [line.strip() for line in text.splitlines()]
    return [re.sub(r" accept.*", "", line) for line in lines if "dport" in line and "dport 546" not in line]


def test_ssh_and_the_web_are_let_in_and_nothing_else() -> None:
    assert _opened() == ["tcp dport { 22 }", "tcp dport { 80 }"]
    assert "policy drop;" in render("base", RULES)


@pytest.mark.parametrize(
    ("values", "opened"),
    [
        ({"group_names": ["celery"]}, ["tcp dport { 22 }"]),
        ({"nginx_port": "8080"}, ["tcp dport { 22 }", "tcp dport { 8080 }"]),
        ({"nginx_tls": "provided", "nginx_tls_port": 8443}, ["tcp dport { 22 }", "tcp dport { 80, 8443 }"]),
        (
            {"messaging_probe": {**PROBE, "ssh_ports": [22, 2222]}, "base_firewall_ssh_ports": [22, "4022"]},
            ["tcp dport { 22, 2222, 4022 }", "tcp dport { 80 }"],
        ),
        (
            {"base_firewall_allow": [{"port": 9100, "from": ["10.0.0.0/8", "2001:db8::/32"]}]},
            [
                "tcp dport { 22 }",
                "tcp dport { 80 }",
                "ip saddr 10.0.0.0/8 tcp dport 9100",
                "ip6 saddr 2001:db8::/32 tcp dport 9100",
            ],
        ),
        (
            {"base_firewall_allow": [{"port": 51820, "protocol": "udp"}, {"port": 9100, "from": "192.0.2.1"}]},
            ["tcp dport { 22 }", "tcp dport { 80 }", "udp dport 51820", "ip saddr 192.0.2.1 tcp dport 9100"],
        ),
    ],
)
def test_what_is_let_in_follows_the_variables(values: dict[str, Any], opened: list[str]) -> None:
    assert _opened(**values) == opened


def test_the_hosts_of_a_cluster_are_let_in_by_both() -> None:
    source = "ip saddr { 10.0.0.1, 10.0.0.2, 10.0.0.3 }"
    assert f"{source} {PORTS}" in _opened(**cluster(VMS))
    assert _rules(**cluster(VMS)) == ['iif "lo" accept', f"{source} accept", f"{PORTS} drop"]


def test_what_a_host_that_has_left_still_has_open_ends() -> None:
    left = _rules(**cluster({name: address for name, address in VMS.items() if name != "vm3"}))
    assert left[1] == "ip saddr { 10.0.0.1, 10.0.0.2 } accept"
    assert "ct state" not in "".join(left)


def test_other_ports_of_a_cluster_are_shut() -> None:
    ports = {"redis_port": "6380", "mailbox_port": 2526, "app_port": 8001, "rabbitmq_tls_port": 5673}
    assert _rules(**cluster(VMS), **ports)[-1] == "tcp dport { 2526, 4369, 5673, 6380, 8001, 25672 } drop"


def test_the_table_of_the_cluster_says_nothing_of_other_ports() -> None:
    text = render("base", CLUSTER_RULES, **cluster(VMS))
    assert "policy accept;" in text
    assert set(re.findall(r"table \w+ \w+", text)) == {"table inet messaging_cluster"}


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (cluster(VMS), True),
        (cluster(VMS) | {"base_cluster_firewall": False}, False),
        (cluster({"vm1": "10.0.0.1"}), False),
        (cluster({"stranger": "", **VMS}, everything_on("vm1", "vm2")), False),
    ],
)
def test_a_cluster_is_shut_unless_somebody_says_no(values: dict[str, Any], wanted: bool) -> None:
    assert evaluate("base", "__base_cluster_firewall", **values) is wanted
    assert evaluate("base", "'nftables' in __base_packages", **values) is wanted


def _rules(**values: Any) -> list[str]:
    text = render("base", CLUSTER_RULES, **values)
    return [line.strip() for line in text.splitlines() if line.endswith(("accept", "drop"))]


def test_the_table_of_another_is_never_emptied() -> None:
    text = render("base", RULES)
    assert "flush" not in text
    assert set(re.findall(r"table \w+ \w+", text)) == {"table inet messaging"}


@pytest.mark.parametrize("distribution", ["Debian", "Ubuntu"])
def test_only_security_updates_are_installed(distribution: str) -> None:
    facts = {**FACTS, "distribution": distribution}
    text = render("base", UPGRADES, ansible_facts=facts, base_unattended_upgrades=True)
    origins = re.findall(r'"origin=.*?"', text)
    assert len(origins) == 1
    assert f"origin={distribution}," in origins[0]
    assert "${distro_codename}-security" in origins[0]
    assert 'Automatic-Reboot "false";' in text


def test_brokers_of_a_cluster_are_not_updated_without_taking_turns() -> None:
    kept = '"^rabbitmq-server$";\n    "^erlang-";'
    on = {"base_unattended_upgrades": True}
    assert kept in render("base", UPGRADES, **cluster(VMS), **on)
    assert kept not in render("base", UPGRADES, **cluster(VMS, {"rabbitmq": ["vm2", "vm3"]}), **on)
    assert kept not in render("base", UPGRADES, **cluster(VMS, {"rabbitmq": ["vm1"]}), **on)
    assert kept not in render("base", UPGRADES, **on)


def test_security_updates_that_were_on_are_turned_off() -> None:
    assert 'APT::Periodic::Unattended-Upgrade "0";' in render("base", UPGRADES)
