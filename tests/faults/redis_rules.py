"""What holds for the scripts that run inside Redis. On a host, with the release's own Python: python redis_rules.py

One line for each rule that is kept.
"""

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from messaging import store
from messaging.claims import PREFIX, Claims
from messaging.results import Record, Records, State
from messaging.settings import load
from messaging.windows import RecordedError, RedisWindows, Window

SETTINGS = load().model_copy(update={"result_backend": "redis"})
REDIS = store.connect(SETTINGS, 2.0)
RECORDS = Records(SETTINGS, 2.0)
PREFIX_OF_WINDOWS = "messaging:budget"
WINDOWS = RedisWindows(REDIS, PREFIX_OF_WINDOWS)
# each task is told from all others, and lies in a time to come: nobody's list shows it
LATER = time.time() + 1e6


def new(**changes: object) -> Record:
    queued = Record(f"rule-{uuid.uuid4()}", "messaging.send_email", State.QUEUED, submitted_at=LATER + 0.123456)
    return queued.to(State(changes.pop("state", State.QUEUED)), **changes)


def begun(record: Record) -> Record:
    return record.to(State.STARTED, attempts=1, crashes=1)


def entry(record: Record) -> store.Entry:
    made = RECORDS.entry(record)
    assert made is not None
    return made


def claims(instance: str = "email-1") -> Claims:
    return Claims(REDIS, instance, 1.0)


def a_task_that_waits_is_begun_with_its_claim() -> None:
    record = new()
    RECORDS.put(record)
    with claims().hold(record.task_id, entry(begun(record))) as held:
        assert held.begun
        assert RECORDS.read(str(held.known)) == record, "what it was is told"
        stored = RECORDS.get(record.task_id)
        assert stored is not None
        assert (stored.state, stored.attempts, stored.crashes) == (State.STARTED, 1, 1)
        assert 0 < REDIS.ttl(entry(record).key) <= SETTINGS.result_expires


def whatever_else_is_recorded_stays() -> None:
    others = [new(state=state) for state in State if state is not State.QUEUED]
    others += [new(attempts=1), new(crashes=1), new(unknowns=1)]
    for record in others:
        RECORDS.put(record)
        with claims().hold(record.task_id, entry(begun(record))) as held:
            assert not held.begun, record
            assert RECORDS.read(str(held.known)) == record
        assert RECORDS.get(record.task_id) == record


def a_copy_with_another_date_does_not_change_it() -> None:
    record = new()
    RECORDS.put(record)
    copy = Record(record.task_id, record.task, State.QUEUED, submitted_at=record.submitted_at + 0.000001)
    with claims().hold(record.task_id, entry(begun(copy))) as held:
        assert not held.begun
    assert RECORDS.get(record.task_id) == record


def where_nothing_is_recorded_nothing_is_written() -> None:
    record = new()
    with claims().hold(record.task_id, entry(begun(record))) as held:
        assert (held.known, held.begun) == (None, False)
    assert RECORDS.get(record.task_id) is None


def what_is_no_record_is_left_to_the_worker() -> None:
    for text in ("", "no JSON", "[]", "null", '{"result": null}', '{"result": {"state": "queued"}}'):
        record = new()
        REDIS.set(entry(record).key, text, ex=60)
        with claims().hold(record.task_id, entry(begun(record))) as held:
            assert (held.known, held.begun) == (text, False)
        assert REDIS.get(entry(record).key) == text


def the_end_of_a_task_ends_its_claim() -> None:
    record = new()
    mine = claims()
    with mine.hold(record.task_id, entry(begun(record))) as held:
        done = begun(record).to(State.SUCCEEDED, result={"reply": "250 schön \U0001f4e8"})
        mine.end(held, entry(done))
        assert RECORDS.get(record.task_id) == done
        with claims("email-2").hold(record.task_id):
            """Nobody has it."""


def the_end_of_a_task_leaves_the_claim_of_another_alone() -> None:
    record = new()
    mine = claims()
    with mine.hold(record.task_id) as held:
        REDIS.set(PREFIX + record.task_id, "email-2|1.0", px=5000)
        mine.end(held, entry(record))
    assert REDIS.get(PREFIX + record.task_id) == "email-2|1.0"
    REDIS.delete(PREFIX + record.task_id)


def window(amount: int, cost: int = 1, seconds: int = 60) -> Window:
    return Window(f"rule-{uuid.uuid4()}", amount, seconds, cost)


def again(each: Window, cost: int) -> Window:
    return Window(each.key, each.amount, each.seconds, cost)


