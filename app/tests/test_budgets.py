"""What each caller may ask for, with a clock and a Redis of the tests' own."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from messaging import keys
from messaging.job import LOG_TIME, Job
from messaging.publisher import BrokerUnavailableError
from messaging.results import Record, State
from web_client import OPERATOR_KEY, Web, problem

RELAY = {
    "mail_embedded": False,
    "smtp_host": "relay.example.com",
    "budget_client": "3/minute; 4/hour",
    "budget_recipient": "2/hour",
    "budget_day": "6/day",
    "budget_client_tasks": "2/minute",
    "budget_tasks_day": "3/day",
    "budget_key": "3/minute",
    "budget_key_alone": "1/minute",
}
pytestmark = pytest.mark.usefixtures("written")

PAGE = {"Accept": "text/html"}
MAIL = {"to": "me@example.com", "subject": "Hello", "text": "How are you?"}


class WebBehindNginx(Web):
    """The application with nginx's name on each request."""

    requests = itertools.count()

    def get(self, url: str, **kwargs: Any) -> Any:
        return super().get(url, **self._named(kwargs))

    def post(self, url: str, **kwargs: Any) -> Any:
        return super().post(url, **self._named(kwargs))

    def _named(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**kwargs, "headers": {"X-Request-ID": f"request-{next(self.requests)}", **kwargs.get("headers", {})}}


