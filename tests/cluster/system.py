"""The hosts of the system by what they do, what is asked of them from outside, and who listens where."""

import functools
import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import testinfra
from testinfra.host import Host

from probe import Response, exchange, parse

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = "messaging-outside"
# RabbitMQ with TLS, its distribution and epmd; Redis; the web application for the nginx of other hosts
SERVICE_PORTS = {"rabbitmq": (5671, 25672, 4369), "redis": (6379,), "app": (8000,)}

_TRY = """
import json, socket, sys
answering = []
for address, port in json.loads(sys.argv[1]):
    link = socket.socket()
    link.settimeout(1)
    if link.connect_ex((address, port)) == 0:
        answering.append([address, port])
    link.close()
print(json.dumps(answering))
"""


@functools.cache
def host(name: str) -> Host:
    """A host, by its name in the inventory."""
    return testinfra.get_host(f"docker://{name}")


def _inventory() -> dict[str, Any]:
    return _read(os.environ["MOLECULE_INVENTORY_FILE"])


@functools.cache
def _read(inventory: str) -> dict[str, Any]:
    command = ["ansible-inventory", "--list", "--inventory", inventory]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def members(group: str) -> list[str]:
    """The hosts of a group, in the order of the inventory."""
    return list(_inventory().get(group, {}).get("hosts", []))


def everybody() -> list[str]:
    """All hosts of the system."""
    return members("molecule")


def address(name: str) -> str:
    """The address of a host on the network that they share."""
    return str(_inventory()["_meta"]["hostvars"][name]["cluster_address"])


def ask(name: str, target: str, method: str = "GET", headers: dict[str, str] | None = None, body: str = "") -> Response:
    """A request from outside to the nginx of a host."""
    lines = {"Host": "service.example.com", "Connection": "close", **(headers or {})}
    if body:
        lines["Content-Length"] = str(len(body.encode()))
    head = "".join(f"{field}: {value}\r\n" for field, value in lines.items())
    said = exchange(host(OUTSIDE), f"{method} {target} HTTP/1.1\r\n{head}\r\n{body}".encode(), address=address(name))
    return parse(said, method)


def ready(name: str) -> bool:
    """Whether a host's own web application says that everything works."""
    said = host(name).run(
        "python3 -c %s",
        "import http.client, socket\n"
        "link = http.client.HTTPConnection('localhost', timeout=5)\n"
        "link.sock = socket.socket(socket.AF_UNIX)\n"
        "link.sock.connect('/run/messaging-web.sock')\n"
        "link.request('GET', '/readyz')\n"
        "print(link.getresponse().status)\n",
    )
    return str(said.stdout).strip() == "200"


def rabbitmq(name: str, command: str) -> Any:
    """What a broker answers to `rabbitmqctl --formatter json`."""
    return json.loads(host(name).check_output(f"rabbitmqctl --quiet {command} --formatter json"))


def running(name: str) -> list[str]:
    """The brokers that a broker sees running, by their names in the inventory."""
    nodes = rabbitmq(name, "cluster_status")["running_nodes"]
    return sorted(str(node).removeprefix("rabbit@") for node in nodes)


def queues(name: str) -> dict[str, dict[str, Any]]:
    """The quorum queues: leader, members and those of them that are online, by their names in the inventory."""
    listed = rabbitmq(name, "list_queues --vhost messaging name type leader members online")
    return {
        queue["name"]: {
            "leader": str(queue["leader"]).removeprefix("rabbit@"),
            "members": sorted(str(node).removeprefix("rabbit@") for node in queue["members"]),
            "online": sorted(str(node).removeprefix("rabbit@") for node in queue["online"]),
        }
        for queue in listed
        if queue["type"] == "quorum"
    }


def answering(seen_from: str, places: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Those of the addresses and ports that take a connection from a host."""
    said = host(seen_from).check_output("python3 -c %s %s", _TRY, json.dumps(sorted(places)))
    return [(place, port) for place, port in json.loads(said)]


def listening(name: str) -> set[int]:
    """The ports at which something on a host listens for others than the host itself."""
    found = set()
    for line in host(name).check_output("ss -ltnH").splitlines():
        place, _, port = line.split()[3].rpartition(":")
        if not place.startswith(("127.", "[::1]", "[::ffff:127.")):
            found.add(int(port))
    return found


def service_places() -> list[tuple[str, int]]:
    """Every address and port that the hosts have for each other."""
    return [
        (address(name), port) for group, ports in SERVICE_PORTS.items() for name in members(group) for port in ports
    ]


def evidence(names: Iterable[str]) -> list[tuple[str, str]]:
    """What the hosts have to say, for the report of a test that failed; nothing of one that is away."""
    found = []
    for name in names:
        said = host(name).run(
            "systemctl --no-pager --plain --failed --no-legend; journalctl --no-pager -n 25 -o short-precise "
            "-p notice -u 'messaging*' -u rabbitmq-server -u 'redis*' -u nginx; tail -n 15 /var/log/rabbitmq/*.log"
        )
        found.append((f"journal of {name}", said.stdout + said.stderr))
    return found
