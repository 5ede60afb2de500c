"""Requests to the host from many clients at once, each with an address of its own in 127.0.0.0/8."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from testinfra.host import Host

from faulty import put
from probe import Response

PROGRAM = "/tmp/clients.py"
_PROGRAM = """
import http.client, json, sys
from concurrent.futures import ThreadPoolExecutor

def send(each):
    link = http.client.HTTPConnection("127.0.0.1", 80, timeout=20, source_address=(each["client"], 0))
    body = each["body"].encode() if each["body"] is not None else None
    link.request(each["method"], each["target"], body, each["headers"])
    answer = link.getresponse()
    return [answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()]

requests = json.load(open(sys.argv[1]))
with ThreadPoolExecutor(int(sys.argv[2])) as pool:
    print(json.dumps(list(pool.map(send, requests))))
"""


@dataclass(frozen=True)
class Ask:
    """One request, and who sends it."""

    target: str
    client: str = "127.0.0.1"
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None


def post(path: str, body: Any, client: str = "127.0.0.1", **headers: str) -> Ask:
    """A request to the API."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Ask(f"/api/v1{path}", client, "POST", {"Content-Type": "application/json", **names}, json.dumps(body))


def send(host: Host, asked: Sequence[Ask], at_once: int = 1) -> list[Response]:
    """Send all of them from the host itself; the answers in the same order."""
    put(host, _PROGRAM, PROGRAM)
    put(host, json.dumps([asdict(each) for each in asked]), f"{PROGRAM}.json")
    answers = json.loads(host.check_output("python3 %s %s %s", PROGRAM, f"{PROGRAM}.json", str(at_once)))
    return [Response(status, headers, body) for status, headers, body in answers]
