"""The operators' page, with stand-ins for the broker and Redis."""

import html
import re
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import amqp
import pytest

from fakes import FakeRedis
from messaging import keys, presence, publisher, store
from messaging.history import INDEX_KEY
from messaging.job import SEND_EMAIL, Job
from messaging.publisher import BrokerUnavailableError, Depth, UnroutableError
from messaging.results import Record, State
from messaging.web import operators, plots
from test_dead import Broker
from web_client import OPERATOR_KEY, Web, problem

PASSWORD = "the-password-of-flower"
ADDRESS = "somebody-nobody-shall-see@example.com"
RELAY = {"mail_embedded": False, "smtp_host": "relay.example.com", "mail_from": "us@example.com"}


def login(password: str = PASSWORD, user: str = "operator") -> dict[str, str]:
    encoded = b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {encoded}", "Accept": "text/html"}


def letter(task_id: str, **kwargs: Any) -> amqp.Message:
    job = Job(task=SEND_EMAIL, kwargs={"to": ADDRESS, **kwargs}, task_id=task_id, queue="email")
    return amqp.Message(job.body(), application_headers=job.headers())


def died(message: amqp.Message, at: datetime) -> amqp.Message:
    message.headers["x-death"] = [{"reason": "rejected", "time": at}]
    return message


@pytest.fixture(autouse=True)
def _nobody_has_guessed() -> None:
    operators._guesses.entries.clear()


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker()
    monkeypatch.setattr(publisher, "connect", lambda *_: broker)
    return broker


@pytest.fixture
def web(tmp_path: Path, broker: Broker) -> Web:
    return make(tmp_path)


def make(tmp_path: Path, **settings: Any) -> Web:
    log = tmp_path / "times.log"
    log.touch()
    return Web(log, flower_password=PASSWORD, **settings)


def page(web: Web, path: str = "/operators/") -> str:
    response = web.get(path, headers=login())
    assert response.status_code == 200, response.get_data(as_text=True)
    assert response.mimetype == "text/html"
    return html.unescape(response.get_data(as_text=True))


def token(shown: str) -> str:
    found = re.search(r'name="token" value="([^"]+)"', shown)
    assert found
    return found[1]


def warnings(shown: str) -> list[str]:
    return re.findall(r'<p class="warning">([^<]*)</p>', shown)


def tile(shown: str, title: str) -> str:
    found = re.search(rf"<dt>{title}</dt>\s*<dd>(.*?)</dd>", shown, re.DOTALL)
    assert found
    return " ".join(re.sub(r"<[^>]*>", " ", found[1]).split())


def at_the_door(web: Web, **headers: str) -> dict[str, Any]:
    response = web.get("/operators/", headers={"Accept": "application/json", **headers})
    assert response.headers["WWW-Authenticate"] == 'Basic realm="operators", charset="UTF-8"'
    return problem(response, 401)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Basic",
        "Basic !!!",
        f"Bearer {OPERATOR_KEY}",
        f"Bearer {PASSWORD}",
        login("")["Authorization"],
        login("wrong")["Authorization"],
        login(PASSWORD + "x")["Authorization"],
        login(PASSWORD, "Operator")["Authorization"],
        login(PASSWORD, "operator:")["Authorization"],
    ],
)
def test_without_the_password_nobody_gets_in(web: Web, broker: Broker, authorization: str | None) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    if authorization == f"Bearer {PASSWORD}":
        problem(web.get("/operators/", headers={**headers, "Accept": "application/json"}), 401)
    else:
        at_the_door(web, **headers)
    broker.letters = [letter("a")]
    refused = web.post("/operators/dead", data={"task_id": "a", "do": "purge"}, headers=headers)
    assert refused.status_code == 401
    assert len(broker.letters) == 1


def test_without_a_password_in_the_settings_there_is_no_page(tmp_path: Path) -> None:
    log = tmp_path / "times.log"
    log.touch()
    problem(Web(log).get("/operators/", headers={**login(""), "Accept": "application/json"}), 404)


