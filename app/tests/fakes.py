"""Stand-ins for Redis, the broker and the relay, for tests of the rules between them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from redis.exceptions import RedisError

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
    away: bool = False

    def get(self, name: str) -> str | None:
        return self.values.get(name)

    def set(self, name: str, value: str, ex: int, nx: bool = False, get: bool = False) -> str | None:
        if self.away:
            raise RedisError("away")
        before = self.values.get(name)
        if not nx or before is None:
            self.values[name] = value
        return before if get else None

    def incr(self, name: str) -> int:
        value = int(self.values.get(name, "0")) + 1
        self.values[name] = str(value)
        return value

    @contextlib.contextmanager
    def pipeline(self) -> Iterator["FakePipeline"]:
        yield FakePipeline(self)

    def delete(self, name: str) -> None:
        self.values.pop(name, None)


@dataclass
class FakePipeline:
    redis: FakeRedis
    answers: list[Any] = field(default_factory=list)

    def set(self, *args: Any, **kwargs: Any) -> None:
        self.answers.append(self.redis.set(*args, **kwargs))

    def incr(self, name: str) -> None:
        self.answers.append(self.redis.incr(name))

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

    def zadd(self, _key: str, scores: dict[str, float], nx: bool) -> None:
        assert nx, "a task keeps its place"
        self.scores = scores | self.scores

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
    """Counts like Redis, and stores records, until it is away; `looks` is how often it was asked."""

    stores = True

    def __init__(self, records: FakeRecords) -> None:
        super().__init__()
        self.records = records
        self.away = False
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
        return waits


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
