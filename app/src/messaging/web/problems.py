"""Every error as a problem document (RFC 9457), or as a page for people."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g, jsonify, render_template, request
from werkzeug.exceptions import HTTPException

from messaging.results import RecordsUnavailableError

logger = logging.getLogger(__name__)

RETRY_AFTER = 5  # seconds
NOTHING_HERE = "There is nothing at this address."


class ProblemError(Exception):
    """An answer that is an error: `detail` says what is wrong and the fix; `members` are added to the document."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after
        self.headers = headers or {}
        self.members = members


def not_accepted(task_id: str, *, nothing_queued: bool) -> ProblemError:
    """The answer when the broker is not known to have taken a task."""
    detail = (
        "The message broker did not take the task; nothing was queued."
        if nothing_queued
        else "The message broker did not confirm the task; it may still be done under this id."
    )
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, retry_after=RETRY_AFTER, task_id=task_id)


def init_app(app: Flask) -> None:
    """Register the handlers."""
    app.register_error_handler(ProblemError, _problem)
    app.register_error_handler(RecordsUnavailableError, _records_unavailable)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def _problem(error: ProblemError) -> Response:
    response = _document(error.status, error.detail, retry_after=error.retry_after, **error.members)
    response.headers.update(error.headers)
    return response


def _records_unavailable(error: RecordsUnavailableError) -> Response:
    logger.warning("state not known: %s", error)
    return _document(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The state of tasks cannot be read just now. The task itself is not affected.",
        retry_after=RETRY_AFTER,
    )


def _http_error(error: HTTPException) -> Response:
    status = HTTPStatus(error.code or 500)
    detail = error.description
    allowed = dict(error.get_headers()).get("Allow")
    if status is HTTPStatus.NOT_FOUND:
        detail = NOTHING_HERE
    elif status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        detail = f"The body has more than {request.max_content_length} bytes."
    elif allowed:
        detail = f"{request.method} is not offered at this address: use {allowed}."
    response = _document(status, detail or status.description)
    if allowed:
        response.headers["Allow"] = allowed
    return response


def _unexpected(error: Exception) -> Response:
    logger.exception("unexpected error", exc_info=error)
    return _document(HTTPStatus.INTERNAL_SERVER_ERROR, "Something is wrong on our side; the log has more.")


def _document(status: HTTPStatus, detail: str, *, retry_after: int | None = None, **members: Any) -> Response:
    document = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail, **members}
    if g.get("request_id"):
        document["request_id"] = g.request_id
    if for_a_person():
        response = Response(render_template("error.html", problem=document), mimetype="text/html")
    else:
        response = jsonify(document)
        response.mimetype = "application/problem+json"
    response.status_code = status
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


def for_a_person() -> bool:
    """Whether a browser navigates here. `*/*`, as curl sends it, is not enough, and the API answers in JSON."""
    accepted = request.accept_mimetypes
    return accepted["text/html"] > accepted["application/json"] and not request.path.startswith("/api/v1/")