def test_with_the_password_the_page_is_there_and_is_kept_nowhere(web: Web) -> None:
    response = web.get("/operators/", headers=login())
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    assert PASSWORD not in response.get_data(as_text=True)
    assert web.get("/operators", headers=login()).headers["Location"].endswith("/operators/")


def test_another_user_can_be_set(tmp_path: Path, broker: Broker) -> None:
    web = make(tmp_path, flower_user="ada")
    assert web.get("/operators/", headers=login(user="ada")).status_code == 200
    assert web.get("/operators/", headers=login()).status_code == 401


def test_who_guesses_has_to_wait_and_others_have_not(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(operators.GUESSES):
        at_the_door(web, **login("wrong") | {"Accept": "application/json"})
    refused = web.get("/operators/", headers={**login(), "Accept": "application/json"})
    problem(refused, 429)
    assert 0 < int(refused.headers["Retry-After"]) <= operators.GUESSES_EVERY
    other = web.get("/operators/", headers={**login(), "X-Forwarded-For": "203.0.113.9"})
    assert other.status_code == 200
    later = time.time() + operators.GUESSES_EVERY + 1
    monkeypatch.setattr("messaging.windows.time.time", lambda: later)
    assert web.get("/operators/", headers=login()).status_code == 200


def test_who_knows_the_password_may_look_as_often_as_he_likes(web: Web) -> None:
    assert {web.get("/operators/", headers=login()).status_code for _ in range(operators.GUESSES + 5)} == {200}


def test_guesses_take_no_more_memory_than_so_much(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "CLIENTS_KNOWN", 20)
    for number in range(50):
        web.get("/operators/", headers={**login("wrong"), "X-Forwarded-For": f"198.18.0.{number}"})
    assert len(operators._guesses.entries) <= 21


def test_a_quiet_service_is_well(web: Web) -> None:
    shown = page(web)
    assert "No worker has said that it is there" in warnings(shown)[0]
    presence.tell(cast("Any", web.redis), "email-1@vm1")
    shown = page(web)
    assert "Everything works." in shown
    assert warnings(shown) == []
    assert "Nothing yet" in shown
    assert tile(shown, "Waiting for a worker") == "6"
    assert tile(shown, "Oldest mail").startswith("none")
    assert "email-1@vm1" in shown
    assert "None apply while mail stays on the host." in shown


def sampled(web: Web, broker: Broker) -> None:
    """A day with a mail that waits and one that failed, and a dead letter."""
    now = time.time()
    for task_id, state, reason in (
        ("0b7fbb1a-0000-4000-8000-000000000001", State.RETRYING, "451 later"),
        ("0b7fbb1a-0000-4000-8000-000000000002", State.FAILED, f"550 <b>{ADDRESS}</b> is unknown"),
    ):
        web.records.put(Record(task_id, SEND_EMAIL, state, now - 7200, updated_at=now - 20, reason=reason))
        web.redis.zadd(INDEX_KEY, {task_id: now - 7200})
    broker.letters = [letter("0b7fbb1a-0000-4000-8000-000000000003")]
    assert history(web).sample(now)


def history(web: Web) -> Any:
    return web.client.application.extensions["messaging"].history


def test_what_happened_is_shown_and_addresses_are_masked(web: Web, broker: Broker) -> None:
    sampled(web, broker)
    shown = page(web)
    assert tile(shown, "Oldest mail") == "2 h retrying"
    assert tile(shown, "Failed in an hour") == "1"
    assert "550 <b>s***@example.com</b> is unknown" in shown
    assert "Email to s***@example.com" in shown
    assert ADDRESS not in shown
    raw = web.get("/operators/", headers=login()).get_data(as_text=True)
    assert "550 &lt;b&gt;" in raw, "what a server said is text"
    assert len(re.findall(r"<figure", shown)) == 3
    assert 'aria-label="Age of the oldest mail: oldest mail at most 2 h at' in shown
    assert "dead letters: look why" in warnings(shown)[-1]


def test_a_sample_of_a_host_whose_clock_is_ahead_is_drawn(web: Web, broker: Broker) -> None:
    now = time.time()
    web.redis.zadd(INDEX_KEY, {"one": now + 60})
    assert history(web).sample(now + 120)
    assert 'aria-label="Tasks a minute: accepted at most 1 at' in page(web)


def test_what_could_not_be_counted_is_no_nought(web: Web, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("messaging.history.LOOK_AT", 2)
    sampled(web, broker)
    shown = page(web)
    assert tile(shown, "Failed in an hour") == "not known"
    assert re.search(
        r'aria-label="Tasks a minute: accepted at most 0;\s*succeeded not known;\s*failed not known', shown
    )


@pytest.mark.parametrize(
    ("query", "title"),
    [("1", "The last hour"), ("24", "The last 24 hours"), ("7", "The last 6 hours"), ("x", "The last 6 hours")],
)
def test_the_hours_are_chosen(web: Web, broker: Broker, query: str, title: str) -> None:
    sampled(web, broker)
    assert title in page(web, f"/operators/?hours={query}")


def test_why_a_letter_died_is_what_its_record_says(web: Web, broker: Broker) -> None:
    broker.letters = [letter("a"), letter("b")]
    web.records.put(Record("a", SEND_EMAIL, State.FAILED, 1.0, reason="not a message"))
    shown = page(web)
    assert "not a message" in shown
    assert "not known" in shown


def test_no_more_letters_are_read_than_are_shown(web: Web, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.letters = [letter(str(number)) for number in range(operators.LETTERS_SHOWN + 10)]
    read = []

    def get(*_: object) -> object:
        read.append(broker.letters[len(read)])
        return read[-1]

    monkeypatch.setattr(broker, "get", get)
    assert page(web).count("For good") == operators.LETTERS_SHOWN
    assert len(read) == operators.LETTERS_SHOWN


def test_without_redis_the_rest_is_there(web: Web, broker: Broker) -> None:
    sampled(web, broker)
    web.redis.away = web.records.away = True
    shown = page(web)
    assert warnings(shown)[0].startswith("Redis does not answer")
    assert tile(shown, "Waiting for a worker") == "6"
    assert tile(shown, "Oldest mail") == tile(shown, "Failed in an hour") == "not known"
    assert "Email to s***@example.com" in shown


def test_without_rabbitmq_the_rest_is_there(web: Web, broker: Broker) -> None:
    sampled(web, broker)
    web.publisher.error = BrokerUnavailableError("away")
    shown = page(web)
    assert warnings(shown)[0].startswith("RabbitMQ does not answer")
    assert tile(shown, "Waiting for a worker") == tile(shown, "Dead letters") == "not known"
    assert tile(shown, "Oldest mail") == "2 h retrying"


def test_a_missing_queue_is_named_as_such(web: Web) -> None:
    web.publisher.error = UnroutableError("no queue")
    assert "run the playbook" in warnings(page(web))[0]


def test_workers_that_are_missed_and_a_relay_that_refuses_are_said(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.redis.zadd(presence.KEY, {"email-1@vm1": time.time() - 300})
    web.redis.values[store.SMTP_PROBLEM_KEY] = f"535 wrong password for {ADDRESS}"
    depths = {"messages": 1, "consumers": 0}
    monkeypatch.setattr(web.publisher, "depths", lambda queues: dict.fromkeys(queues, Depth(**depths)))
    said = " ".join(warnings(page(web)))
    assert "535 wrong password for s***@example.com" in said
    assert "No worker reads the queue email." in said
    assert "The worker email-1@vm1 has not been heard of for 5 min." in said


def test_budgets_are_shown_with_what_is_used(tmp_path: Path, broker: Broker) -> None:
    web = make(tmp_path, **RELAY, budget_day="2/day", budget_client="5/day")
    key = keys.add(tmp_path / "keys.json", "shop", keys.USUAL_SCOPES, "7/hour")
    for headers in ({}, {}, {"Authorization": f"Bearer {key}"}):
        assert web.get("/?sendmail=me@example.com", headers=headers).status_code == 202
    shown = page(web)
    rows = [" ".join(re.sub(r"<[^>]*>", " ", row).split()) for row in re.findall(r"<tr>(.*?)</tr>", shown, re.DOTALL)]
    assert "budget_day 2, used up 2 in 1 d" in rows
    assert "key shop 1 7 in 1 h" in rows
    web.budgets.away = True
    assert "Redis does not answer" in warnings(page(web))[0]


def act(web: Web, **form: str) -> Any:
    return web.post("/operators/dead", data=form, headers=login())


def test_a_letter_is_queued_again(web: Web, broker: Broker) -> None:
    broker.letters = [letter("a", subject="Hello", text="x"), letter("b")]
    response = act(web, token=token(page(web)), task_id="a", do="replay")
    assert (response.status_code, response.headers["Location"]) == (303, "/operators/")
    assert [job.task_id for job in web.publisher.submitted] == ["a"]
    assert len(broker.letters) == 1
    assert "1 dead letter was queued again." in page(web)


def test_letters_are_removed_one_or_all(web: Web, broker: Broker) -> None:
    broker.letters = [letter("a"), letter("b"), letter("c")]
    act(web, token=token(page(web)), task_id="b", do="purge")
    shown = page(web)
    assert "1 dead letter was removed for good." in shown
    assert len(broker.letters) == 2
    act(web, token=token(shown), all="yes", do="purge")
    assert broker.letters == []
    assert "2 dead letters were removed for good." in page(web)
    assert not web.publisher.submitted


@pytest.mark.parametrize("what", ["purge", "replay"])
def test_all_are_those_that_could_be_seen(web: Web, broker: Broker, what: str) -> None:
    now = datetime.now(UTC)
    broker.letters = [letter("a"), died(letter("b"), now - timedelta(minutes=1))]
    shown = page(web)
    broker.letters += [died(letter("c"), now + timedelta(minutes=1)), died(letter("d"), now + timedelta(minutes=1))]
    act(web, token=token(shown), all="yes", do=what)
    assert "2 dead letters were" in (after := page(web))
    assert "There are more" in after
    assert len(broker.letters) == 2
    act(web, token=token(shown), task_id="d", do=what)
    assert len(broker.letters) == 1, "one that is named was seen"


def test_what_is_gone_already_is_said(web: Web, broker: Broker) -> None:
    broker.letters = [letter("a")]
    form = {"token": token(page(web)), "task_id": "a", "do": "purge"}
    act(web, **form)
    page(web)
    act(web, **form)
    assert "no longer among the dead letters" in page(web)


def test_that_there_are_more_letters_than_one_request_takes_is_said(
    web: Web, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "ACT_ON", 2)
    broker.letters = [letter("a"), letter("b"), letter("c")]
    act(web, token=token(page(web)), all="yes", do="purge")
    shown = page(web)
    assert "2 dead letters were removed for good. There are more: press again, or use messagingctl dead purge" in shown
    assert len(broker.letters) == 1
    act(web, token=token(shown), all="yes", do="purge")
    assert "1 dead letter was removed for good.<" in page(web)


def test_the_journal_names_some_and_counts_the_rest(
    web: Web, broker: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "NAMED", 2)
    broker.letters = [letter(each) for each in "abcde"]
    form = {"token": token(page(web)), "do": "purge"}
    act(web, **form, task_id="a")
    act(web, **form, all="yes")
    said = [record.getMessage() for record in caplog.records if "an operator said" in record.getMessage()]
    assert [each.split("purge: ")[1] for each in said] == ["a", "b, c and 2 more"]


def test_a_look_at_letters_has_one_end(web: Web, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "LOOK_WITHIN", 0)
    depths = dict.fromkeys(history(web)._depths(), Depth(3, 1))
    monkeypatch.setattr(web.publisher, "depths", lambda _: depths)
    broker.letters = [letter("a"), letter("b"), letter("c")]
    assert "The oldest 1 of 3." in page(web)


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"token": "", "task_id": "a", "do": "purge"}, 403),
        ({"token": "x.y.z", "task_id": "a", "do": "purge"}, 403),
        ({"task_id": "a", "do": "burn"}, 400),
        ({"do": "purge"}, 400),
        ({"task_id": "a", "all": "yes", "do": "purge"}, 400),
    ],
)
def test_what_is_not_our_form_does_nothing(web: Web, broker: Broker, form: dict[str, str], status: int) -> None:
    broker.letters = [letter("a")]
    assert act(web, **{"token": token(page(web)), **form}).status_code == status
    assert len(broker.letters) == 1


