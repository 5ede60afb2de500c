"""Handing a task in, whichever face of the service it came through."""

import uuid
from typing import Any

from flask import g, url_for

from messaging.accept import accept
from messaging.job import SEND_EMAIL, Job
from messaging.publisher import PublishError
from messaging.results import State
from messaging.settings import Settings
from messaging.web import services
from messaging.web.problems import not_accepted


def queue_of(task: str, settings: Settings) -> str:
    """The queue of a kind of task: mail does not wait behind what computes."""
    return settings.email_queue if task == SEND_EMAIL else settings.compute_queue


def submit(task: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Queue a task; what its caller is told.

    Raises:
        ProblemError: 503, the broker is not known to have it.
    """
    job = Job(
        task=task,
        kwargs=kwargs,
        task_id=str(uuid.uuid4()),
        queue=queue_of(task, services().settings),
        request_id=g.request_id,
    )
    try:
        tracked = accept(services().records, services().publisher, job)
    except PublishError as error:
        raise not_accepted(error, job.task_id) from error
    return accepted(job.task_id, State.QUEUED, tracked=tracked)


def accepted(task_id: str, state: State, *, tracked: bool = True) -> dict[str, Any]:
    """What is said of a task that was taken."""
    answer: dict[str, Any] = {"task_id": task_id, "state": state, "status_url": url_for("api.task", task_id=task_id)}
    return answer if tracked else {**answer, "tracked": False}
