"""The JSON API."""

from datetime import datetime
from http import HTTPStatus
from typing import Any

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from messaging.results import Record
from messaging.web import services
from messaging.web.problems import ProblemError

blueprint = Blueprint("api", __name__, url_prefix="/api/v1")


@blueprint.get("/tasks/<task_id>")
def task(task_id: str) -> ResponseReturnValue:
    """The state of one task; 404 for an id that was never given out or whose record has expired."""
    record = services().records.get(task_id)
    if record is None:
        # a backend that takes no records would not know it either
        services().records.check()
        raise ProblemError(HTTPStatus.NOT_FOUND, "No task has this id, or its record has expired.")
    response = jsonify(described(record))
    if not record.over:
        response.headers["Retry-After"] = "1"
    return response


def described(record: Record) -> dict[str, Any]:
    """A record as its caller reads it; times in ISO 8601."""
    zone = services().settings.timezone
    document = {
        "task_id": record.task_id,
        "task": record.task.removeprefix("messaging."),
        "state": record.state,
        "submitted_at": datetime.fromtimestamp(record.submitted_at, tz=zone).isoformat(timespec="milliseconds"),
        "updated_at": datetime.fromtimestamp(record.updated_at, tz=zone).isoformat(timespec="milliseconds"),
        "attempts": record.attempts,
    }
    if record.result is not None:
        document["result"] = record.result
    if record.reason is not None:
        document["reason"] = record.reason
    return document