def test_another_sites_page_cannot_send_it(web: Web, broker: Broker) -> None:
    """A browser adds the password by itself."""
    broker.letters = [letter("a")]
    form = {"token": token(page(web)), "task_id": "a", "do": "purge"}
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        assert web.post("/operators/dead", data=form, headers={**login(), **headers}).status_code == 403
    assert len(broker.letters) == 1
    assert web.get("/operators/dead", headers=login()).status_code == 405


def test_a_form_gets_old(web: Web, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.letters = [letter("a")]
    form = {"token": token(page(web)), "task_id": "a", "do": "purge"}
    later = time.time() + operators.FORM_EXPIRES + 5
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: later)
    assert act(web, **form).status_code == 403
    assert len(broker.letters) == 1


def test_a_form_from_before_the_secrets_were_changed_is_good(tmp_path: Path, broker: Broker) -> None:
    broker.letters = [letter("a")]
    form = {"token": token(page(make(tmp_path))), "task_id": "a", "do": "purge"}
    after = make(tmp_path, secret="another one", secret_key_previous="server's secret")
    assert act(after, **form).status_code == 303
    other = make(tmp_path, secret="another one")
    assert act(other, **form).status_code == 403


def test_without_redis_nothing_is_queued_again(web: Web, broker: Broker) -> None:
    broker.letters = [letter("a")]
    form = {"token": token(page(web)), "task_id": "a", "do": "replay"}
    web.records.away = True
    assert act(web, **form).status_code == 503
    assert len(broker.letters) == 1


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "60 min"), (5400, "1.5 h"), (86400, "1 d"), (200_000, "2.3 d")],
)
def test_lengths_of_time(seconds: float, said: str) -> None:
    assert plots.span(seconds) == said


