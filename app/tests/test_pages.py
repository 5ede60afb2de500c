"""The pages for people, with stand-ins for the broker and Redis."""

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from messaging.job import ANALYZE_SENTIMENT, REVERSE_TEXT, SEND_EMAIL
from messaging.mail.message import build
from messaging.mailbox import Mailbox
from messaging.publisher import BrokerUnavailableError, Depth
from messaging.results import Record, State
from messaging.settings import Settings
from messaging.web import create_app, panel
from web_client import Web, problem

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
SCRIPT = {"Accept": "application/json"}
MAIL = {"to": "ada@example.com", "subject": "Hello", "text": "How are you?", "html": ""}
FORMS = {"send-email": MAIL, "reverse-text": {"text": "stressed"}, "analyze-sentiment": {"text": "What a lovely day"}}


def page(web: Web, path: str = "/", status: int = 200) -> str:
    response = web.get(path, headers=BROWSER)
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.mimetype == "text/html"
    return str(response.get_data(as_text=True))


def hand_in(web: Web, name: str, **changes: str) -> str:
    """Hand a form in as a browser without JavaScript does; the task's id."""
    response = web.post(f"/{name}", data={**FORMS[name], **changes}, headers=BROWSER)
    assert (response.status_code, response.headers["Location"]) == (303, "/"), response.get_data(as_text=True)
    return str(web.publisher.submitted[-1].task_id)


def finish(web: Web, task_id: str, result: dict[str, Any]) -> None:
    record = web.records.stored[task_id]
    web.records.put(record.to(State.SUCCEEDED, attempts=1, result=result))


@pytest.mark.parametrize(
    ("name", "task", "kwargs"),
    [
        ("send-email", SEND_EMAIL, {name: value for name, value in MAIL.items() if value}),
        ("reverse-text", REVERSE_TEXT, FORMS["reverse-text"]),
        ("analyze-sentiment", ANALYZE_SENTIMENT, FORMS["analyze-sentiment"]),
    ],
)
def test_a_form_is_queued_and_the_page_says_so(web: Web, name: str, task: str, kwargs: dict[str, str]) -> None:
    task_id = hand_in(web, name)
    [job] = web.publisher.submitted
    assert (job.task, job.kwargs) == (task, kwargs)
    shown = page(web)
    assert f"queued: task {task_id}" in shown
    assert f"queued: task {task_id}" not in page(web), "a notice is shown once"
    assert f'data-task="{task_id}"' in page(web), "the list survives a reload"


def test_a_script_is_told_in_json_and_needs_no_second_request(web: Web) -> None:
    response = web.post("/reverse-text", data={"text": "one\r\ntwo"}, headers=SCRIPT)
    assert response.status_code == 202
    answer = response.get_json()
    assert web.publisher.submitted[0].kwargs == {"text": "one\ntwo"}
    assert answer["tasks"] == [
        {"task_id": answer["task_id"], "state": "queued", "over": False, "says": "Reversed text: queued."}
    ]
    assert answer["unfinished"] is True
    assert answer["task_id"] in answer["regions"]["tasks"]
    assert answer["task_id"] in answer["regions"]["reverse-text"]
    assert answer["regions"]["send-email"] == ""


def test_recent_follows_a_task_to_its_end(web: Web) -> None:
    task_id = hand_in(web, "analyze-sentiment")
    assert web.get("/recent").get_json()["unfinished"] is True
    finish(
        web,
        task_id,
        {"label": "positive", "scores": {"compound": 0.5859, "negative": 0.0, "neutral": 0.4, "positive": 0.6}},
    )
    live = web.get("/recent").get_json()
    assert live["unfinished"] is False
    assert live["tasks"][0]["says"] == "Sentiment: succeeded."
    assert "Positive" in live["regions"]["analyze-sentiment"]
    assert "60 % positive" in live["regions"]["analyze-sentiment"]


