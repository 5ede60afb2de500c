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
from typing import Any, cast

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
FAILURES_KEPT = 20
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
    """One minute. `at` is its end, in seconds since the epoch; `queues` is None where RabbitMQ did not answer, and
    `oldest` the age in seconds of the mail that was submitted first and has not ended, None where there is none."""

    at: int
    accepted: int
    succeeded: int
    failed: int
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
        still_open, ended = self._look_through(now)
        recent = Counter(record.state for record in ended if record.updated_at > now - 2 * MINUTE)
        mails = [record.submitted_at for record in still_open if record.task == SEND_EMAIL]
        sample = Sample(
            at=minute,
            accepted=accepted,
            succeeded=recent[State.SUCCEEDED],
            failed=recent[State.FAILED],
            oldest=now - min(mails) if mails else None,
            queues=self._depths(),
        )
        failures = sorted((each for each in ended if each.state is State.FAILED), key=lambda each: each.updated_at)
        with self._redis.pipeline(transaction=False) as pipe:
            _prepend(pipe, FAILURES_KEY, [asdict(_failure(record)) for record in failures], FAILURES_KEPT)
            _prepend(pipe, SAMPLES_KEY, [asdict(sample)], KEPT)
            pipe.execute()
        return True

    def read(self, count: int) -> Past:
        """The newest `count` samples, and the rest.

        Raises:
            RedisError, RecordsUnavailableError: they cannot be read.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.lrange(SAMPLES_KEY, 0, count - 1)
            pipe.lrange(FAILURES_KEY, 0, FAILURES_KEPT - 1)
            pipe.zrange(OPEN_KEY, 0, OLDEST - 1)
            samples, failures, task_ids = pipe.execute()
        records = self._records.many(task_ids)
        mails = [each for each in records if each and each.state not in FINAL and each.task == SEND_EMAIL]
        return Past(
            samples=[Sample(**json.loads(text)) for text in samples],
            failures=[Failure(**json.loads(text)) for text in failures],
            oldest=min(mails, key=lambda record: record.submitted_at, default=None),
        )

    def _look_through(self, now: float) -> tuple[list[Record], list[Record]]:
        """Those that are open, and those that have ended since they were last looked at."""
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
            if found:
                pipe.set(CURSOR_KEY, repr(found[-1][1]), ex=EXPIRES)
            pipe.execute()
        return still_open, ended

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


def _failure(record: Record) -> Failure:
    return Failure(record.task_id, record.task, record.updated_at, record.reason or "")
