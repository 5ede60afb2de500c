"""Handing a task in, whichever face of the service it came through."""

import uuid
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from flask import g, url_for
from pydantic import ValidationError

from messaging.accept import accept, accept_again
from messaging.idempotency import KeyReusedError
from messaging.job import SEND_EMAIL, Job
from messaging.publisher import PublishError
from messaging.results import Record, RecordsUnavailableError, State
from messaging.web import services
from messaging.web.auth import caller
from messaging.web.models import STAYS_ON_HOST, Kind, field_errors
from messaging.web.problems import ProblemError, not_accepted


def parameters(kind: Kind, given: Any) -> dict[str, Any]:
    """The parameters of a task, checked.

    Raises:
        ValidationError: with what is wrong with each of them.
    """
    context = {STAYS_ON_HOST: services().settings.mail_embedded}
    return kind.parameters.model_validate(given, context=context).model_dump(exclude_defaults=True)


def submit(task: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Queue a task; what its caller is told.

    Raises:
        ProblemError: 503, the broker is not known to have it.
    """
    job = _job(task, kwargs, str(uuid.uuid4()))
    try:
        tracked = accept(services().records, services().publisher, job)
    except PublishError as error:
        raise not_accepted(error, job.task_id) from error
    return _accepted(job.task_id, State.QUEUED, tracked=tracked)


def submit_once(task: str, kwargs: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The same under an Idempotency-Key: asked again, it answers with the task that there is.

    Raises:
        ProblemError: 503 as above; 422, the key has been used for another request.
    """
    try:
        task_id = services().idempotency.task_id(caller(), key, task, kwargs)
    except KeyReusedError:
        detail = "Idempotency-Key: this key came with another request before; use a new one for each."
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, parameter="Idempotency-Key") from None
    known = _known(task_id)
    job = _job(task, kwargs, task_id, known)
    try:
        if known is not None:
            state = accept_again(services().records, services().publisher, services().claims, job, known)
            return _accepted(task_id, state)
        return _accepted(task_id, State.QUEUED, tracked=accept(services().records, services().publisher, job))
    except PublishError as error:
        raise not_accepted(error, task_id) from error


def invalid(error: ValidationError) -> ProblemError:
    """The answer to parameters that are wrong."""
    errors = field_errors(error)
    detail = "; ".join(f"{each['field']} {each['detail']}" if each["field"] else each["detail"] for each in errors[:3])
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{detail}.", errors=errors)


def _job(task: str, kwargs: Mapping[str, Any], task_id: str, known: Record | None = None) -> Job:
    settings = services().settings
    job = Job(
        task=task,
        kwargs=kwargs,
        task_id=task_id,
        # mail does not wait behind what computes
        queue=settings.email_queue if task == SEND_EMAIL else settings.compute_queue,
        request_id=g.request_id,
    )
    # the same mail has the same date
    return job if known is None else replace(job, submitted_at=known.submitted_at)


def _known(task_id: str) -> Record | None:
    try:
        return services().records.get(task_id)
    except RecordsUnavailableError:
        return None


def _accepted(task_id: str, state: State, *, tracked: bool = True) -> dict[str, Any]:
    answer: dict[str, Any] = {"task_id": task_id, "state": state, "status_url": url_for("api.task", task_id=task_id)}
    return answer if tracked else {**answer, "tracked": False}
