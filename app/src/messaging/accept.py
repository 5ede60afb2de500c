"""Taking a task in: what lies between a caller's request and the promise that it will be done."""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from messaging import metrics
from messaging.claims import ClaimedElsewhereError, Claims, ClaimsUnavailableError
from messaging.job import Job
from messaging.publisher import Publisher, PublishError
from messaging.results import NOT_CONFIRMED, Record, Records, RecordsUnavailableError, State

logger = logging.getLogger(__name__)

# Seconds: as long as another request about the same task may take, and between two looks
LONGEST_REQUEST = 0.5
LOOK_AGAIN = 0.02


class StartedError(Exception):
    """The task cannot be cancelled: a worker has it, or had it. `state` is what it is now."""

    def __init__(self, state: State) -> None:
        super().__init__(f"the task is {state}")
        self.state = state


def accept(records: Records, publisher: Publisher, claims: Claims, job: Job) -> bool:
    """Record `job` as queued and hand it to the broker; on return it will be done. Whether its state can be asked for.

    Raises:
        PublishError: the broker is not known to have it; the record, if there is one, says so.
    """
    record = Record.queued(job)
    tracked = _put(records, record)
    _submit(records, publisher, claims, job, record if tracked else None)
    return tracked


def accept_request(records: Records, publisher: Publisher, claims: Claims, job: Job) -> tuple[State, bool]:
    """The same for a `job` whose id a second try of the same request has too; its state, and whether it can be asked
    for. The second one finds the record of the first, and is treated like a request that was sent again.

    Raises:
        PublishError: the broker is not known to have it; of a second try always as uncertain.
    """
    record: Record | None = Record.queued(job)
    try:
        known = records.put_first(Record.queued(job))
    except RecordsUnavailableError as error:
        logger.warning("accepted without its record: %s", error)
        record = known = None
    if known is not None:
        try:
            return accept_once(records, publisher, claims, job, first=False)
        except PublishError as error:
            raise type(error)(error.reason, uncertain=True) from error
    _submit(records, publisher, claims, job, record)
    return State.QUEUED, record is not None


def accept_recorded(records: Records, publisher: Publisher, claims: Claims, job: Job) -> None:
    """The same for a `job` that nobody has had before, and that is recorded as queued.

    Raises:
        PublishError: the broker is not known to have it; the record says so.
    """
    _submit(records, publisher, claims, job, Record.queued(job))


def _submit(records: Records, publisher: Publisher, claims: Claims, job: Job, record: Record | None) -> None:
    """Publish; `record`, if there is one, says so when the broker is not known to have it."""
    try:
        publisher.submit(job)
    except PublishError as error:
        if record is not None:
            reason = NOT_CONFIRMED if error.uncertain else error.reason
            _refused(records, claims, record.to(State.FAILED, reason=reason))
        raise
    metrics.accepted(job.task)


def accept_once(
    records: Records,
    publisher: Publisher,
    claims: Claims,
    job: Job,
    *,
    first: bool,
    admit: Callable[[], None] = lambda: None,
    may_copy: Callable[[], bool] = lambda: True,
) -> tuple[State, bool]:
    """Take in a `job` whose id other requests may have too; its state now, and whether that can be asked for.

    It is only published when nobody knows that a worker has it. Unless it is surely the first, its worker asks whether
    it was done: two copies of it collapse there.

    `admit` is asked before anything is done for the first request and for a task that has no record, and raises to
    refuse it; once it has let the task through, the record says so to those that come with the same id. A first request
    can have a record: of one that the broker did not take. `may_copy` is asked before a task that waits is published
    again, since the first copy may be lost: there is one soon enough, and whoever asks on must not fill the queue.

    Raises:
        PublishError: the broker is not known to have it; that of another request it may have.
    """
    admit = functools.cache(admit)
    job = replace(job, suspect=not first)
    known = record = None
    tracked = True
    try:
        with _hold(claims, job.task_id):
            known = records.get(job.task_id)
            if known is not None and not _never_begun(known):
                return known.state, True
            if _to_be_admitted(known, first):
                admit()
            elif known is not None and known.state is State.QUEUED and not may_copy():
                return State.QUEUED, True
            if known is not None:
                # the same mail has the same date
                job = replace(job, submitted_at=known.submitted_at, suspect=True)
            record = Record.queued(job)
            # a worker that meets the copy must not find it failed
            records.put(record)
    except ClaimedElsewhereError:
        if (state := _state_in_work(records, job.task_id)) is not State.QUEUED:
            return state, True
        # who holds it has not begun, and may have died before the task was published
        job = replace(job, suspect=True)
        recorded = _read(records, job.task_id)
        if _to_be_admitted(recorded, first):
            admit()
        elif recorded is not None and recorded.state is State.QUEUED and not may_copy():
            return State.QUEUED, True
    except (ClaimsUnavailableError, RecordsUnavailableError) as error:
        logger.warning("accepted without its record: %s", error)
        record, tracked = None, False
        if _to_be_admitted(known, first):
            admit()
    try:
        publisher.submit(job)
    except PublishError:
        if record is not None:
            # whatever became of this copy, another may be on its way
            _refused(records, claims, record.to(State.FAILED, reason=NOT_CONFIRMED))
        raise
    counted_before = tracked and (record is None or (known is not None and known.state is State.QUEUED))
    if not counted_before:
        metrics.accepted(job.task)
    return State.QUEUED, tracked