@pytest.fixture
def relay(tmp_path: Path) -> Web:
    log = tmp_path / "times.log"
    log.touch()
    return WebBehindNginx(log, **RELAY)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets so many seconds pass."""
    start = time.time()
    passed = 0.0

    def later(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr("time.time", lambda: start + passed)
    return later


def ask(web: Web, to: str = "", client: str = "192.0.2.1", path: str = "", **headers: str) -> Any:
    return web.get(
        path or f"/?sendmail={to}", headers={"X-Forwarded-For": client, **headers}, environ_base={"REMOTE_ADDR": "::1"}
    )


def refused(response: Any, budget: str) -> dict[str, Any]:
    document = problem(response, 429)
    assert document["budget"] == budget
    assert "nothing was queued" in document["detail"]
    assert response.headers["Retry-After"].isdecimal()
    return document


def test_a_client_may_ask_for_so_much_and_the_answer_says_when_again(
    relay: Web, clock: Callable[[float], None]
) -> None:
    for number in range(3):
        assert ask(relay, f"a{number}@example.com").status_code == 202
        clock(1)
    response = ask(relay, "b@example.com")
    document = refused(response, "client")
    assert response.headers["Retry-After"] == "57"
    assert "57 seconds" in document["detail"]
    assert ask(relay, "b@example.com", client="192.0.2.2").status_code == 202, "another client has a budget of his own"
    clock(56)
    refused(ask(relay, "b@example.com"), "client")
    clock(1.1)
    assert ask(relay, "b@example.com").status_code == 202, "it was said when, and refusals cost nothing"
    clock(120)
    hour = ask(relay, "c@example.com")
    assert 3000 < int(hour.headers["Retry-After"]) <= 3600, "the second limit counts too"
    assert len(relay.publisher.submitted) == 5


def test_networks_of_ipv6_are_one_client(relay: Web) -> None:
    for number in range(3):
        assert ask(relay, f"a{number}@example.com", client=f"2001:db8::{number + 1}").status_code == 202
    refused(ask(relay, "b@example.com", client="2001:db8::ffff:1"), "client")
    assert ask(relay, "b@example.com", client="2001:db8:0:1::1").status_code == 202


def test_a_recipient_is_one_however_he_is_written(relay: Web, clock: Callable[[float], None]) -> None:
    assert ask(relay, "vic.tim@gmail.com", client="192.0.2.1").status_code == 202
    assert ask(relay, "Victim+1@GoogleMail.com", client="192.0.2.2").status_code == 202
    clock(77)
    response = ask(relay, "v.i.c.t.i.m+other@gmail.com", client="192.0.2.3")
    document = refused(response, "recipient")
    assert "victim" not in document["detail"].lower()
    assert int(response.headers["Retry-After"]) % 600 == 0, "it does not tell when somebody else wrote to him"
    assert ask(relay, "victim@example.com", client="192.0.2.3").status_code == 202


def test_a_day_has_an_end_for_all_strangers(relay: Web) -> None:
    for number in range(6):
        assert ask(relay, f"a{number}@example.com", client=f"192.0.2.{number}").status_code == 202
    refused(ask(relay, "b@example.com", client="192.0.2.99"), "day")


def test_what_is_refused_costs_nothing_elsewhere(relay: Web) -> None:
    for number in range(2):
        assert ask(relay, "victim@example.com", client=f"192.0.2.{number}").status_code == 202
    for _ in range(10):
        refused(ask(relay, "victim@example.com", client="192.0.2.9"), "recipient")
    for number in range(3):
        assert ask(relay, f"a{number}@example.com", client="192.0.2.9").status_code == 202, "his own budget is whole"
    refused(ask(relay, "b@example.com", client="192.0.2.9"), "client")
    assert ask(relay, "b@example.com", client="192.0.2.10").status_code == 202, "and so is the day's"


def test_other_tasks_have_budgets_of_their_own(relay: Web) -> None:
    for _ in range(2):
        assert ask(relay, path="/?talktome").status_code == 200
    before = relay.log.read_text()
    refused(ask(relay, path="/?talktome"), "client_tasks")
    refused(ask(relay, path="/?talktome=async"), "client_tasks")
    refused(relay.post("/api/v1/tasks/log-time", headers={"X-Forwarded-For": "192.0.2.1"}), "client_tasks")
    assert relay.log.read_text() == before
    assert ask(relay, "me@example.com").status_code == 202, "mail is not among them"
    assert ask(relay, path="/?talktome", client="192.0.2.2").status_code == 200
    refused(ask(relay, path="/?talktome", client="192.0.2.3"), "tasks_day")


def test_of_two_wishes_in_one_request_both_are_granted_or_none(relay: Web) -> None:
    for _ in range(2):
        ask(relay, path="/?talktome")
    refused(ask(relay, path="/?sendmail=me@example.com&talktome"), "client_tasks")
    assert relay.publisher.submitted == []
    for number in range(3):
        assert ask(relay, f"a{number}@example.com").status_code == 202, "the mail was not counted"


@pytest.mark.parametrize("forged", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_nothing_but_the_last_address_counts(relay: Web, forged: str) -> None:
    for number in range(3):
        value = f"10.0.0.{number}, 192.0.2.1" if forged == "X-Forwarded-For" else f"10.0.0.{number}"
        assert ask(relay, f"a{number}@example.com", **{forged: value}).status_code == 202
    refused(ask(relay, "b@example.com"), "client")


def make_key(web: Web, budget: str = "") -> dict[str, str]:
    path = web.log.parent / "keys.json"
    text = keys.add(path, f"key{len(keys.read(path))}", ("mail", "tasks"), budget)
    return {"Authorization": f"Bearer {text}"}


def test_a_key_has_one_budget_for_all_that_it_asks_for(relay: Web) -> None:
    usual, own = make_key(relay), make_key(relay, "1/minute")
    for number in range(3):
        path = "/api/v1/tasks/send-email" if number else "/api/v1/tasks/log-time"
        assert relay.post(path, json={} if not number else MAIL, headers=usual).status_code == 202
    refused(relay.post("/api/v1/tasks/log-time", headers=usual), "key")
    refused(relay.get("/?sendmail=me@example.com", headers=usual), "key")
    assert relay.post("/api/v1/tasks/send-email", json=MAIL, headers=own).status_code == 202, "its recipient has none"
    refused(relay.post("/api/v1/tasks/send-email", json=MAIL, headers=own), "key")
    assert ask(relay, "me@example.com").status_code == 202, "strangers' budgets are whole"


def test_two_wishes_cost_a_key_two(relay: Web) -> None:
    key = make_key(relay, "1/minute")
    response = relay.get("/?sendmail=me@example.com&talktome", headers=key)
    assert "ask for one at a time" in refused(response, "key")["detail"], "waiting alone would never help"
    assert relay.get("/?talktome", headers=key).status_code == 200
    assert "one at a time" not in refused(relay.get("/?talktome", headers=key), "key")["detail"]


def test_operators_have_no_budget(relay: Web) -> None:
    for _ in range(20):
        operator = {"Authorization": f"Bearer {OPERATOR_KEY}"}
        assert relay.post("/api/v1/tasks/send-email", json=MAIL, headers=operator).status_code == 202
    assert relay.budgets.looks == 0


def test_without_redis_strangers_wait_keys_go_on_a_little_and_operators_go_on(relay: Web) -> None:
    key, other = make_key(relay), make_key(relay)
    relay.budgets.away = True
    for path in ("/?sendmail=me@example.com", "/?talktome", "/?talktome=async"):
        response = ask(relay, path=path)
        assert "Budgets cannot be checked" in problem(response, 503)["detail"]
        assert int(response.headers["Retry-After"]) > 0
    assert relay.untouched
    assert relay.post("/api/v1/tasks/send-email", json=MAIL, headers=key).status_code == 202
    refused(relay.post("/api/v1/tasks/send-email", json=MAIL, headers=key), "key_alone")
    assert relay.post("/api/v1/tasks/send-email", json=MAIL, headers=other).status_code == 202
    operator = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    assert relay.post("/api/v1/tasks/send-email", json=MAIL, headers=operator).status_code == 202
    relay.budgets.away = False
    assert relay.post("/api/v1/tasks/send-email", json=MAIL, headers=key).status_code == 202


def test_nothing_stays_recorded_of_what_was_refused_since_redis_was_slow(relay: Web) -> None:
    relay.budgets.slow = True
    problem(ask(relay, "me@example.com"), 503)
    assert relay.untouched
    assert relay.records.stored == {}
    key = make_key(relay)
    accepted = relay.post("/api/v1/tasks/send-email", json=MAIL, headers=key)
    assert accepted.status_code == 202
    refused(relay.post("/api/v1/tasks/send-email", json=MAIL, headers=key), "key_alone")
    assert list(relay.records.stored) == [accepted.json["task_id"]], "what a key goes on with is recorded"
    assert [job.task_id for job in relay.publisher.submitted] == [accepted.json["task_id"]]


def test_while_mail_stays_on_the_host_nobody_is_throttled(web: Web) -> None:
    web.budgets.away = True
    for _ in range(60):
        assert ask(web, "me@example.com").status_code == 202
    assert web.budgets.looks == 0


def test_a_request_that_is_sent_again_costs_once(relay: Web) -> None:
    again = {"Idempotency-Key": "k-1", "X-Forwarded-For": "192.0.2.1"}
    for _ in range(10):
        assert relay.post("/api/v1/tasks/log-time", headers=again).status_code == 202
    other = {**again, "Idempotency-Key": "k-2"}
    assert relay.post("/api/v1/tasks/log-time", headers=other).status_code == 202
    refused(relay.post("/api/v1/tasks/log-time", headers={**again, "Idempotency-Key": "k-3"}), "client_tasks")


def test_a_first_request_that_is_overtaken_by_the_next_costs_once(relay: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    again = {"Idempotency-Key": "k-1", "X-Forwarded-For": "192.0.2.1"}
    hold = relay.claims.hold

    def overtaken(task_id: str) -> Any:
        monkeypatch.setattr(relay.claims, "hold", hold)
        assert relay.post("/api/v1/tasks/log-time", headers=again).status_code == 202
        return hold(task_id)

    monkeypatch.setattr(relay.claims, "hold", overtaken)
    assert relay.post("/api/v1/tasks/log-time", headers=again).status_code == 202
    other = {**again, "Idempotency-Key": "k-2"}
    assert relay.post("/api/v1/tasks/log-time", headers=other).status_code == 202
    refused(relay.post("/api/v1/tasks/log-time", headers={**again, "Idempotency-Key": "k-3"}), "client_tasks")


def test_a_refused_key_of_a_request_opens_no_door(relay: Web) -> None:
    for _ in range(2):
        ask(relay, path="/?talktome")
    again = {"Idempotency-Key": "k-1", "X-Forwarded-For": "192.0.2.1"}
    for _ in range(3):
        refused(relay.post("/api/v1/tasks/log-time", headers=again), "client_tasks")
    relay.records.away = True
    refused(relay.post("/api/v1/tasks/log-time", headers=again), "client_tasks")
    relay.records.away = False
    relay.claims.elsewhere = True
    refused(relay.post("/api/v1/tasks/log-time", headers=again), "client_tasks")
    assert relay.publisher.submitted == []
    assert relay.redis.values == {}, "with new keys only, a stranger would fill Redis"


def test_what_the_broker_may_have_taken_costs_once(relay: Web) -> None:
    again = {"Idempotency-Key": "k-1", "X-Forwarded-For": "192.0.2.1"}
    relay.publisher.error = BrokerUnavailableError("no answer in time", uncertain=True)
    for _ in range(5):
        problem(relay.post("/api/v1/tasks/log-time", headers=again), 503)
    problem(ask(relay, path="/?talktome=async"), 503)
    relay.publisher.error = None
    assert relay.post("/api/v1/tasks/log-time", headers=again).status_code == 202
    refused(ask(relay, path="/?talktome"), "client_tasks")


def test_what_the_broker_did_not_take_costs_nothing(relay: Web) -> None:
    relay.publisher.error = BrokerUnavailableError("away")
    for _ in range(10):
        problem(ask(relay, "me@example.com"), 503)
        problem(ask(relay, path="/?sendmail=me@example.com&talktome=async"), 503)
        problem(relay.post("/api/v1/tasks/log-time", headers={"X-Forwarded-For": "192.0.2.1"}), 503)
    assert not any(relay.budgets.entries.values()), "nothing is counted"
    relay.publisher.error = None
    for _ in range(2):
        assert ask(relay, path="/?sendmail=me@example.com&talktome").status_code == 202
    refused(ask(relay, "me@example.com"), "recipient")
    refused(ask(relay, path="/?talktome"), "client_tasks")


def test_what_the_broker_did_not_take_costs_nothing_under_a_key_and_costs_once_when_it_does(relay: Web) -> None:
    client = {"X-Forwarded-For": "192.0.2.1"}
    relay.publisher.error = BrokerUnavailableError("away")
    for number in range(10):
        again = {"Idempotency-Key": f"k-{number % 5}", **client}
        problem(relay.post("/api/v1/tasks/log-time", headers=again), 503)
    assert not any(relay.budgets.entries.values())
    assert relay.redis.values == {}, "nor do keys stay"
    relay.publisher.error = None
    for _ in range(3):
        for number in range(2):
            again = {"Idempotency-Key": f"k-{number}", **client}
            assert relay.post("/api/v1/tasks/log-time", headers=again).status_code == 202
    refused(relay.post("/api/v1/tasks/log-time", headers={"Idempotency-Key": "k-2", **client}), "client_tasks")
    assert len({job.task_id for job in relay.publisher.submitted}) == 2


def test_a_key_gets_back_what_the_broker_did_not_take(relay: Web) -> None:
    key = make_key(relay, "2/minute")
    relay.publisher.error = BrokerUnavailableError("away")
    for _ in range(5):
        problem(relay.get("/?sendmail=me@example.com&talktome", headers=key), 503)
    relay.publisher.error = None
    assert relay.get("/?sendmail=me@example.com&talktome", headers=key).status_code == 202
    refused(relay.get("/?talktome", headers=key), "key")


def test_of_two_wishes_the_one_that_was_not_granted_costs_nothing(relay: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(job: Job) -> None:
        if job.task == LOG_TIME:
            raise BrokerUnavailableError("away")

    monkeypatch.setattr(relay.publisher, "submit", submit)
    for _ in range(2):
        document = problem(ask(relay, path="/?sendmail=me@example.com&talktome=async"), 503)
        assert document["detail"] == "The mail is queued; the time will not be logged."
    relay.log.unlink()
    relay.log.mkdir()
    problem(ask(relay, path="/?talktome"), 503)
    refused(ask(relay, path="/?sendmail=me@example.com&talktome"), "recipient")
    assert {key.split("/")[1] for key, hits in relay.budgets.entries.items() if hits} == {"client", "recipient", "day"}


def test_looking_and_cancelling_cost_nothing(relay: Web) -> None:
    record = Record("00000000-0000-4000-8000-000000000001", LOG_TIME, State.QUEUED, 1_700_000_000.0)
    relay.records.stored[record.task_id] = record
    for _ in range(10):
        assert relay.get(f"/api/v1/tasks/{record.task_id}").status_code == 200
        assert relay.post(f"/api/v1/tasks/{record.task_id}/cancel").status_code == 200
    assert relay.budgets.looks == 0


def test_a_person_gets_a_page(relay: Web) -> None:
    for number in range(3):
        ask(relay, f"a{number}@example.com")
    response = ask(relay, "b@example.com", **PAGE)
    assert (response.status_code, response.mimetype) == (429, "text/html")
    assert "Your address has asked for as much mail" in response.get_data(as_text=True)
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.parametrize("script", [False, True])
def test_a_form_says_what_is_used_up_and_keeps_what_was_typed(relay: Web, script: bool) -> None:
    headers = {"Accept": "application/json"} if script else PAGE
    form = {"text": "desserts", "key": "0123456789abcdef"}
    for number in range(2):
        sent = relay.post("/reverse-text", data={**form, "key": f"{number}123456789abcdef"}, headers=headers)
        assert sent.status_code in (202, 303)
    response = relay.post("/reverse-text", data=form | {"key": "x" * 16}, headers=headers)
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) > 0
    text = response.get_data(as_text=True)
    assert "Your address has asked for as many tasks as one may; nothing was queued." in text
    assert script or "desserts" in text


def test_no_address_is_stored(relay: Web) -> None:
    ask(relay, "somebody@example.com")
    stored = str(dict(relay.budgets.entries))
    assert relay.budgets.entries
    assert "somebody" not in stored
    assert "192.0.2.1" not in stored


@pytest.mark.parametrize(
    ("budget", "path", "says"),
    [
        ("client", "/?sendmail=me@example.com", "Mail from strangers is not taken here; with an API key it is."),
        ("recipient", "/?sendmail=me@example.com", "Mail from strangers is not taken here; with an API key it is."),
        ("day", "/?sendmail=me@example.com", "Mail from strangers is not taken here; with an API key it is."),
        ("client_tasks", "/?talktome", "Tasks of strangers are not taken here; with an API key they are."),
        ("tasks_day", "/?talktome=async", "Tasks of strangers are not taken here; with an API key they are."),
    ],
)
def test_a_budget_of_nothing_closes_the_door(tmp_path: Path, budget: str, path: str, says: str) -> None:
    log = tmp_path / "times.log"
    log.touch()
    web = Web(log, **{**RELAY, f"budget_{budget}": "0/day"})
    response = ask(web, path=path)
    document = problem(response, 403)
    assert (document["budget"], document["detail"]) == (budget, says)
    assert "Retry-After" not in response.headers
    assert web.untouched
    assert web.budgets.looks == 0
    assert web.get(path, headers=make_key(web)).status_code in (200, 202)


def test_a_key_with_a_budget_of_nothing(tmp_path: Path) -> None:
    log = tmp_path / "times.log"
    log.touch()
    web = Web(log, **{**RELAY, "budget_key_alone": "0/minute"})
    problem(web.get("/?talktome", headers=make_key(web, "0/day")), 403)
    web.budgets.away = True
    response = web.get("/?talktome", headers=make_key(web))
    problem(response, 503)
    assert int(response.headers["Retry-After"]) > 0
    assert web.untouched
