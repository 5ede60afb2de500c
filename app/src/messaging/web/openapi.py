"""The description of the API, made of the models that validate.

Source: https://spec.openapis.org/oas/v3.1.1.html
"""

import functools
import re
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from messaging import __version__
from messaging.idempotency import KEPT
from messaging.job import SEND_EMAIL
from messaging.keys import MAIL, READ, TASKS, Scope
from messaging.web.models import KINDS, Accepted, Kind, Problem, Task, TaskList, TaskQuery

SERVER = "/api/v1"
IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")

_TASK_PATH = "/tasks/{task_id}"
# who knows an id needs no key
_ANYBODY: list[dict[str, list[str]]] = [{}]
_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer", "minimum": 0}}
}
_ABOUT = """\
Submit a task, get its id at once, ask for its state by that id.

**202 means kept.** The message broker has the task on disk: it will end as `succeeded`, `failed` with the reason, or
`cancelled`. When the broker does not confirm, the answer is 503 within two seconds.

Errors are problem documents (RFC 9457) whose `detail` names what is wrong, and the fix. A body has at most 1 MiB.

**Keys.** `Authorization: Bearer <key>`, with an API key or the operators' key. What needs one says which scope it must
have. A key that is not known, or was revoked, is answered with 401 everywhere.
"""

_PROBLEMS = {
    HTTPStatus.BAD_REQUEST: "The request cannot be understood.",
    HTTPStatus.UNAUTHORIZED: "The key is missing, not known, or was revoked.",
    HTTPStatus.FORBIDDEN: "The key lacks the scope, `budget` is of nothing, or a browser sent this for another site.",
    HTTPStatus.NOT_FOUND: "No task has this id, or its record has expired.",
    HTTPStatus.CONFLICT: "The task has begun, or is over.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is not JSON.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Fields are wrong, as `errors` says, or the key came with another request.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many requests, or `budget` is used up.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The broker did not confirm in time, or states or budgets cannot be read now.",
}
_WITH_HEADERS: dict[HTTPStatus, dict[str, Any]] = {
    HTTPStatus.UNAUTHORIZED: {
        "WWW-Authenticate": {
            "description": "`Bearer`, and the error of RFC 6750",
            "required": True,
            "schema": {"type": "string"},
        }
    },
    HTTPStatus.TOO_MANY_REQUESTS: _RETRY_AFTER,
    HTTPStatus.SERVICE_UNAVAILABLE: _RETRY_AFTER,
}
_ALWAYS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


