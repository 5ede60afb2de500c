"""What holds for records in whatever backend they are. On a host, with the release's own Python:

    echo MONGODB_URL ... | python record_rules.py

asks Redis, and then each MongoDB; one line for each rule that is kept.
"""

import sys
import time
import uuid
from collections.abc import Callable

from messaging.results import NOT_CONFIRMED, Record, Records, State
from messaging.settings import load
from messaging.store import INDEX_KEY

SEND_EMAIL = "messaging.send_email"


class Bench:
    """Records, and ids that nobody else has. `clean()` forgets them."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.ids: list[str] = []
        # nobody else's tasks are submitted in a time to come
        self.now = time.time() + 1e6 + uuid.uuid4().int % 10**6

    def new(self, task_id: str | None = None, submitted_at: float | None = None) -> Record:
        self.ids.append(task_id or str(uuid.uuid4()))
        return Record(self.ids[-1], SEND_EMAIL, State.QUEUED, submitted_at=submitted_at or self.now)

    def follow(self, record: Record, *states: State) -> None:
        """Put the record in one state after the other, and read each back."""
        for state in states:
            record = record.to(state, attempts=record.attempts + 1)
            self.records.put(record)
            assert self.records.get(record.task_id) == record

    def clean(self) -> None:
        for task_id in self.ids:
            self.records._backend.forget(task_id)
        if self.ids:
            self.records._redis.zrem(INDEX_KEY, *self.ids)


def an_unknown_id_has_no_record(bench: Bench) -> None:
    assert bench.records.get(str(uuid.uuid4())) is None


def every_field_comes_back(bench: Bench) -> None:
    result = {"text": "ünïcödé 👩‍👩‍👧 \u0000 $a.b", "scores": {"a.b": 0.1 + 0.2, "$c": [1, None, True, 2**40]}}
    changes = {"attempts": 3, "crashes": 1, "unknowns": 2, "reason": "451 4.7.1 später", "result": result}
    record = bench.new().to(State.RETRYING, **changes)
    bench.records.put(record)
    assert bench.records.get(record.task_id) == record


def the_longest_way_ends_as_succeeded(bench: Bench) -> None:
    bench.follow(bench.new(), State.QUEUED, State.STARTED, State.RETRYING, State.STARTED, State.SUCCEEDED)


def what_was_not_confirmed_may_begin_again(bench: Bench) -> None:
    record = bench.new().to(State.FAILED, reason=NOT_CONFIRMED)
    bench.records.put(record)
    bench.follow(record, State.QUEUED, State.STARTED, State.SUCCEEDED)


def every_state_may_follow_every_other(bench: Bench) -> None:
    for first in State:
        for second in State:
            bench.follow(bench.new(), first, second)


def what_is_over_stays_when_that_is_asked(bench: Bench) -> None:
    record = bench.new()
    bench.records.put(record.to(State.SUCCEEDED))
    assert not bench.records.put_unless_over(record.to(State.FAILED))
    stored = bench.records.get(record.task_id)
    assert stored is not None
    assert stored.state is State.SUCCEEDED
    other = bench.new()
    assert bench.records.put_unless_over(other.to(State.FAILED))
    assert bench.records.get(other.task_id) is not None


def the_first_stays_when_that_is_asked(bench: Bench) -> None:
    record = bench.new()
    assert bench.records.put_first(record) is None
    assert bench.records.get(record.task_id) == record
    assert bench.records.page(State.QUEUED, bench.now, bench.now, 10, None)[0] == [record]
    done = record.to(State.SUCCEEDED)
    bench.records.put(done)
    assert bench.records.put_first(record) == done
    assert bench.records.get(record.task_id) == done


def any_text_can_be_an_id(bench: Bench) -> None:
    for task_id in ("x" * 300, "ü/../$x.y", '{"$ne": null}', " "):
        bench.follow(bench.new(task_id=f"{uuid.uuid4()}{task_id}"), State.QUEUED)


def tasks_are_listed_newest_first(bench: Bench) -> None:
    times = [bench.now + step for step in (0, 0, 0, 1, 2, 3)]
    records = [bench.new(submitted_at=at) for at in times]
    for record in records:
        bench.records.put(record)
        bench.records.put(record.to(State.STARTED if record.submitted_at == bench.now else State.FAILED))
    order = [r.task_id for r in sorted(records, key=lambda r: (r.submitted_at, r.task_id), reverse=True)]
    window = (bench.now, bench.now + 3)
    listed: list[str] = []
    after = None
    while True:
        found, after = bench.records.page(None, *window, 2, after)
        listed += [record.task_id for record in found]
        if after is None:
            break
    assert listed == order
    started, _ = bench.records.page(State.STARTED, *window, 10, None)
    assert [record.task_id for record in started] == order[3:]
    assert [record.task_id for record in bench.records.since(bench.now + 2)] == order[:2]


def records_can_be_written_read_and_listed(bench: Bench) -> None:
    bench.records.check()
    for check in bench.records.checks().values():
        check()


RULES: tuple[Callable[[Bench], None], ...] = (
    an_unknown_id_has_no_record,
    every_field_comes_back,
    the_longest_way_ends_as_succeeded,
    what_was_not_confirmed_may_begin_again,
    every_state_may_follow_every_other,
    what_is_over_stays_when_that_is_asked,
    the_first_stays_when_that_is_asked,
    any_text_can_be_an_id,
    tasks_are_listed_newest_first,
    records_can_be_written_read_and_listed,
)


def main() -> None:
    settings = load()
    backends = {"redis": settings.model_copy(update={"result_backend": "redis"})}
    for number, url in enumerate(sys.stdin.read().split()):
        values = {**dict(settings), "result_backend": "mongodb", "mongodb_url": url}
        backends[f"mongodb {number}"] = type(settings).model_validate(values)
    for name, chosen in backends.items():
        records = Records(chosen, 2.0)
        for rule in RULES:
            bench = Bench(records)
            try:
                rule(bench)
            finally:
                bench.clean()
            print(f"{name}: {rule.__name__}", flush=True)


if __name__ == "__main__":
    main()
