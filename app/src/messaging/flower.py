"""Flower: what happens to the tasks, for operators. Nothing of it is there without the password.

    python -m messaging.flower

Listens on the socket that systemd hands over. The password is asked for before Flower looks at the request's path,
since Flower itself leaves some of its pages open.
"""

import base64
import hmac
import json
import logging
import os
import signal
import socket
from typing import Any

from celery import Celery
from flower.app import Flower
from flower.options import options
from flower.urls import settings as flower_settings
from flower.utils import prepend_url
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from messaging import brokers, sdnotify
from messaging.logs import setup_logging
from messaging.settings import Settings, SettingsError, load, or_exit

PREFIX = "flower"
# The first descriptor that systemd passes on, see sd_listen_fds(3)
LISTEN_FD = 3
# Seconds after which a worker that is gone is no longer listed
WORKERS_FORGOTTEN = 3600


class Unauthorized(RequestHandler):
    """Answers whatever comes without the password, in whatever way it comes."""

    def check_xsrf_cookie(self) -> None:
        """Nothing to protect."""

    def prepare(self) -> None:
        """Refuse."""
        self.send_error(401)

    def write_error(self, status_code: int, **_: Any) -> None:
        """A problem document (RFC 9457)."""
        self.set_status(401)
        self.set_header("WWW-Authenticate", 'Basic realm="operators", charset="UTF-8"')
        self.set_header("Content-Type", "application/problem+json")
        self.set_header("Cache-Control", "no-store")
        problem = {
            "type": "about:blank",
            "title": "Unauthorized",
            "status": 401,
            "detail": "Flower asks for the user and the password of the operators.",
            "request_id": self.request.headers.get("X-Request-ID", ""),
        }
        self.finish(json.dumps(problem) + "\n")


class GuardedFlower(Flower):
    """Flower, all of it behind one password."""

    def __init__(self, user: str, password: str, **arguments: Any) -> None:
        self._wanted = b"Basic " + base64.b64encode(f"{user}:{password}".encode())
        super().__init__(**arguments)

    def find_handler(self, request: HTTPServerRequest, **arguments: Any) -> Any:
        """Where every request comes through, before any route is looked at."""
        given = request.headers.get("Authorization", "")
        if hmac.compare_digest(given.encode(errors="replace"), self._wanted):
            return super().find_handler(request, **arguments)
        return self.get_handler_delegate(request, Unauthorized)


def create(settings: Settings) -> GuardedFlower:
    """Flower as `settings` say."""
    user, password = settings.flower_user, settings.flower_password.get_secret_value()
    values: dict[str, Any] = {
        "url_prefix": PREFIX,
        # without it Flower refuses to answer for its API
        "basic_auth": [f"{user}:{password}"],
        "broker_api": settings.flower_broker_api.get_secret_value() or None,
        "read_only": True,
        "max_tasks": settings.flower_max_tasks,
        "purge_offline_workers": WORKERS_FORGOTTEN,
        # the workers send them by themselves
        "enable_events": False,
    }
    for name, value in values.items():
        setattr(options, name, value)
    secret = hmac.digest(settings.secret_key.get_secret_value().encode(), b"flower", "sha256").hex()
    urls = {name: prepend_url(flower_settings[name], PREFIX) for name in ("login_url", "static_url_prefix")}
    celery = Celery("messaging", set_as_current=True)
    celery.conf.update(brokers.for_celery(settings))
    return GuardedFlower(
        user, password, capp=celery, options=options, **{**flower_settings, **urls, "cookie_secret": secret}
    )


def main() -> None:
    """Run Flower until it is told to stop."""
    with or_exit():
        settings = load()
        if not settings.flower_password.get_secret_value():
            raise SettingsError("MSG_FLOWER_PASSWORD: Flower does not start without a password")
        if "LISTEN_FDS" not in os.environ:
            raise SettingsError("no socket: start messaging-flower.socket, which starts Flower")
    setup_logging(settings)
    # nginx has the access log
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
    monitor = create(settings)
    listener = socket.socket(fileno=LISTEN_FD)
    listener.setblocking(False)
    HTTPServer(monitor).add_socket(listener)
    signal.signal(signal.SIGTERM, lambda *_: monitor.io_loop.add_callback_from_signal(monitor.stop))
    monitor.io_loop.add_callback(sdnotify.notify, "READY=1")
    monitor.start()


if __name__ == "__main__":
    main()
