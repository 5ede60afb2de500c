"""The tasks, and the rules that every one of them follows.

A task may arrive twice: the broker repeats what a dying worker held, and a publisher repeats what was not confirmed.
So a task is done under a claim, and not again when its record says that it is over.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from email.errors import MessageError
from typing import Any, Self

from celery import Celery, Task
from celery.exceptions import Reject
from redis import Redis
from redis.exceptions import RedisError
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
from wcwidth import iter_graphemes

from messaging import logs, metrics, store
from messaging.claims import ClaimedElsewhereError, Claims, ClaimsUnavailableError, Held
from messaging.events import Outcome
from messaging.job import ANALYZE_SENTIMENT, HEADER, LOG_TIME, REVERSE_TEXT, SEND_EMAIL, SET_STATE, Job
from messaging.mail.message import build
from messaging.mail.smtp import (
    AllInUse,
    DeliveryError,
    OutcomeUnknown,
    PermanentFailure,
    SessionFailure,
    SmtpConfig,
    SmtpPool,
    TransientFailure,
)
from messaging.masking import mask
from messaging.publisher import Publisher, PublishError
from messaging.recipients import accepted
from messaging.results import WORKER_LOST, Record, Records, RecordsUnavailableError, State
from messaging.settings import Settings
from messaging.timelog import TimeLogError, append_now

logger = logging.getLogger(__name__)

# A task that took this many workers with it is not tried again.
CRASHES_ALLOWED = 5
# Seconds between two looks at a claim, or at Redis; a dead worker's mail is to go out within a minute.
WAIT_FOR_CLAIM = 5.0
WAIT_FOR_BROKER = 2.0
# While the relay does not let us in, every mail is due again soon after it does.
LONGEST_WAIT_FOR_SESSION = 60.0
UNEXPECTED_ERRORS_ALLOWED = 5


class FailedError(Exception):
    """The task failed for good; `str()` is the reason its caller reads. `keep` puts it among the dead letters."""

    def __init__(self, reason: str, *, keep: bool = False) -> None:
        super().__init__(reason)
        self.keep = keep


class AgainError(Exception):
    """The task is to be tried again after at least `delay` seconds; `tried` unless this was no attempt."""

    def __init__(self, reason: str, delay: float, *, unknown: bool = False, tried: bool = True) -> None:
        super().__init__(reason)
        self.delay = delay
        self.unknown = unknown
        self.tried = tried


@dataclass
class Toolbox:
    """What the tasks of one process work with; made after the fork, which sockets do not survive."""

    settings: Settings
    redis: Redis
    records: Records
    claims: Claims
    publisher: Publisher
    smtp: SmtpPool
    stopping: threading.Event = field(default_factory=threading.Event)
    # true at first: an earlier process may have left word
    _smtp_problem_told: bool = True

    @classmethod
    def open(cls, settings: Settings, started: float) -> Self:
        """Everything connected as `settings` say; `started` is when this worker instance started."""
        redis = store.connect(settings, store.WORKER_TIMEOUT)
        return cls(
            settings=settings,
            redis=redis,
            records=Records(settings, store.WORKER_TIMEOUT),
            claims=Claims(redis, settings.instance, started),
            publisher=Publisher(settings),
            smtp=SmtpPool(smtp_config(settings)),
        )

    def tell_smtp_problem(self, reason: str | None) -> None:
        """Leave word for `/readyz` of why mail waits, or that it no longer does."""
        if reason is None and not self._smtp_problem_told:
            return
        try:
            if reason is None:
                self.redis.delete(store.SMTP_PROBLEM_KEY)
            else:
                self.redis.set(store.SMTP_PROBLEM_KEY, reason, ex=store.SMTP_PROBLEM_EXPIRES)
            self._smtp_problem_told = reason is not None
        except RedisError as error:
            logger.warning("SMTP problem not told: %s", error)

    def record(self, record: Record) -> None:
        """Store `record` where its loss would only hide progress."""
        try:
            self.records.put(record)
        except RecordsUnavailableError as error:
            logger.warning("state %s not recorded: %s", record.state, error)

    def record_for_good(self, record: Record, held: Held | None) -> None:
        """Store the last state of a task, through the broker if the backend is away: it must not be lost.

        Where records and claims are in one place, what is `held` ends with it.

        Raises:
            PublishError: the broker is away too.
        """
        try:
            entry = self.records.entry(record) if held else None
            if held and entry:
                self.claims.end(held, entry)
            else:
                self.records.put(record)
        except (RecordsUnavailableError, ClaimsUnavailableError) as error:
            logger.warning("state %s goes through the broker: %s", record.state, error)
            self.publisher.retry_later(set_state_job(record, self.settings), WAIT_FOR_CLAIM)


def smtp_config(settings: Settings) -> SmtpConfig:
    """The SMTP client's part of the settings."""
    return SmtpConfig(
        host=settings.smtp_host,
        port=settings.smtp_port,
        security=settings.smtp_security,
        username=settings.smtp_username,
        password=settings.smtp_password.get_secret_value(),
        timeout=settings.smtp_timeout,
        ca_file=settings.smtp_ca_file,
    )


