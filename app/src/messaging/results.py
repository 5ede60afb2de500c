"""The state of a task by id, kept through Celery's result backend interface in Redis or in MongoDB.

The order of the tasks, for listings, is in Redis whatever the backend is.

Nobody else reads or writes these records, so Celery itself stores no results (`task_ignore_result`): its own states
have no word for "accepted", and it writes them too late to say who is responsible for a message.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Self, cast

from celery import Celery
from celery import states as celery_states
from celery.backends.redis import RedisBackend
from kombu.utils.json import dumps, loads
from redis.client import Pipeline
from redis.exceptions import RedisError

from messaging import store
from messaging.job import SEND_EMAIL, Job
from messaging.settings import Settings
from messaging.store import INDEX_KEY, Entry

logger = logging.getLogger(__name__)

CHECK_KEY = "messaging:check"
# Seconds for which the end of a task is known that is no mail: as long as a repeated request is
OTHERS_KEPT = 24 * 3600
# the most tasks that one page looks at, and the page of those who want them all
LOOK_AT = 500
PAGE = 50

# When a task was submitted, and its id: together they say where it stands among all.
Cursor = tuple[float, str]


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


def lifetime(values: Mapping[str, Any], expires: int) -> int:
    """How long the values of a record are kept, in seconds: `expires`, or a day for the end of what is no mail."""
    over = values["state"] in FINAL and values["reason"] != NOT_CONFIRMED
    return min(expires, OTHERS_KEPT) if over and values["task"] != SEND_EMAIL else expires


class RecordsUnavailableError(Exception):
    """The result backend cannot be asked."""


class NotARecordError(RecordsUnavailableError):
    """What the backend has under an id was not written by this service, or not by a release that this one knows."""


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
    def queued(cls, job: Job) -> Self:
        """The record of a job that waits for a worker."""
        return cls(
            task_id=job.task_id,
            task=job.task,
            state=State.QUEUED,
            submitted_at=job.submitted_at,
            attempts=job.attempt - 1,
        )

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
            raise NotARecordError(f"not a record: {error!r}") from error

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
        self._backend_name = settings.result_backend

    def put(self, record: Record) -> None:
        """Store `record`, replacing what was there.

        Raises:
            RecordsUnavailableError: the backend did not take it.
        """
        try:
            self._backend.store_result(record.task_id, _values(record), record.state.value)
        except Exception as error:
            raise self._unavailable(error) from error
        self._list(record)

    def entry(self, record: Record) -> Entry | None:
        """How `record` is stored, for those who write to Redis anyway; None where it is not stored there."""
        if self._backend_name != "redis":
            return None
        return cast("RedisRecords", self._backend).entry(record.task_id, _values(record), record.state.value)

    @staticmethod
    def read(text: str | bytes) -> Record:
        """The record that was stored as an entry.

        Raises:
            NotARecordError: there is something else.
        """
        return Record.from_values(_result(text))

    def put_first(self, record: Record) -> Record | None:
        """Store `record` unless there is one under its id: that one is returned then, and None otherwise.

        If that one cannot be read now, `record` is returned for it.

        Raises:
            RecordsUnavailableError: the backend did not answer, or did not take it.
        """
        try:
            stored = self._backend.store_first(record.task_id, _values(record), record.state.value)
        except Exception as error:
            raise self._unavailable(error) from error
        if not stored:
            try:
                return self.get(record.task_id) or record
            except RecordsUnavailableError as error:
                # that there is one is known, and whoever comes second must not be taken for the first
                logger.warning("not read, although it is there: %s", error)
                return record
        self._list(record)
        return None

    def _list(self, record: Record) -> None:
        """Without its place in the order a task can be asked for all the same."""
        if record.state is not State.QUEUED or self._backend_name == "redis":
            # there it went with the record
            return
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                list_task(pipe, record.task_id, record.submitted_at, self._expires)
                pipe.execute()
        except RedisError as error:
            logger.warning("task not listed: %s", error)

    def put_unless_over(self, record: Record) -> bool:
        """Store `record`, unless the task has ended meanwhile; whether it was stored.

        Raises:
            RecordsUnavailableError: the backend did not answer, or did not take it.
        """
        known = self.get(record.task_id)
        if known is not None and known.over:
            return False
        self.put(record)
        return True

    def get(self, task_id: str) -> Record | None:
        """The record of `task_id`, or None when there is none.

        Raises:
            RecordsUnavailableError: the backend did not answer, or has something else there.
        """
        try:
            meta = self._backend.get_task_meta(task_id, cache=False)
        except NotARecordError:
            raise
        except Exception as error:
            raise self._unavailable(error) from error
        if meta["status"] == celery_states.PENDING:
            return None
        return Record.from_values(meta["result"])

    def many(self, task_ids: Sequence[str]) -> list[Record | None]:
        """The records of several tasks, in their order; None where there is none, or none that can be understood.

        Raises:
            RecordsUnavailableError: the backend did not answer.
        """
        if not isinstance(self._backend, RedisRecords):
            return [self.readable(task_id) for task_id in task_ids]
        found: list[Record | None] = []
        for start in range(0, len(task_ids), LOOK_AT):
            try:
                texts = self._backend.texts(task_ids[start : start + LOOK_AT])
            except Exception as error:
                raise self._unavailable(error) from error
            for text in texts:
                try:
                    found.append(self.read(text) if text else None)
                except NotARecordError:
                    found.append(None)
        return found

    def page(
        self,
        state: State | None,
        since: float | None,
        until: float | None,
        limit: int,
        after: Cursor | None,
    ) -> tuple[list[Record], Cursor | None]:
        """At most `limit` records, newest first, and where to go on; None means that there are no more.

        Looks at a bounded number of tasks: a page may be short, or empty, and still have a next one.

        Args:
            state: only records in this state.
            since: only tasks submitted at this time or later, in seconds since the epoch.
            until: only tasks submitted at this time or earlier.
            limit: the length of a full page.
            after: what the page before returned.

        Raises:
            RecordsUnavailableError: the backend did not answer.
        """
        found: list[Record] = []
        cursors = self._submitted(since, until, after)
        for cursor in cursors:
            record = self.readable(cursor[1])
            if record is not None and state in (None, record.state):
                found.append(record)
                if len(found) == limit:
                    break
        else:
            return found, cursors[-1] if len(cursors) == LOOK_AT else None
        return found, cursor

    def readable(self, task_id: str) -> Record | None:
        """A record for a list, which one that cannot be understood must not end.

        Raises:
            RecordsUnavailableError: the backend did not answer.
        """
        try:
            return self.get(task_id)
        except NotARecordError as error:
            logger.warning("%s left out of a list: %s", task_id, error)
            return None

    def _submitted(self, since: float | None, until: float | None, after: Cursor | None) -> list[Cursor]:
        """The next tasks by time and id, newest first; fewer than `LOOK_AT` are the last ones."""
        newest: float | str = "+inf" if until is None else until
        if after is not None:
            newest = after[0] if until is None else min(after[0], until)
        oldest: float | str = "-inf" if since is None else since
        start = 0
        found: list[Cursor] = []
        while len(found) < LOOK_AT:
            try:
                ids = self._redis.zrevrangebyscore(INDEX_KEY, newest, oldest, start=start, num=LOOK_AT, withscores=True)
            except Exception as error:
                raise RecordsUnavailableError(f"redis: {why(error)}") from error
            # of tasks with equal times, Redis returns the one with the greatest id first
            cursors = [(score, task_id) for task_id, score in cast("list[tuple[str, float]]", ids)]
            found += [cursor for cursor in cursors if after is None or cursor < after]
            if len(cursors) < LOOK_AT:
                break
            start += LOOK_AT
        return found[:LOOK_AT]

    def since(self, submitted_after: float) -> Iterator[Record]:
        """The records submitted at a time or later, newest first.

        Raises:
            RecordsUnavailableError: the backend did not answer.
        """
        found, after = self.page(None, submitted_after, None, PAGE, None)
        yield from found
        while after is not None:
            found, after = self.page(None, submitted_after, None, PAGE, after)
            yield from found

    def oldest_first(self, begin: float) -> Iterator[Cursor]:
        """When each task was submitted, and its id, from `begin` on.

        Raises:
            RecordsUnavailableError: Redis did not answer.
        """
        start = 0
        while True:
            try:
                ids = self._redis.zrangebyscore(INDEX_KEY, begin, "+inf", start=start, num=LOOK_AT, withscores=True)
            except Exception as error:
                raise RecordsUnavailableError(f"redis: {why(error)}") from error
            yield from ((score, task_id) for task_id, score in cast("list[tuple[str, float]]", ids))
            if len(cast("list[object]", ids)) < LOOK_AT:
                return
            start += LOOK_AT

    def check(self) -> None:
        """See whether records can be written, read and listed now.

        Raises:
            RecordsUnavailableError: they cannot.
        """
        for check in self.checks().values():
            check()

    def checks(self) -> Mapping[str, Callable[[], None]]:
        """The same for each server, by its name."""
        return {"redis": self._check_redis, self._backend_name: self._check_backend}

    def _check_redis(self) -> None:
        try:
            self._redis.set(CHECK_KEY, "1", ex=60)
        except Exception as error:
            raise RecordsUnavailableError(f"redis: {why(error)}") from error

    def _check_backend(self) -> None:
        if self._backend_name == "redis":
            self._check_redis()
        else:
            try:
                # writes, and leaves nothing behind
                self._backend.forget(CHECK_KEY)
            except Exception as error:
                raise self._unavailable(error) from error
        self.get(CHECK_KEY)

    def _unavailable(self, error: Exception) -> RecordsUnavailableError:
        return RecordsUnavailableError(f"{self._backend_name}: {why(error)}")


def _values(record: Record) -> dict[str, Any]:
    return {**asdict(record), "state": record.state.value}


def _result(text: str | bytes) -> Any:
    """The values in a stored text.

    Raises:
        NotARecordError: it holds something else.
    """
    try:
        return loads(text)["result"]
    except (TypeError, KeyError, ValueError) as error:
        raise NotARecordError(f"not a record: {error!r}") from error


def list_task(pipe: Pipeline, task_id: str, submitted_at: float, expires: float, *, first: bool = False) -> None:
    """Give a task its place in the order, and take theirs from those whose records are gone.

    One that is queued again later moves there, as its record does; `first`: unless it has a place.
    """
    pipe.zadd(INDEX_KEY, {task_id: submitted_at}, nx=first, gt=not first)
    pipe.zremrangebyscore(INDEX_KEY, "-inf", time.time() - expires)


class RedisRecords(RedisBackend):
    """Celery's Redis result backend, with what records need of it."""

    def _store_result(self, task_id: str, result: Any, state: str, *_args: Any, **_kwargs: Any) -> Any:
        """Write without reading first, and without telling those who wait for it: we have no such states, nor them."""
        self._write(task_id, result, state)
        return result

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """What is stored, read at once; Celery would try again, and we say what it is that is away."""
        text = cast("Any", self).get(self._key(task_id))
        if not text:
            return {"status": celery_states.PENDING, "result": None}
        return {"status": None, "result": _result(text)}

    def texts(self, task_ids: Sequence[str]) -> list[bytes | None]:
        """What is stored of several tasks, in one round trip."""
        backend = cast("Any", self)
        keys = [backend.get_key_for_task(task_id) for task_id in task_ids]
        return cast("list[bytes | None]", backend.client.mget(keys))

    def store_first(self, task_id: str, result: Any, state: str) -> bool:
        """Write unless something is there; whether it was written."""
        return self._write(task_id, result, state, first=True)

    def _write(self, task_id: str, result: Any, state: str, *, first: bool = False) -> bool:
        backend = cast("Any", self)
        entry = self.entry(task_id, result, state)
        if state != State.QUEUED:
            return bool(backend.client.set(entry.key, entry.text, ex=entry.seconds, nx=first))
        with backend.client.pipeline(transaction=False) as pipe:
            pipe.set(entry.key, entry.text, ex=entry.seconds, nx=first)
            list_task(pipe, task_id, result["submitted_at"], backend.expires, first=first)
            stored, listed, _ = pipe.execute(raise_on_error=False)
        if isinstance(stored, Exception):
            raise stored
        if isinstance(listed, Exception):
            logger.warning("task not listed: %s", listed)
        return bool(stored)

    def entry(self, task_id: str, result: Any, state: str) -> Entry:
        """What is stored, where, and for how many seconds."""
        backend = cast("Any", self)
        meta = {
            **backend._get_result_meta(result=result, state=state, traceback=None, request=None),
            "task_id": task_id,
        }
        # a letter outside ASCII would take the place of six; half of a pair has no other form
        text = dumps(meta, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
        seconds = int(lifetime(result, backend.expires))
        return Entry(self._key(task_id), text, seconds, task_id, result["submitted_at"])

    def _key(self, task_id: str) -> str:
        return str(cast("Any", self).get_key_for_task(task_id).decode())


def _backend(settings: Settings, timeout: float) -> Any:
    """Celery's result backend, without a broker or tasks."""
    app = Celery("messaging-records", set_as_current=False)
    app.conf.update(
        result_expires=settings.result_expires,
        result_backend=settings.redis_url,
        redis_socket_timeout=timeout,
        redis_socket_connect_timeout=timeout,
        redis_retry_on_timeout=False,
        result_backend_transport_options={"retry_policy": {"max_retries": 0, "timeout": timeout}},
        result_backend_always_retry=False,
    )
    if settings.result_backend == "redis":
        return RedisRecords(app=app, url=settings.redis_url)
    # its client takes memory, where it is not used
    from messaging.mongodb import MongoRecords

    expires = settings.result_expires
    url = settings.mongodb_url.get_secret_value()
    return MongoRecords(app, url, lambda values: lifetime(values, expires), timeout)


def why(error: Exception) -> str:
    """The reason in one line. pymongo adds its settings, the names of all servers, or the server's raw answer."""
    text = re.split(r" \(configured timeouts|, Timeout: |, full error: ", str(error))[0]
    return text or type(error).__name__
