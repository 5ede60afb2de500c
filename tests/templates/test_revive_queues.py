"""When RabbitMQ is restarted because its queues have stopped. On a real host: "disk full" of the loss matrix."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from rendering import render

NODE = "rabbit@messaging-test"
COUNTED = 'rabbitmq_detailed_queue_messages{{vhost="messaging",queue="{}"}} 5\n'
WRITTEN = 'rabbitmq_detailed_raft_term_total{{vhost="messaging",queue="{}"}} 1\n'
WELL = COUNTED.format("email") + WRITTEN.format("email") + COUNTED.format("worker@vm1.celery.pidbox")
ILL = COUNTED.format("email") + COUNTED.format("compute") + WRITTEN.format("compute")

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
def revive(pages: tuple[str, list[str]]) -> Revive:
    """`revive(pages, queues)`: which commands are run when these are the pages, and rabbitmqctl lists these queues."""

    def run(served: list[str], queues: list[dict[str, Any]]) -> list[list[str]]:
        commands: list[list[str]] = []

        def command(arguments: list[str], **_: object) -> SimpleNamespace:
            commands.append(arguments)
            return SimpleNamespace(stdout=json.dumps(queues).encode())

        script: dict[str, Any] = {"__name__": "script"}
        exec(render("rabbitmq", "usr/local/sbin/rabbitmq-revive-queues.j2"), script)
        script["PAGE"], script["AGAIN"] = pages[0], 0
        script["subprocess"] = SimpleNamespace(run=command, PIPE=None)
        pages[1].extend(served)
        script["main"]()
        return commands

    return run


def queue(online: list[str], name: str = "email") -> dict[str, Any]:
    return {"name": name, "members": [NODE, "rabbit@other"], "online": online}


def test_what_runs_is_left_alone(revive: Revive) -> None:
    assert revive([WELL], []) == []


def test_what_has_just_begun_is_left_alone(revive: Revive) -> None:
    assert revive([ILL, WELL], []) == []


def test_what_runs_elsewhere_only_is_restarted_here(revive: Revive, capsys: pytest.CaptureFixture[str]) -> None:
    commands = revive([ILL, ILL], [queue(["rabbit@other"]), queue([NODE], "compute")])
    assert commands[-1] == ["systemctl", "restart", "rabbitmq-server"]
    assert capsys.readouterr().out.rstrip().endswith("brings them back: email")


def test_rabbitmq_itself_has_the_last_word(revive: Revive) -> None:
    commands = revive([ILL, ILL], [queue([NODE, "rabbit@other"]), {"name": "mine", "members": [NODE], "online": []}])
    assert [command[0] for command in commands] == ["rabbitmqctl"]


def test_a_broker_that_does_not_run_is_left_alone(revive: Revive, pages: tuple[str, list[str]]) -> None:
    assert revive([""], []) == []
