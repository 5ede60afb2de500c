"""Taking a task in: what lies between a caller's request and the promise that it will be done."""

import logging
from dataclasses import replace

from messaging import metrics
from messaging.claims import ClaimedElsewhereError, Claims, ClaimsUnavailableError
from messaging.job import Job
from messaging.publisher import Publisher, PublishError
from messaging.results import NOT_CONFIRMED, Record, Records, RecordsUnavailableError, State

logger = logging.getLogger(__name__)


class StartedError(Exception):
    """The task cannot be cancelled: a worker has it, or had it. `state` is what it is now."""

    def __init__(self, state: State) -> None:
        super().__init__(f"the task is {state}")
        self.state = state


def accept(records: Records, publisher: Publisher, job: Job) -> bool:
    """Record `job` as queued and hand it to the broker; on return it will be done. Whether its state can be asked for.

    Raises:
        PublishError: the broker is not known to have it; the record, if there is one, says so.
    """
    record = _queued(job)
    tracked = _put(records, record)
    try:
        publisher.submit(job)
    except PublishError as error:
        if tracked:
            _refused(records, record.to(State.FAILED, reason=NOT_CONFIRMED if error.uncertain else error.reason))
        raise
    metrics.accepted(job.task)
    return tracked


def accept_again(records: Records, publisher: Publisher, claims: Claims, job: Job, known: Record) -> State:
    """Take in a `job` whose id has the record `known` from an earlier request; the state that it has now.

    It is only published when nobody knows that a worker has it. Two copies of it collapse in the workers.

    Raises:
        PublishError: the broker is not known to have it.
    """
    if not _never_begun(known):
        return known.state
    # the first copy may be done by now, so this one is never done without asking
    publisher.submit(replace(job, suspect=True))
    if known.state is State.FAILED:
        metrics.accepted(job.task)
    try:
        with claims.hold(job.task_id):
            now = records.get(job.task_id)
            if now is not None and not _never_begun(now):
                return now.state
            records.put(_queued(job))
    except ClaimedElsewhereError:
        return State.STARTED
    except (ClaimsUnavailableError, RecordsUnavailableError) as error:
        logger.warning("state not recorded: %s", error)
    return State.QUEUED


def cancel(records: Records, claims: Claims, task_id: str) -> Record | None:
    """Cancel a task that no worker has begun; its record, or None when there is none.

    Raises:
        StartedError: it has begun, or is over.
        RecordsUnavailableError: this cannot be known now, and nothing was changed.
    """
    try:
        with claims.hold(task_id):
            record = records.get(task_id)
            if record is None or record.state is State.CANCELLED:
                return record
            if record.state is not State.QUEUED and record.reason != NOT_CONFIRMED:
                raise StartedError(record.state)
            cancelled = record.to(State.CANCELLED, reason=None)
            records.put(cancelled)
            return cancelled
    except ClaimedElsewhereError:
        raise StartedError(State.STARTED) from None
    except ClaimsUnavailableError as error:
        raise RecordsUnavailableError(str(error)) from error


def _queued(job: Job) -> Record:
    return Record(
        task_id=job.task_id,
        task=job.task,
        state=State.QUEUED,
        submitted_at=job.submitted_at,
        attempts=job.attempt - 1,
    )


def _never_begun(record: Record) -> bool:
    """Whether it waits, or was refused by the broker: no worker has had it."""
    return record.attempts == 0 and record.state in (State.QUEUED, State.FAILED)


def _refused(records: Records, record: Record) -> None:
    """Record that the broker did not confirm, unless a worker has got the message meanwhile and knows better."""
    try:
        known = records.get(record.task_id)
    except RecordsUnavailableError:
        return
    if known is None or known.state is State.QUEUED:
        _put(records, record)


def _put(records: Records, record: Record) -> bool:
    try:
        records.put(record)
    except RecordsUnavailableError as error:
        logger.warning("state %s not recorded: %s", record.state, error)
        return False
    return True
