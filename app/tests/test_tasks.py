"""The rules around the tasks, with stand-ins; the real parts meet in tests/faults."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from celery.exceptions import Reject

from fakes import toolbox
from messaging import store, tasks
from messaging.job import SEND_EMAIL, SET_STATE, Job
from messaging.mail.smtp import AllInUse, OutcomeUnknown, PermanentFailure, SessionFailure, TransientFailure
from messaging.publisher import BrokerUnavailableError
from messaging.results import NOT_CONFIRMED, WORKER_LOST, Record, State
from messaging.tasks import CRASHES_ALLOWED, WORK, perform

pytestmark = pytest.mark.usefixtures("written")

MAIL = {"to": "somebody@example.com", "subject": "Hello", "text": "How are you?"}


def mail_job(**changes: Any) -> Job:
    return replace(Job(task=SEND_EMAIL, kwargs=MAIL, task_id="t1", queue="email"), **changes)


def deliver(tools: Any, job: Job | None = None, *, redelivered: bool = False) -> None:
    perform(tools, job or mail_job(), redelivered, WORK[SEND_EMAIL])


def known(tools: Any, state: State, **changes: Any) -> None:
    tools.records.stored["t1"] = Record(task_id="t1", task=SEND_EMAIL, state=state, submitted_at=time.time(), **changes)


def test_a_mail_is_delivered_and_its_record_says_so() -> None:
    tools = toolbox()
    deliver(tools)
    assert [to for to, _ in tools.smtp.sent] == ["somebody@example.com"]
    assert tools.records.states == [State.STARTED, State.SUCCEEDED]
    assert tools.records.stored["t1"].result["message_id"].startswith("<t1@")
    assert tools.claims.held == ["t1"]


def test_a_mail_that_waits_is_begun_and_ended_with_its_claim(written: str) -> None:
    tools = toolbox()
    known(tools, State.QUEUED)
    deliver(tools)
    assert tools.records.states == [State.STARTED, State.SUCCEEDED]
    record = tools.records.stored["t1"]
    assert (record.attempts, record.crashes) == (1, 0)
    assert tools.claims.ended == (["t1"] if written == "in Redis" else [])


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.CANCELLED, State.FAILED])
def test_what_is_over_is_not_done_again(state: State) -> None:
    tools = toolbox()
    known(tools, state, reason="550 no such user" if state is State.FAILED else None)
    deliver(tools, redelivered=True)
    assert tools.smtp.sent == []
    assert tools.records.stored["t1"].state is state


def test_a_copy_that_the_web_gave_up_on_is_done_all_the_same() -> None:
    tools = toolbox()
    known(tools, State.FAILED, reason=NOT_CONFIRMED)
    deliver(tools)
    assert tools.records.stored["t1"].state is State.SUCCEEDED
    assert tools.records.stored["t1"].reason is None


def test_while_another_worker_has_it_the_mail_waits_in_the_broker() -> None:
    tools = toolbox()
    tools.claims.elsewhere = True
    deliver(tools, redelivered=True)
    [(job, delay)] = tools.publisher.delayed
    assert job.suspect
    assert job.attempt == 1, "waiting is no attempt"
    assert delay <= 10
    assert tools.smtp.sent == []


def test_without_redis_a_first_delivery_is_sent_and_its_end_goes_through_the_broker() -> None:
    tools = toolbox()
    tools.claims.away = tools.records.away = True
    deliver(tools)
    assert len(tools.smtp.sent) == 1
    [(job, _)] = tools.publisher.delayed
    assert job.task == SET_STATE
    assert job.kwargs["values"]["state"] == "succeeded"


@pytest.mark.parametrize("suspect_by", ["redelivered", "suspect"])
def test_without_redis_a_second_delivery_waits(suspect_by: str) -> None:
    tools = toolbox()
    tools.claims.away = tools.records.away = True
    deliver(tools, mail_job(suspect=suspect_by == "suspect"), redelivered=suspect_by == "redelivered")
    assert tools.smtp.sent == []
    [(job, _)] = tools.publisher.delayed
    assert (job.task, job.suspect) == (SEND_EMAIL, True)


def test_a_refused_recipient_fails_at_once_with_the_servers_words() -> None:
    tools = toolbox()
    tools.smtp.error = PermanentFailure("550 5.1.1 no such user")
    deliver(tools)
    record = tools.records.stored["t1"]
    assert (record.state, record.reason) == (State.FAILED, "550 5.1.1 no such user")
    assert tools.publisher.delayed == []


@pytest.mark.parametrize("lists", [{"recipients_deny": "example.com"}, {"recipients_allow": "example.org"}])
def test_a_recipient_that_was_denied_while_the_mail_waited_gets_nothing(lists: dict[str, str]) -> None:
    tools = toolbox(**lists)
    known(tools, State.RETRYING, attempts=1)
    deliver(tools, mail_job(attempt=2))
    record = tools.records.stored["t1"]
    assert (record.state, record.reason) == (State.FAILED, "not sent: mail to this address is not accepted here")
    assert tools.smtp.sent == []


@pytest.mark.parametrize(
    ("failure", "attempt", "delay"),
    [
        (TransientFailure("451 later"), 1, 5),
        (TransientFailure("451 later"), 3, 60),
        (TransientFailure("451 later"), 99, 1800),
        (TransientFailure("451 in 90 seconds", 90.0), 1, 90),
        (SessionFailure("535 wrong password"), 1, 5),
        (SessionFailure("535 wrong password"), 99, 60),
    ],
)
def test_what_may_pass_is_tried_again_later(failure: Exception, attempt: int, delay: float) -> None:
    tools = toolbox()
    tools.smtp.error = failure
    deliver(tools, mail_job(attempt=attempt))
    [(job, waited)] = tools.publisher.delayed
    assert (job.attempt, waited) == (attempt + 1, delay)
    assert tools.records.stored["t1"].state is State.RETRYING
    assert tools.records.stored["t1"].reason == str(failure)


def test_waiting_for_a_session_of_our_own_is_no_attempt_and_no_news_of_the_relay() -> None:
    tools = toolbox()
    tools.redis.set(store.SMTP_PROBLEM_KEY, "421 going down", ex=60)
    tools.smtp.error = AllInUse("all were in use", 5.0)
    deliver(tools, mail_job(attempt=9))
    [(job, waited)] = tools.publisher.delayed
    assert (job.attempt, waited) == (9, 5)
    assert tools.records.stored["t1"].state is State.RETRYING
    assert tools.redis.get(store.SMTP_PROBLEM_KEY) == "421 going down"


def test_mail_past_its_age_fails_and_is_kept_among_the_dead() -> None:
    tools = toolbox(mail_max_age=60)
    tools.smtp.error = TransientFailure("451 later")
    with pytest.raises(Reject) as raised:
        deliver(tools, mail_job(submitted_at=time.time() - 61))
    assert not raised.value.requeue
    assert tools.records.stored["t1"].state is State.FAILED
    assert "451 later" in tools.records.stored["t1"].reason


def test_an_unknown_outcome_is_sent_once_more_and_no_more() -> None:
    tools = toolbox()
    tools.smtp.error = OutcomeUnknown("link lost after DATA")
    deliver(tools)
    [(again, _)] = tools.publisher.delayed
    assert again.unknowns == 1
    deliver(tools, again)
    assert len(tools.publisher.delayed) == 1
    assert tools.records.stored["t1"].reason == "outcome unknown"


def test_the_message_is_the_same_at_every_attempt() -> None:
    tools = toolbox()
    job = mail_job()
    deliver(tools, job)
    tools.records.stored.clear()
    deliver(tools, job.next_attempt())
    first, second = (data for _, data in tools.smtp.sent)
    assert first == second


def test_a_task_that_kills_workers_is_given_up_on() -> None:
    tools = toolbox()
    known(tools, State.STARTED, attempts=CRASHES_ALLOWED, crashes=CRASHES_ALLOWED)
    with pytest.raises(Reject) as raised:
        deliver(tools, redelivered=True)
    assert not raised.value.requeue
    assert tools.records.stored["t1"].reason == WORKER_LOST
    assert tools.smtp.sent == []


def test_many_honest_attempts_are_no_crashes() -> None:
    tools = toolbox()
    known(tools, State.RETRYING, attempts=CRASHES_ALLOWED + 20)
    deliver(tools, mail_job(attempt=CRASHES_ALLOWED + 21))
    assert len(tools.smtp.sent) == 1


def test_two_copies_that_both_wait_are_no_crashes() -> None:
    tools = toolbox()
    tools.smtp.error = TransientFailure("451 later")
    for attempt in range(1, 2 * CRASHES_ALLOWED):
        deliver(tools, mail_job(attempt=attempt))
        deliver(tools, mail_job(attempt=attempt))
    assert tools.records.stored["t1"].state is State.RETRYING


def test_while_the_broker_takes_nothing_the_message_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "WAIT_FOR_BROKER", 0.01)
    tools = toolbox()
    tools.smtp.error = TransientFailure("451 later")
    tools.publisher.error = BrokerUnavailableError("alarm")
    with ThreadPoolExecutor() as pool:
        delivery = pool.submit(deliver, tools)
        with pytest.raises(TimeoutError):
            delivery.result(timeout=0.2)
        tools.publisher.error = None
        delivery.result(timeout=10)
    [(job, _)] = tools.publisher.delayed
    assert job.attempt == 2


def test_a_worker_that_is_told_to_stop_gives_the_message_back() -> None:
    tools = toolbox()
    tools.smtp.error = TransientFailure("451 later")
    tools.publisher.error = BrokerUnavailableError("away")
    tools.stopping.set()
    with pytest.raises(Reject) as raised:
        deliver(tools)
    assert raised.value.requeue


def test_an_unknown_outcome_is_remembered_without_its_message() -> None:
    tools = toolbox()
    known(tools, State.RETRYING, unknowns=1)
    tools.smtp.error = OutcomeUnknown("link lost after DATA")
    deliver(tools)
    assert tools.records.stored["t1"].reason == "outcome unknown"


def test_an_error_nobody_foresaw_is_tried_again_and_then_kept() -> None:
    tools = toolbox()
    tools.smtp.error = RuntimeError("a bug")
    deliver(tools)
    [(job, _)] = tools.publisher.delayed
    assert tools.records.stored["t1"].reason == "internal error"
    with pytest.raises(Reject):
        deliver(tools, replace(job, attempt=5))
    assert tools.records.stored["t1"].state is State.FAILED


def test_a_relay_that_refuses_us_is_told_until_it_takes_mail_again() -> None:
    tools = toolbox()
    tools.smtp.error = SessionFailure("535 wrong password")
    deliver(tools)
    assert tools.redis.values[store.SMTP_PROBLEM_KEY] == "535 wrong password"
    tools.smtp.error = None
    deliver(tools, mail_job(attempt=2))
    assert tools.redis.values == {}
