"""The headers that keep a browser from being turned against its user: on every answer, whoever made it, and once."""

import base64
import json
import re
import zlib
from collections import defaultdict

import pytest
from testinfra.host import Host

from probe import exchange, parse, ready, wait_until

PORTS = {"direct": 80, "tunnel": 8081}
ONE_OF_EACH = {
    "cache-control": r"no-store",
    "content-security-policy": r"default-src 'none'; .*frame-ancestors 'none'.*",
    "cross-origin-resource-policy": r"same-origin",
    "permissions-policy": r"camera=\(\), .*",
    "referrer-policy": r"same-origin|no-referrer",
    "server": r"nginx",
    "x-content-type-options": r"nosniff",
    "x-frame-options": r"DENY",
    "x-robots-tag": r"noindex",
}
NEVER = {"x-powered-by", "via", "access-control-allow-origin"}


def _get(target: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join(
        [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    ).encode()


STATIC = "/static/style.css"
# The status, and what is sent
ANSWERS = {
    "page": (200, _get("/", "Accept: text/html")),
    "description": (200, _get("/")),
    "head": (200, _get("/", method="HEAD")),
    "health": (200, _get("/healthz")),
    "openapi": (200, _get("/api/v1/openapi.json")),
    "page of the api": (200, _get("/api/")),
    "file": (200, _get(STATIC)),
    # a 416 would come with its headers doubled, so nobody gets parts
    "part of a file": (200, _get(STATIC, "Range: bytes=0-9")),
    "file not changed": (304, _get(STATIC, "If-None-Match: *")),
    "redirect of the application": (303, _get("/reverse-text")),
    "bad address": (400, _get("/?sendmail=nobody")),
    "raw bytes": (400, _get("/\xfc")),
    "malformed": (400, b"GET / HTTP/1.1\r\nno colon\r\n\r\n"),
    "no host": (400, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"),
    "no HTTP": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "way out": (400, _get("/../../etc/passwd")),
    "not ours": (404, _get("/no/such/page")),
    "no such task": (404, _get("/api/v1/tasks/00000000-0000-4000-8000-000000000000")),
    "no such file": (404, _get("/static/none.css")),
    "hidden file": (404, _get("/static/.env")),
    "nginx's own": (404, _get("/.problem/404")),
    "another method": (405, _get("/healthz", method="DELETE")),
    "another method of a file": (405, _get(STATIC, "Content-Length: 0", method="POST")),
    "trace": (405, _get("/", method="TRACE")),
    "file has changed": (412, _get(STATIC, "If-Unmodified-Since: Fri, 01 Jan 1999 00:00:00 GMT")),
    "large body": (413, _get("/api/v1/tasks/reverse-text", "Content-Length: 1000000000", method="POST")),
    "long line": (414, _get("/" + "a" * 40000)),
    "no part of a file": (200, _get(STATIC, "Range: bytes=9999999-")),
    "large headers": (431, _get("/", "X: " + "a" * 40000)),
    "unknown coding": (501, _get("/", "Transfer-Encoding: gzip", method="POST")),
    "unknown version": (505, b"GET / HTTP/9.1\r\nHost: localhost\r\n\r\n"),
}
ONLY = {
    "redirect": ("direct", 301, _get("/flower")),
    "flower": ("direct", 401, _get("/flower/")),
    "tasks of everybody": ("direct", 401, _get("/api/v1/tasks")),
    "readiness": ("direct", 200, _get("/readyz")),
    "operators' place": ("tunnel", 404, _get("/flower/")),
}


# All requests in one go; each has a connection of its own
_ASK = """
import base64, json, socket, sys, zlib
answers = []
for port, request in json.loads(sys.argv[1]):
    answer = b""
    with socket.create_connection(("127.0.0.1", port), 15) as link:
        try:
            link.sendall(zlib.decompress(base64.b64decode(request)))
            while part := link.recv(65536):
                answer += part
        except (BrokenPipeError, ConnectionResetError):
            pass
    answers.append(base64.b64encode(answer.partition(b"\\r\\n\\r\\n")[0]).decode())
print(json.dumps(answers))
"""


@pytest.fixture(scope="module", autouse=True)
def _service_is_ready(host: Host) -> None:
    wait_until(lambda: ready(host), "/readyz answers 200", 60)


def headers(answer: bytes) -> dict[str, list[str]]:
    """All values of each header, by its name in small letters."""
    found = defaultdict(list)
    for line in answer.partition(b"\r\n\r\n")[0].decode().splitlines()[1:]:
        name, _, value = line.partition(": ")
        found[name.lower()].append(value)
    return found


def check(answer: bytes, status: int, what: str) -> None:
    """Fail, naming every header that is missing, doubled or wrong."""
    assert parse(answer, "HEAD").status == status, answer[:300]
    found = headers(answer)
    may_be_kept = what == "openapi" or (what.endswith("file") and status < 400) or status == 304
    wanted = {**ONE_OF_EACH, "cache-control": r"(public, )?max-age=\d+"} if may_be_kept else ONE_OF_EACH
    wrong = {
        name: found[name]
        for name, pattern in wanted.items()
        if len(found[name]) != 1 or not re.fullmatch(pattern, found[name][0])
    }
    assert not wrong, f"{what}: {wrong}"
    assert not {name for name, values in found.items() if values and name in NEVER}
    assert [name for name, values in found.items() if len(values) > 1] == [], f"{what}: doubled"


@pytest.fixture(scope="module")
def heads(host: Host) -> dict[tuple[str, str], bytes]:
    """What comes before the body of every answer, by what was asked and through which listener."""
    order = [(what, through) for what in ANSWERS for through in PORTS]
    asked = [(PORTS[through], base64.b64encode(zlib.compress(ANSWERS[what][1])).decode()) for what, through in order]
    told = json.loads(host.check_output("python3 -c %s %s", _ASK, json.dumps(asked)))
    return {key: base64.b64decode(head) + b"\r\n\r\n" for key, head in zip(order, told, strict=True)}


@pytest.mark.parametrize("through", PORTS)
@pytest.mark.parametrize("what", ANSWERS)
def test_every_answer_has_each_header_once(heads: dict[tuple[str, str], bytes], through: str, what: str) -> None:
    check(heads[what, through], ANSWERS[what][0], what)


@pytest.mark.parametrize("what", ONLY)
def test_so_has_what_one_listener_alone_answers(host: Host, what: str) -> None:
    through, status, request = ONLY[what]
    check(exchange(host, request, PORTS[through]), status, what)


def test_so_has_what_nginx_says_without_the_application(host: Host) -> None:
    host.check_output("systemctl stop messaging-web.socket messaging-web.service")
    try:
        answers = [exchange(host, _get("/healthz"), port) for port in PORTS.values()]
    finally:
        host.check_output("systemctl start messaging-web.socket messaging-web.service")
    for answer in answers:
        check(answer, 503, "no application")
        assert headers(answer)["retry-after"] == ["5"]
    wait_until(lambda: ready(host), "/readyz answers 200 again")


def test_windows_are_kept_apart_where_the_visitor_came_by_https(host: Host) -> None:
    name = "cross-origin-opener-policy"
    for port, forwarded, wanted in ((80, "https", []), (8081, "https", ["same-origin"]), (8081, "http", [])):
        answer = exchange(host, _get("/", f"X-Forwarded-Proto: {forwarded}"), port)
        assert headers(answer)[name] == wanted, (port, forwarded)