def windows_are_taken_from_all_or_from_none() -> None:
    full, roomy = window(1), window(5)
    assert WINDOWS.take([full, roomy]) == []
    for _ in range(3):
        wait, none = WINDOWS.take([full, roomy])
        assert (0 < wait <= 60, none) == (True, 0)
    assert REDIS.llen(f"{PREFIX_OF_WINDOWS}:{roomy.key}") == 1, "who is refused pays nothing"
    assert WINDOWS.take([again(roomy, 4)]) == []
    assert WINDOWS.take([roomy])[0] > 0
    assert WINDOWS.take([window(2, cost=3)]) == [60], "never as it is"


def what_is_given_back_can_be_taken_again() -> None:
    each = window(2)
    assert WINDOWS.take([each]) == WINDOWS.take([each]) == []
    assert WINDOWS.take([each])[0] > 0
    WINDOWS.give_back([each.key])
    assert WINDOWS.take([each]) == []
    assert WINDOWS.take([each])[0] > 0
    WINDOWS.give_back([window(1).key])


def windows_move() -> None:
    each = window(1, seconds=1)
    assert WINDOWS.take([each]) == []
    assert WINDOWS.take([each]) == [1]
    deadline = time.monotonic() + 10
    while WINDOWS.take([each]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.monotonic() < deadline
    assert 0 < REDIS.pttl(f"{PREFIX_OF_WINDOWS}:{each.key}") <= 1000, "and leave nothing behind"


def many_at_once_take_no_more_than_there_is() -> None:
    each, other = window(25), window(1000)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: WINDOWS.take([each, other]), range(200)))
    assert sum(answer == [] for answer in answers) == 25
    assert REDIS.llen(f"{PREFIX_OF_WINDOWS}:{each.key}") == REDIS.llen(f"{PREFIX_OF_WINDOWS}:{other.key}") == 25


def a_record_is_stored_with_what_is_taken() -> None:
    record, each = new(), window(2)
    assert WINDOWS.take([each], entry(record)) == []
    assert RECORDS.get(record.task_id) == record
    assert REDIS.zscore(store.INDEX_KEY, record.task_id) == record.submitted_at
    assert 0 < REDIS.ttl(entry(record).key) <= SETTINGS.result_expires


def nothing_is_taken_for_what_is_recorded() -> None:
    record, each = new(), window(5)
    with ThreadPoolExecutor(16) as pool:
        taken = [pool.submit(WINDOWS.take, [each], entry(record)) for _ in range(16)]
    errors = [each.exception() for each in taken]
    assert [type(error) for error in errors if error] == [RecordedError] * 15, "one of them is the first"
    assert REDIS.llen(f"{PREFIX_OF_WINDOWS}:{each.key}") == 1


def nothing_is_stored_of_what_is_refused() -> None:
    record, each = new(), window(1)
    assert WINDOWS.take([each]) == []
    assert WINDOWS.take([each], entry(record))[0] > 0
    assert RECORDS.get(record.task_id) is None
    assert REDIS.zscore(store.INDEX_KEY, record.task_id) is None


def the_order_forgets_tasks_whose_records_are_gone() -> None:
    gone = f"rule-{uuid.uuid4()}"
    REDIS.zadd(store.INDEX_KEY, {gone: time.time() - SETTINGS.result_expires - 60})
    assert WINDOWS.take([], entry(new())) == []
    assert REDIS.zscore(store.INDEX_KEY, gone) is None


RULES: tuple[Callable[[], None], ...] = (
    a_task_that_waits_is_begun_with_its_claim,
    whatever_else_is_recorded_stays,
    a_copy_with_another_date_does_not_change_it,
    where_nothing_is_recorded_nothing_is_written,
    what_is_no_record_is_left_to_the_worker,
    the_end_of_a_task_ends_its_claim,
    the_end_of_a_task_leaves_the_claim_of_another_alone,
    windows_are_taken_from_all_or_from_none,
    what_is_given_back_can_be_taken_again,
    windows_move,
    many_at_once_take_no_more_than_there_is,
    a_record_is_stored_with_what_is_taken,
    nothing_is_taken_for_what_is_recorded,
    nothing_is_stored_of_what_is_refused,
    the_order_forgets_tasks_whose_records_are_gone,
)


def clean() -> None:
    for key in list(REDIS.scan_iter("*rule-*", count=1000)):
        REDIS.delete(key)
    REDIS.zremrangebyscore(store.INDEX_KEY, LATER - 1, LATER + 1)


def main() -> None:
    try:
        for rule in RULES:
            rule()
            print(rule.__name__, flush=True)
    finally:
        clean()


if __name__ == "__main__":
    main()
