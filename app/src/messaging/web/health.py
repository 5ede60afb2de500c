"""Is the process alive, and can it do its work?"""

from collections.abc import Callable
from http import HTTPStatus

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue
from redis.exceptions import RedisError

from messaging import store
from messaging.publisher import PublishError
from messaging.results import RecordsUnavailableError
from messaging.timelog import TimeLogError, writable
from messaging.web import services

blueprint = Blueprint("health", __name__)

OK = "ok"


@blueprint.get("/healthz")
def healthz() -> ResponseReturnValue:
    """200 as long as the process answers."""
    return jsonify({"status": OK})


@blueprint.get("/readyz")
def readyz() -> ResponseReturnValue:
    """200 when tasks can be taken in and followed; otherwise 503. `checks` says why, for each part.

    A relay that refuses us is named and is not a reason for 503: mail is still taken, and waits.
    """
    parts = services()
    checks = {
        "rabbitmq": _outcome(parts.publisher.probe),
        **{name: _outcome(check) for name, check in parts.records.checks().items()},
        "log": _outcome(lambda: writable(parts.settings.timelog_path)),
    }
    ready = all(outcome == OK for outcome in checks.values())
    checks["smtp"] = _smtp_problem() or OK
    response = jsonify({"status": OK if ready else "not ready", "checks": checks})
    response.status_code = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return response


def _outcome(check: Callable[[], object]) -> str:
    try:
        check()
    except (PublishError, RecordsUnavailableError, TimeLogError) as error:
        return str(error)
    return OK


def _smtp_problem() -> str | None:
    try:
        problem = services().redis.get(store.SMTP_PROBLEM_KEY)
    except RedisError:
        return "not known while Redis is away"
    return None if problem is None else f"mail waits: {problem!s}"