def cancel(records: Records, claims: Claims, task_id: str) -> Record | None:
    """Cancel a task that no worker has begun; its record, or None when there is none.

    Raises:
        StartedError: it has begun, or is over.
        RecordsUnavailableError: this cannot be known now, and nothing was changed.
    """
    try:
        with _hold(claims, task_id):
            record = records.get(task_id)
            if record is None or record.state is State.CANCELLED:
                return record
            if record.state is not State.QUEUED and record.reason != NOT_CONFIRMED:
                raise StartedError(record.state)
            cancelled = record.to(State.CANCELLED, reason=None)
            records.put(cancelled)
            metrics.cancelled(record.task)
            return cancelled
    except ClaimedElsewhereError:
        state = _state_in_work(records, task_id)
        raise StartedError(State.STARTED if state is State.QUEUED else state) from None
    except ClaimsUnavailableError as error:
        raise RecordsUnavailableError(str(error)) from error


@contextlib.contextmanager
def _hold(claims: Claims, task_id: str) -> Iterator[None]:
    """Hold the claim of a task. Another request has it for some milliseconds only: who has it longer is a worker.

    Raises:
        ClaimedElsewhereError, ClaimsUnavailableError: as `Claims.hold`.
    """
    deadline = time.monotonic() + LONGEST_REQUEST
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(claims.hold(task_id))
                break
            except ClaimedElsewhereError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(LOOK_AGAIN)
        yield


def _state_in_work(records: Records, task_id: str) -> State:
    """The state of a task that somebody holds; queued, unless a worker has said that it began."""
    record = _read(records, task_id)
    return State.QUEUED if record is None or _never_begun(record) else record.state


def _read(records: Records, task_id: str) -> Record | None:
    """What is recorded of a task; None also while that cannot be read."""
    try:
        return records.get(task_id)
    except RecordsUnavailableError:
        return None


def _never_begun(record: Record) -> bool:
    """Whether it waits, or was refused by the broker: no worker has had it."""
    return record.attempts == 0 and record.state in (State.QUEUED, State.FAILED)


def _to_be_admitted(known: Record | None, first: bool) -> bool:
    """Whether nobody was let through for it: a first request may find that another with its id was faster."""
    return known is None or (first and known.state is not State.QUEUED)


def _refused(records: Records, claims: Claims, record: Record) -> None:
    """Record that the broker did not confirm, unless a worker has got the message meanwhile and knows better."""
    try:
        with claims.hold(record.task_id):
            known = records.get(record.task_id)
            if known is None or known.state is State.QUEUED:
                records.put(record)
    except ClaimedElsewhereError:
        logger.info("somebody has it: its record stays as it is")
    except (ClaimsUnavailableError, RecordsUnavailableError) as error:
        logger.warning("state %s not recorded: %s", record.state, error)


def _put(records: Records, record: Record) -> bool:
    try:
        records.put(record)
    except RecordsUnavailableError as error:
        logger.warning("state %s not recorded: %s", record.state, error)
        return False
    return True
