"""The JSON API as its callers see it, with stand-ins for the broker and Redis."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from messaging.idempotency import COPIES_A_MINUTE
from messaging.job import ANALYZE_SENTIMENT, LOG_TIME, REVERSE_TEXT, SEND_EMAIL
from messaging.publisher import BrokerUnavailableError
from messaging.results import NOT_CONFIRMED, Record, State
from messaging.web import openapi
from web_client import OPERATOR_KEY, Web, problem

MAIL = {"to": "me@example.com", "subject": "Hello", "text": "How are you?"}
AS_OPERATOR = {"Authorization": f"Bearer {OPERATOR_KEY}"}


def keep(web: Web, **changes: Any) -> Record:
    """A record of a task that waits, with some changes."""
    record = Record(task_id=str(uuid4()), task=SEND_EMAIL, state=State.QUEUED, submitted_at=1_700_000_000.25)
    record = replace(record, **changes)
    web.records.stored[record.task_id] = record
    return record


@pytest.mark.parametrize(
    ("name", "body", "task", "queue"),
    [
        ("send-email", MAIL, SEND_EMAIL, "email"),
        ("send-email", {**MAIL, "html": "<p>Hi</p>"}, SEND_EMAIL, "email"),
        ("reverse-text", {"text": "abc"}, REVERSE_TEXT, "compute"),
        ("analyze-sentiment", {"text": "lovely"}, ANALYZE_SENTIMENT, "compute"),
        ("log-time", {}, LOG_TIME, "compute"),
    ],
)
def test_each_task_is_queued(web: Web, name: str, body: dict[str, str], task: str, queue: str) -> None:
    response = web.post(f"/api/v1/tasks/{name}", json=body)
    assert response.status_code == 202, response.get_data(as_text=True)
    answer = response.get_json()
    assert response.headers["Location"] == answer["status_url"] == f"/api/v1/tasks/{answer['task_id']}"
    assert response.headers["Retry-After"] == "1"
    (job,) = web.publisher.submitted
    assert (job.task, job.queue, job.task_id, job.kwargs) == (task, queue, answer["task_id"], body)
    assert web.get(answer["status_url"]).get_json()["state"] == "queued"


def test_a_task_without_parameters_needs_no_body(web: Web) -> None:
    assert web.post("/api/v1/tasks/log-time").status_code == 202


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"subject": "s", "text": "t"}, "to", "is missing"),
        ({**MAIL, "to": "nobody"}, "to", "@-sign"),
        ({**MAIL, "to": ["a@example.com"]}, "to", "must be a text"),
        ({**MAIL, "to": "a@example.com\r\nBcc: b@example.com"}, "to", ""),
        ({**MAIL, "subject": "a\r\nBcc: b@example.com"}, "subject", "one line"),
        ({**MAIL, "subject": "a\x85Bcc: b@example.com"}, "subject", "one line"),
        ({**MAIL, "subject": "s" * 201}, "subject", "more than 200"),
        ({**MAIL, "subject": "hi =?utf-8?q?=0D=0ABcc:_evil=40example.com?="}, "subject", "encoded word"),
        ({**MAIL, "to": "=?utf-8?q?a?=@example.com"}, "to", "encoded word"),
        ({**MAIL, "text": ""}, "text", "less than 1"),
        ({**MAIL, "text": "t" * 50_001}, "text", "more than 50000"),
        ({**MAIL, "text": "a\x00b"}, "text", "NUL"),
        ({**MAIL, "html": "h" * 100_001}, "html", "more than 100000"),
        ({**MAIL, "cc": "b@example.com"}, "cc", "not known"),
        ([], "", "must be an object"),
    ],
)
def test_a_wrong_field_is_named(web: Web, body: Any, field: str, says: str) -> None:
    document = problem(web.post("/api/v1/tasks/send-email", json=body), 422)
    assert [error["field"] for error in document["errors"]] == [field]
    assert says in document["errors"][0]["detail"]
    assert field in document["detail"]
    assert web.untouched


def test_every_wrong_field_is_named_at_once_and_no_value(web: Web) -> None:
    document = problem(web.post("/api/v1/tasks/send-email", json={"to": "s3cret", "text": 7}), 422)
    assert {error["field"] for error in document["errors"]} == {"to", "subject", "text"}
    assert "s3cret" not in json.dumps(document)


@pytest.mark.parametrize(
    ("kwargs", "status"),
    [
        ({"data": b"{", "content_type": "application/json"}, 400),
        ({"data": b"\xff\xfe", "content_type": "application/json"}, 400),
        ({"data": b'{"text": "\\ud800"}', "content_type": "application/json"}, 422),
        ({"data": b'{"text": NaN}', "content_type": "application/json"}, 400),
        ({"data": b"[" * 100_000, "content_type": "application/json"}, 400),
        ({"data": b"text=abc", "content_type": "application/x-www-form-urlencoded"}, 415),
        ({"data": b"{}"}, 415),
        ({"data": b'{"text": "' + b"a" * 1_100_000 + b'"}', "content_type": "application/json"}, 413),
    ],
)
def test_a_body_that_cannot_be_read(web: Web, kwargs: dict[str, Any], status: int) -> None:
    problem(web.post("/api/v1/tasks/reverse-text", **kwargs), status)
    assert web.untouched


def test_with_a_relay_free_mail_needs_the_key(tmp_path: Path) -> None:
    log = tmp_path / "times.log"
    log.touch()
    web = Web(log, mail_embedded=False)
    refused = web.post("/api/v1/tasks/send-email", json=MAIL)
    problem(refused, 401)
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    problem(web.post("/api/v1/tasks/send-email", json=MAIL, headers={"Authorization": "Bearer wrong"}), 401)
    assert web.untouched
    assert web.post("/api/v1/tasks/send-email", json=MAIL, headers=AS_OPERATOR).status_code == 202
    assert web.post("/api/v1/tasks/reverse-text", json={"text": "abc"}).status_code == 202
    assert web.get("/?sendmail=me@example.com").status_code == 202, "its wording is ours"


# --- Idempotency-Key --------------------------------------------------------------------------------------------------


def again(web: Web, key: str = "k-1", status: int = 202, body: Any = MAIL, **kwargs: Any) -> dict[str, Any]:
    headers = {"Idempotency-Key": key, **kwargs.pop("headers", {})}
    response = web.post("/api/v1/tasks/send-email", json=body, headers=headers, **kwargs)
    if status != 202:
        return problem(response, status)
    assert response.status_code == status, response.get_data(as_text=True)
    return dict(response.get_json())


def worked(web: Web, task_id: str, state: State) -> None:
    """A worker has had the task."""
    web.records.stored[task_id] = web.records.stored[task_id].to(state, attempts=1)


def test_the_same_key_and_body_give_the_same_task(web: Web) -> None:
    first = again(web)
    worked(web, first["task_id"], State.SUCCEEDED)
    second = again(web)
    assert second == {**first, "state": "succeeded"}
    assert len(web.publisher.submitted) == 1


def test_what_still_waits_is_published_again_since_the_first_copy_may_be_lost(web: Web) -> None:
    first, second = again(web), again(web)
    assert first == second
    one, two = web.publisher.submitted
    assert two == replace(one, suspect=True), "the same in every part, the time of the first one too"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_who_asks_on_and_on_does_not_fill_the_queue(web: Web, elsewhere: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("messaging.accept.LONGEST_REQUEST", 0.0)
    first = again(web)
    web.claims.elsewhere = elsewhere
    for _ in range(4 * COPIES_A_MINUTE):
        assert again(web) == first
    assert len(web.publisher.submitted) == 1 + COPIES_A_MINUTE
    [counter] = [name for name in web.redis.values if name.endswith(":copies")]
    del web.redis.values[counter]  # a minute later
    again(web)
    assert len(web.publisher.submitted) == 2 + COPIES_A_MINUTE, "still waiting, and kept"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_was_not_confirmed_is_published_however_often_it_is_asked_for(
    web: Web, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("messaging.accept.LONGEST_REQUEST", 0.0)
    web.publisher.error = BrokerUnavailableError("no answer", uncertain=True)
    again(web, status=503)
    web.claims.elsewhere = elsewhere
    for _ in range(4 * COPIES_A_MINUTE):
        again(web, status=503)
    web.publisher.error = None
    again(web)
    assert len(web.publisher.submitted) == 1


def test_the_same_key_with_another_body_is_refused(web: Web) -> None:
    again(web)
    document = again(web, status=422, body={**MAIL, "subject": "Another"})
    assert document["parameter"] == "Idempotency-Key"
    assert len(web.publisher.submitted) == 1


def test_another_task_under_the_same_key_is_refused(web: Web) -> None:
    again(web)
    headers = {"Idempotency-Key": "k-1"}
    problem(web.post("/api/v1/tasks/reverse-text", json={"text": "abc"}, headers=headers), 422)


def test_a_key_stands_for_the_same_task_after_the_secret_was_changed(web: Web) -> None:
    first = again(web)
    worked(web, first["task_id"], State.SUCCEEDED)
    after = Web(web.log, secret="another secret", secret_key_previous="server's secret")
    after.records.stored, after.redis.values = web.records.stored, web.redis.values
    assert again(after) == {**first, "state": "succeeded"}
    again(after, status=422, body={**MAIL, "subject": "Another"})
    assert after.publisher.submitted == [], "not a second mail"
    new = again(after, key="k-2")
    forgotten = Web(web.log, secret="another secret")
    forgotten.records.stored, forgotten.redis.values = after.records.stored, after.redis.values
    assert again(forgotten, key="k-2") == new, "its id comes from the new secret"


def test_the_key_of_another_caller_is_another_key(web: Web) -> None:
    mine = again(web, headers={"X-Forwarded-For": "192.0.2.1"})
    theirs = again(web, headers={"X-Forwarded-For": "192.0.2.2"}, body={**MAIL, "subject": "Another"})
    operators = again(web, headers=AS_OPERATOR)
    assert len({mine["task_id"], theirs["task_id"], operators["task_id"]}) == 3


@pytest.mark.parametrize("uncertain", [True, False])
def test_after_a_503_the_same_id_is_tried_again(web: Web, uncertain: bool) -> None:
    web.publisher.error = BrokerUnavailableError("away", uncertain=uncertain)
    refused = again(web, status=503)
    web.publisher.error = None
    taken = again(web)
    assert taken["task_id"] == refused["task_id"]
    assert len(web.publisher.submitted) == 1
    assert web.records.stored[taken["task_id"]].state is State.QUEUED


def test_a_worker_that_got_the_unconfirmed_copy_is_not_overwritten(web: Web) -> None:
    web.publisher.error = BrokerUnavailableError("no answer", uncertain=True)
    task_id = again(web, status=503)["task_id"]
    assert web.records.stored[task_id].reason == NOT_CONFIRMED
    web.publisher.error = None
    web.claims.elsewhere = True
    assert again(web)["state"] == "queued"
    assert web.publisher.submitted[-1].suspect, "who holds it may have died: another copy, which asks first"
    worked(web, task_id, State.SUCCEEDED)
    assert again(web)["state"] == "succeeded"


def test_a_worker_that_gets_the_copy_at_once_does_it(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy of a task that the broker had refused must not meet a record that says "failed"."""
    web.publisher.error = BrokerUnavailableError("refused")
    again(web, status=503)
    web.publisher.error = None
    seen = []
    monkeypatch.setattr(web.publisher, "submit", lambda job: seen.append(web.records.stored[job.task_id].state))
    again(web)
    assert seen == [State.QUEUED]


