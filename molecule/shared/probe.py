"""How the tests of a whole host ask it something, wait for something, and show what happened.

Everything runs on the host itself and needs nothing there but python3, so that it works over Docker and SSH alike.
"""

import base64
import functools
import http.client
import io
import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from testinfra.host import Host

Answer = TypeVar("Answer")

MAILBOX = "/var/lib/messaging-system/mailbox"
TIME_LOG = "/var/log/messaging_system.log"
SECRETS = "/etc/messaging-system/secrets"
FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})

# What goes in is base64, and what comes out too: no address shows up in a process list, or in sudo's own log.
_EXCHANGE = """
import base64, socket, sys
address, port, request = sys.argv[1], int(sys.argv[2]), base64.b64decode(sys.argv[3])
answer = b""
with socket.create_connection((address, port), 15) as link:
    try:
        link.sendall(request)
        while part := link.recv(65536):
            answer += part
    except (BrokenPipeError, ConnectionResetError):
        pass
print(base64.b64encode(answer).decode())
"""

_MAILS = """
import base64, json, pathlib, sys
needle = base64.b64decode(sys.argv[2])
found = []
for box in ("new", "cur"):
    for file in pathlib.Path(sys.argv[1], box).glob("*"):
        try:
            found.append(file.read_bytes())
        except FileNotFoundError:
            pass  # the mailbox keeps the newest only
print(json.dumps([base64.b64encode(mail).decode() for mail in found if needle in mail]))
"""


@dataclass(frozen=True)
class Response:
    """An HTTP response; header names in small letters."""

    status: int
    headers: dict[str, str]
    body: str

    def json(self) -> Any:
        return json.loads(self.body)


class _Recorded:
    """What http.client needs of a socket, to parse an answer that is already here."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._answer)


def exchange(host: Host, request: bytes, port: int = 80, address: str = "127.0.0.1") -> bytes:
    """Send raw bytes to a port of the host, and return all that comes back until the other side closes."""
    encoded = base64.b64encode(request).decode()
    answer = host.check_output("python3 -c %s %s %s %s", _EXCHANGE, address, str(port), encoded)
    return base64.b64decode(answer)


def parse(answer: bytes, method: str = "GET") -> Response:
    """The HTTP response in raw bytes."""
    assert answer, "the server closed the connection without an answer"
    response = http.client.HTTPResponse(cast("Any", _Recorded(answer)), method=method)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Response(response.status, headers, response.read().decode())


def request(
    host: Host, target: str = "/", method: str = "GET", headers: dict[str, str] | None = None, body: str = ""
) -> Response:
    """One HTTP/1.1 request to the host's nginx, from the host itself."""
    lines = {"Host": "localhost", "Connection": "close", **(headers or {})}
    if body:
        lines.setdefault("Content-Length", str(len(body.encode())))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return parse(exchange(host, f"{method} {target} HTTP/1.1\r\n{head}\r\n{body}".encode()), method)


@functools.cache
def base_url(host: Host) -> str:
    """Where the host's nginx can be reached from here."""
    address = host.check_output("ip -4 -json address show scope global")
    return f"http://{json.loads(address)[0]['addr_info'][0]['local']}"


def wait_until(check: Callable[[], Answer], what: str, limit: float = 30, every: float = 0.25) -> Answer:
    """Poll until `check` returns something true, and return that; fail with its last answer after `limit` seconds."""
    deadline = time.monotonic() + limit
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {limit:.0f} s; last seen: {answer!r}")
        time.sleep(every)


def unique_address() -> str:
    """An address that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}@example.com"


def send_mail(host: Host, address: str) -> str:
    """Ask for a mail through nginx and return the task's id."""
    response = request(host, f"/?sendmail={address}")
    assert response.status == 202, response
    return str(response.json()["task_id"])


def task_state(host: Host, task_id: str) -> str:
    """State of a task, in the words of the interface; "503" and the like where it cannot say."""
    response = request(host, f"/api/v1/tasks/{task_id}")
    return str(response.json()["state"]) if response.status == 200 else str(response.status)


