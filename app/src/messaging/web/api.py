"""The JSON API. What it takes and answers is described by `openapi.document()`."""

import json
import uuid
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, jsonify, render_template, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup, escape
from pydantic import ValidationError

from messaging.accept import StartedError, cancel
from messaging.job import SEND_EMAIL
from messaging.keys import MAIL, READ, TASKS
from messaging.results import Record
from messaging.web import openapi, services
from messaging.web.auth import allow, require
from messaging.web.models import KINDS, Kind, TaskQuery, field_errors
from messaging.web.problems import ProblemError
from messaging.web.submission import invalid, parameters, submit, submit_once

blueprint = Blueprint("api", __name__, url_prefix="/api")

KEY_HEADER = "Idempotency-Key"


def _add_submissions() -> None:
    """One address for each kind of task."""
    for kind in KINDS.values():

        def view(kind: Kind = kind) -> ResponseReturnValue:
            return _submit(kind)

        endpoint = kind.name.replace("-", "_")
        blueprint.add_url_rule(
            f"/v1/tasks/{kind.name}", endpoint, view, methods=["POST"], provide_automatic_options=False
        )


_add_submissions()


def _submit(kind: Kind) -> ResponseReturnValue:
    if kind.task == SEND_EMAIL and not services().settings.mail_embedded:
        require(MAIL, "Mail of your own wording needs a key.")
    allow(MAIL if kind.task == SEND_EMAIL else TASKS)
    key = request.headers.get(KEY_HEADER)
    if key is not None and not openapi.IDEMPOTENCY_KEY.fullmatch(key):
        raise _bad(f"{KEY_HEADER}: give 1 to 255 visible ASCII characters.", KEY_HEADER)
    try:
        kwargs = parameters(kind, _body())
    except ValidationError as error:
        raise invalid(error) from None
    answer = submit(kind.task, kwargs) if key is None else submit_once(kind.task, kwargs, key)
    response = jsonify(answer)
    response.status_code = HTTPStatus.ACCEPTED
    response.headers["Location"] = answer["status_url"]
    response.headers["Retry-After"] = "1"
    return response


def _body() -> Any:
    """The body as JSON; no body is an empty object."""
    if not request.get_data():
        return {}
    if request.mimetype != "application/json":
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send JSON, with `Content-Type: application/json`.")
    try:
        return json.loads(request.get_data(), parse_constant=_not_json)
    except (ValueError, RecursionError):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "The body is not JSON.") from None


def _not_json(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are Python's own (RFC 8259 section 6)


@blueprint.get("/v1/tasks")
def tasks() -> ResponseReturnValue:
    """The tasks of everybody, for operators."""
    require(READ, "The list of all tasks needs a key.")
    query = _query()
    records, after = services().records.page(
        query.state,
        query.since.timestamp() if query.since else None,
        query.until.timestamp() if query.until else None,
        query.limit,
        _cursor(query.after),
    )
    document: dict[str, Any] = {"tasks": [described(record) for record in records]}
    if after is not None:
        query_string = urlencode({**request.args.to_dict(), "after": f"{after[0]!r}:{after[1]}"})
        document["next"] = f"{url_for('api.tasks')}?{query_string}"
    return jsonify(document)


def _query() -> TaskQuery:
    for name, values in request.args.lists():
        if len(values) > 1:
            raise _bad(f"{name} is given more than once.", name)
    try:
        return TaskQuery.model_validate(request.args.to_dict())
    except ValidationError as error:
        first = field_errors(error)[0]
        known = ", ".join(TaskQuery.model_fields)
        hint = "" if first["field"] in TaskQuery.model_fields else f"; known are {known}"
        raise _bad(f"{first['field']} {first['detail']}{hint}.", first["field"]) from None


def _cursor(after: str | None) -> tuple[float, str] | None:
    if after is None:
        return None
    submitted_at, _, task_id = after.partition(":")
    return float(submitted_at), task_id


@blueprint.get("/v1/tasks/<uuid:task_id>")
def task(task_id: uuid.UUID) -> ResponseReturnValue:
    """The state of one task; 404 for an id that was never given out or whose record has expired."""
    record = services().records.get(str(task_id))
    if record is None:
        raise _not_found()
    response = jsonify(described(record))
    if not record.over:
        response.headers["Retry-After"] = "1"
    return response


@blueprint.post("/v1/tasks/<uuid:task_id>/cancel")
def cancel_task(task_id: uuid.UUID) -> ResponseReturnValue:
    """Cancel a task that no worker has begun."""
    try:
        record = cancel(services().records, services().claims, str(task_id))
    except StartedError as error:
        detail = f"The task is {error.state}: only what waits in its queue can be cancelled."
        raise ProblemError(HTTPStatus.CONFLICT, detail, task_id=str(task_id), state=error.state) from None
    if record is None:
        raise _not_found()
    return jsonify(described(record))


@blueprint.app_template_filter("ticks")
def code_in_ticks(text: str) -> Markup:
    """A description with what stands in backticks as code."""
    parts = [
        Markup("<code>{}</code>").format(part) if n % 2 else escape(part) for n, part in enumerate(text.split("`"))
    ]
    return Markup("").join(parts)


@blueprint.get("/v1/openapi.json")
def description() -> Response:
    """This API, as OpenAPI 3.1."""
    response = jsonify(openapi.document(mail_needs_key=not services().settings.mail_embedded))
    response.headers["Cache-Control"] = "public, max-age=300"
    return response


@blueprint.get("/")
def reference() -> ResponseReturnValue:
    """The same for people."""
    document = openapi.document(mail_needs_key=not services().settings.mail_embedded)
    examples = {
        operation["operationId"]: json.dumps(operation["requestBody"]["content"]["application/json"]["example"])
        for item in document["paths"].values()
        for method, operation in item.items()
        if method == "post" and "requestBody" in operation
    }
    return render_template(
        "api.html", document=document, base=openapi.SERVER, resolve=openapi.resolve, examples=examples
    )


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


def _not_found() -> ProblemError:
    # a backend that takes no records would not know it either
    services().records.check()
    return ProblemError(
        HTTPStatus.NOT_FOUND,
        "No task has this id, its record has expired, or it was accepted while states could not be recorded.",
    )


def _bad(detail: str, parameter: str) -> ProblemError:
    return ProblemError(HTTPStatus.BAD_REQUEST, detail, parameter=parameter)
