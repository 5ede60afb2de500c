"""The web application: `create_app()` and one blueprint for each face."""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from flask import Flask, Response, current_app, g, request
from redis import Redis
from werkzeug.middleware.proxy_fix import ProxyFix

from messaging import metrics, store
from messaging.budgets import PREFIX, Budgets
from messaging.claims import Claims, one_request
from messaging.history import History
from messaging.idempotency import Idempotency
from messaging.keys import Keys
from messaging.logs import request_id, setup_logging
from messaging.publisher import Publisher
from messaging.results import Records
from messaging.settings import Settings, SettingsError, load
from messaging.web.problems import ProblemError
from messaging.windows import RedisWindows

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

MAX_BODY = 1024 * 1024
REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
SAFE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    # not no-referrer: browsers would then send `Origin: null` with our own forms
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}


@dataclass(frozen=True)
class Services:
    """What the views work with."""

    settings: Settings
    records: Records
    publisher: Publisher
    # looks at queues: its failures must not pause the publisher
    watcher: Publisher
    redis: Redis
    claims: Claims
    idempotency: Idempotency
    keys: Keys
    budgets: Budgets

    @property
    def history(self) -> History:
        """What the service was like until now."""
        return History(self.settings, self.redis, self.records, self.watcher)


class BehindNginx(Flask):
    """Takes the client's address and the scheme from nginx, which overwrites both; see `_refuse_others`."""

    def __init__(self, import_name: str) -> None:
        super().__init__(import_name)
        self._proxied = ProxyFix(super().wsgi_app, x_for=1, x_proto=1)

    def wsgi_app(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
        """The WSGI entry point."""
        return self._proxied(environ, start_response)


def services() -> Services:
    """The services of the running application."""
    return cast("Services", current_app.extensions["messaging"])


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application.

    Raises:
        SystemExit: the settings cannot be used; the reasons are on standard error.
    """
    from messaging.web import actions, api, auth, crossorigin, health, operators, pages, problems, robots, visitor

    if settings is None:
        try:
            settings = load()
        except SettingsError as error:
            sys.exit(str(error))
        setup_logging(settings)
        metrics.write_to(settings.metrics_path)
    if not settings.secret_key.get_secret_value():
        sys.exit("MSG_SECRET_KEY: is empty, and cookies could be forged; run the playbook, which makes one")
    app = BehindNginx(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    redis = store.connect(settings, store.WEB_TIMEOUT)
    app.extensions["messaging"] = Services(
        settings=settings,
        records=Records(settings, store.WEB_TIMEOUT),
        publisher=Publisher(settings),
        watcher=Publisher(settings),
        redis=redis,
        claims=one_request(settings, store.WEB_TIMEOUT, redis),
        idempotency=Idempotency(
            redis, settings.secret_key.get_secret_value(), settings.secret_key_previous.get_secret_value()
        ),
        keys=Keys(settings.keys_path),
        budgets=Budgets(settings, RedisWindows(redis, PREFIX)),
    )
    robots.patterns()
    app.before_request(_remember_request_id)
    app.before_request(_refuse_others)
    app.before_request(crossorigin.refuse)
    app.before_request(auth.refuse_unknown_key)
    app.after_request(_add_safe_headers)
    visitor.init_app(app, settings)
    app.after_request(_count)
    problems.init_app(app)
    for blueprint in (
        pages.blueprint,
        actions.blueprint,
        api.blueprint,
        health.blueprint,
        operators.blueprint,
    ):
        app.register_blueprint(blueprint)
    return app


def _remember_request_id() -> None:
    # nginx makes one; whatever else comes here is none
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if REQUEST_ID.fullmatch(given) else None
    request_id.set(g.request_id)


def _refuse_others() -> None:
    """Let nobody in but nginx: what it says of a client counts, and so does its name of the request.

    It comes through a socket that others cannot open, or from the address of a host that has it.

    Raises:
        ProblemError: 403.
    """
    peer = request.environ["werkzeug.proxy_fix.orig"]["REMOTE_ADDR"]
    if peer and peer not in services().settings.proxies:
        raise ProblemError(HTTPStatus.FORBIDDEN, "This is not the way in: ask nginx.")


def _add_safe_headers(response: Response) -> Response:
    for name, value in SAFE_HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _count(response: Response) -> Response:
    metrics.request(request.endpoint, request.method, response.status_code)
    return response