def test_the_reason_of_a_failure_is_shown_as_text(web: Web) -> None:
    task_id = hand_in(web, "send-email")
    record = web.records.stored[task_id]
    web.records.put(record.to(State.FAILED, attempts=1, reason="550 <b>no</b> such user"))
    live = web.get("/recent").get_json()
    assert live["unfinished"] is False
    assert "550 &lt;b&gt;no&lt;/b&gt; such user" in live["regions"]["send-email"]


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("send-email", {"to": "nobody@nowhere"}, "to"),
        ("send-email", {"to": ""}, "to"),
        ("send-email", {"subject": "two\nlines"}, "subject"),
        ("send-email", {"text": "x" * 50_001}, "text"),
        ("reverse-text", {"text": ""}, "text"),
        ("analyze-sentiment", {"text": "x" * 10_001}, "text"),
    ],
)
def test_what_is_wrong_is_marked_and_nothing_typed_is_lost(
    web: Web, name: str, changes: dict[str, str], field: str
) -> None:
    given = {**FORMS[name], **changes}
    response = web.post(f"/{name}", data=given, headers=BROWSER)
    shown = response.get_data(as_text=True)
    assert response.status_code == 422
    assert web.untouched
    marked = re.findall(r'<(?:input|textarea)\s+id="([^"]+)"[^>]*aria-invalid="true"', shown)
    assert marked == [f"{name}-{field}"]
    [error] = re.findall(rf'<p class="error" id="{name}-{field}-error">([^<]+)</p>', shown)
    assert error.endswith(".")
    assert f'aria-describedby="{name}-{field}-error' in shown
    for typed in given.values():
        assert typed in shown
    document = problem(web.post(f"/{name}", data=given, headers=SCRIPT), 422)
    assert [each["field"] for each in document["errors"]] == [field]


def test_what_was_typed_cannot_leave_its_field(web: Web) -> None:
    evil = '"></textarea><script>alert(1)</script>'
    response = web.post("/send-email", data={**MAIL, "to": evil, "text": evil}, headers=BROWSER)
    assert "<script>alert" not in response.get_data(as_text=True)


def test_a_long_text_is_taken_though_its_form_is_three_times_as_long(web: Web) -> None:
    hand_in(web, "send-email", text="語" * 50_000)
    assert web.publisher.submitted[0].kwargs["text"] == "語" * 50_000


def test_without_the_broker_the_page_says_so_and_keeps_what_was_typed(web: Web) -> None:
    web.publisher.error = BrokerUnavailableError("no answer in time", uncertain=True)
    response = web.post("/send-email", data={**MAIL, "text": "a long letter"}, headers=BROWSER)
    shown = response.get_data(as_text=True)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "did not confirm" in shown
    assert "What you typed is still here" in shown
    assert "a long letter" in shown
    assert "RabbitMQ does not answer" in shown
    document = problem(web.post("/send-email", data=MAIL, headers=SCRIPT), 503)
    web.publisher.error = BrokerUnavailableError("refused")
    refused = problem(web.post("/send-email", data=MAIL, headers=SCRIPT), 503)
    listed = page(web)
    assert f'data-task="{document["task_id"]}"' in listed, "it may be done all the same"
    assert f'data-task="{refused["task_id"]}"' not in listed


def test_without_redis_the_page_says_so_and_takes_tasks(web: Web) -> None:
    followed = hand_in(web, "reverse-text")
    web.records.away = True
    untracked = hand_in(web, "reverse-text")
    shown = page(web)
    assert "Its state cannot be followed" in shown
    assert "States cannot be read just now" in shown
    assert followed in shown
    assert untracked in shown
    assert web.get("/recent").get_json()["unfinished"] is True, "asked again until it is back"


def test_the_list_holds_the_last_ten(web: Web) -> None:
    ids = [hand_in(web, "reverse-text") for _ in range(12)]
    assert re.findall(r'data-task="([^"]+)"', page(web)) == ids[:1:-1]


def test_nobody_sees_the_tasks_of_others(web: Web) -> None:
    task_id = hand_in(web, "reverse-text")
    finish(web, task_id, {"text": "desserts"})
    other = web.client.application.test_client()
    for path in ("/", "/recent"):
        assert "desserts" in web.get(path).get_data(as_text=True)
        assert task_id not in other.get(path).get_data(as_text=True)


def test_a_cookie_that_we_have_not_signed_opens_nothing(web: Web) -> None:
    task_id = hand_in(web, "reverse-text")
    stranger = Web(web.log, secret="another secret")
    stranger.records.stored = web.records.stored
    cookie = web.client.get_cookie("visitor")
    assert cookie is not None
    stranger.client.set_cookie("visitor", cookie.value)
    assert task_id not in page(stranger)


