"""Taking a task in: what lies between a caller's request and the promise that it will be done."""

import logging

from messaging.job import Job
from messaging.publisher import Publisher, PublishError
from messaging.results import NOT_CONFIRMED, Record, Records, RecordsUnavailableError, State

logger = logging.getLogger(__name__)


def accept(records: Records, publisher: Publisher, job: Job) -> bool:
    """Record `job` as queued and hand it to the broker; on return it will be done. Whether its state can be asked for.

    Raises:
        PublishError: the broker is not known to have it; the record, if there is one, says so.
    """
    record = Record(
        task_id=job.task_id,
        task=job.task,
        state=State.QUEUED,
        submitted_at=job.submitted_at,
        attempts=job.attempt - 1,
    )
    tracked = _put(records, record)
    try:
        publisher.submit(job)
    except PublishError as error:
        if tracked:
            _refused(records, record.to(State.FAILED, reason=NOT_CONFIRMED if error.uncertain else error.reason))
        raise
    return tracked


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
