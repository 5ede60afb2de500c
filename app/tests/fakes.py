"""Stand-ins for Redis, the broker and the relay, for tests of the rules between them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from messaging.claims import ClaimedElsewhereError, ClaimsUnavailableError, Held
from messaging.job import Job
from messaging.mail.smtp import DeliveryError
from messaging.publisher import Depth, PublishError
from messaging.results import Cursor, Record, RecordsUnavailableError, State
from messaging.settings import Settings
from messaging.store import Entry
from messaging.tasks import Toolbox
from messaging.windows import MemoryWindows, RecordedError, Window


@dataclass
class FakeRecords:
    """`in_redis`: they are written together with claims."""

    stored: dict[str, Record] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)
    away: bool = False
    in_redis: ClassVar[bool] = False

    def entry(self, record: Record) -> Entry | None:
        return (
            Entry(record.task_id, cast("str", record), 1, record.task_id, record.submitted_at)
            if self.in_redis
            else None
        )

    def read(self, text: str) -> Record:
        return cast("Record", text)

    def put(self, record: Record) -> None:
        if self.away:
            raise RecordsUnavailableError("away")
        self.stored[record.task_id] = record
        self.states.append(record.state)

    def put_first(self, record: Record) -> Record | None:
        known = self.get(record.task_id)
        if known is None:
            self.put(record)
        return known

    def get(self, task_id: str) -> Record | None:
        if self.away:
            raise RecordsUnavailableError("away")
        return self.stored.get(task_id)

    def many(self, task_ids: Sequence[str]) -> list[Record | None]:
        return [self.get(task_id) for task_id in task_ids]

    def page(
        self, state: State | None, since: float | None, until: float | None, limit: int, after: Cursor | None
    ) -> tuple[list[Record], Cursor | None]:
        self.get("page")
        newest_first = sorted(self.stored.values(), key=lambda record: (record.submitted_at, record.task_id))[::-1]
        found = [
            record
            for record in newest_first
            if state in (None, record.state)
            and (since is None or record.submitted_at >= since)
            and (until is None or record.submitted_at <= until)
            and (after is None or (record.submitted_at, record.task_id) < after)
        ]
        last = found[limit - 1] if len(found) > limit else None
        return found[:limit], last and (last.submitted_at, last.task_id)

    def check(self) -> None:
        self.get("check")

    def checks(self) -> dict[str, Callable[[], None]]:
        return {"redis": self.check}


@dataclass
class FakePublisher:
    submitted: list[Job] = field(default_factory=list)
    delayed: list[tuple[Job, float]] = field(default_factory=list)
    error: PublishError | None = None

    def submit(self, job: Job) -> None:
        if self.error:
            raise self.error
        self.submitted.append(job)

    def retry_later(self, job: Job, at_least: float) -> float:
        if self.error:
            raise self.error
        self.delayed.append((job, at_least))
        return at_least

    def probe(self) -> None:
        if self.error:
            raise self.error

    def depths(self, queues: Sequence[str]) -> dict[str, Depth]:
        self.probe()
        return {queue: Depth(messages=3, consumers=1) for queue in queues}


@dataclass
class FakeClaims:
    records: FakeRecords = field(default_factory=FakeRecords)
    away: bool = False
    elsewhere: bool = False
    held: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def hold(self, task_id: str, begun: Entry | None = None) -> Iterator[Held]:
        if self.away:
            raise ClaimsUnavailableError("away")
        if self.elsewhere:
            raise ClaimedElsewhereError(task_id)
        self.held.append(task_id)
        held = Held(task_id)
        known = self.records.stored.get(task_id) if begun else None
        if begun and known:
            held.known = cast("str", known)
            held.begun = known.state is State.QUEUED and known.attempts == known.crashes == known.unknowns == 0
            if held.begun:
                self.records.put(cast("Record", begun.text))
        yield held

    def end(self, held: Held, entry: Entry) -> None:
        if self.away:
            raise ClaimsUnavailableError("away")
        self.records.put(cast("Record", entry.text))
        self.ended.append(held.task_id)


@dataclass
class FakeRelay:
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    error: DeliveryError | Exception | None = None

    def send(self, sender: str, recipient: str, data: bytes) -> str:
        if self.error:
            raise self.error
        self.sent.append((recipient, data))
        return "250 ok"


@dataclass
class FakeRedis:
    values: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)
    sets: dict[str, dict[str, float]] = field(default_factory=dict)
    away: bool = False

    def get(self, name: str) -> str | None:
        self._answer()
        return self.values.get(name)

    def set(self, name: str, value: str, ex: int, nx: bool = False, get: bool = False) -> str | bool | None:
        self._answer()
        before = self.values.get(name)
        stored = not nx or before is None
        if stored:
            self.values[name] = value
        return before if get else stored or None

    def incr(self, name: str) -> int:
        value = int(self.values.get(name, "0")) + 1
        self.values[name] = str(value)
        return value

    @contextlib.contextmanager
    def pipeline(self, transaction: bool = True) -> Iterator["FakePipeline"]:
        yield FakePipeline(self)

    def delete(self, name: str) -> None:
        self.values.pop(name, None)

    def expire(self, name: str, seconds: int) -> None:
        assert seconds > 0

    def lpush(self, name: str, *values: str) -> None:
        self.lists[name] = [*reversed(values), *self.lists.get(name, [])]

    def ltrim(self, name: str, start: int, end: int) -> None:
        self.lists[name] = self.lrange(name, start, end)

    def lrange(self, name: str, start: int, end: int) -> list[str]:
        return self.lists.get(name, [])[start : end + 1]

    def zadd(self, name: str, scores: dict[str, float]) -> None:
        self._answer()
        self.sets.setdefault(name, {}).update(scores)

    def zrem(self, name: str, *members: str) -> None:
        self._answer()
        for member in members:
            self.sets.get(name, {}).pop(member, None)

    def zrange(self, name: str, start: int, end: int) -> list[str]:
        return [member for _, member in self._sorted(name)][start : end + 1]

    def zrangebyscore(
        self, name: str, low: float | str, high: float | str, start: int = 0, num: int = 10**9, *, withscores: bool
    ) -> list[tuple[str, float]]:
        assert withscores
        self._answer()
        return [(member, score) for score, member in self._sorted(name) if _within(score, low, high)][start:][:num]

    def zremrangebyscore(self, name: str, low: float | str, high: float | str) -> None:
        known = self.sets.get(name, {})
        self.sets[name] = {member: score for member, score in known.items() if not _within(score, low, high)}

    def zcount(self, name: str, low: float | str, high: float | str) -> int:
        return len(self.zrangebyscore(name, low, high, withscores=True))

    def _sorted(self, name: str) -> list[tuple[float, str]]:
        return sorted((score, member) for member, score in self.sets.get(name, {}).items())

    def _answer(self) -> None:
        if self.away:
            raise RedisError("away")


def _within(score: float, low: float | str, high: float | str) -> bool:
    """As Redis has it: a bracket in front of a bound leaves the bound itself out."""
    (low_out, low), (high_out, high) = (
        (str(bound).startswith("("), float(str(bound).removeprefix("("))) for bound in (low, high)
    )
    return (score > low if low_out else score >= low) and (score < high if high_out else score <= high)


@dataclass
class FakePipeline:
    redis: FakeRedis
    answers: list[Any] = field(default_factory=list)

    def __getattr__(self, command: str) -> Callable[..., None]:
        return lambda *args, **kwargs: self.answers.append(getattr(self.redis, command)(*args, **kwargs))

    def execute(self) -> list[Any]:
        return self.answers


@dataclass
class FakeIndex:
    """What the order of the tasks needs of Redis: a sorted set, by score and then by member."""

    scores: dict[str, float] = field(default_factory=dict)
    calls: int = 0
    away: bool = False

    def zrevrangebyscore(
        self, _key: str, newest: float | str, oldest: float | str, start: int, num: int, withscores: bool
    ) -> list[tuple[str, float]]:
        assert withscores
        self.calls += 1
        self._answer()
        order = sorted(((score, member) for member, score in self.scores.items()), reverse=True)
        found = [(member, score) for score, member in order if float(oldest) <= score <= float(newest)]
        return found[start : start + num]

    def zrangebyscore(
        self, key: str, oldest: float | str, newest: float | str, start: int, num: int, withscores: bool
    ) -> list[tuple[str, float]]:
        whole = len(self.scores)
        return self.zrevrangebyscore(key, newest, oldest, 0, whole, withscores)[::-1][start : start + num]

    def zadd(self, _key: str, scores: dict[str, float], nx: bool, gt: bool) -> None:
        assert nx != gt
        for member, score in scores.items():
            known = self.scores.setdefault(member, score)
            if gt:
                self.scores[member] = max(known, score)

    def zremrangebyscore(self, _key: str, oldest: str, newest: float) -> None:
        assert oldest == "-inf"
        self.scores = {member: score for member, score in self.scores.items() if score > newest}

    def zrem(self, _key: str, *members: str) -> None:
        for member in members:
            self.scores.pop(member, None)

    def set(self, _name: str, _value: str, ex: int, nx: bool = False) -> None:
        self._answer()

    @contextlib.contextmanager
    def pipeline(self, transaction: bool) -> Iterator["FakeIndex"]:
        assert not transaction
        yield self

    def execute(self, **_: bool) -> list[object]:
        self._answer()
        return []

    def _answer(self) -> None:
        if self.away:
            raise RedisError("away")


class FakeBudgets(MemoryWindows):
    """Counts like Redis, and stores records, until it is away; `looks` is how often it was asked.

    While it is `slow` it does what it is asked to, and nobody hears of it.
    """

    stores = True

    def __init__(self, records: FakeRecords) -> None:
        super().__init__()
        self.records = records
        self.away = self.slow = False
        self.looks = 0

    def take(self, wanted: Sequence[Window], record: Entry | None = None) -> list[int]:
        self.looks += 1
        if self.away:
            raise RedisError("away")
        if record and record.task_id in self.records.stored:
            raise RecordedError
        waits = super().take(wanted)
        if record and not waits:
            self.records.put(cast("Record", record.text))
        if self.slow:
            raise RedisTimeoutError("no answer in time")
        return waits

    def forget(self, record: Entry) -> None:
        if self.away:
            raise RedisError("away")
        if self.records.stored.get(record.task_id) == cast("Record", record.text):
            del self.records.stored[record.task_id]

    def used(self, windows: Sequence[Window]) -> list[int]:
        if self.away:
            raise RedisError("away")
        return super().used(windows)


def toolbox(**settings: object) -> Any:
    """The real toolbox with stand-ins in it."""
    records = FakeRecords()
    return Toolbox(
        settings=Settings.model_validate(settings),
        redis=cast("Any", FakeRedis()),
        records=cast("Any", records),
        claims=cast("Any", FakeClaims(records)),
        publisher=cast("Any", FakePublisher()),
        smtp=cast("Any", FakeRelay()),
    )