@functools.cache
def document(*, mail_needs_key: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document of this installation."""
    paths: dict[str, Any] = {
        f"/tasks/{kind.name}": {"post": _submission(kind, mail_needs_key)} for kind in KINDS.values()
    }
    paths["/tasks"] = {"get": _list()}
    paths[_TASK_PATH] = {"get": _state(), "parameters": [_task_id()]}
    paths[_TASK_PATH + "/cancel"] = {"post": _cancel(), "parameters": [_task_id()]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "messaging-system",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": SERVER}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "responses": {status.name: _problem(status) for status in _PROBLEMS},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key with the scope that is named, or the operators' key.",
                },
            },
        },
    }


def resolve(described: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """What `node` of the document stands for."""
    target: Any = node
    while "$ref" in target:
        path = target["$ref"].removeprefix("#/").split("/")
        target = described
        for part in path:
            target = target[part]
    return dict(target)


def _submission(kind: Kind, mail_needs_key: bool) -> dict[str, Any]:
    needs_key = mail_needs_key and kind.task == SEND_EMAIL
    answers = (
        HTTPStatus.FORBIDDEN,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    )
    fields = kind.parameters.model_fields
    return {
        "operationId": kind.task.removeprefix("messaging."),
        "summary": kind.summary,
        "security": _key(MAIL if kind.task == SEND_EMAIL else TASKS, needed=needs_key),
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Makes it safe to send the request again. For at least "
                f"{KEPT // 3600} hours the same key and body give the same task, and another body is refused. "
                "It counts for its caller: whoever holds one API key, or has one address.",
                "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY.pattern}$"},
            }
        ],
        "requestBody": {
            "required": any(field.is_required() for field in fields.values()),
            "content": {"application/json": {"schema": _ref(kind.parameters), **_example(kind.parameters)}},
        },
        "responses": {
            "202": {
                "description": "Taken: it will be done.",
                "headers": {
                    "Location": {
                        "description": "Where its state can be read.",
                        "required": True,
                        "schema": {"type": "string", "format": "uri-reference"},
                    },
                    **_RETRY_AFTER,
                },
                "content": {"application/json": {"schema": _ref(Accepted)}},
                "links": {
                    name: {"operationId": name, "parameters": {"task_id": "$response.body#/task_id"}}
                    for name in ("get_task", "cancel_task")
                },
            },
            **_problems(*answers),
        },
    }


def _state() -> dict[str, Any]:
    return {
        "operationId": "get_task",
        "summary": "The state of a task",
        "security": _ANYBODY,
        "responses": {
            "200": {
                "description": "What is known of it. `Retry-After` is there while it is not over.",
                "headers": {"Retry-After": {**_RETRY_AFTER["Retry-After"], "required": False}},
                "content": {"application/json": {"schema": _ref(Task)}},
            },
            **_problems(HTTPStatus.NOT_FOUND),
        },
    }


def _cancel() -> dict[str, Any]:
    return {
        "operationId": "cancel_task",
        "summary": "Cancel a task that has not begun",
        "description": "While Redis is away right afterwards, a task may be done although it was cancelled.",
        "security": _ANYBODY,
        "responses": {
            "200": {
                "description": "It is cancelled, now or already.",
                "content": {"application/json": {"schema": _ref(Task)}},
            },
            **_problems(
                HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            ),
        },
    }


def _list() -> dict[str, Any]:
    schema = _plain(TaskQuery.model_json_schema(ref_template="#/components/schemas/{model}"))
    return {
        "operationId": "list_tasks",
        "summary": "The tasks of everybody, newest first",
        "security": _key(READ, needed=True),
        "parameters": [
            {"name": name, "in": "query", "description": each.pop("description"), "schema": each}
            for name, each in ((name, dict(each)) for name, each in schema["properties"].items())
        ],
        "responses": {
            "200": {
                "description": "Some of them; `next` leads on.",
                "content": {"application/json": {"schema": _ref(TaskList)}},
            },
            **_problems(HTTPStatus.FORBIDDEN),
        },
    }


def _key(scope: Scope, *, needed: bool) -> list[dict[str, list[str]]]:
    return [{"key": [scope]}] if needed else [*_ANYBODY, {"key": [scope]}]


def _task_id() -> dict[str, Any]:
    return {"name": "task_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}


def _schemas() -> dict[str, Any]:
    requests = {kind.parameters for kind in KINDS.values()} | {TaskQuery}
    _, taken = models_json_schema(
        [(model, "validation") for model in sorted(requests, key=lambda model: model.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    _, given = models_json_schema(
        [(model, "serialization") for model in (Accepted, Task, TaskList, Problem)],
        ref_template="#/components/schemas/{model}",
    )
    schemas = {**taken["$defs"], **given["$defs"]}
    del schemas[TaskQuery.__name__]
    return {name: _plain(schemas[name]) for name in sorted(schemas)}


def _plain(schema: Any) -> Any:
    """A schema without what says nothing: titles that repeat a name, and defaults that are none."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: {field: _plain(each) for field, each in value.items()} if name == "properties" else _plain(value)
        for name, value in schema.items()
        if not (name == "title" and isinstance(value, str)) and not (name == "default" and not value)
    }


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _example(model: type[BaseModel]) -> dict[str, Any]:
    example = {name: field.examples[0] for name, field in model.model_fields.items() if field.examples}
    return {"example": example}


def _problems(*statuses: HTTPStatus) -> dict[str, Any]:
    return {
        str(status.value): {"$ref": f"#/components/responses/{status.name}"} for status in sorted((*_ALWAYS, *statuses))
    }


def _problem(status: HTTPStatus) -> dict[str, Any]:
    answer = {
        "description": _PROBLEMS[status],
        "content": {"application/problem+json": {"schema": _ref(Problem)}},
    }
    return {**answer, "headers": _WITH_HEADERS[status]} if status in _WITH_HEADERS else answer
