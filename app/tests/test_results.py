import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fakes import FakeIndex
from messaging.job import LOG_TIME, REVERSE_TEXT, SEND_EMAIL
from messaging.results import (
    LOOK_AT,
    NOT_CONFIRMED,
    Cursor,
    NotARecordError,
    Record,
    Records,
    RecordsUnavailableError,
    State,
)
from messaging.settings import Settings
from messaging.store import Entry

RECORD = Record("t1", "messaging.send_email", State.RETRYING, submitted_at=1.5, attempts=2, reason="451 later")


def test_a_record_survives_storage() -> None:
    assert Record.from_values(asdict(RECORD)) == RECORD


def test_a_record_of_another_release_is_read() -> None:
    assert Record.from_values({**asdict(RECORD), "a_later_field": 1}) == RECORD


@pytest.mark.parametrize("values", [None, [], "x", {}, {"state": "lost"}, {"state": "queued"}])
def test_what_is_no_record_is_not_known(values: object) -> None:
    with pytest.raises(RecordsUnavailableError):
        Record.from_values(values)


@pytest.mark.parametrize("text", ["no JSON", "{}", "[]", "null", '"x"', '{"result": 1}', b"\xff"])
def test_what_cannot_be_understood_is_none_alone(monkeypatch: pytest.MonkeyPatch, text: str | bytes) -> None:
    records = Records(Settings(), 1)
    entry = cast("Entry", records.entry(RECORD))
    stored = {entry.key: entry.text, entry.key.replace("t1", "other"): text}
    backend = cast("Any", records)._backend
    monkeypatch.setattr(
        backend, "client", SimpleNamespace(mget=lambda keys: [stored.get(key.decode()) for key in keys])
    )
    monkeypatch.setattr(backend, "get", stored.get)
    assert records.many(["other", "t1", "none"]) == [None, RECORD, None]
    assert records.readable("other") is None
    with pytest.raises(NotARecordError):
        records.read(text)


class Listed(Records):
    """Records in memory, listed by a stand-in for Redis."""

    def __init__(self, records: Iterable[Record]) -> None:
        super().__init__(Settings(), 1)
        self.stored = {record.task_id: record for record in records}
        self.index = FakeIndex({task_id: record.submitted_at for task_id, record in self.stored.items()})
        self.gets = 0
        self._redis = cast("Any", self.index)

    def get(self, task_id: str) -> Record | None:
        self.gets += 1
        return self.stored.get(task_id)


def listed(times: Iterable[float], states: Iterable[State] = ()) -> Listed:
    known = dict(enumerate(states))
    return Listed(
        Record(f"t{number:04}", "messaging.send_email", known.get(number, State.QUEUED), submitted_at=at)
        for number, at in enumerate(times)
    )


def all_pages(records: Listed, limit: int, state: State | None = None, **times: float | None) -> list[list[str]]:
    pages = []
    after: Cursor | None = None
    while True:
        calls, gets = records.index.calls, records.gets
        found, after = records.page(state, times.get("since"), times.get("until"), limit, after)
        assert records.gets - gets <= LOOK_AT
        assert records.index.calls - calls <= 2 + len(set(records.stored)) // LOOK_AT
        pages.append([record.task_id for record in found])
        assert len(pages) < 1000, "pages without end"
        if after is None:
            return pages


def in_order(records: Listed) -> list[str]:
    return [r.task_id for r in sorted(records.stored.values(), key=lambda r: (r.submitted_at, r.task_id))][::-1]


@pytest.mark.parametrize("times", [range(7), [1.0] * 7, [3, 1, 1, 1, 2, 2, 0.5]])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_hold_every_record_once_newest_first(times: Iterable[float], limit: int) -> None:
    records = listed(times)
    pages = all_pages(records, limit)
    assert [task_id for page in pages for task_id in page] == in_order(records)
    assert all(len(page) == limit for page in pages[:-1])


@pytest.mark.parametrize("times", [range(LOOK_AT * 2 + 3), [5.0] * (LOOK_AT * 2 + 3)])
def test_a_rare_state_is_found_in_bounded_steps(times: Iterable[float]) -> None:
    records = listed(times, [State.FAILED])
    pages = all_pages(records, 10, State.FAILED)
    assert [task_id for page in pages for task_id in page] == ["t0000"]
    assert len(pages) == 3, "two empty pages, which still have a next one"


def test_a_page_between_two_times() -> None:
    records = listed(range(10))
    assert all_pages(records, 2, since=3, until=6) == [["t0006", "t0005"], ["t0004", "t0003"], []]
    assert all_pages(records, 2, since=20) == [[]]