def test_a_plot_has_gaps_where_nothing_is_known_and_shows_the_highest() -> None:
    times = [60, 120, 180, 360]
    drawn = plots.plot("Waiting", times, {"email": [1, None, 30, 4]}, 0, 600, plots.COUNTS)
    [line] = drawn.lines
    assert (line.now, line.most, line.most_at, drawn.top) == (4, 30, 180, 50)
    assert line.path.count("M") == 3, "from what is not known no line leads on"
    assert drawn.gaps == [(60, 60), (180, 120), (360, 240)]
    day = plots.plot(
        "Waiting",
        [60 * n for n in range(1, 1441)],
        {"x": [float(n == 700) * 9 for n in range(1, 1441)]},
        0,
        86400,
        plots.COUNTS,
    )
    assert len(day.lines[0].path) < 4000
    assert day.lines[0].most == 9
    assert f" {plots.HEIGHT * 0.1:.1f}" in day.lines[0].path, "one minute in a day is seen"


def test_nothing_known_is_a_plot_too() -> None:
    drawn = plots.plot("Age", [60], {"x": [None]}, 0, 3600, plots.LENGTHS)
    assert (drawn.lines[0].path, drawn.lines[0].most, drawn.top) == ("", None, 60)
    assert drawn.gaps == [(0, plots.WIDTH)]


def test_the_stand_in_counts_like_redis() -> None:
    redis = FakeRedis()
    redis.zadd("x", {"a": 1.0, "b": 2.0, "c": 3.0})
    assert redis.zcount("x", "(1.0", 3) == 2
    assert redis.zcount("x", 1, "(3.0") == 2