def set_state_job(record: Record, settings: Settings) -> Job:
    """A job that stores `record` once the backend is back; mail does not wait behind it."""
    return Job(
        task=SET_STATE,
        kwargs={"values": asdict(record)},
        task_id=f"{record.task_id}.state",
        queue=settings.compute_queue,
    )


# --- the work itself --------------------------------------------------------------------------------------------------


def send_email(
    tools: Toolbox, job: Job, *, to: str, subject: str, text: str, html: str | None = None
) -> dict[str, Any]:
    """Deliver one mail.

    Raises:
        FailedError: refused for good, not to this recipient any more, too old, or twice without an answer.
        AgainError: not now.
    """
    settings = tools.settings
    if not all(isinstance(part, str) for part in (to, subject, text, html or "")):
        raise FailedError("not a message: its parts are not text", keep=True)
    try:
        # the lists may have changed while it waited, or lay among the dead letters
        accepted(to, settings)
    except ValueError as error:
        raise FailedError(f"not sent: {error}") from error
    accepted_at = datetime.fromtimestamp(job.submitted_at, tz=UTC)
    try:
        message = build(
            task_id=job.task_id,
            sender=settings.mail_from,
            to=to,
            subject=subject,
            text=text,
            html=html,
            date=accepted_at,
        )
    except (ValueError, MessageError) as error:
        raise FailedError(f"not a message: {error}") from error
    try:
        reply = tools.smtp.send(settings.mail_from, to, message.content)
    except DeliveryError as error:
        if not isinstance(error, AllInUse):
            tools.tell_smtp_problem(error.reason if isinstance(error, SessionFailure) else None)
        raise _sorted(error, job, settings) from error
    tools.tell_smtp_problem(None)
    return {"message_id": message.message_id, "reply": reply}


def _sorted(error: DeliveryError, job: Job, settings: Settings) -> FailedError | AgainError:
    """What a failed delivery means for the task."""
    if isinstance(error, PermanentFailure):
        return FailedError(error.reason)
    if isinstance(error, OutcomeUnknown) and job.unknowns > 0:
        return FailedError("outcome unknown")
    age = time.time() - job.submitted_at
    if age > settings.mail_max_age:
        return FailedError(f"given up after {round(age)} s: {error.reason}", keep=True)
    delay = back_off(settings, job.attempt)
    if isinstance(error, SessionFailure):
        delay = min(delay, LONGEST_WAIT_FOR_SESSION)
    if isinstance(error, TransientFailure) and error.retry_after is not None:
        delay = error.retry_after
    unknown, tried = isinstance(error, OutcomeUnknown), not isinstance(error, AllInUse)
    return AgainError(error.reason, delay, unknown=unknown, tried=tried)


def back_off(settings: Settings, attempt: int) -> float:
    """Seconds to wait after an attempt that failed."""
    return float(settings.delays[min(attempt, len(settings.delays)) - 1])


def log_time(tools: Toolbox, job: Job) -> dict[str, Any]:
    """Append the current time to the log of times.

    Raises:
        AgainError: the log cannot be written now.
    """
    try:
        return {"line": append_now(tools.settings.timelog_path, tools.settings.timezone)}
    except TimeLogError as error:
        raise AgainError(str(error), WAIT_FOR_CLAIM) from error


def reverse_text(_tools: Toolbox, _job: Job, *, text: str) -> dict[str, Any]:
    """The text backwards, character by character as its reader counts them: an accent stays on its letter.

    Source: https://www.unicode.org/reports/tr29/
    """
    return {"text": "".join(reversed(list(iter_graphemes(text))))}


