"""The history of the operators' page, with stand-ins for the broker and Redis."""

import json
from typing import Any, cast

import pytest

from fakes import FakePublisher, FakeRecords, FakeRedis
from messaging import history, presence
from messaging.history import FAILURES_KEPT, INDEX_KEY, KEPT, History
from messaging.job import REVERSE_TEXT, SEND_EMAIL
from messaging.publisher import BrokerUnavailableError
from messaging.results import Record, RecordsUnavailableError, State
from messaging.settings import Settings

NOW = 1_800_000_030.0


class Past:
    """A history with its stand-ins at hand."""

    def __init__(self) -> None:
        self.redis = FakeRedis()
        self.records = FakeRecords()
        self.publisher = FakePublisher()

    @property
    def history(self) -> History:
        """As another process has it."""
        return History(Settings(), cast("Any", self.redis), cast("Any", self.records), cast("Any", self.publisher))

    def task(self, task_id: str, submitted_at: float, state: State, task: str = SEND_EMAIL, reason: str = "") -> None:
        self.records.put(Record(task_id, task, state, submitted_at, updated_at=submitted_at + 1, reason=reason or None))
        self.redis.zadd(INDEX_KEY, {task_id: submitted_at})


@pytest.fixture
def past() -> Past:
    return Past()


def test_of_all_processes_one_takes_the_sample_of_a_minute(past: Past) -> None:
    assert past.history.sample(NOW) is True
    assert past.history.sample(NOW + 20) is False
    assert past.history.sample(NOW + 60) is True
    assert [sample.at for sample in past.history.read().samples] == [NOW + 30, NOW - 30]


def test_a_sample_has_what_came_in_how_it_ended_and_what_waits(past: Past) -> None:
    past.task("before", NOW - 100, State.SUCCEEDED)
    past.task("done", NOW - 80, State.SUCCEEDED)
    past.task("failed", NOW - 70, State.FAILED, reason="550 no <such> user")
    past.task("waits", NOW - 60, State.RETRYING)
    past.task("other", NOW - 65, State.QUEUED, REVERSE_TEXT)
    past.history.sample(NOW)
    [sample] = past.history.read().samples
    # the minute before 00:30 began at 23:30; `before` is older
    assert (sample.accepted, sample.succeeded, sample.failed, sample.oldest) == (4, 2, 1, 60)
    assert sample.queues is not None
    assert sample.queues["email"] == sample.queues["delay.5"] == sample.queues["dead"] == 3


def test_an_end_is_counted_once_and_what_is_open_is_looked_at_again(past: Past) -> None:
    past.task("first", NOW - 50, State.SUCCEEDED)
    past.task("second", NOW - 40, State.STARTED)
    past.history.sample(NOW)
    assert (oldest := past.history.read().oldest) is not None
    assert oldest.task_id == "second"
    past.task("third", NOW + 20, State.FAILED)
    past.task("second", NOW - 40, State.SUCCEEDED)
    past.history.sample(NOW + 60)
    seen = past.history.read()
    assert [(sample.succeeded, sample.failed) for sample in seen.samples] == [(1, 1), (1, 0)]
    assert seen.oldest is None
    assert not past.redis.sets[history.OPEN_KEY]


def test_what_finds_its_place_late_is_not_missed(past: Past) -> None:
    past.task("in time", NOW - 1, State.SUCCEEDED)
    past.history.sample(NOW)
    past.task("late", NOW - 5, State.SUCCEEDED)
    past.history.sample(NOW + 60)
    assert past.history.read().samples[0].succeeded == 2


def test_old_ends_are_no_news_and_a_record_that_is_gone_is_forgotten(past: Past) -> None:
    past.task("yesterday", NOW - 20 * 3600, State.SUCCEEDED)
    past.task("gone", NOW - 40, State.QUEUED)
    past.history.sample(NOW)
    del past.records.stored["gone"]
    past.history.sample(NOW + 60)
    seen = past.history.read()
    assert [sample.succeeded for sample in seen.samples] == [0, 0]
    assert seen.oldest is None
    assert not past.redis.sets[history.OPEN_KEY]