def test_a_first_request_that_was_held_up_finds_the_work_done(web: Web) -> None:
    """Another one under the key overtook it, and its mail is sent, or cancelled: nothing is set back or sent again."""
    task_id = again(web)["task_id"]
    for state in (State.SUCCEEDED, State.CANCELLED):
        worked(web, task_id, state)
        web.redis.values.clear()
        assert again(web)["state"] == state
    assert len(web.publisher.submitted) == 1


def test_a_refusal_does_not_end_what_another_request_may_have_queued(web: Web) -> None:
    web.publisher.error = BrokerUnavailableError("refused for certain")
    document = again(web, status=503)
    assert "may still be done" in document["detail"]
    assert not web.records.stored[document["task_id"]].over, "a worker that gets the other copy does it"


def test_when_its_record_cannot_be_read_a_repeated_request_is_never_a_first_one(web: Web) -> None:
    task_id = again(web)["task_id"]
    worked(web, task_id, State.SUCCEEDED)
    web.records.away = True
    assert again(web)["tracked"] is False
    assert web.publisher.submitted[-1].suspect, "the worker waits until it knows"
    web.records.away = False
    assert web.records.stored[task_id].state is State.SUCCEEDED


def test_a_cancelled_task_stays_cancelled(web: Web) -> None:
    task_id = again(web)["task_id"]
    web.post(f"/api/v1/tasks/{task_id}/cancel")
    assert again(web)["state"] == "cancelled"
    assert len(web.publisher.submitted) == 1