def analyze_sentiment(_tools: Toolbox, _job: Job, *, text: str) -> dict[str, Any]:
    """Whether an English text sounds positive, neutral or negative.

    `compound` goes from -1 to 1; the other scores are the parts of the text and add up to 1.
    Source: https://github.com/cjhutto/vaderSentiment, whose lexicon is inside its package.
    """
    scores = _analyzer().polarity_scores(text)
    compound = scores.pop("compound")
    label = "positive" if compound >= 0.05 else "negative" if compound <= -0.05 else "neutral"
    return {
        "label": label,
        "scores": {
            "compound": compound,
            "negative": scores["neg"],
            "neutral": scores["neu"],
            "positive": scores["pos"],
        },
    }


@functools.cache
def _analyzer() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()


# --- the rules around it ----------------------------------------------------------------------------------------------


def perform(tools: Toolbox, job: Job, redelivered: bool, work: Callable[..., Any]) -> Outcome:
    """Do `job` under the rules; returning means that its message can be removed.

    Raises:
        Reject: the message goes back to the broker, or to the dead letters.
    """
    suspect = redelivered or job.suspect
    begun = _begun(Record.queued(replace(job, attempt=1)))
    try:
        with tools.claims.hold(job.task_id, tools.records.entry(begun)) as held:
            return _perform_claimed(tools, job, suspect, work, held)
    except ClaimedElsewhereError:
        logger.info("somebody else holds it, looking again later")
        return _look_again_later(tools, job, "somebody else holds it")
    except ClaimsUnavailableError as error:
        if suspect:
            logger.warning("may have been done before, waits for Redis: %s", error)
            return _look_again_later(tools, job, "waits for Redis")
        logger.warning("done without a claim: %s", error)
        return _work_and_record(tools, job, Record.queued(job), work, None)


def _perform_claimed(tools: Toolbox, job: Job, suspect: bool, work: Callable[..., Any], held: Held) -> Outcome:
    try:
        known = tools.records.read(held.known) if held.known else tools.records.get(job.task_id)
        record = known or Record.queued(job)
    except RecordsUnavailableError as error:
        if suspect:
            logger.warning("may have been done before, waits for its record: %s", error)
            return _look_again_later(tools, job, "waits for its record")
        record = Record.queued(job)
    if record.over:
        logger.info("already %s, nothing to do", record.state)
        return Outcome(record.state, record.reason)
    if record.crashes >= CRASHES_ALLOWED:
        logger.error("took %s workers with it, given up", CRASHES_ALLOWED)
        _finish(tools, record.to(State.FAILED, reason=WORKER_LOST), held, keep=True)
    job = replace(job, unknowns=max(job.unknowns, record.unknowns))
    return _work_and_record(tools, job, record, work, held)


def _begun(record: Record) -> Record:
    """The record once the work has begun, again."""
    return record.to(State.STARTED, attempts=record.attempts + 1, crashes=record.crashes + 1, reason=None)


def _work_and_record(tools: Toolbox, job: Job, record: Record, work: Callable[..., Any], held: Held | None) -> Outcome:
    if record.attempts == 0:
        metrics.begun(job.task, job.submitted_at)
    record = _begun(record)
    if held is None or not held.begun:
        tools.record(record)
    record = replace(record, crashes=0)
    begun = time.monotonic()
    try:
        result = _work(tools, job, work)
    except AgainError as again:
        logger.info("tried again later: %s", again)
        later = job.next_attempt(unknown=again.unknown) if again.tried else job
        # before it is published: once it is, another worker may write
        tools.record(record.to(State.RETRYING, reason=str(again), unknowns=later.unknowns))
        _publish_later(tools, later, again.delay)
        metrics.retried(job.task)
        return Outcome(State.RETRYING, str(again))
    except FailedError as failed:
        logger.warning("failed: %s", failed)
        _finish(tools, record.to(State.FAILED, reason=str(failed)), held, keep=failed.keep)
        return Outcome(State.FAILED, str(failed))
    logger.info("done in %.3f s", time.monotonic() - begun)
    _finish(tools, record.to(State.SUCCEEDED, result=result, reason=None), held)
    return Outcome(State.SUCCEEDED)


