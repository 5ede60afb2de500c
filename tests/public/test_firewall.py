"""The firewall, seen from other hosts: SSH, the web and what is listed answer, and nothing else."""

import json
import re
from collections.abc import Iterator

import pytest
from testinfra.host import Host

from faulty import converge
from probe import ready, wait_until

WEB = 80
# Not where SSH is by default: the playbook has to find it
SSH = 2222
LISTED = 9998
OPEN_BY_MISTAKE = 9999
PORTS = (WEB, SSH, LISTED, OPEN_BY_MISTAKE)

_TRY = """
import json, socket, sys
said = {}
for port in json.loads(sys.argv[2]):
    link = socket.socket()
    link.settimeout(1)
    said[port] = link.connect_ex((sys.argv[1], port)) == 0
    link.close()
print(json.dumps([port for port, answered in said.items() if answered]))
"""


def _address(host: Host) -> str:
    said = json.loads(host.check_output("ip -4 -json address show scope global"))
    return str(said[0]["addr_info"][0]["local"])


def _answering(seen_from: Host, target: Host, *ports: int) -> list[int]:
    """Those of the ports that take a connection."""
    said = seen_from.check_output("python3 -c %s %s %s", _TRY, _address(target), json.dumps(ports))
    return list(json.loads(said))


def _start(host: Host, port: int, command: str = "/usr/bin/python3 -m http.server --bind 0.0.0.0 {port}") -> None:
    # sshd wants the directory, and the web server something harmless to show
    properties = "-p RuntimeDirectory=sshd -p RuntimeDirectoryPreserve=yes -p WorkingDirectory=/run/sshd"
    host.check_output(f"systemd-run --quiet --collect --unit=listen-{port} {properties} {command.format(port=port)}")
    wait_until(lambda: f":{port} " in host.check_output("ss -ltn"), f"port {port} is open")


def _tables(host: Host) -> list[str]:
    return str(host.check_output("nft list tables")).splitlines()


@pytest.fixture(scope="module")
def walled(host: Host, internet: Host, edge: Host) -> Iterator[str]:
    """With the firewall on, and somebody's own table beside ours; the value is what the second run printed."""
    values = {
        "base_firewall": "nftables",
        "base_firewall_allow": [{"port": LISTED, "from": _address(internet)}],
    }
    try:
        host.check_output("ssh-keygen -A")
        _start(host, SSH, "/usr/sbin/sshd -D -p {port}")
        for port in (LISTED, OPEN_BY_MISTAKE):
            _start(host, port)
        assert _answering(edge, host, *PORTS) == list(PORTS), "without it all of them answer"
        converge("--tags", "base", **values)
        host.check_output("nft add table ip somebody")
        yield converge("--tags", "base", **values)
    finally:
        for port in (SSH, LISTED, OPEN_BY_MISTAKE):
            host.run(f"systemctl stop listen-{port}")
        host.run("nft delete table ip somebody")
        if host.file("/etc/systemd/system/base-firewall.service").exists:
            converge("--tags", "base", base_firewall="none")


def test_only_ssh_the_web_and_what_is_listed_answer(host: Host, internet: Host, edge: Host, walled: str) -> None:
    assert _answering(internet, host, *PORTS) == [WEB, SSH, LISTED]
    assert _answering(edge, host, *PORTS) == [WEB, SSH]
    assert _answering(edge, host, 4369, 5672, 6379, 8081, 15672, 25672) == []


def test_the_host_itself_is_not_in_its_way(host: Host, internet: Host, walled: str) -> None:
    assert ready(host)
    _start(internet, OPEN_BY_MISTAKE)
    try:
        assert _answering(host, internet, OPEN_BY_MISTAKE) == [OPEN_BY_MISTAKE]
    finally:
        internet.run(f"systemctl stop listen-{OPEN_BY_MISTAKE}")
    assert _answering(host, host, OPEN_BY_MISTAKE) == [OPEN_BY_MISTAKE], "its own address, over loopback"


def test_a_second_run_changes_nothing(walled: str) -> None:
    assert re.search(r" changed=0 .* failed=0 ", walled), walled


def test_its_unit_is_sandboxed(host: Host, walled: str) -> None:
    said = host.check_output("systemd-analyze --no-pager security base-firewall.service")
    exposure = re.search(r"Overall exposure level for \S+: (\d+\.\d)", said)
    assert exposure, said
    assert float(exposure.group(1)) <= 2.0, said


def test_off_again_it_leaves_nothing_of_ours(host: Host, edge: Host, walled: str) -> None:
    host.check_output("nft add table ip somebody")
    others = [table for table in _tables(host) if table != "table inet messaging"]
    converge("--tags", "base", base_firewall="none")
    assert _tables(host) == others
    assert host.check_output("systemctl list-unit-files --no-legend base-firewall.service || true") == ""
    assert _answering(edge, host, *PORTS) == list(PORTS)