def test_a_cookie_outlives_a_change_of_the_key(web: Web) -> None:
    task_id = hand_in(web, "reverse-text")
    after = Web(web.log, secret="another secret", secret_key_previous="server's secret")
    after.records.stored = web.records.stored
    cookie = web.client.get_cookie("visitor")
    assert cookie is not None
    after.client.set_cookie("visitor", cookie.value)
    assert task_id in page(after)
    hand_in(after, "reverse-text")
    signed = after.client.get_cookie("visitor")
    assert signed is not None
    web.client.set_cookie("visitor", signed.value)
    assert task_id not in page(web), "signed with the new key"


def test_the_cookie_is_kept_from_scripts_and_from_other_sites(web: Web) -> None:
    for scheme, secure in (("http", False), ("https", True)):
        headers = {**BROWSER, "X-Forwarded-Proto": scheme}
        cookie = web.post("/reverse-text", data={"text": "x"}, headers=headers).headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert ("Secure" in cookie) is secure
    assert "Set-Cookie" not in web.get("/recent").headers, "polls must not undo what a POST adds meanwhile"


def test_without_a_key_for_the_cookies_nothing_starts() -> None:
    with pytest.raises(SystemExit, match=r"^MSG_SECRET_KEY: .*playbook.*$"):
        create_app(Settings())


# --- Other sites ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://localhost:8080"},
        {"Origin": "null"},
        {"Origin": "http://["},
    ],
)
@pytest.mark.parametrize("path", ["/send-email", "/api/v1/tasks/send-email"])
def test_other_sites_can_make_a_browser_do_nothing(web: Web, path: str, headers: dict[str, str]) -> None:
    problem(web.post(path, data=MAIL, headers=headers), 403)
    assert web.untouched


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy.example"},
        {"Origin": "http://localhost"},
        {"Origin": "https://LOCALHOST"},
    ],
)
def test_our_own_pages_and_programs_are_served(web: Web, headers: dict[str, str]) -> None:
    assert web.post("/reverse-text", data={"text": "x"}, headers=headers).status_code == 202


def test_reading_is_free_for_all(web: Web) -> None:
    assert web.get("/", headers={"Sec-Fetch-Site": "cross-site", **BROWSER}).status_code == 200


# --- The panel --------------------------------------------------------------------------------------------------------


def test_the_panel_shows_queues_and_the_last_times_and_nothing_else_of_the_log(web: Web) -> None:
    times = [f"2026-11-{day:02}T06:45:10.123+00:00" for day in range(1, 29)]
    web.log.write_text("cut off\n" * 2000 + "\n".join(times) + "\nsecret@example.com\n")
    shown = page(web)
    for queue in ("email", "compute", "dead"):
        assert f'<th scope="row">{queue}</th><td>3</td>' in shown
    assert re.findall(r'datetime="(2026-11-\d\d)T06:45:10', shown) == ["2026-11-28", "2026-11-27", "2026-11-26"]
    assert "secret@example.com" not in shown


