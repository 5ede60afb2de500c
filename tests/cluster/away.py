"""Hosts that go away: their power is cut, or their network."""

import subprocess

from probe import wait_until
from system import host

# Ahead of every other rule: what it drops, no other table can accept
_CUT = """
add table inet test_cut
add chain inet test_cut in { type filter hook input priority -400; policy drop; }
add chain inet test_cut out { type filter hook output priority -400; policy drop; }
add rule inet test_cut in iif lo accept
add rule inet test_cut out oif lo accept
"""


def power_off(name: str) -> None:
    """At once, as when a plug is pulled."""
    _docker("kill", name)


def power_on(name: str) -> None:
    """Start it again and wait until systemd has finished."""
    _docker("start", name)
    wait_until(lambda: _booted(name), f"{name} has booted", 120, every=0.5)


def cut_off(name: str) -> None:
    """Nothing comes to it from other hosts and nothing goes there; nobody is told."""
    host(name).check_output("printf %%s %s | nft -f -", _CUT)


def rejoin(name: str) -> None:
    """Undo `cut_off`."""
    host(name).check_output("nft delete table inet test_cut")


def _docker(verb: str, name: str) -> None:
    subprocess.run(["docker", verb, name], check=True, capture_output=True)


def _booted(name: str) -> bool:
    return str(host(name).run("systemctl is-system-running").stdout).strip() in {"running", "degraded"}
