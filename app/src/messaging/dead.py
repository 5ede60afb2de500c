"""The dead letters: what the broker or a task gave up on, kept until an operator decides."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import amqp

from messaging import topology
from messaging.accept import accept
from messaging.claims import Claims
from messaging.job import Job
from messaging.publisher import Link, Publisher, linked
from messaging.results import Records, State
from messaging.settings import Settings

FOREIGN = "foreign"
PATIENCE = 10.0  # seconds for one answer of the broker


@dataclass(frozen=True)
class DeadLetter:
    """One dead message. `reason` is RabbitMQ's word, `died_at` seconds since the epoch, if it is known.

    A message that somebody else published has the task `foreign`; it can be purged and not replayed.
    """

    job: Job
    reason: str
    died_at: float | None
    message: amqp.Message


class DeadLetters:
    """Looks through the dead letters. What is read stays there: it is only acknowledged once it is published again."""

    def __init__(self, settings: Settings, patience: float = PATIENCE) -> None:
        self._settings = settings
        self._patience = patience

    def oldest(self, count: int) -> list[DeadLetter]:
        """The same as `all`, and no more than so many."""
        return [letter for _, letter in self._walk(count)]

    def all(self) -> list[DeadLetter]:
        """Every dead letter, oldest first.

        Raises:
            BrokerUnavailableError: RabbitMQ does not answer.
        """
        return [letter for _, letter in self._walk()]

    def replay(self, records: Records, publisher: Publisher, claims: Claims, task_ids: set[str] | None) -> list[str]:
        """Queue dead letters again under the ids they had, those named or all; the ids that were queued.

        What has succeeded meanwhile is removed and not done again.

        Raises:
            BrokerUnavailableError, UnroutableError: the broker did not take one; it is still among the dead letters.
            RecordsUnavailableError: nobody can say whether one has succeeded; it is still among the dead letters.
        """
        replayed = []
        for link, letter in self._walk():
            job = letter.job
            if job.task != FOREIGN and (task_ids is None or job.task_id in task_ids):
                record = records.get(job.task_id)
                if record is None or record.state is not State.SUCCEEDED:
                    again = replace(job, submitted_at=time.time(), attempt=1, unknowns=0)
                    accept(records, publisher, claims, again)
                    replayed.append(job.task_id)
                link.acknowledge(letter.message, self._patience)
        return replayed

    def purge(self, task_ids: set[str] | None) -> list[str]:
        """Remove dead letters, those named or all; the ids that are gone.

        Raises:
            BrokerUnavailableError: RabbitMQ does not answer.
        """
        purged = []
        for link, letter in self._walk():
            if task_ids is None or letter.job.task_id in task_ids:
                link.acknowledge(letter.message, self._patience)
                purged.append(letter.job.task_id)
        return purged

    def _walk(self, most: float = math.inf) -> Iterator[tuple[Link, DeadLetter]]:
        """Take each message in turn, `most` of them; dropping the connection gives back those not acknowledged."""
        with linked(self._settings, self._patience) as link:
            # All first: one that is replayed may die again at once. A count would be 0 too where a leader is slow
            messages: list[amqp.Message] = []
            while len(messages) < most and (message := link.get(topology.DEAD_QUEUE, self._patience)) is not None:
                messages.append(message)
            for message in messages:
                yield link, _letter(message)


def _letter(message: amqp.Message) -> DeadLetter:
    headers: dict[str, Any] = message.headers or {}
    job = _job(message, headers)
    deaths = headers.get("x-death") or []
    died = deaths[0] if deaths else {}
    time_of_death = died.get("time")
    return DeadLetter(
        job=job,
        reason=str(died.get("reason", "not known")),
        died_at=None if time_of_death is None else time_of_death.timestamp(),
        message=message,
    )


def _job(message: amqp.Message, headers: dict[str, Any]) -> Job:
    try:
        _args, kwargs, _embed = json.loads(message.body)
        return Job.from_headers(headers, dict(kwargs))
    except (KeyError, TypeError, ValueError):
        task_id = str(headers.get("id") or message.properties.get("message_id") or "-")
        return Job(task=FOREIGN, kwargs={}, task_id=task_id, queue="-")