def wait_for_state(host: Host, task_id: str, state: str = "succeeded", limit: float = 30) -> None:
    """Wait until a task has the state; another final state fails at once."""

    def reached() -> bool:
        seen = task_state(host, task_id)
        if seen != state and seen in FINAL_STATES:
            pytest.fail(f"task {task_id} ended as {seen}, not as {state}")
        return seen == state

    wait_until(reached, f"task {task_id} {state}", limit)


def mails(host: Host, needle: str) -> list[str]:
    """All delivered mails that contain a string, as text."""
    encoded = base64.b64encode(needle.encode()).decode()
    found = json.loads(host.check_output("python3 -c %s %s %s", _MAILS, MAILBOX, encoded))
    return [base64.b64decode(mail).decode() for mail in found]


def wait_for_mail(host: Host, address: str, limit: float = 30) -> str:
    """The one mail to an address, once it is there."""
    found = wait_until(lambda: mails(host, address), f"mail to {address} in {MAILBOX}", limit)
    assert len(found) == 1, f"{len(found)} mails to {address}"
    return found[0]


def ready(host: Host) -> bool:
    """Whether the service says that it can take requests, and everything behind it works."""
    try:
        return request(host, "/readyz").status == 200
    except AssertionError:
        return False


def workers(host: Host) -> list[str]:
    """Names of the worker units that systemd has loaded."""
    listed = host.check_output("systemctl list-units --plain --no-legend --all 'messaging-worker@*.service'")
    return [line.split()[0] for line in listed.splitlines()]


def secrets_on_controller() -> dict[str, str]:
    """The generated passwords of this run, by name."""
    folder = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "secrets")
    return {file.name: file.read_text().strip() for file in sorted(folder.rglob("*")) if file.is_file()}


def flower_login(password: str) -> dict[str, str]:
    """The header that Flower asks for."""
    return {"Authorization": "Basic " + base64.b64encode(f"operator:{password}".encode()).decode()}


def flower(host: Host, target: str, method: str = "GET") -> Response:
    """A request to Flower with the right password."""
    return request(host, target, method, flower_login(secrets_on_controller()["flower_password"]))


def flower_task(host: Host, task_id: str) -> dict[str, Any]:
    """What Flower knows of a task; empty as long as it knows nothing."""
    answer = flower(host, f"/flower/api/task/info/{task_id}")
    return dict(answer.json()) if answer.status == 200 else {}


def reboot(host: Host, limit: float = 120) -> None:
    """Reboot the container (`systemctl reboot` inside would end it) and wait until systemd has finished."""
    name = _container(host.check_output("hostname"))
    subprocess.run(["docker", "restart", "--time", "60", name], check=True, capture_output=True)
    wait_until(lambda: _booted(host), f"{name} booted", limit, every=1)


def _container(hostname: str) -> str:
    """The container whose host has this name."""
    running = subprocess.run(["docker", "ps", "--quiet"], check=True, capture_output=True, text=True).stdout.split()
    template = "{{ .Config.Hostname }} {{ .Name }}"
    listed = subprocess.run(
        ["docker", "inspect", "--format", template, *running], check=True, capture_output=True, text=True
    )
    [name] = [line.split()[1] for line in listed.stdout.splitlines() if line.split()[0] == hostname]
    return name


def _booted(host: Host) -> bool:
    try:
        return host.run("systemctl is-system-running").stdout.strip() in {"running", "degraded"}
    except RuntimeError:  # no connection until sshd is up
        return False


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Add what the host has to say to the report of a test that failed on it."""
    outcome = yield
    report = outcome.get_result()
    host = getattr(item, "funcargs", {}).get("host")
    if report.when in {"setup", "call"} and report.failed and isinstance(host, Host):
        for title, command in (
            (
                "units",
                "systemctl --no-pager --plain --failed --no-legend; systemctl list-units --no-legend 'messaging*'",
            ),
            (
                "journal",
                "journalctl --no-pager -n 60 -o short-precise -u 'messaging*' -u rabbitmq-server -u 'redis*' -u nginx",
            ),
        ):
            result = host.run(command)
            report.sections.append((f"{title} of {host.backend.hostname}", result.stdout + result.stderr))
