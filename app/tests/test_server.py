"""gunicorn's worker."""

import socket
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.workers.gthread import ThreadWorker

from messaging.web.server import Worker


def test_what_nobody_waits_for_any_more_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waited until nginx had given up: whoever asked was told that it failed, and may have asked again."""
    done: list[Any] = []

    def handle(_worker: ThreadWorker, request: Any, _connection: Any) -> bool:
        done.append(request)
        return True

    monkeypatch.setattr(ThreadWorker, "handle_request", handle)
    worker = object.__new__(Worker)
    ours, nginx = socket.socketpair()
    with ours, nginx:
        nginx.sendall(b"a part of the body that was not read")
        connection = SimpleNamespace(sock=ours)
        assert worker.handle_request("in time", connection)
        nginx.close()
        assert not worker.handle_request("too late", connection)
    assert done == ["in time"]
