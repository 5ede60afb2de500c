"""What a caller sees, with stand-ins for the broker and Redis."""

from dataclasses import replace
from pathlib import Path

import pytest

from messaging import store
from messaging.job import LOG_TIME, SEND_EMAIL, Job
from messaging.publisher import BrokerUnavailableError, UnroutableError
from messaging.results import NOT_CONFIRMED, Record, State
from web_client import Web, problem

TASK_ID = "00000000-0000-4000-8000-000000000001"


@pytest.mark.parametrize("path", ["/", "/action"])
def test_sendmail_queues_a_mail_and_tells_where_to_look(web: Web, path: str) -> None:
    response = web.get(f"{path}?sendmail=me@example.com", headers={"X-Request-ID": "r-7"})
    assert response.status_code == 202
    answer = response.get_json()
    [job] = web.publisher.submitted
    assert (job.task, job.queue, job.request_id) == (SEND_EMAIL, "email", "r-7")
    assert job.kwargs["to"] == "me@example.com"
    assert answer == {
        "task_id": job.task_id,
        "state": "queued",
        "status_url": f"/api/v1/tasks/{job.task_id}",
    }
    assert response.headers["Location"] == answer["status_url"]
    assert response.headers["Cache-Control"] == "no-store"
    assert web.get(answer["status_url"]).get_json()["state"] == "queued"


@pytest.mark.parametrize(
    ("query", "address"),
    [
        ("me+tag@example.com", "me+tag@example.com"),
        ("me%2Btag@example.com", "me+tag@example.com"),
        ("me%40example.com", "me@example.com"),
        ("me@b%C3%BCcher.example", "me@xn--bcher-kva.example"),
        ("me@EXAMPLE.com", "me@example.com"),
        ("a" * 64 + "@example.com", "a" * 64 + "@example.com"),
    ],
)
def test_addresses_as_people_write_them(web: Web, query: str, address: str) -> None:
    assert web.get(f"/?sendmail={query}").status_code == 202
    assert web.publisher.submitted[0].kwargs["to"] == address


@pytest.mark.parametrize(
    "query",
    [
        "sendmail",
        "sendmail=",
        "sendmail=nobody",
        "sendmail=a@b@example.com",
        "sendmail=me@localhost",
        "sendmail=" + "a" * 65 + "@example.com",
        "sendmail=a@" + "b" * 64 + ".example",
        "sendmail=a@" + "b." * 130 + "example",
        "sendmail=" + "a" * 3000,
        "sendmail=a@example.com&sendmail=b@example.com",
        "sendmail=a@example.com,b@example.com",
        "sendmail=a%0D%0ABcc:b@example.com",
        "sendmail=a%00@example.com",
        "sendmail=a%E2%80%AEb@example.com",
        "sendmail=%C3%BC@example.com",
        "sendmail=A%20Name%20%3Ca@example.com%3E",
        "talktome&talktome",
        "talktome=now",
        "talktome&sendmail=nobody",
    ],
)
def test_bad_input_is_named_and_nothing_happens(web: Web, query: str) -> None:
    document = problem(web.get(f"/?{query}"), 400)
    assert document["parameter"] in ("sendmail", "talktome")
    assert document["parameter"] in document["detail"]
    assert web.untouched


@pytest.mark.parametrize("query", ["sendmail=%FF@example.com", "&".join(f"x{n}=1" for n in range(50))])
def test_a_query_that_cannot_be_read(web: Web, query: str) -> None:
    problem(web.get(f"/?{query}"), 400)
    assert web.untouched


def test_talktome_logs_the_time_at_once(web: Web) -> None:
    response = web.get("/?talktome")
    assert response.status_code == 200
    assert web.log.read_text() == response.get_json()["logged"] + "\n"


def test_talktome_through_the_queue(web: Web) -> None:
    response = web.get("/?talktome=async")
    assert response.status_code == 202
    [job] = web.publisher.submitted
    assert (job.task, job.queue) == (LOG_TIME, "compute")
    assert response.get_json()["task_id"] == job.task_id
    assert web.log.read_text() == ""


