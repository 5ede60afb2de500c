"""Who is calling, and what he may do."""

from pathlib import Path
from typing import Any

import pytest

from messaging import keys
from messaging.web.auth import Caller, who
from web_client import OPERATOR_KEY, Web, problem

MAIL = {"to": "me@example.com", "subject": "Hello", "text": "How are you?"}
TEXT = {"text": "abc"}
UNKNOWN = f"msk_{'0' * 10}_{'0' * 64}"


@pytest.fixture
def relay(tmp_path: Path) -> Web:
    """Mail leaves the host."""
    log = tmp_path / "times.log"
    log.touch()
    return Web(log, mail_embedded=False)


def file(web: Web) -> Path:
    return web.log.parent / "keys.json"


def make(web: Web, *scopes: str, name: str = "ci", budget: str = "") -> dict[str, str]:
    """A key, as the header that carries it."""
    return bearer(keys.add(file(web), name, scopes or keys.SCOPES, budget))


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def seen(web: Web, address: str = "192.0.2.7", **headers: str) -> Caller:
    """What the application makes of a request."""
    app = web.client.application
    with app.test_request_context("/", headers=headers, environ_base={"REMOTE_ADDR": address}):
        return who()


EVERYWHERE = [
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/?sendmail=me@example.com"),
    ("GET", "/action?sendmail=me@example.com"),
    ("GET", "/?talktome"),
    ("GET", "/action?talktome=async"),
    ("POST", "/send-email"),
    ("POST", "/api/v1/tasks/send-email"),
    ("POST", "/api/v1/tasks/log-time"),
    ("GET", "/api/v1/tasks"),
    ("GET", "/api/v1/tasks/00000000-0000-4000-8000-000000000001"),
    ("POST", "/api/v1/tasks/00000000-0000-4000-8000-000000000001/cancel"),
]
NOT_KEYS = [
    "Bearer wrong",
    "Bearer",
    "Bearer ",
    f"Bearer {UNKNOWN}",
    f"Bearer {OPERATOR_KEY}x",
    f"Bearer {OPERATOR_KEY}=",
    f"Bearer a={OPERATOR_KEY}",
    f"Token {OPERATOR_KEY}",
    OPERATOR_KEY,
    UNKNOWN,
]


@pytest.mark.parametrize(("method", "address"), EVERYWHERE)
@pytest.mark.parametrize("given", NOT_KEYS)
def test_whose_key_is_not_known_is_never_taken_for_a_stranger(web: Web, method: str, address: str, given: str) -> None:
    make(web)
    response = web.client.open(address, method=method, headers={"Authorization": given})
    assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    if method == "HEAD":
        assert response.status_code == 401
    else:
        assert "not known" in problem(response, 401)["detail"]
    assert web.untouched


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic b3A6b3A="}])
def test_who_gives_no_key_is_a_stranger(web: Web, headers: dict[str, str]) -> None:
    assert seen(web, **headers) == Caller("anonymous", "192.0.2.7")


def test_health_does_not_ask(web: Web) -> None:
    assert web.get("/healthz", headers=bearer("wrong")).status_code == 200


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("nonsense", "nonsense"),
    ],
)
def test_a_client_is_an_address_or_a_network(web: Web, address: str, client: str) -> None:
    assert seen(web, address).id == client


def test_a_key_is_known_by_its_id(web: Web) -> None:
    headers = make(web, "mail", "read", budget="5/minute")
    [key] = keys.read(file(web))
    assert seen(web, **headers) == Caller("key", key.id, frozenset({"mail", "read"}), "5/minute")


def test_operators_may_do_everything(web: Web) -> None:
    assert seen(web, **bearer(OPERATOR_KEY)) == Caller("operator", "operator", frozenset(keys.SCOPES))


