"""When RabbitMQ is restarted because its queues have stopped. On a real host: "disk full" of the loss matrix."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rendering import render

NODE = "rabbit@messaging-test"
OTHER = "rabbit@other"
WRITTEN = 'rabbitmq_detailed_raft_term_total{{vhost="messaging",queue="{}"}} 1\n'
RESTART = ["systemctl", "try-restart", "rabbitmq-server"]

Revive = Callable[..., list[list[str]]]


@pytest.fixture
def pages() -> Iterator[tuple[str, list[str]]]:
    """An address, and the pages that it has, one for each request."""
    left: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(left.pop(0).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", left
        server.shutdown()
        thread.join()


@pytest.fixture
def script(pages: tuple[str, list[str]], tmp_path: Path) -> dict[str, Any]:
    """What the script defines, with the data of a host that has room."""
    names: dict[str, Any] = {"__name__": "script"}
    exec(render("rabbitmq", "usr/local/sbin/rabbitmq-revive-queues.j2"), names)
    names |= {"PAGE": pages[0], "AGAIN": 0, "ROOM": 0, "DATA": str(tmp_path), "ASKED": tmp_path / "asked"}
    return names


@pytest.fixture
def revive(script: dict[str, Any], pages: tuple[str, list[str]]) -> Revive:
    """`revive(pages, queues)`: which commands are run when these are the pages, and rabbitmqctl lists these queues."""

    def run(served: list[str], queues: list[dict[str, Any]]) -> list[list[str]]:
        commands: list[list[str]] = []

        def command(arguments: list[str], **_: object) -> SimpleNamespace:
            commands.append(arguments)
            return SimpleNamespace(stdout=json.dumps(queues).encode())

        script["subprocess"] = SimpleNamespace(run=command, PIPE=None)
        pages[1].extend(served)
        script["main"]()
        return commands

    return run


@pytest.fixture
def well(script: dict[str, Any]) -> str:
    return "".join(WRITTEN.format(name) for name in script["QUEUES"])


@pytest.fixture
def ill(well: str) -> str:
    return well.replace(WRITTEN.format("email"), "")


def queue(online: list[str] | str, name: str = "email", members: list[str] | str | None = None) -> dict[str, Any]:
    return {"name": name, "members": [NODE, OTHER] if members is None else members, "online": online}


def test_what_runs_is_left_alone(revive: Revive, well: str) -> None:
    assert revive([well], []) == []


def test_a_later_rabbitmq_has_another_name_for_it(revive: Revive, well: str) -> None:
    assert revive([well.replace("_total", "")], []) == []


def test_what_has_just_begun_is_left_alone(revive: Revive, well: str, ill: str) -> None:
    assert revive([ill, well], []) == []


@pytest.mark.parametrize("online", [[OTHER], []])
def test_what_has_stopped_here_is_restarted(
    revive: Revive, ill: str, online: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    commands = revive([ill, ill], [queue(online), queue([NODE], "compute")])
    assert commands[-1] == RESTART
    assert capsys.readouterr().out == "stopped for good, so RabbitMQ is restarted: email\n"


@pytest.mark.parametrize(
    "listed",
    [
        queue([NODE, OTHER]),
        # no member here
        queue([OTHER], members=[OTHER]),
        # somebody else's
        queue([], "mine"),
        # a queue whose broker is down is listed so
        queue("", members=""),
    ],
)
def test_rabbitmq_itself_has_the_last_word(revive: Revive, ill: str, listed: dict[str, Any]) -> None:
    assert [command[0] for command in revive([ill, ill], [listed])] == ["rabbitmqctl"]


def test_rabbitmq_is_not_asked_all_the_time(revive: Revive, ill: str) -> None:
    assert revive([ill, ill], [queue([NODE])]) != []
    assert revive([ill, ill], [queue([])]) == []


def test_without_room_nothing_would_start(revive: Revive, script: dict[str, Any], ill: str) -> None:
    script["ROOM"] = 1 << 60
    assert revive([ill, ill], [queue([])]) == []


def test_a_broker_that_does_not_run_is_left_alone(revive: Revive, script: dict[str, Any]) -> None:
    script["PAGE"] = "http://127.0.0.1:9/"
    assert revive([], [queue([])]) == []