def test_polls_ask_the_broker_once_in_a_while(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    depths = web.publisher.depths
    monkeypatch.setattr(web.publisher, "depths", lambda queues: asked.append(1) or depths(queues))
    for _ in range(20):
        web.get("/recent")
    assert len(asked) == 1
    now = time.monotonic()
    monkeypatch.setattr(panel.time, "monotonic", lambda: now + panel.FRESH + 1)
    web.get("/recent")
    assert len(asked) == 2


def test_while_one_waits_for_a_silent_broker_others_see_what_was_before(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = web.client.application.extensions["messaging"]
    watched = panel.Panel()
    before = watched.look(parts)
    asked, answer = threading.Event(), threading.Event()

    def depths(_queues: Sequence[str]) -> dict[str, Depth]:
        asked.set()
        assert answer.wait(10)
        return {}

    monkeypatch.setattr(web.publisher, "depths", depths)
    monkeypatch.setattr(panel, "FRESH", 0.0)
    waiting = threading.Thread(target=watched.look, args=[parts])
    waiting.start()
    assert asked.wait(10)
    assert watched.look(parts) is before
    answer.set()
    waiting.join()
    assert watched.look(parts).queues == {}


def test_a_log_that_is_gone_does_not_take_the_page_with_it(web: Web) -> None:
    web.log.unlink()
    assert "The log cannot be read" in page(web)


# --- Mail -------------------------------------------------------------------------------------------------------------


class Post:
    """A mailbox, and an application that reads it."""

    def __init__(self, tmp_path: Path) -> None:
        log = tmp_path / "times.log"
        log.touch()
        self.mailbox = Mailbox(tmp_path / "mailbox", keep=10, max_bytes=1_000_000)
        self.web = Web(log, mailbox_path=self.mailbox.path)

    def deliver(self, **changes: str) -> str:
        """Hand a mail in and deliver it; its task's id."""
        task_id = hand_in(self.web, "send-email", **changes)
        mail = self.web.publisher.submitted[-1].kwargs
        message = build(task_id=task_id, sender="us@localhost.localdomain", date=datetime.now(UTC), **mail)
        path = self.mailbox.store("us@localhost.localdomain", [mail["to"]], bytes(message))
        finish(self.web, task_id, {"message_id": message.message_id, "reply": f"250 stored as {path.name}"})
        return task_id


@pytest.fixture
def post(tmp_path: Path) -> Post:
    return Post(tmp_path)


def test_a_visitor_opens_his_mail(post: Post) -> None:
    task_id = post.deliver(subject="Grüße <3", text="Dear Ada,\n\nall well?")
    assert f'href="/mail/{task_id}"' in page(post.web)
    shown = page(post.web, f"/mail/{task_id}")
    for part in (
        "us@localhost.localdomain",
        "ada@example.com",
        "Grüße &lt;3",
        f"&lt;{task_id}@",
        "Dear Ada,\n\nall well?",
    ):
        assert part in shown
    assert "<iframe" not in shown, "it has no HTML part"
    page(post.web, f"/mail/{task_id}/html", 404)


def test_html_in_a_mail_is_contained(post: Post) -> None:
    evil = '<script>alert(1)</script><img src="https://evil.example/x.png"><b>hi</b>'
    sandbox = "allow-popups allow-popups-to-escape-sandbox"
    task_id = post.deliver(html=evil)
    around = post.web.get(f"/mail/{task_id}", headers=BROWSER)
    assert "alert(1)" not in around.get_data(as_text=True)
    assert f'<iframe sandbox="{sandbox}" src="/mail/{task_id}/html"' in around.get_data(as_text=True)
    assert "frame-src 'self'" in around.headers["Content-Security-Policy"]
    inside = post.web.get(f"/mail/{task_id}/html", headers=BROWSER)
    assert evil in inside.get_data(as_text=True)
    policy = {rule.strip() for rule in inside.headers["Content-Security-Policy"].split(";")}
    assert {f"sandbox {sandbox}", "default-src 'none'", "img-src data:", "form-action 'none'"} <= policy
    assert not any(rule.startswith("script-src") for rule in policy)


def test_mail_of_others_is_as_unknown_as_mail_that_never_was(post: Post) -> None:
    task_id = post.deliver(html="<p>private</p>")
    other = post.web.client.application.test_client()
    for path in ("", "/html"):
        theirs = other.get(f"/mail/{task_id}{path}", headers=SCRIPT)
        nobodys = other.get(f"/mail/00000000-0000-4000-8000-000000000001{path}", headers=SCRIPT)
        assert problem(theirs, 404) == problem(nobodys, 404)


def test_mail_that_is_not_there_is_explained(post: Post) -> None:
    waiting = hand_in(post.web, "send-email")
    assert "not yet" in page(post.web, f"/mail/{waiting}", 404)
    text = hand_in(post.web, "reverse-text")
    finish(post.web, text, {"text": "x"})
    page(post.web, f"/mail/{text}", 404)
    delivered = post.deliver()
    for path in (post.mailbox.path / "new").iterdir():
        path.unlink()
    assert "is no longer here" in page(post.web, f"/mail/{delivered}", 404)
    post.web.records.away = True
    assert "cannot be read just now" in page(post.web, f"/mail/{delivered}", 503)


def test_through_a_relay_the_page_sends_the_fixed_text_and_shows_no_mail(tmp_path: Path) -> None:
    log = tmp_path / "times.log"
    log.touch()
    relayed = Web(log, mail_embedded=False, sendmail_text="the fixed text")
    assert 'id="send-email-to"' in page(relayed)
    assert 'id="send-email-text"' not in page(relayed)
    task_id = hand_in(relayed, "send-email", to="ada@gmail.com", text="buy my pills", html="<b>pills</b>")
    assert relayed.publisher.submitted[0].kwargs == {
        "to": "ada@gmail.com",
        "subject": "A message for you",
        "text": "the fixed text",
    }
    finish(relayed, task_id, {"message_id": "<x@y>", "reply": "250 ok"})
    assert "/mail/" not in page(relayed)
    page(relayed, f"/mail/{task_id}", 404)


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "status"), [("/nope", 404), ("/?sendmail=bad", 400), ("/mail/x", 404)])
def test_people_get_errors_as_pages_and_programs_as_documents(web: Web, path: str, status: int) -> None:
    shown = page(web, path, status)
    assert 'href="/"' in shown
    for accept in ("*/*", "application/json", "application/problem+json", ""):
        problem(web.get(path, headers={"Accept": accept}), status)
    problem(web.get("/api/v1/tasks/nope", headers=BROWSER), 404)


