"""Handing a task in, whichever face of the service it came through."""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask import g, url_for
from pydantic import ValidationError

from messaging.accept import accept, accept_once, accept_recorded, accept_request
from messaging.budgets import NOTHING, Taken
from messaging.idempotency import KeyReusedError
from messaging.job import SEND_EMAIL, Job
from messaging.publisher import PublishError
from messaging.results import Record, RecordsUnavailableError, State
from messaging.web import services
from messaging.web.admission import admit, throttled
from messaging.web.auth import caller
from messaging.web.models import SETTINGS, Kind, field_errors
from messaging.web.problems import ProblemError, not_accepted
from messaging.windows import RecordedError

# How many problems are told in one sentence
TOLD = 3


def parameters(kind: Kind, given: Any) -> dict[str, Any]:
    """The parameters of a task, checked.

    Raises:
        ValidationError: with what is wrong with each of them.
    """
    context = {SETTINGS: services().settings}
    return kind.parameters.model_validate(given, context=context).model_dump(exclude_defaults=True)


def submit(task: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Queue a task within its caller's budgets; what he is told. What the broker did not take costs nothing.

    Raises:
        ProblemError: 429, a budget is used up; 503, budgets cannot be checked, or the broker is not known to have it.
    """
    return queue(ticket(task, kwargs))


@dataclass(frozen=True)
class Ticket:
    """A task that was admitted; what was taken for it is given back if nothing comes of it."""

    job: Job
    taken: Taken


def ticket(task: str, kwargs: Mapping[str, Any]) -> Ticket:
    """Take the only task of a request, which is to be queued, from the budgets; with that it is recorded, if it can be.

    Raises:
        ProblemError: as `admit`.
    """
    job = _job(task, kwargs, _task_id(task, kwargs))
    record = services().records.entry(Record.queued(job)) if throttled() and g.request_id is not None else None
    if record is not None:
        try:
            [taken] = admit((task, kwargs), record=record)
        except RecordedError:
            # an earlier try of this very request has got so far
            return Ticket(job, NOTHING)
        return Ticket(job, taken)
    [admitted] = tickets((task, kwargs))
    return admitted


def tickets(*tasks: tuple[str, Mapping[str, Any]]) -> list[Ticket]:
    """Take a request's tasks from the budgets: all of them, or none. What an earlier try of this very request took for
    a task that has a record is not taken again.

    Raises:
        ProblemError: as `admit`.
    """
    jobs = [_job(*each, _task_id(*each)) for each in tasks]
    new = [job for job in jobs if not (throttled() and _recorded(job.task_id))]
    taken = iter(admit(*((job.task, job.kwargs) for job in new)) if new else [])
    return [Ticket(job, next(taken) if job in new else NOTHING) for job in jobs]


def queue(admitted: Ticket, *others: Ticket) -> dict[str, Any]:
    """Queue a task; what its caller is told. If the broker did not take it, it is given back, and so are `others`.

    Raises:
        ProblemError: 503, the broker is not known to have it.
    """
    parts = services()
    job = admitted.job
    with _answering(job.task_id, *(each.taken.give_back for each in (admitted, *others))):
        if admitted.taken.recorded:
            state, tracked = State.QUEUED, True
            accept_recorded(parts.records, parts.publisher, parts.claims, job)
        elif g.request_id is None:
            state, tracked = State.QUEUED, accept(parts.records, parts.publisher, parts.claims, job)
        else:
            state, tracked = accept_request(parts.records, parts.publisher, parts.claims, job)
    return _accepted(job.task_id, state, tracked)


def _task_id(task: str, kwargs: Mapping[str, Any]) -> str:
    """The same in each try of one request through nginx. Who did not come through nginx has no second try."""
    if g.request_id is None:
        return str(uuid.uuid4())
    return services().idempotency.of_request(g.request_id, caller(), task, kwargs)


def _recorded(task_id: str) -> bool:
    """Whether an earlier try of this request has got so far; no, while that cannot be known."""
    try:
        return g.request_id is not None and services().records.get(task_id) is not None
    except RecordsUnavailableError:
        return False


def submit_once(task: str, kwargs: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The same under an Idempotency-Key: asked again, it answers with the task that there is.

    A task is taken from the budgets once, however often it is asked for. Where the broker did not take it, and no other
    request has its key, both are given back: asked again, it is a new one.

    Raises:
        ProblemError: 429 and 503 as above; 422, the key has been used for another request.
    """
    try:
        task_id, first = services().idempotency.task_id(caller(), key, task, kwargs)
    except KeyReusedError:
        detail = "Idempotency-Key: this key came with another request before; use a new one for each."
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, parameter="Idempotency-Key") from None
    job = _job(task, kwargs, task_id)
    parts = services()

    taken: list[Taken] = []

    def admitted() -> None:
        try:
            taken.extend(admit((task, kwargs)))
        except ProblemError:
            if first:
                parts.idempotency.forget(caller(), key)
            raise

    def give_back() -> None:
        # who could use the key again would have the task for nothing
        if first and parts.idempotency.forget(caller(), key):
            for each in taken:
                each.give_back()

    with _answering(task_id, give_back, alone=False):
        state, tracked = accept_once(
            parts.records,
            parts.publisher,
            parts.claims,
            job,
            first=first,
            admit=admitted,
            may_copy=lambda: parts.idempotency.may_copy(caller(), key),
        )
    return _accepted(task_id, state, tracked)


def invalid(error: ValidationError) -> ProblemError:
    """The answer to parameters that are wrong."""
    errors = field_errors(error)
    said = [f"{each['field']}: {each['detail']}" if each["field"] else each["detail"] for each in errors]
    detail = "; ".join(said[:TOLD]) + (f"; and {len(said) - TOLD} more" if len(said) > TOLD else "")
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{detail}.", errors=errors)


def _job(task: str, kwargs: Mapping[str, Any], task_id: str) -> Job:
    settings = services().settings
    return Job(
        task=task,
        kwargs=kwargs,
        task_id=task_id,
        # mail does not wait behind what computes
        queue=settings.email_queue if task == SEND_EMAIL else settings.compute_queue,
        request_id=g.request_id,
    )


@contextlib.contextmanager
def _answering(task_id: str, *give_back: Callable[[], None], alone: bool = True) -> Iterator[None]:
    """What the broker does not confirm becomes the answer to the caller; `alone` if no other request has this id."""
    try:
        yield
    except PublishError as error:
        if not error.uncertain:
            for each in give_back:
                each()
        raise not_accepted(task_id, nothing_queued=alone and not error.uncertain) from error


def _accepted(task_id: str, state: State, tracked: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"task_id": task_id, "state": state, "status_url": url_for("api.task", task_id=task_id)}
    return answer if tracked else {**answer, "tracked": False}
