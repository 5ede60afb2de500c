"""What the service was like, minute by minute for a day, for the operators' page.

Whoever serves the web takes the samples: each process wakes up once a minute, and the first of all hosts to claim the
minute in Redis takes its sample; for the others it is one command. Nothing is counted where work is done: what came in
is in the order of the tasks, how it ended in their records: each is looked at once, and again while it is open.
"""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

from redis import Redis
from redis.exceptions import RedisError

from messaging import topology
from messaging.job import SEND_EMAIL
from messaging.publisher import Depth, Publisher, PublishError
from messaging.results import FINAL, Record, Records, RecordsUnavailableError, State
from messaging.settings import Settings
from messaging.store import INDEX_KEY

logger = logging.getLogger(__name__)

PREFIX = "messaging:history:"
SAMPLES_KEY = f"{PREFIX}samples"
FAILURES_KEY = f"{PREFIX}failures"
# Tasks that had not ended when they were looked at, by the time at which they were submitted
OPEN_KEY = f"{PREFIX}open"
CURSOR_KEY = f"{PREFIX}cursor"

MINUTE = 60
KEPT = 24 * 60  # samples
FAILURES_KEPT = 10
EXPIRES = 25 * 3600
# Seconds by which a task may find its place in the order late: hosts differ in their clocks
LATE = 10
# New tasks, and open ones, that one sample looks at; with another backend each costs a round trip of its own
LOOK_AT = 20_000
LOOK_AT_SLOWLY = 1_000
LOOK_AT_OPEN = 5_000
OLDEST = 100


