"""The listener of the tunnel: whose request it is, what is served there, and how much of it."""

import ipaddress
import itertools
import json
import random
import uuid
from typing import Any

import pytest
from testinfra.host import Host

from probe import exchange, parse, ready, wait_until

TUNNEL = 8081
DIRECT = 80
LOG = "/var/log/nginx/access.log"
CLIENT = "203.0.113.9"
STRANGER = "198.51.100.66"

# Some requests of one client, then some of another, over one connection and as fast as they go; every status, and the
# headers and the body of the last answer to each client
_MANY = """
import http.client, json, sys
port, target, steps = json.loads(sys.argv[1])
link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
told = []
for client, count in steps:
    statuses = []
    for _ in range(count):
        link.request("GET", target, headers={"X-Forwarded-For": client})
        answer = link.getresponse()
        body = answer.read().decode()
        statuses.append(answer.status)
    told.append([statuses, {name.lower(): value for name, value in answer.getheaders()}, body])
print(json.dumps(told))
"""

# Connections that begin to send a body and never end; what each was told within two seconds, or nothing
_DAWDLE = """
import json, select, socket, sys
client, count = sys.argv[1], int(sys.argv[2])
links = []
for _ in range(count):
    link = socket.create_connection(("127.0.0.1", 8081), 5)
    link.sendall(f"POST /api/v1/tasks/reverse-text HTTP/1.1\\r\\nHost: localhost\\r\\nX-Forwarded-For: {client}\\r\\n"
                 "Content-Type: application/json\\r\\nContent-Length: 1000\\r\\n\\r\\n{".encode())
    links.append(link)
refused = []
while ready := select.select([link for link in links if link not in refused], [], [], 2)[0]:
    refused += ready
print(json.dumps([link.recv(12).decode() for link in refused]))
"""

# Requests for a path that shows something else than it is
_RAW = """
import socket, sys
for _ in range(int(sys.argv[2])):
    with socket.create_connection(("127.0.0.1", 8081), 5) as link:
        target = "/\\u202egnp.exe"
        link.sendall(f"GET {target} HTTP/1.1\\r\\nHost: localhost\\r\\nUser-Agent: {sys.argv[1]}\\r\\n\\r\\n".encode())
        assert link.recv(12) == b"HTTP/1.1 400"
"""

_clients = itertools.count(random.randrange(1 << 12) << 8)


@pytest.fixture(scope="module", autouse=True)
def _service_is_ready(host: Host) -> None:
    wait_until(lambda: ready(host), "/readyz answers 200", 60)


def somebody() -> str:
    """The address of a client who has not been here before."""
    return str(ipaddress.ip_address("198.18.0.0") + next(_clients) % (1 << 17))