def test_a_request_that_acts_answers_in_json_even_to_people(web: Web) -> None:
    assert web.get("/?sendmail=ada@example.com", headers=BROWSER).get_json()["state"] == "queued"


def test_another_release_has_other_addresses_for_its_files(web: Web) -> None:
    shown = page(web)
    for name in ("style.css", "page.js", "icon.svg"):
        [address] = re.findall(rf'"(/static/{name}\?v=[0-9a-f]{{8}})"', shown)
        assert web.get(address).status_code == 200
    assert not re.findall(r"\sstyle=|\son\w+=|<script>|<style", shown), "inline, and the policy forbids it"


def test_a_task_whose_record_has_expired_is_said_to_be_unknown(web: Web) -> None:
    hand_in(web, "reverse-text")
    web.records.stored.clear()
    assert "Nothing is recorded of it" in page(web)
    assert web.get("/recent").get_json()["unfinished"] is False


def test_what_the_broker_did_not_confirm_is_not_waited_for(web: Web) -> None:
    task_id = hand_in(web, "reverse-text")
    record: Record = web.records.stored[task_id]
    web.records.stored[task_id] = replace(record, state=State.FAILED, reason="not confirmed")
    assert web.get("/recent").get_json()["unfinished"] is False


def form_key(page: str, name: str) -> str:
    """The key that the form of a card carries."""
    found = re.search(rf'action="/{name}">\s*<input type="hidden" name="key" value="([^"]+)"', page)
    assert found, page
    return found.group(1)


def test_sending_a_form_again_after_an_error_is_one_mail(web: Web) -> None:
    mail = {"to": "me@example.com", "subject": "s", "text": "t", "key": form_key(web.get("/").text, "send-email")}
    web.publisher.error = BrokerUnavailableError("no answer", uncertain=True)
    page = web.post("/send-email", data=mail, headers={"Accept": "text/html"})
    assert page.status_code == 503
    assert form_key(page.text, "send-email") == mail["key"]
    web.publisher.error = None
    for _ in range(2):
        assert web.post("/send-email", data=mail).status_code in (202, 303)
    assert len({job.task_id for job in web.publisher.submitted}) == 1
    web.post("/send-email", data={**mail, "text": "another"})
    assert len({job.task_id for job in web.publisher.submitted}) == 2
    assert form_key(web.get("/").text, "send-email") != mail["key"]


def test_a_form_with_a_thousand_fields_costs_nothing(web: Web) -> None:
    response = web.post("/reverse-text", data={f"f{number}": "x" for number in range(900)})
    assert response.status_code == 422
    assert len(response.get_json()["errors"]) == 1


def test_forms_allow_what_the_models_take(web: Web) -> None:
    page = web.get("/").text
    for limit in ("254", "200", "50000", "100000", "2000", "500"):
        assert f'maxlength="{limit}"' in page, limit