def test_records_that_came_meanwhile_do_not_move_the_pages() -> None:
    records = listed(range(6))
    first, after = records.page(None, None, None, 2, None)
    late = Record("late", "messaging.send_email", State.QUEUED, submitted_at=99)
    records.stored["late"] = late
    records.index.scores["late"] = 99
    del records.index.scores[first[-1].task_id], records.stored[first[-1].task_id]
    second, _ = records.page(None, None, None, 2, after)
    assert [record.task_id for record in second] == ["t0003", "t0002"]


def test_a_record_that_has_expired_is_left_out() -> None:
    records = listed(range(3))
    del records.stored["t0001"]
    assert all_pages(records, 10) == [["t0002", "t0000"]]


def test_all_records_since_a_time() -> None:
    records = listed(range(LOOK_AT + 5))
    assert [record.task_id for record in records.since(3)] == in_order(records)[:-3]


DAY = 24 * 3600
WEEK = 7 * DAY


@pytest.mark.parametrize(
    ("task", "state", "reason", "seconds"),
    [
        (SEND_EMAIL, State.SUCCEEDED, None, WEEK),
        (SEND_EMAIL, State.FAILED, "550 no", WEEK),
        (REVERSE_TEXT, State.SUCCEEDED, None, DAY),
        (REVERSE_TEXT, State.CANCELLED, None, DAY),
        (LOG_TIME, State.FAILED, "log", DAY),
        # it may still be done
        (LOG_TIME, State.FAILED, NOT_CONFIRMED, WEEK),
        (REVERSE_TEXT, State.QUEUED, None, WEEK),
        (REVERSE_TEXT, State.STARTED, None, WEEK),
    ],
)
@pytest.mark.parametrize("text", ["désolé 🇩🇪", "\ud800", '"\\\n\x00\x1b\u2028'])
def test_what_is_stored_is_short_and_does_not_stay_for_long(
    monkeypatch: pytest.MonkeyPatch, task: str, state: State, reason: str | None, seconds: int, text: str
) -> None:
    records = Records(Settings(), 1)
    stored: dict[str, tuple[str, int]] = {}

    class Server(FakeIndex):
        def set(self, name: str, value: str, ex: int, nx: bool = False) -> None:
            stored[name] = (value, ex)

        def zremrangebyscore(self, _key: str, _oldest: str, _newest: float) -> None:
            """The record is of 1970."""

        def execute(self, **_: bool) -> list[object]:
            return [True, 1, 0]

    server = Server({})
    backend = cast("Any", records)._backend
    monkeypatch.setattr(backend, "client", server)
    monkeypatch.setattr(backend, "get", lambda key: stored[key][0].encode())
    record = Record("t1", task, state, submitted_at=1.5, reason=reason, result={"text": text})
    records.put(record)
    [(value, expires)] = stored.values()
    assert expires == seconds
    assert records.get("t1") == record
    assert server.scores == ({"t1": 1.5} if state is State.QUEUED else {}), "what waits has its place in the order"
    if text.startswith("d"):
        assert text in value


def test_what_is_queued_again_moves_in_the_order_and_a_second_try_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    records, index = Records(Settings(), 1), FakeIndex()
    monkeypatch.setattr(index, "execute", lambda **_: [None, 0, 0])
    monkeypatch.setattr(cast("Any", records)._backend, "client", index)
    monkeypatch.setattr(records, "get", lambda _: RECORD)
    now = time.time()
    mail = Record("t1", SEND_EMAIL, State.QUEUED, submitted_at=now - 100)
    records.put(mail)
    records.put_first(replace(mail, submitted_at=now - 50))
    assert index.scores == {"t1": now - 100}, "the record is the first one's, and so is the time"
    records.put(replace(mail, submitted_at=now))
    assert index.scores == {"t1": now}
    records.put(mail)
    assert index.scores == {"t1": now}, "its place lasts as long as a record may"


class Forgetful(Records):
    """Records that know that there is one, and cannot read it."""

    def __init__(self) -> None:
        super().__init__(Settings(), 1)
        self._backend = cast("Any", SimpleNamespace(store_first=lambda *_: False))

    def get(self, task_id: str) -> Record | None:
        raise RecordsUnavailableError(f"{task_id}: away")


def test_a_record_that_is_there_and_cannot_be_read_is_not_taken_for_none() -> None:
    assert Forgetful().put_first(RECORD) == RECORD