def test_both_in_one_request(web: Web) -> None:
    response = web.get("/?sendmail=me@example.com&talktome")
    assert response.status_code == 202
    assert response.get_json()["task_id"] == web.publisher.submitted[0].task_id
    assert response.get_json()["logged"] in web.log.read_text()


def test_both_through_the_queue(web: Web) -> None:
    answer = web.get("/?sendmail=me@example.com&talktome=async").get_json()
    assert [job.task_id for job in web.publisher.submitted] == [answer["task_id"], answer["talktome"]["task_id"]]


@pytest.mark.parametrize("path", ["/", "/action"])
@pytest.mark.parametrize("query", ["sendmail=me@example.com", "talktome", "talktome=async"])
def test_head_never_acts(web: Web, path: str, query: str) -> None:
    response = web.client.head(f"{path}?{query}")
    assert response.status_code == 200
    assert web.untouched


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Purpose": "prefetch;prerender"}, {"Purpose": "prefetch"}, {"X-Moz": "prefetch"}, {"X-Purpose": "preview"}],
)
def test_a_prefetch_never_acts(web: Web, headers: dict[str, str]) -> None:
    problem(web.get("/?sendmail=me@example.com&talktome", headers=headers), 403)
    assert web.untouched


@pytest.mark.parametrize(
    ("error", "reason", "over"),
    [
        (BrokerUnavailableError("no answer in time", uncertain=True), NOT_CONFIRMED, False),
        (BrokerUnavailableError("refused"), "refused", True),
        (UnroutableError("no queue"), "no queue", True),
    ],
)
def test_without_the_broker_the_answer_is_503_and_nothing_else_is_done(
    web: Web, error: Exception, reason: str, over: bool
) -> None:
    web.publisher.error = error
    response = web.get("/?sendmail=me@example.com&talktome")
    document = problem(response, 503)
    assert int(response.headers["Retry-After"]) > 0
    record = web.records.stored[document["task_id"]]
    assert (record.state, record.reason, record.over) == (State.FAILED, reason, over)
    assert web.log.read_text() == ""


def test_a_worker_that_was_faster_than_the_confirm_knows_better(web: Web) -> None:
    def delivered_and_not_confirmed(job: Job) -> None:
        web.records.put(replace(web.records.stored[job.task_id], state=State.SUCCEEDED))
        raise BrokerUnavailableError("no answer in time", uncertain=True)

    web.publisher.submit = delivered_and_not_confirmed
    document = problem(web.get("/?sendmail=me@example.com"), 503)
    assert web.records.stored[document["task_id"]].state is State.SUCCEEDED


def test_half_done_is_said(web: Web) -> None:
    def only_mail(job: Job) -> None:
        if job.task == LOG_TIME:
            raise BrokerUnavailableError("refused")
        web.publisher.submitted.append(job)

    web.publisher.submit = only_mail
    document = problem(web.get("/?sendmail=me@example.com&talktome=async"), 503)
    assert document["task_id"] == web.publisher.submitted[0].task_id
    assert "mail is queued" in document["detail"]


def test_without_redis_mail_is_taken_and_untracked(web: Web) -> None:
    web.records.away = True
    response = web.get("/?sendmail=me@example.com")
    assert response.status_code == 202
    assert response.get_json()["tracked"] is False
    assert len(web.publisher.submitted) == 1
    response = web.get(response.get_json()["status_url"])
    problem(response, 503)
    assert "Retry-After" in response.headers


def test_talktome_with_a_log_that_is_gone_says_what_was_done(web: Web) -> None:
    web.log.unlink()
    document = problem(web.get("/?sendmail=me@example.com&talktome"), 503)
    assert document["task_id"] == web.publisher.submitted[0].task_id


def test_the_state_of_a_task(web: Web) -> None:
    web.records.stored[TASK_ID] = Record(
        TASK_ID, SEND_EMAIL, State.FAILED, submitted_at=0.0, updated_at=1.5, attempts=2, reason="550 no"
    )
    response = web.get("/api/v1/tasks/" + TASK_ID)
    assert response.get_json() == {
        "task_id": TASK_ID,
        "task": "send_email",
        "state": "failed",
        "submitted_at": "1970-01-01T01:00:00.000+01:00",
        "updated_at": "1970-01-01T01:00:01.500+01:00",
        "attempts": 2,
        "reason": "550 no",
    }


