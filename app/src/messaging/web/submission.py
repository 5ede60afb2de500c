"""Handing a task in, whichever face of the service it came through."""

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask import g, url_for
from pydantic import ValidationError

from messaging.accept import accept, accept_once, accept_request
from messaging.idempotency import KeyReusedError
from messaging.job import SEND_EMAIL, Job
from messaging.publisher import PublishError
from messaging.results import RecordsUnavailableError, State
from messaging.web import services
from messaging.web.admission import GiveBack, admit, throttled
from messaging.web.auth import caller
from messaging.web.models import SETTINGS, Kind, field_errors
from messaging.web.problems import ProblemError, not_accepted

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
    [ticket] = tickets((task, kwargs))
    return queue(ticket)


@dataclass(frozen=True)
class Ticket:
    """A task that was admitted; `give_back` is called if nothing comes of it."""

    task: str
    kwargs: Mapping[str, Any]
    task_id: str
    give_back: GiveBack


def tickets(*tasks: tuple[str, Mapping[str, Any]]) -> list[Ticket]:
    """Take a request's tasks from the budgets: all of them, or none. What an earlier try of this very request took for
    a task that has a record is not taken again.

    Raises:
        ProblemError: as `admit`.
    """
    ids = [_task_id(*each) for each in tasks]
    new = [each for each, task_id in zip(tasks, ids, strict=True) if not (throttled() and _recorded(task_id))]
    given_back = iter(admit(*new) if new else [])
    return [
        Ticket(*each, task_id, next(given_back) if each in new else lambda: None)
        for each, task_id in zip(tasks, ids, strict=True)
    ]


def queue(ticket: Ticket, *others: Ticket) -> dict[str, Any]:
    """Queue a task; what its caller is told. If the broker did not take it, it is given back, and so are `others`.

    Raises:
        ProblemError: 503, the broker is not known to have it.
    """
    parts = services()
    job = _job(ticket.task, ticket.kwargs, ticket.task_id)
    with _answering(job.task_id, *(each.give_back for each in (ticket, *others))):
        if g.request_id is None:
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

    taken: list[GiveBack] = []

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
                each()

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
def _answering(task_id: str, *give_back: GiveBack, alone: bool = True) -> Iterator[None]:
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