def ask(host: Host, port: int, *headers: str, target: str = "/", method: str = "GET", body: str = "") -> bytes:
    """One request with these header lines, the same name as often as wanted."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return exchange(host, "\r\n".join([*lines, "", body]).encode(), port)


def many(host: Host, *steps: tuple[str, int], port: int = TUNNEL, target: str = "/healthz") -> list[list[int]]:
    """The statuses of many requests: for each client in turn, so many."""
    return [statuses for statuses, _, _ in _many(host, port, target, *steps)]


def _many(host: Host, port: int, target: str, *steps: tuple[str, int]) -> list[tuple[list[int], dict[str, str], str]]:
    return [
        tuple(step)
        for step in json.loads(host.check_output("python3 -c %s %s", _MANY, json.dumps([port, target, steps])))
    ]


def logged(host: Host, needle: str) -> dict[str, Any]:
    """The line of the access log that holds this, once it is there."""
    found = wait_until(
        lambda: host.run("grep -F -- %s %s", needle, LOG).stdout.splitlines(), f"{needle} in {LOG}", limit=5
    )
    assert len(found) == 1, found
    return dict(json.loads(found[0]))


def caller(host: Host, port: int, *headers: str, key: str) -> str:
    """The id of a task: that of the first request with this key, if the application takes both for one client."""
    answer = parse(ask(host, port, *headers, f"Idempotency-Key: {key}", **_reverse()))
    assert answer.status == 202, answer
    return str(answer.json()["task_id"])


def _reverse() -> dict[str, str]:
    return {"target": "/api/v1/tasks/reverse-text", "method": "POST", "body": '{"text": "abc"}'}


FORGED = [
    pytest.param([f"X-Forwarded-For: {STRANGER}, {CLIENT}"], id="in front"),
    pytest.param([f"X-Forwarded-For: {STRANGER}", f"X-Forwarded-For: {CLIENT}"], id="a header of its own"),
    pytest.param([f"X-Forwarded-For: 127.0.0.1, ::1, {CLIENT}"], id="loopback in front"),
    pytest.param([f"X-Forwarded-For: junk,,\t<script>,{CLIENT}"], id="junk in front"),
    pytest.param([f"X-Forwarded-For: {CLIENT}:4711"], id="with a port"),
    pytest.param([f"X-Forwarded-For: ::ffff:{CLIENT}"], id="mapped"),
    pytest.param([f"X-Real-IP: {STRANGER}", f"X-Forwarded-For: {CLIENT}"], id="X-Real-IP"),
    pytest.param([f"Forwarded: for={STRANGER};proto=http", f"X-Forwarded-For: {CLIENT}"], id="Forwarded"),
    pytest.param([f"X_Forwarded_For: {STRANGER}", f"X-Forwarded-For: {CLIENT}"], id="underscores"),
]


@pytest.mark.parametrize("headers", FORGED)
def test_through_the_tunnel_the_client_is_the_last_address(host: Host, headers: list[str]) -> None:
    path = f"/api/v1/tasks/{uuid.uuid4()}"
    ask(host, TUNNEL, *headers, target=path)
    line = logged(host, path)
    assert (line["client"], line["through"]) == (CLIENT, "tunnel")
    key = str(uuid.uuid4())
    assert caller(host, TUNNEL, *headers, key=key) == caller(host, TUNNEL, f"X-Forwarded-For: {CLIENT}", key=key)
    assert caller(host, TUNNEL, f"X-Forwarded-For: {STRANGER}", key=key) != caller(host, TUNNEL, *headers, key=key)


@pytest.mark.parametrize("address", ["2001:db8::1", "[2001:db8::1]:443", "2001:DB8:0::1"])
def test_a_client_may_have_ipv6(host: Host, address: str) -> None:
    path = f"/api/v1/tasks/{uuid.uuid4()}"
    ask(host, TUNNEL, f"X-Forwarded-For: {STRANGER}, {address}", target=path)
    assert logged(host, path)["client"] == "2001:db8::1"


@pytest.mark.parametrize("headers", FORGED)
def test_who_comes_directly_is_who_he_is(host: Host, headers: list[str]) -> None:
    path = f"/api/v1/tasks/{uuid.uuid4()}"
    ask(host, DIRECT, *headers, "X-Messaging-Through: tunnel", target=path)
    line = logged(host, path)
    assert (line["client"], line["through"]) == ("127.0.0.1", "direct")
    key = str(uuid.uuid4())
    assert caller(host, DIRECT, *headers, key=key) == caller(host, DIRECT, key=key)
    assert caller(host, DIRECT, *headers, key=key) != caller(host, TUNNEL, *headers, key=key)


@pytest.mark.parametrize(
    ("port", "headers", "secure"),
    [
        (TUNNEL, [], True),
        (TUNNEL, ["X-Forwarded-Proto: https"], True),
        (TUNNEL, ["X-Forwarded-Proto: http"], False),
        (TUNNEL, ["X-Forwarded-Proto: gopher://"], True),
        (DIRECT, ["X-Forwarded-Proto: https"], False),
    ],
)
def test_the_scheme_is_the_tunnels_word(host: Host, port: int, headers: list[str], secure: bool) -> None:
    body = "text=abc"
    sent = [*headers, f"X-Forwarded-For: {somebody()}", "Content-Type: application/x-www-form-urlencoded"]
    lines = ["POST /reverse-text HTTP/1.1", "Host: localhost", "Connection: close", *sent]
    raw = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode()
    answer = parse(exchange(host, raw, port))
    assert answer.headers["set-cookie"].startswith("visitor="), answer
    assert ("; Secure" in answer.headers["set-cookie"]) == secure


OPERATORS = [
    "/flower",
    "/flower/",
    "/flower/api/tasks",
    "/operators",
    "/operators/",
    "/operators/dead",
    "/operators/?hours=1",
    "/readyz",
    "/api/v1/tasks",
    "/api/v1/tasks?limit=1",
    "/mail/x",
]
WRITTEN_OTHERWISE = [
    "//flower/",
    "/flower%2fapi/tasks",
    "/%66lower/",
    "/static/..%2fflower/",
    "//operators/",
    "/%6fperators/",
    "/operators%2fdead",
    "/x/../operators/",
    "/OPERATORS/",
    "/x/%2e%2e/readyz",
    "/api//v1/./tasks",
    "/api/v1/%74asks",
    "/api/v1/tasks/",
    "/api/v1/tasks#x",
    "/api/v1/tasks%3Flimit=1",
    "/api/v1/tasks;x",
    "http://localhost/api/v1/tasks",
    "/FLOWER/",
]


@pytest.mark.parametrize("target", [*OPERATORS, *WRITTEN_OTHERWISE])
def test_what_operators_want_is_not_there(host: Host, target: str) -> None:
    # also for somebody with the operators' key
    answer = parse(ask(host, TUNNEL, f"X-Forwarded-For: {somebody()}", target=target))
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json"), answer


def test_the_rest_is_there(host: Host) -> None:
    client = f"X-Forwarded-For: {somebody()}"
    for target in ("/", "/healthz", "/static/style.css", "/api/v1/openapi.json", "/recent"):
        assert parse(ask(host, TUNNEL, client, target=target)).status == 200, target
    assert parse(ask(host, DIRECT, target="/readyz")).status == 200
    assert parse(ask(host, DIRECT, target="/flower/")).status == 401
    assert parse(ask(host, DIRECT, target="/operators/")).status == 401


def test_a_client_who_asks_too_much_is_told_to_slow_down(host: Host) -> None:
    client = somebody()
    (statuses, headers, body), (forged, _, _), (other, _, _) = _many(
        host, TUNNEL, "/healthz", (client, 200), (f"{somebody()}, {client}", 1), (somebody(), 30)
    )
    passed = statuses.count(200)
    print(f"200 requests at once: {passed} passed, {statuses.count(429)} refused")
    assert set(statuses) == {200, 429}
    assert 40 < passed < 100
    assert headers["content-type"] == "application/problem+json"
    assert int(headers["retry-after"]) > 0
    assert json.loads(body)["status"] == 429
    assert forged == [429], "another address in front of the true one is of no use"
    assert other == [200] * 30
    wait_until(lambda: many(host, (client, 1)) == [[200]], "the client may ask again", limit=15)


@pytest.mark.parametrize("target", ["/static/style.css", "/flower/", "/no/such/page"])
def test_every_kind_of_address_counts(host: Host, target: str) -> None:
    [statuses] = many(host, (somebody(), 150), target=target)
    assert 429 in statuses


def test_an_ipv6_network_is_one_client(host: Host) -> None:
    network = ipaddress.ip_network(f"2001:db8:{random.randrange(1 << 16):x}:{random.randrange(1 << 15) * 2:x}::/64")
    first, last, neighbour = str(network[1]), str(network[-1]), str(network[-1] + 1)
    flood, same, other = many(host, (first, 150), (last, 1), (neighbour, 30))
    assert 429 in flood
    assert same == [429]
    assert other == [200] * 30


def test_an_ipv4_client_of_an_ipv6_proxy_is_one_client(host: Host) -> None:
    client, other = somebody(), somebody()
    flood, same, others = many(host, (f"::ffff:{client}", 150), (client, 1), (f"::ffff:{other}", 30))
    assert 429 in flood
    assert same == [429]
    assert others == [200] * 30


def test_who_comes_directly_is_not_limited_while_mail_stays_here(host: Host) -> None:
    assert many(host, ("127.0.0.1", 300), port=DIRECT) == [[200] * 300]


def test_a_client_who_dawdles_does_not_take_every_place(host: Host) -> None:
    client = somebody()
    told = json.loads(host.check_output("python3 -c %s %s 30", _DAWDLE, client))
    assert told == ["HTTP/1.1 429"] * 10
    assert many(host, (somebody(), 1)) == [[200]]


def test_what_a_caller_sends_is_a_short_line_of_the_log(host: Host) -> None:
    mark = uuid.uuid4().hex
    agent = f"User-Agent: {mark}{'A' * 5000}"
    ask(host, TUNNEL, agent, f"X-Forwarded-For: {somebody()}", target=f"/{'p' * 5000}?q={'q' * 1000}", method="M" * 500)
    line = logged(host, mark)
    assert line["path"] == "/" + "p" * 199 + "..."
    assert line["user_agent"] == (mark + "A" * 5000)[:200] + "..."
    assert line["method"] == "M" * 16 + "..."
    assert line["stands_for"] == 1
    assert len(host.check_output("grep -F %s %s", mark, LOG)) < 1000


@pytest.mark.parametrize(
    "tricky", ["\u202egnp.exe", "\x9b2J", "\u2028", "Grüße", 'x","status":200,"x":"', "back\\slash", "a@example.com"]
)
def test_nothing_in_a_line_of_the_log_is_what_it_does_not_seem(host: Host, tricky: str) -> None:
    path = f"/{uuid.uuid4()}"
    target = path + "".join(char for char in tricky if " " < char < "\x7f" and char != "@")
    ask(host, TUNNEL, f"User-Agent: {tricky}", f"X-Forwarded-For: {somebody()}", target=target)
    line = logged(host, path)
    shown = tricky if tricky.isascii() and "@" not in tricky else "(not shown)"
    assert (line["status"], line["user_agent"], line["path"]) == (404, shown, target)
    [text] = host.check_output("grep -F %s %s", path, LOG).splitlines()
    assert text.isascii()
    assert text.isprintable()


def test_a_path_with_raw_bytes_is_not_shown_and_no_flood_of_lines(host: Host) -> None:
    """What is refused before anything is counted: one in a hundred is logged."""
    mark, count = uuid.uuid4().hex, 2000
    host.check_output("python3 -c %s %s %s", _RAW, mark, str(count))
    wait_until(lambda: host.run("grep -F -- %s %s", mark, LOG).stdout, f"{mark} in {LOG}", limit=5)
    lines = [json.loads(line) for line in host.check_output("grep -F -- %s %s", mark, LOG).splitlines()]
    assert len(lines) < count / 20
    assert {(line["path"], line["status"], line["stands_for"]) for line in lines} == {("(not shown)", 400, 100)}


def test_a_flood_of_requests_is_no_flood_of_lines(host: Host) -> None:
    client, count = somebody(), 3000
    [statuses] = many(host, (client, count))
    refused = statuses.count(429)
    lines = [json.loads(line) for line in host.check_output("grep -F %s %s", f'"{client}"', LOG).splitlines()]
    sampled = [line for line in lines if line["status"] == 429]
    print(f"{count} requests, {refused} refused, {len(lines)} lines, {len(sampled)} of them of refused requests")
    assert len(lines) - len(sampled) == count - refused, "what was served is logged, each"
    assert len(sampled) < refused / 20
    assert {line["stands_for"] for line in sampled} <= {100}


def test_a_log_that_is_too_large_is_rotated_within_a_minute(host: Host) -> None:
    shown = host.check_output("systemctl show logrotate.timer --property TimersCalendar --property AccuracyUSec")
    assert "OnCalendar=*-*-* *:*:00" in shown
    assert "AccuracyUSec=1s" in shown
    other = "/var/log/nginx/test.log"
    host.check_output("truncate --size 60M %s", other)
    try:
        host.check_output("systemctl start logrotate.service")
        assert host.file(f"{other}.1").size == 60 << 20
        assert host.file(other).size == 0
        path = f"/{uuid.uuid4()}"
        ask(host, TUNNEL, f"X-Forwarded-For: {somebody()}", target=path)
        assert logged(host, path)["status"] == 404, "nginx writes on"
    finally:
        host.check_output("rm --force %s %s", other, f"{other}.1")