def test_a_sample_looks_at_so_many_and_the_next_one_goes_on(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "LOOK_AT", 3)
    for number in range(5):
        past.task(str(number), NOW - 60 + number, State.SUCCEEDED)
    past.history.sample(NOW)
    past.history.sample(NOW + 60)
    past.history.sample(NOW + 120)
    # what it could not know is no number
    assert [(each.accepted, each.succeeded, each.failed) for each in past.history.read().samples] == [
        (0, 0, 0),
        (0, 2, 0),
        (5, None, None),
    ]


def test_more_open_tasks_than_are_looked_at_are_not_known(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "LOOK_AT_OPEN", 2)
    for number in range(3):
        past.task(str(number), NOW - 60 + number, State.QUEUED)
    past.history.sample(NOW)
    past.task("2", NOW - 58, State.SUCCEEDED)
    past.history.sample(NOW + 60)
    assert [each.succeeded for each in past.history.read().samples] == [None, 0]


def test_what_another_release_noted_is_read(past: Past) -> None:
    past.task("failed", NOW - 70, State.FAILED)
    past.history.sample(NOW)
    for key in (history.SAMPLES_KEY, history.FAILURES_KEY):
        [text] = past.redis.lists[key]
        past.redis.lists[key] = [json.dumps({**json.loads(text), "a_later_field": 1})]
    seen = past.history.read()
    assert (seen.samples[0].failed, seen.failures[0].task_id) == (1, "failed")


def test_failures_are_of_a_day_and_met_once(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    past.task("failed", NOW - 70, State.FAILED)
    past.task("long ago", NOW - 25 * 3600, State.FAILED)
    past.redis.values[history.CURSOR_KEY] = "0"
    past.history.sample(NOW)
    assert [each.task_id for each in past.history.read().failures] == ["failed"]
    written = []
    monkeypatch.setattr(past.redis, "set", lambda name, *_, **__: written.append(name) or True)
    past.history.sample(NOW + 60)
    assert history.CURSOR_KEY in written, "it would expire, and all would be met again"


def test_it_is_kept_for_a_day_and_no_longer(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT == 24 * 60
    monkeypatch.setattr(history, "KEPT", 30)
    for minute in range(35):
        past.task(str(minute), NOW + minute * 60 - 30, State.FAILED, reason=str(minute))
        past.history.sample(NOW + minute * 60)
    assert len(past.redis.lists[history.SAMPLES_KEY]) == 30
    failures = past.history.read().failures
    assert len(failures) == FAILURES_KEPT
    assert failures[0].reason == "34", "the newest is the first"


def test_without_the_broker_the_depths_are_not_known(past: Past) -> None:
    past.publisher.error = BrokerUnavailableError("away")
    past.history.sample(NOW)
    assert past.history.read().samples[0].queues is None


def test_without_records_there_is_no_sample(past: Past) -> None:
    past.task("one", NOW - 30, State.SUCCEEDED)
    past.records.away = True
    with pytest.raises(RecordsUnavailableError):
        past.history.sample(NOW)
    assert history.SAMPLES_KEY not in past.redis.lists
    past.records.away = False
    past.history.sample(NOW + 60)
    assert past.history.read().samples[0].succeeded == 1, "and nothing is missed"


def test_a_worker_is_there_then_away_and_takes_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    redis = cast("Any", FakeRedis())
    clock = [NOW]
    monkeypatch.setattr(presence.time, "time", lambda: clock[0])
    presence.tell(redis, "email-1@vm1")
    clock[0] += 30
    presence.tell(redis, "email-2@vm1")
    assert [(each.name, each.away) for each in presence.seen(redis)] == [("email-1@vm1", False), ("email-2@vm1", False)]
    clock[0] += 45
    assert [each.away for each in presence.seen(redis)] == [True, False]
    presence.leave(redis, "email-2@vm1")
    assert [each.name for each in presence.seen(redis)] == ["email-1@vm1"]
    clock[0] += presence.FORGOTTEN
    presence.tell(redis, "email-3@vm1")
    assert list(redis.sets[presence.KEY]) == ["email-3@vm1"]


def test_redis_may_be_away(past: Past) -> None:
    past.redis.away = True
    presence.tell(cast("Any", past.redis), "email-1@vm1")
    presence.leave(cast("Any", past.redis), "email-1@vm1")
    assert json.dumps(past.redis.sets) == "{}"