def attempts(web: Web, headers: dict[str, str]) -> dict[str, Any]:
    """The status of each thing that can be done."""
    return {
        "mail": web.post("/api/v1/tasks/send-email", json=MAIL, headers=headers),
        "fixed": web.get("/?sendmail=me@example.com", headers=headers),
        "form": web.post("/send-email", data=MAIL, headers={**headers, "Accept": "application/json"}),
        "task": web.post("/api/v1/tasks/reverse-text", json=TEXT, headers=headers),
        "time": web.get("/?talktome", headers=headers),
        "queued time": web.get("/?talktome=async", headers=headers),
        "list": web.get("/api/v1/tasks", headers=headers),
    }


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [("mail", {"mail", "fixed", "form"}), ("tasks", {"task", "time", "queued time"}), ("read", {"list"})],
)
def test_a_key_may_do_what_its_scopes_say(relay: Web, scope: str, allowed: set[str]) -> None:
    others = {"mail": "mail", "fixed": "mail", "form": "mail", "task": "tasks", "time": "tasks", "queued time": "tasks"}
    for name, response in attempts(relay, make(relay, scope)).items():
        if name in allowed:
            assert response.status_code in (200, 202), name
        else:
            assert f"`{others.get(name, 'read')}`" in problem(response, 403)["detail"], name
            assert response.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope"', name
    assert len(relay.publisher.submitted) == {"mail": 3, "tasks": 2, "read": 0}[scope]


def test_with_a_relay_strangers_send_the_fixed_mail_only(relay: Web) -> None:
    answers = attempts(relay, {})
    said = problem(answers.pop("mail"), 401)["detail"]
    assert "`mail`" in said
    assert "`read`" in problem(answers.pop("list"), 401)["detail"]
    assert {response.status_code for response in answers.values()} == {200, 202}
    mails = [job.kwargs for job in relay.publisher.submitted if "to" in job.kwargs]
    assert {mail["subject"] for mail in mails} == {"A message for you"}


def test_the_wording_of_who_has_a_key_is_his_own(relay: Web) -> None:
    attempts(relay, make(relay, "mail"))
    subjects = [job.kwargs["subject"] for job in relay.publisher.submitted]
    assert subjects == ["Hello", "A message for you", "Hello"]


def test_who_asks_for_both_needs_both_scopes(relay: Web) -> None:
    headers = make(relay, "mail")
    problem(relay.get("/?sendmail=me@example.com&talktome", headers=headers), 403)
    assert relay.untouched


def test_knowing_an_id_is_enough_to_follow_and_cancel(relay: Web) -> None:
    task = relay.post("/api/v1/tasks/send-email", json=MAIL, headers=make(relay, "mail")).get_json()
    other = make(relay, "read", name="other")
    for headers in ({}, other):
        assert relay.get(task["status_url"], headers=headers).status_code == 200
    assert relay.post(f"{task['status_url']}/cancel", headers=other).get_json()["state"] == "cancelled"


def test_a_revoked_key_stops_at_once(relay: Web) -> None:
    headers, other = make(relay), make(relay, name="other")
    assert relay.post("/api/v1/tasks/send-email", json=MAIL, headers=headers).status_code == 202
    keys.revoke(file(relay), "ci")
    assert "revoked" in problem(relay.post("/api/v1/tasks/send-email", json=MAIL, headers=headers), 401)["detail"]
    assert relay.post("/api/v1/tasks/send-email", json=MAIL, headers=other).status_code == 202


def test_each_key_has_idempotency_keys_of_its_own(web: Web) -> None:
    def task_id(headers: dict[str, str]) -> str:
        answer = web.post("/api/v1/tasks/reverse-text", json=TEXT, headers={**headers, "Idempotency-Key": "1"})
        return str(answer.get_json()["task_id"])

    one, other = make(web), make(web, name="other")
    assert task_id(one) == task_id(one)
    assert len({task_id(headers) for headers in (one, other, {}, bearer(OPERATOR_KEY))}) == 4


def test_no_key_is_in_what_is_answered(web: Web) -> None:
    headers = make(web, "read")
    text = headers["Authorization"].removeprefix("Bearer ")
    for response in attempts(web, headers).values():
        assert text not in response.get_data(as_text=True)


def test_who_asks_for_anything_shows_a_process_the_keys_of_now(web: Web) -> None:
    """A process that nobody sends a key to must not go back, over a broken file, to keys that were revoked long ago."""
    headers = make(web)
    web.get("/healthz")
    keys.revoke(file(web), "ci")
    web.get("/healthz")
    file(web).write_text("{")
    problem(web.get("/", headers=headers), 401)
