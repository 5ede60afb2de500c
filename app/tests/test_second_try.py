"""nginx passes a request on a second time when whoever had it first went away: one task comes of it."""

from pathlib import Path
from typing import Any

import pytest

from messaging.publisher import BrokerUnavailableError
from messaging.results import State
from web_client import Web, problem

pytestmark = pytest.mark.usefixtures("written")

MAIL = {"to": "me@example.com", "subject": "Hello", "text": "How are you?"}
ONE, OTHER = {"X-Request-ID": "0123456789abcdef"}, {"X-Request-ID": "fedcba9876543210"}
RELAY = {"mail_embedded": False, "smtp_host": "relay.example.com", "budget_client": "2/hour"}


def get(web: Web, headers: dict[str, str], to: str = "me@example.com") -> Any:
    return web.get(f"/?sendmail={to}", headers=headers)


def post(web: Web, headers: dict[str, str], to: str = "me@example.com") -> Any:
    return web.post("/api/v1/tasks/send-email", json={**MAIL, "to": to}, headers=headers)


@pytest.mark.parametrize("ask", [get, post])
def test_a_second_try_is_the_same_task(web: Web, ask: Any) -> None:
    answers = [ask(web, ONE).get_json() for _ in range(2)]
    assert answers[0] == answers[1]
    first, second = web.publisher.submitted
    assert first.task_id == second.task_id
    assert (first.suspect, second.suspect) == (False, True), "the worker asks whether the second one was done"
    assert len(web.records.stored) == 1


@pytest.mark.parametrize("ask", [get, post])
def test_what_was_done_meanwhile_is_not_queued_again(web: Web, ask: Any) -> None:
    task_id = ask(web, ONE).get_json()["task_id"]
    web.records.put(web.records.stored[task_id].to(State.SUCCEEDED, attempts=1))
    answer = ask(web, ONE)
    assert answer.status_code == 202
    assert answer.get_json()["state"] == "succeeded"
    assert len(web.publisher.submitted) == 1
    assert web.records.stored[task_id].state is State.SUCCEEDED


@pytest.mark.parametrize("ask", [get, post])
def test_another_request_is_another_task(web: Web, ask: Any) -> None:
    asked = [ask(web, ONE), ask(web, OTHER), ask(web, ONE, "you@example.com"), ask(web, {}), ask(web, {})]
    assert len({answer.get_json()["task_id"] for answer in asked}) == 5


def test_nobody_can_work_out_the_id_from_the_name_of_the_request(web: Web) -> None:
    other = Web(web.log, secret="another secret")
    assert get(web, ONE).get_json()["task_id"] != get(other, ONE).get_json()["task_id"]


def test_both_tasks_of_one_request_are_the_same_in_a_second_try(web: Web) -> None:
    answers = [web.get("/?sendmail=me@example.com&talktome=async", headers=ONE).get_json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0]["task_id"] != answers[0]["talktome"]["task_id"]


def test_a_second_try_that_the_broker_refuses_does_not_speak_for_the_first(web: Web) -> None:
    get(web, ONE)
    web.publisher.error = BrokerUnavailableError("refused")
    document = problem(get(web, ONE), 503)
    assert "may still be done" in document["detail"]
    web.publisher.error = BrokerUnavailableError("refused")
    assert "nothing was queued" in problem(get(web, OTHER), 503)["detail"]


def test_a_second_try_takes_nothing_from_the_budgets(tmp_path: Path) -> None:
    log = tmp_path / "times.log"
    log.touch()
    relay = Web(log, **RELAY)
    for headers in (ONE, ONE, ONE, OTHER, OTHER):
        assert get(relay, headers, "a@example.com").status_code == 202
    assert get(relay, {"X-Request-ID": "third"}, "b@example.com").status_code == 429


def test_a_first_try_that_was_refused_leaves_no_record(tmp_path: Path) -> None:
    log = tmp_path / "times.log"
    log.touch()
    relay = Web(log, **{**RELAY, "budget_client": "1/hour"})
    assert get(relay, ONE).status_code == 202
    assert get(relay, OTHER).status_code == 429
    assert get(relay, OTHER).status_code == 429
    assert len(relay.records.stored) == 1


def test_without_redis_both_tries_have_the_same_id_too(web: Web) -> None:
    web.records.away = True
    answers = [get(web, ONE).get_json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0]["tracked"] is False