def test_another_request_is_no_worker(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    record = keep(web)
    web.claims.elsewhere = True
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        web.claims.elsewhere = len(waits) < 3

    monkeypatch.setattr("messaging.accept.time.sleep", wait)
    assert web.post(f"/api/v1/tasks/{record.task_id}/cancel").get_json()["state"] == "cancelled"


def test_without_redis_nothing_of_another_body_is_lost(web: Web) -> None:
    web.redis.away = web.records.away = web.claims.away = True
    first, same, other = again(web), again(web), again(web, body={**MAIL, "subject": "Another"})
    assert first["task_id"] == same["task_id"] != other["task_id"]
    assert first["tracked"] is False


@pytest.mark.parametrize("key", ["", " ", "a b", "ä", "k" * 256])
def test_a_key_that_is_none(web: Web, key: str) -> None:
    assert again(web, key=key, status=400)["parameter"] == "Idempotency-Key"


def test_an_id_cannot_be_guessed_from_the_request(web: Web, tmp_path: Path) -> None:
    log = tmp_path / "other.log"
    log.touch()
    other = Web(log, secret="another secret")
    assert again(web)["task_id"] != again(other)["task_id"]


# --- cancel -----------------------------------------------------------------------------------------------------------


def test_what_waits_can_be_cancelled(web: Web) -> None:
    record = keep(web)
    for _ in range(2):
        response = web.post(f"/api/v1/tasks/{record.task_id}/cancel")
        assert (response.status_code, response.get_json()["state"]) == (200, "cancelled")
    assert web.records.stored[record.task_id].over
    assert web.claims.held, "no worker can begin it meanwhile"


def test_what_may_still_arrive_can_be_cancelled(web: Web) -> None:
    record = keep(web, state=State.FAILED, reason=NOT_CONFIRMED)
    assert web.post(f"/api/v1/tasks/{record.task_id}/cancel").get_json()["state"] == "cancelled"


@pytest.mark.parametrize("state", [State.STARTED, State.RETRYING, State.SUCCEEDED, State.FAILED])
def test_what_has_begun_cannot(web: Web, state: State) -> None:
    record = keep(web, state=state, attempts=1)
    document = problem(web.post(f"/api/v1/tasks/{record.task_id}/cancel"), 409)
    assert document["state"] == state
    assert web.records.stored[record.task_id] == record


def test_what_a_worker_holds_cannot(web: Web) -> None:
    record = keep(web)
    web.claims.elsewhere = True
    problem(web.post(f"/api/v1/tasks/{record.task_id}/cancel"), 409)
    assert web.records.stored[record.task_id] == record


@pytest.mark.parametrize("task_id", [str(uuid4()), "nonsense", "../../x", "%00"])
def test_nothing_to_cancel(web: Web, task_id: str) -> None:
    problem(web.post(f"/api/v1/tasks/{task_id}/cancel"), 404)


@pytest.mark.parametrize("part", ["records", "claims"])
def test_without_redis_cancelling_is_503(web: Web, part: str) -> None:
    record = keep(web)
    getattr(web, part).away = True
    assert web.post(f"/api/v1/tasks/{record.task_id}/cancel").status_code == 503


# --- the list ---------------------------------------------------------------------------------------------------------


def listed(web: Web, query: str = "") -> list[str]:
    """All ids, by following `next` to the end."""
    url, found = f"/api/v1/tasks{query}", []
    while url:
        response = web.get(url, headers=AS_OPERATOR)
        assert response.status_code == 200, response.get_data(as_text=True)
        document = response.get_json()
        found += [task["task_id"] for task in document["tasks"]]
        url = document.get("next")
    return found


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic b3A6b3A="}])
def test_the_list_is_for_operators(web: Web, headers: dict[str, str]) -> None:
    keep(web)
    response = web.get("/api/v1/tasks", headers=headers)
    problem(response, 401)
    assert response.headers["WWW-Authenticate"].split()[0] == "Bearer"


def test_without_a_key_in_the_settings_nobody_is_an_operator(tmp_path: Path) -> None:
    log = tmp_path / "times.log"
    log.touch()
    web = Web(log, operator_key="")
    problem(web.get("/api/v1/tasks", headers={"Authorization": "Bearer "}), 401)


def test_the_list_goes_on_and_is_filtered(web: Web) -> None:
    times = [1_700_000_000.0, 1_700_000_000.0, 1_700_000_001.5, 1_700_000_002.0]
    records = [keep(web, submitted_at=time) for time in times]
    failed = keep(web, submitted_at=1_700_000_003.0, state=State.FAILED, attempts=1)
    expected = [record.task_id for record in sorted(records, key=lambda r: (r.submitted_at, r.task_id), reverse=True)]
    assert listed(web, "?limit=2") == [failed.task_id, *expected]
    assert listed(web, "?state=failed") == [failed.task_id]
    # 22:13:21 and a half
    assert listed(web, "?since=2023-11-14T22:13:21Z&state=queued&limit=1") == expected[:2]
    assert listed(web, "?until=2023-11-14T23:13:20%2B01:00") == expected[2:]


def test_times_as_date_prints_them(web: Web) -> None:
    record = keep(web, submitted_at=1_700_000_000.0)
    # a plus sign that was not escaped arrives as a space
    assert listed(web, "?since=2023-11-14T23:13:20+01:00") == [record.task_id]


def test_a_key_that_is_wrong_is_said_to_be(web: Web) -> None:
    headers = {"Authorization": "Bearer wrong"}
    problem(web.post("/api/v1/tasks/reverse-text", json={"text": "abc"}, headers=headers), 401)
    assert web.untouched


@pytest.mark.parametrize(
    "query",
    ["sate=failed", "state=lost", "state=", "limit=0", "limit=201", "limit=1.0", "limit=+5", "since=yesterday",
     "since=1700000000", "since=2023-11-14T22:13:21", "until=2023-13-14T22:13:21Z", "after=x", "limit=1&limit=2"],
)  # fmt: skip
def test_a_question_that_is_not_understood(web: Web, query: str) -> None:
    document = problem(web.get(f"/api/v1/tasks?{query}", headers=AS_OPERATOR), 400)
    assert document["parameter"] == query.partition("=")[0]


# --- the description --------------------------------------------------------------------------------------------------


def test_the_description_has_every_address_of_the_api(web: Web) -> None:
    document = web.get("/api/v1/openapi.json").get_json()
    described = {
        (method.upper(), document["servers"][0]["url"] + path)
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    }
    rules = web.client.application.url_map.iter_rules()
    served = {
        (method, rule.rule.replace("<uuid:", "{").replace(">", "}"))
        for rule in rules
        if rule.rule.startswith("/api/v1/tasks")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert described == served


def test_the_description_refers_to_what_it_has() -> None:
    document = openapi.document(mail_needs_key=True)

    def check(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                openapi.resolve(document, node)
            for each in node.values():
                check(each)
        elif isinstance(node, list):
            for each in node:
                check(each)

    check(document)


def test_the_examples_are_good(web: Web) -> None:
    document = web.get("/api/v1/openapi.json").get_json()
    for path, item in document["paths"].items():
        if "post" in item and "requestBody" in item["post"]:
            example = item["post"]["requestBody"]["content"]["application/json"]["example"]
            assert web.post("/api/v1" + path, json=example).status_code == 202, path


def test_the_reference_names_every_operation_and_limit(web: Web) -> None:
    page = web.get("/api/").get_data(as_text=True)
    for said in ("/tasks/send-email", "/tasks/{task_id}/cancel", "Idempotency-Key", "50,000", "Retry-After", "409"):
        assert said in page, said
