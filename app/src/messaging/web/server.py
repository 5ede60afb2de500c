"""gunicorn's worker, with problem documents for what it refuses itself, and no work for those who have gone."""

import json
import logging
import select
import socket
from http import HTTPStatus
from typing import Any

from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.gthread import ThreadWorker

from messaging import metrics

logger = logging.getLogger(__name__)


class Worker(ThreadWorker):
    """A thread worker that answers like the application, and logs no part of a request that it cannot read."""

    def handle_request(self, req: Any, conn: Any) -> bool:
        """Do what a request asks for, unless nginx has given up on it: then somebody was told that it failed."""
        if _hung_up(conn.sock):
            logger.warning("not done: nobody waits for the answer any more")
            return False
        return super().handle_request(req, conn)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Answer a request that did not reach the application."""
        status = _status(exc)
        metrics.request(None, "", status)
        if status is HTTPStatus.INTERNAL_SERVER_ERROR:
            logger.error("unexpected error", exc_info=exc)
        else:
            logger.info("refused a request: %s", type(exc).__name__)
        detail = "The request could not be understood." if status < HTTPStatus.INTERNAL_SERVER_ERROR else "See the log."
        document = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
        body = json.dumps(document).encode() + b"\n"
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\nCache-Control: no-store\r\n\r\n"
        )
        try:
            client.sendall(head.encode() + body)
        except OSError:
            logger.debug("the client has gone")


def _hung_up(client: socket.socket) -> bool:
    """Whether the other side has closed the connection, read or not what it sent before (poll(2), POLLRDHUP)."""
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    return bool(poll.poll(0))


def _status(error: BaseException) -> HTTPStatus:
    if isinstance(error, LimitRequestHeaders):
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    if isinstance(error, LimitRequestLine):
        return HTTPStatus.REQUEST_URI_TOO_LONG
    return HTTPStatus.BAD_REQUEST if isinstance(error, ParseException) else HTTPStatus.INTERNAL_SERVER_ERROR
