from collections.abc import Callable, Sequence

import pytest

from messaging import oldest
from messaging.job import REVERSE_TEXT, SEND_EMAIL
from messaging.oldest import OldestMail
from messaging.results import LOOK_AT, Record, RecordsUnavailableError, State
from test_results import Listed

NOW = 10_000.0


def mail(at: float, state: State = State.QUEUED, task: str = SEND_EMAIL, reason: str | None = None) -> Record:
    return Record(f"t{at:08.1f}", task, state, submitted_at=at, reason=reason)


class Several(Listed):
    """Counts how often it is asked, and for how many."""

    asked = 0

    def many(self, task_ids: Sequence[str]) -> list[Record | None]:
        self.asked += 1
        self.gets += len(task_ids)
        return [self.stored.get(task_id) for task_id in task_ids]


def ages(*records: Record) -> tuple[Several, Callable[[], float | None]]:
    listed = Several(records)
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
    assert listed.asked <= 12, "not one by one"
    assert age() == 1000
    # the last that has ended, for another may have the same time, and the one that waits
    assert listed.gets == 2 * LOOK_AT + 3
    assert listed.asked <= 13
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
    listed, age = ages(*(mail(at, State.SUCCEEDED) for at in range(10)), mail(9000))
    ticks = iter(range(1000))
    monkeypatch.setattr(oldest.time, "monotonic", lambda: next(ticks))
    monkeypatch.setattr(oldest, "LONGEST_LOOK", 2)
    assert age() is None
    assert listed.gets == 6
    assert age() == 1000
    assert listed.gets == 12, "from where it was"


def test_without_redis_it_is_not_known() -> None:
    listed, age = ages(mail(9000))
    listed.index.away = True
    with pytest.raises(RecordsUnavailableError):
        age()