def _work(tools: Toolbox, job: Job, work: Callable[..., Any]) -> Any:
    """The work's result; an error that nobody foresaw becomes one of the two that the rules know."""
    try:
        return work(tools, job, **job.kwargs)
    except (AgainError, FailedError):
        raise
    except Exception as error:
        logger.exception("unexpected error")
        if job.attempt >= UNEXPECTED_ERRORS_ALLOWED:
            raise FailedError("internal error", keep=True) from error
        raise AgainError("internal error", tools.settings.delays[0]) from error


def _finish(tools: Toolbox, record: Record, held: Held | None, *, keep: bool = False) -> None:
    """Record the end of a task, and put its message among the dead letters if it is to be kept."""
    _insist(tools, lambda: tools.record_for_good(record, held))
    metrics.ended(record.task, succeeded=record.state is State.SUCCEEDED)
    if keep:
        raise Reject(str(record.reason), requeue=False)


def _look_again_later(tools: Toolbox, job: Job, why: str) -> Outcome:
    """Wait in the broker; this is no attempt."""
    _publish_later(tools, replace(job, suspect=True), WAIT_FOR_CLAIM)
    return Outcome(State.RETRYING, why)


def _publish_later(tools: Toolbox, job: Job, delay: float) -> None:
    _insist(tools, lambda: tools.publisher.retry_later(job, delay))


def _insist(tools: Toolbox, publish: Callable[[], object]) -> None:
    """Publish, and wait while the broker takes nothing.

    A broker in alarm still delivers: a message that is given back would return at once, again and again, until the
    broker gives up on it. So it is held until the alarm is over or this worker is told to stop.
    """
    while True:
        try:
            publish()
        except PublishError as error:
            logger.warning("waiting for the broker: %s", error)
            if tools.stopping.wait(WAIT_FOR_BROKER):
                raise Reject(error.reason, requeue=True) from error
        else:
            return


# --- Celery -----------------------------------------------------------------------------------------------------------

WORK: Mapping[str, Callable[..., Any]] = {
    SEND_EMAIL: send_email,
    LOG_TIME: log_time,
    REVERSE_TEXT: reverse_text,
    ANALYZE_SENTIMENT: analyze_sentiment,
}


def register(app: "Celery", settings: Settings, stopping: threading.Event) -> None:
    """Make the tasks known to a worker's Celery app; `stopping` is set when the worker is told to stop."""
    started = time.time()
    lock = threading.Lock()
    opened: list[Toolbox] = []

    def tools() -> Toolbox:
        with lock:
            if not opened:
                opened.append(Toolbox.open(settings, started))
                opened[0].stopping = stopping
            return opened[0]

    def run(task: "Task[..., Outcome]", work: Callable[..., Any], kwargs: dict[str, Any]) -> Outcome:
        headers = {"task": task.name, "id": task.request.id, HEADER: task.request.get(HEADER)}
        try:
            job = Job.from_headers(headers, kwargs)
        except (KeyError, TypeError, ValueError) as error:
            raise Reject(f"not published by this service: {error!r}", requeue=False) from error
        logs.task_id.set(job.task_id)
        logs.request_id.set(job.request_id)
        if isinstance(kwargs.get("to"), str):
            logger.info("%s to %s, attempt %s", task.name, mask(kwargs["to"]), job.attempt)
        return perform(tools(), job, bool((task.request.delivery_info or {}).get("redelivered")), work)

    for name, work in WORK.items():

        def body(task: "Task[..., Outcome]", /, *, _work: Callable[..., Any] = work, **kwargs: Any) -> Outcome:
            return run(task, _work, kwargs)

        app.task(bind=True, name=name, shared=False)(body)

    def set_state(task: "Task[..., Outcome]", /, *, values: dict[str, Any]) -> Outcome:
        try:
            record = Record.from_values(values)
        except RecordsUnavailableError as error:
            raise Reject(str(error), requeue=False) from error
        logs.task_id.set(record.task_id)
        box = tools()
        try:
            box.records.put_unless_over(record)
        except RecordsUnavailableError:
            attempt = int(task.request.get(HEADER)["attempt"])
            later = replace(set_state_job(record, settings), attempt=attempt + 1)
            _publish_later(box, later, min(back_off(settings, attempt), LONGEST_WAIT_FOR_SESSION))
            return Outcome(State.RETRYING, "waits for the result backend")
        return Outcome(State.SUCCEEDED)

    app.task(bind=True, name=SET_STATE, shared=False)(set_state)
