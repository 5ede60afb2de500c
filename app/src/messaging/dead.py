"""The dead letters: what the broker or a task gave up on, kept until an operator decides."""

import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
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


@dataclass(frozen=True)
class Done:
    """For which letters a decision was carried out, and whether it left others that it was meant for."""

    task_ids: list[str]
    more: bool


class DeadLetters:
    """Looks through the dead letters. What is read stays there: it is only acknowledged once it is published again."""

    def __init__(
        self, settings: Settings, patience: float = PATIENCE, within: float = math.inf, most: float = math.inf
    ) -> None:
        """For whoever cannot wait for all of them: no other letter is begun after `within` seconds.

        Args:
            settings: where the broker is.
            patience: seconds for one answer of the broker.
            within: seconds for the letters together.
            most: letters that one decision looks at.
        """
        self._settings = settings
        self._patience = patience
        self._within = within
        self._most = most

    def oldest(self, count: int) -> Iterator[DeadLetter]:
        """The same as `all`, no more than so many, and fewer where they take too long."""
        end = time.monotonic() + self._within
        with closing(self._walk()) as letters:
            for _, letter in islice(letters, count):
                yield letter
                if time.monotonic() > end:
                    return

    def all(self) -> list[DeadLetter]:
        """Every dead letter, oldest first.

        Raises:
            BrokerUnavailableError: RabbitMQ does not answer.
        """
        return [letter for _, letter in self._walk()]

    def replay(
        self,
        records: Records,
        publisher: Publisher,
        claims: Claims,
        task_ids: set[str] | None,
        before: float = math.inf,
    ) -> Done:
        """Queue dead letters again under the ids they had, those named or all; the ids that were queued.

        What has succeeded meanwhile is removed and not done again. Of all, those that died after `before` are left.

        Raises:
            BrokerUnavailableError, UnroutableError: the broker did not take one; it is still among the dead letters.
            RecordsUnavailableError: nobody can say whether one has succeeded; it is still among the dead letters.
        """
        queued: set[str] = set()

        def again(link: Link, letter: DeadLetter) -> bool:
            job = letter.job
            # one that was queued may have died again at once
            if job.task == FOREIGN or job.task_id in queued:
                return False
            record = records.get(job.task_id)
            succeeded = record is not None and record.state is State.SUCCEEDED
            if not succeeded:
                accept(records, publisher, claims, replace(job, submitted_at=time.time(), attempt=1, unknowns=0))
                queued.add(job.task_id)
            link.acknowledge(letter.message, self._patience)
            return not succeeded

        return self._decide(again, task_ids, before)

    def purge(self, task_ids: set[str] | None, before: float = math.inf) -> Done:
        """Remove dead letters, those named or all that died until `before`; the ids that are gone.

        Raises:
            BrokerUnavailableError: RabbitMQ does not answer.
        """

        def remove(link: Link, letter: DeadLetter) -> bool:
            link.acknowledge(letter.message, self._patience)
            return True

        return self._decide(remove, task_ids, before)

    def _decide(self, carry_out: Callable[[Link, DeadLetter], bool], task_ids: set[str] | None, before: float) -> Done:
        """Carry out what was decided, until each that is named was met once, or all were."""
        end = time.monotonic() + self._within
        done: list[str] = []
        missing = None if task_ids is None else set(task_ids)
        newer = False
        with closing(self._walk()) as letters:
            for looked, (link, letter) in enumerate(letters):
                if looked == self._most or time.monotonic() > end:
                    return Done(done, more=True)
                task_id = letter.job.task_id
                if missing is None and letter.died_at is not None and letter.died_at > before:
                    newer = True
                    continue
                if missing is not None and task_id not in missing:
                    continue
                if carry_out(link, letter):
                    done.append(task_id)
                if missing is not None:
                    missing.remove(task_id)
                    if not missing:
                        break
        return Done(done, more=newer)

    def _walk(self) -> Generator[tuple[Link, DeadLetter], None, None]:
        """Take each message in turn, one at a time; closing the connection gives back those not acknowledged."""
        with linked(self._settings, self._patience) as link:
            # not by the count, which is 0 too where a leader is slow
            while (message := link.get(topology.DEAD_QUEUE, self._patience)) is not None:
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
