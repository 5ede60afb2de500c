"""The state of a task by id, kept through Celery's result backend interface.

Nobody else reads or writes these records, so Celery itself stores no results (`task_ignore_result`): its own states
have no word for "accepted", and it writes them too late to say who is responsible for a message.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from celery import Celery
from celery import states as celery_states

from messaging import store
from messaging.settings import Settings

logger = logging.getLogger(__name__)

INDEX_KEY = "messaging:tasks"
CHECK_KEY = "messaging:check"


class State(StrEnum):
    """What can be said of a task; the same words everywhere."""

    QUEUED = "queued"
    STARTED = "started"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})

# The web could not see whether the broker took the message: it may still arrive, and is then done as usual.
NOT_CONFIRMED = "not confirmed"
WORKER_LOST = "worker lost"


class RecordsUnavailableError(Exception):
    """The result backend cannot be asked."""


@dataclass(frozen=True, slots=True)
class Record:
    """One task as its caller may see it. Times are seconds since the epoch."""

    task_id: str
    task: str
    state: State
    submitted_at: float
    updated_at: float = field(default_factory=time.time)
    attempts: int = 0
    # starts that nobody has ended, and attempts of which nobody knows the outcome
    crashes: int = 0
    unknowns: int = 0
    result: Any = None
    reason: str | None = None

    def to(self, state: State, **changes: Any) -> Self:
        """The record after a change of state, now."""
        return replace(self, state=state, updated_at=time.time(), **changes)

    @classmethod
    def from_values(cls, values: Any) -> Self:
        """The record that `asdict()` turned into `values`, maybe in another release: what is not known is left out.

        Raises:
            RecordsUnavailableError: these are not the values of a record.
        """
        try:
            known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
            return cls(**{**known, "state": State(known["state"])})
        except (TypeError, KeyError, ValueError) as error:
            raise RecordsUnavailableError(f"not a record: {error!r}") from error

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to the task."""
        return self.state in FINAL and self.reason != NOT_CONFIRMED


class Records:
    """Reads and writes records. Safe to use from many threads."""

    def __init__(self, settings: Settings, timeout: float) -> None:
        self._expires = settings.result_expires
        self._redis = store.connect(settings, timeout)
        self._backend = _backend(settings, timeout)

    def put(self, record: Record) -> None:
        """Store `record`, replacing what was there.

        Raises:
            RecordsUnavailableError: the backend did not take it.
        """
        try:
            self._backend.store_result(record.task_id, asdict(record), record.state.value)
            if record.state is State.QUEUED:
                with self._redis.pipeline(transaction=False) as pipe:
                    pipe.zadd(INDEX_KEY, {record.task_id: record.submitted_at})
                    pipe.zremrangebyscore(INDEX_KEY, "-inf", time.time() - self._expires)
                    pipe.execute()
        except Exception as error:
            raise RecordsUnavailableError(_why(error)) from error

    def put_unless_over(self, record: Record) -> None:
        """Store `record`, unless the task has ended meanwhile.

        Raises:
            RecordsUnavailableError: the backend did not answer, or did not take it.
        """
        known = self.get(record.task_id)
        if known is None or not known.over:
            self.put(record)

    def get(self, task_id: str) -> Record | None:
        """The record of `task_id`, or None when there is none.

        Raises:
            RecordsUnavailableError: the backend did not answer.
        """
        try:
            meta = self._backend.get_task_meta(task_id, cache=False)
        except Exception as error:
            raise RecordsUnavailableError(_why(error)) from error
        if meta["status"] == celery_states.PENDING:
            return None
        return Record.from_values(meta["result"])

    def since(self, submitted_after: float) -> Iterator[Record]:
        """The records submitted after a time, newest first.

        Raises:
            RecordsUnavailableError: the backend did not answer.
        """
        try:
            task_ids = self._redis.zrevrangebyscore(INDEX_KEY, "+inf", submitted_after)
        except Exception as error:
            raise RecordsUnavailableError(_why(error)) from error
        for task_id in task_ids:
            record = self.get(str(task_id))
            if record is not None:
                yield record

    def check(self) -> None:
        """See whether records can be written and read now.

        Raises:
            RecordsUnavailableError: they cannot.
        """
        try:
            self._redis.set(CHECK_KEY, "1", ex=60)
        except Exception as error:
            raise RecordsUnavailableError(_why(error)) from error
        self.get("check")


def _backend(settings: Settings, timeout: float) -> Any:
    """Celery's result backend for the configured URL, without a broker or tasks."""
    app = Celery("messaging-records", backend=settings.redis_url, set_as_current=False)
    app.conf.update(
        result_expires=settings.result_expires,
        redis_socket_timeout=timeout,
        redis_socket_connect_timeout=timeout,
        redis_retry_on_timeout=False,
        result_backend_transport_options={"retry_policy": {"max_retries": 0, "timeout": timeout}},
        result_backend_always_retry=False,
    )
    return app.backend


def _why(error: Exception) -> str:
    return f"result backend: {error or type(error).__name__}"
