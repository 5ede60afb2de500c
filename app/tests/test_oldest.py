from collections.abc import Callable

import pytest

from messaging import oldest
from messaging.job import REVERSE_TEXT, SEND_EMAIL
from messaging.oldest import OldestMail
from messaging.results import LOOK_AT, Record, RecordsUnavailableError, State
from test_results import Listed

NOW = 10_000.0


def mail(at: float, state: State = State.QUEUED, task: str = SEND_EMAIL, reason: str | None = None) -> Record:
    return Record(f"t{at:08.1f}", task, state, submitted_at=at, reason=reason)


def ages(*records: Record) -> tuple[Listed, Callable[[], float | None]]:
    listed = Listed(records)
    return listed, OldestMail(listed, lambda: NOW).age


@pytest.mark.parametrize("state", [State.QUEUED, State.STARTED, State.RETRYING])
def test_the_oldest_that_has_not_ended_counts(state: State) -> None:
    ended = [
        mail(1, State.SUCCEEDED),
        mail(2, State.FAILED),
        mail(3, State.CANCELLED),
        mail(4, State.FAILED, reason="not confirmed"),
        mail(5, task=REVERSE_TEXT),
    ]
    _, age = ages(*ended, mail(9000, state), mail(9500))
    assert age() == 1000


def test_none_is_as_old_as_nothing() -> None:
    assert ages()[1]() == 0
    assert ages(mail(9000, State.SUCCEEDED))[1]() == 0


def test_what_has_ended_is_looked_at_once() -> None:
    listed, age = ages(*(mail(at, State.SUCCEEDED) for at in range(2 * LOOK_AT)), mail(9000))
    assert age() == 1000
    assert listed.gets == 2 * LOOK_AT + 1
    assert age() == 1000
    # the last that has ended, for another may have the same time, and the one that waits
    assert listed.gets == 2 * LOOK_AT + 3
    listed.stored["t009000.0"] = mail(9000, State.SUCCEEDED)
    listed.index.scores["t009100.0"] = 9100
    listed.stored["t009100.0"] = mail(9100, State.RETRYING)
    assert age() == 900


def test_one_that_is_listed_late_is_seen() -> None:
    listed, age = ages(mail(NOW - 1, State.SUCCEEDED))
    assert age() == 0
    listed.index.scores["late"] = NOW - 2
    listed.stored["late"] = mail(NOW - 2)
    assert age() == 2


def test_a_long_list_is_not_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, age = ages(*(mail(at, State.SUCCEEDED) for at in range(10)), mail(9000))
    ticks = iter(range(1000))
    monkeypatch.setattr(oldest.time, "monotonic", lambda: next(ticks))
    monkeypatch.setattr(oldest, "LONGEST_LOOK", 6)
    assert age() is None
    assert age() == 1000


def test_without_redis_it_is_not_known() -> None:
    listed, age = ages(mail(9000))
    listed.index.away = True
    with pytest.raises(RecordsUnavailableError):
        age()