@dataclass(frozen=True, slots=True)
class Sample:
    """One minute. `at` is its end, in seconds since the epoch; `queues` is None where RabbitMQ did not answer,
    `succeeded` and `failed` where there were more tasks than were looked at. `oldest` is the age in seconds of the
    mail that was submitted first and has not ended, None where there is none."""

    at: int
    accepted: int
    succeeded: int | None
    failed: int | None
    oldest: float | None
    queues: dict[str, int] | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that failed for good, as its record said."""

    task_id: str
    task: str
    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Past:
    """All that is known: samples and failures, the newest first, and the mail that has waited longest."""

    samples: list[Sample]
    failures: list[Failure]
    oldest: Record | None


_Kind = TypeVar("_Kind", Sample, Failure)


def all_queues(settings: Settings) -> list[str]:
    """The names of all queues in which something may wait for somebody."""
    delays = [topology.delay_queue(seconds) for seconds in settings.delays]
    return [*settings.queues, *delays, topology.DEAD_QUEUE, topology.UNROUTED_QUEUE]


class History:
    """Writes and reads it. Safe to use from many threads and processes."""

    def __init__(self, settings: Settings, redis: Redis, records: Records, watcher: Publisher) -> None:
        self._settings = settings
        self._redis = redis
        self._records = records
        self._watcher = watcher
        self._look_at = LOOK_AT if settings.result_backend == "redis" else LOOK_AT_SLOWLY

    def sample(self, now: float) -> bool:
        """Take the sample of the minute before `now`, unless somebody has done so; whether it was taken here.

        Raises:
            RedisError, RecordsUnavailableError: not this time.
        """
        minute = int(now // MINUTE) * MINUTE
        if not self._redis.set(f"{PREFIX}minute:{minute}", "1", ex=2 * MINUTE, nx=True):
            return False
        accepted = self._redis.zcount(INDEX_KEY, minute - MINUTE, f"({minute}")
        still_open, ended, behind = self._look_through(now)
        recent = Counter(record.state for record in ended if record.updated_at > now - 2 * MINUTE)
        mails = [record.submitted_at for record in still_open if record.task == SEND_EMAIL]
        sample = Sample(
            at=minute,
            accepted=accepted,
            succeeded=None if behind else recent[State.SUCCEEDED],
            failed=None if behind else recent[State.FAILED],
            oldest=now - min(mails) if mails else None,
            queues=self._depths(),
        )
        # of those that were looked at late too, but what is older than a day is no news
        since = now - KEPT * MINUTE
        failures = sorted(
            (each for each in ended if each.state is State.FAILED and each.updated_at > since),
            key=lambda each: each.updated_at,
        )
        with self._redis.pipeline(transaction=False) as pipe:
            _prepend(pipe, FAILURES_KEY, [asdict(_failure(record)) for record in failures], FAILURES_KEPT)
            _prepend(pipe, SAMPLES_KEY, [asdict(sample)], KEPT)
            pipe.execute()
        return True

    def read(self) -> Past:
        """All of it.

        Raises:
            RedisError, RecordsUnavailableError: they cannot be read.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.lrange(SAMPLES_KEY, 0, KEPT - 1)
            pipe.lrange(FAILURES_KEY, 0, FAILURES_KEPT - 1)
            pipe.zrange(OPEN_KEY, 0, OLDEST - 1)
            samples, failures, task_ids = pipe.execute()
        records = self._records.many(task_ids)
        mails = [each for each in records if each and each.state not in FINAL and each.task == SEND_EMAIL]
        return Past(
            samples=_known(Sample, samples),
            failures=_known(Failure, failures),
            oldest=min(mails, key=lambda record: record.submitted_at, default=None),
        )

    def _look_through(self, now: float) -> tuple[list[Record], list[Record], bool]:
        """Those that are open, those that have ended since they were last looked at, and whether there are more."""
        since = cast("str | None", self._redis.get(CURSOR_KEY)) or str(now - self._settings.mail_max_age)
        known = cast("list[str]", self._redis.zrange(OPEN_KEY, 0, LOOK_AT_OPEN - 1))
        found = cast(
            "list[tuple[str, float]]",
            self._redis.zrangebyscore(INDEX_KEY, f"({since}", now - LATE, 0, self._look_at, withscores=True),
        )
        task_ids = [*known, *(task_id for task_id, _ in found)]
        records = [record for record in self._records.many(task_ids) if record]
        still_open = [record for record in records if record.state not in FINAL]
        ended = [record for record in records if record.state in FINAL]
        gone = set(task_ids) - {record.task_id for record in still_open}
        with self._redis.pipeline(transaction=False) as pipe:
            if still_open:
                pipe.zadd(OPEN_KEY, {record.task_id: record.submitted_at for record in still_open})
            if gone:
                pipe.zrem(OPEN_KEY, *gone)
            # a record does not live longer
            pipe.expire(OPEN_KEY, self._settings.result_expires)
            # and is kept while samples are taken, or old ends would be met again
            pipe.set(CURSOR_KEY, repr(found[-1][1]) if found else since, ex=EXPIRES)
            pipe.execute()
        behind = len(found) == self._look_at or len(known) == LOOK_AT_OPEN
        return still_open, ended, behind

    def _depths(self) -> dict[str, int] | None:
        try:
            depths: dict[str, Depth] = self._watcher.depths(all_queues(self._settings))
        except PublishError:
            return None
        return {name: depth.messages for name, depth in depths.items()}


def keep(history: History) -> None:
    """Take samples from now on, in a thread of its own that ends with the process."""

    def run() -> None:
        while True:
            time.sleep(MINUTE - time.time() % MINUTE)
            try:
                history.sample(time.time())
            except (RedisError, RecordsUnavailableError) as error:
                logger.info("no sample: %s", error)
            except Exception:
                logger.exception("no sample")

    threading.Thread(target=run, name="history", daemon=True).start()


def _prepend(pipe: Any, key: str, entries: Sequence[dict[str, Any]], most: int) -> None:
    """Put entries in front of a list, the last of them first of all."""
    if entries:
        pipe.lpush(key, *map(json.dumps, entries[-most:]))
        pipe.ltrim(key, 0, most - 1)
        pipe.expire(key, EXPIRES)


def _known(kind: type[_Kind], texts: Sequence[str]) -> list[_Kind]:
    """What `_prepend` wrote, maybe in another release: what is not known is left out."""
    fields = kind.__dataclass_fields__
    return [kind(**{name: value for name, value in json.loads(text).items() if name in fields}) for text in texts]


def _failure(record: Record) -> Failure:
    return Failure(record.task_id, record.task, record.updated_at, record.reason or "")