@pytest.mark.parametrize("task_id", ["nobody", "7b1c2f9e-6f55-4d40-8a0e-1d5f0f6a7c11", "..%2f..", "a" * 500])
def test_an_unknown_task_is_404(web: Web, task_id: str) -> None:
    problem(web.get(f"/api/v1/tasks/{task_id}"), 404)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nope", 404), ("POST", "/", 405), ("PUT", "/action", 405)]
)
def test_unknown_paths_and_methods(web: Web, method: str, path: str, status: int) -> None:
    response = web.client.open(path, method=method)
    problem(response, status)
    if status == 405:
        assert "GET" in response.headers["Allow"]


def test_action_without_an_action(web: Web) -> None:
    assert "sendmail" in problem(web.get("/action"), 400)["detail"]


def test_a_person_gets_a_page_and_a_program_json(web: Web) -> None:
    page = web.get("/?utm_source=newsletter", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.mimetype == "text/html"
    assert "sendmail" in page.get_data(as_text=True)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert web.get("/", headers={"Accept": "application/json"}).get_json()["service"] == "messaging-system"


def test_a_page_shows_the_address_that_it_was_asked_at(web: Web) -> None:
    page = web.get("/", headers={"Host": "mail.example.com:8080", "X-Forwarded-Proto": "https"})
    assert "https://mail.example.com:8080/?sendmail=" in page.get_data(as_text=True)


def test_readyz_names_what_is_wrong(web: Web, tmp_path: Path) -> None:
    web.publisher.error = BrokerUnavailableError("RabbitMQ: refused")
    web.records.away = True
    web.log.unlink()
    response = web.get("/readyz")
    assert response.status_code == 503
    checks = response.get_json()["checks"]
    assert checks["rabbitmq"] == "RabbitMQ: refused"
    assert checks["redis"] == "away"
    assert str(web.log) in checks["log"]
    assert web.get("/healthz").status_code == 200


def test_readyz_says_why_mail_waits_and_stays_ready(web: Web) -> None:
    web.redis.values[store.SMTP_PROBLEM_KEY] = "535 wrong password"
    response = web.get("/readyz")
    assert response.status_code == 200
    assert response.get_json()["checks"]["smtp"] == "mail waits: 535 wrong password"


def test_an_error_nobody_foresaw_is_a_problem_document(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    web.publisher.error = RuntimeError("secret detail")
    response = web.get("/?sendmail=me@example.com")
    assert "secret detail" not in response.get_data(as_text=True)
    problem(response, 500)
    assert "secret detail" in caplog.text


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("path", ["/?sendmail=me@example.com", "/action?talktome", "/?talktome=async"])
def test_what_another_site_makes_a_browser_fetch_never_acts(web: Web, site: str, path: str) -> None:
    problem(web.get(path, headers={"Sec-Fetch-Site": site}), 403)
    assert web.untouched


@pytest.mark.parametrize("site", ["none", "same-origin"])
def test_an_address_that_a_person_types_acts(web: Web, site: str) -> None:
    assert web.get("/?sendmail=me@example.com", headers={"Sec-Fetch-Site": site}).status_code == 202


def test_a_misspelt_parameter_is_no_visit(web: Web) -> None:
    assert "sendmail" in problem(web.get("/?sendmial=me@example.com"), 400)["detail"]
    assert web.get("/?utm_source=x", headers={"Accept": "text/html"}).status_code == 200


@pytest.mark.parametrize(("peer", "status"), [("", 200), ("10.0.0.1", 200), ("10.0.0.2", 403), ("127.0.0.1", 403)])
def test_nobody_is_let_in_but_nginx(tmp_path: Path, peer: str, status: int) -> None:
    web = Web(tmp_path / "times.log", proxies=["10.0.0.1"])
    headers = {"X-Forwarded-For": "192.0.2.1", "X-Request-ID": "of-a-stranger"}
    response = web.get("/healthz", headers=headers, environ_base={"REMOTE_ADDR": peer})
    assert response.status_code == status
    if status == 403:
        assert "ask nginx" in problem(response, 403)["detail"]
