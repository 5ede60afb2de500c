"""Budgets on a host that has a relay, and none on one whose mail stays there.

The relay is a stand-in on the host itself (tests/faults/relay.py). Clients have addresses of their own.
"""

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from testinfra.host import Host

from clients import Ask, post, send
from faulty import RELAY_CERTIFICATE, RELAY_USERNAME, in_release, put, relayed, start_relay, stop_relay
from probe import (
    Response,
    flower_login,
    ready,
    request,
    secrets_on_controller,
    unique_address,
    wait_for_state,
    wait_until,
    workers,
)

ENV = "/etc/messaging-system/messaging.env"
PASSWORD = "right-" + uuid.uuid4().hex
SETTINGS = {
    "MAIL_EMBEDDED": "false",
    "MAIL_FROM": "service@example.com",
    "SMTP_HOST": "localhost",
    "SMTP_PORT": "2587",
    "SMTP_SECURITY": "starttls",
    "SMTP_USERNAME": RELAY_USERNAME,
    "SMTP_CA_FILE": RELAY_CERTIFICATE,
    "BUDGET_CLIENT": "3/minute; 50/day",
    "BUDGET_RECIPIENT": "2/hour",
    "BUDGET_DAY": "8/day",
    "BUDGET_CLIENT_TASKS": "5/minute",
    "BUDGET_TASKS_DAY": "100/day",
    "BUDGET_KEY": "6/minute",
    "BUDGET_KEY_ALONE": "2/minute",
}
REDIS = """
import json
from messaging import store
from messaging.settings import load
redis = store.connect(load(), 2)
"""
FORGET = f"{REDIS}[redis.delete(key) for key in redis.scan_iter('messaging:budget:*')]"
STORED = f"{REDIS}print(json.dumps({{key: redis.lrange(key, 0, -1) for key in redis.scan_iter('messaging:budget:*')}}))"


@contextmanager
def reconfigured(host: Host, **settings: str) -> Iterator[None]:
    """The web application and the workers with other settings; of a setting that is there twice the last one counts."""
    lines = "".join(f'MSG_{name}="{value}"\n' for name, value in settings.items())
    before = host.check_output("cat %s", ENV) + "\n"
    put(host, before + lines, ENV)
    try:
        _restart(host)
        yield
    finally:
        put(host, before, ENV)
        _restart(host)


def _restart(host: Host) -> None:
    host.check_output("systemctl restart messaging-web " + " ".join(workers(host)))
    wait_until(lambda: ready(host), "ready with other settings", 60)


@pytest.fixture(scope="module")
def provider(host: Host) -> Iterator[None]:
    """Mail leaves the host."""
    secret = "/etc/messaging-system/current/secrets/smtp_password"
    start_relay(host, PASSWORD)
    host.check_output("install -m 0640 -o root -g messaging /dev/null %s", secret)
    put(host, PASSWORD, secret)
    with reconfigured(host, **SETTINGS):
        yield
        host.check_output("rm -f %s", secret)
    stop_relay(host)


@pytest.fixture
def relay(host: Host, provider: None) -> None:
    """Mail leaves the host, and nobody has asked for any yet."""
    in_release(host, FORGET)


@pytest.fixture
def key(host: Host) -> Iterator[dict[str, str]]:
    """The header with an API key."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    made = host.check_output("messagingctl key add %s --scope mail --scope tasks", name)
    text = next(word for word in made.split() if word.startswith("msk_"))
    yield {"Authorization": f"Bearer {text}"}
    host.check_output("messagingctl key revoke %s", name)


def mail(to: str, client: str) -> Ask:
    return Ask(f"/?sendmail={to}", client)


def statuses(answers: list[Response]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


def refused(answer: Response, budget: str) -> None:
    assert answer.status == 429, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["budget"] == budget, answer
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["cache-control"] == "no-store"


def counted(host: Host, budget: str) -> float:
    """How often a budget has refused somebody, as Prometheus is told."""
    metrics = host.check_output(
        "python3 -c %s", "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9180/metrics').read().decode())"
    )
    [line] = [each for each in metrics.splitlines() if each.startswith(f'messaging_refused_total{{budget="{budget}"}}')]
    return float(line.split()[-1])


def test_while_mail_stays_on_the_host_nobody_is_throttled(host: Host) -> None:
    answers = send(host, [mail("me@example.com", "127.0.1.1") for _ in range(80)], at_once=8)
    assert statuses(answers) == {202: 80}


def test_a_client(host: Host, relay: None) -> None:
    before = counted(host, "client")
    addresses = [unique_address() for _ in range(20)]
    answers = send(host, [mail(address, "127.0.2.1") for address in addresses], at_once=10)
    assert statuses(answers) == {202: 3, 429: 17}, "all at once, and not one too many"
    for answer in answers:
        if answer.status == 429:
            refused(answer, "client")
            assert int(answer.headers["retry-after"]) <= 60
    assert counted(host, "client") == before + 17
    [other, forged] = send(
        host,
        [
            mail(unique_address(), "127.0.2.2"),
            Ask(f"/?sendmail={unique_address()}", "127.0.2.1", headers={"X-Forwarded-For": "203.0.113.1"}),
        ],
    )
    assert other.status == 202
    refused(forged, "client")
    for address, answer in zip(addresses, answers, strict=True):
        if answer.status == 202:
            wait_for_state(host, answer.json()["task_id"])
        assert len(relayed(host, address)) == (answer.status == 202)


def test_a_recipient(host: Host, relay: None) -> None:
    box = f"victim{uuid.uuid4().hex[:8]}"
    written = [f"{box}@gmail.com", f"{box.capitalize()}+1@gmail.com", f"{box[:3]}.{box[3:]}@googlemail.com"]
    answers = send(host, [mail(written[n % 3], f"127.0.3.{n + 1}") for n in range(9)], at_once=9)
    assert statuses(answers) == {202: 2, 429: 7}
    for answer in answers:
        if answer.status == 429:
            refused(answer, "recipient")
            assert box not in answer.body.lower()
    assert send(host, [mail(unique_address(), "127.0.3.1")])[0].status == 202


def test_a_day(host: Host, relay: None) -> None:
    answers = send(host, [mail(unique_address(), f"127.0.4.{n + 1}") for n in range(30)], at_once=10)
    assert statuses(answers) == {202: 8, 429: 22}
    late = send(host, [mail(unique_address(), "127.0.4.99")])[0]
    refused(late, "day")
    assert 86000 < int(late.headers["retry-after"]) <= 86400
    page = send(host, [Ask(f"/?sendmail={unique_address()}", "127.0.4.98", headers={"Accept": "text/html"})])[0]
    assert (page.status, page.headers["content-type"]) == (429, "text/html; charset=utf-8")
    assert "All the mail that strangers may send in a day" in page.body
    operators = request(host, "/operators/", headers=flower_login(secrets_on_controller()["flower_password"]))
    assert "8, used up" in operators.body, "operators see it"


def test_other_tasks(host: Host, relay: None) -> None:
    lines = host.check_output("wc -l < /var/log/messaging_system.log")
    answers = send(host, [Ask("/?talktome", "127.0.5.1") for _ in range(12)], at_once=6)
    assert statuses(answers) == {200: 5, 429: 7}
    assert int(host.check_output("wc -l < /var/log/messaging_system.log")) == int(lines) + 5
    refused(send(host, [post("/tasks/reverse-text", {"text": "abc"}, "127.0.5.1")])[0], "client_tasks")
    assert send(host, [mail(unique_address(), "127.0.5.1")])[0].status == 202


def test_a_request_that_is_sent_again_costs_once(host: Host, relay: None) -> None:
    again = post("/tasks/reverse-text", {"text": "abc"}, "127.0.6.1", Idempotency_Key=uuid.uuid4().hex)
    answers = send(host, [again] * 30, at_once=10)
    assert statuses(answers) == {202: 30}
    assert len({answer.json()["task_id"] for answer in answers}) == 1
    others = [
        post("/tasks/reverse-text", {"text": "abc"}, "127.0.6.1", Idempotency_Key=uuid.uuid4().hex) for _ in range(8)
    ]
    answers = send(host, others + others, at_once=4)
    assert len({answer.json()["task_id"] for answer in answers if answer.status == 202}) == 4
    for answer in answers:
        if answer.status != 202:
            refused(answer, "client_tasks")


def test_a_key_has_its_own(host: Host, relay: None, key: dict[str, str]) -> None:
    letter = {"to": "me@example.com", "subject": "Hello", "text": "How are you?"}
    [stranger] = send(host, [post("/tasks/send-email", letter, "127.0.7.1")])
    assert stranger.status == 401, stranger
    # one recipient and one client: neither has a budget here
    answers = send(host, [post("/tasks/send-email", letter, "127.0.7.1", **key) for _ in range(10)], at_once=5)
    assert statuses(answers) == {202: 6, 429: 4}
    for answer in answers:
        if answer.status == 429:
            refused(answer, "key")
    assert send(host, [mail(unique_address(), "127.0.7.1")])[0].status == 202, "the client's own budget is whole"


def test_without_redis(host: Host, relay: None, key: dict[str, str]) -> None:
    operator = {"Authorization": f"Bearer {secrets_on_controller()['operator_key']}"}
    victim = unique_address()
    host.check_output("systemctl stop redis-server")
    try:
        strangers = send(host, [mail(victim, "127.0.8.1"), Ask("/?talktome", "127.0.8.1")])
        keys = send(host, [Ask("/?talktome=async", "127.0.8.1", headers=key) for _ in range(30)])
        operators = send(host, [Ask("/?talktome", "127.0.8.1", headers=operator) for _ in range(12)])
    finally:
        host.check_output("systemctl start redis-server")
        wait_until(lambda: ready(host), "ready again", 60)
    for answer in strangers:
        assert answer.status == 503, answer
        assert "Budgets cannot be checked" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) > 0
    processes = 2
    assert 2 <= statuses(keys)[202] <= 2 * processes, statuses(keys)
    assert statuses(keys)[202] + statuses(keys)[429] == 30
    refused(next(answer for answer in keys if answer.status == 429), "key_alone")
    assert statuses(operators) == {200: 12}
    [after] = send(host, [mail(unique_address(), "127.0.8.1")])
    wait_for_state(host, after.json()["task_id"])
    assert relayed(host, victim) == [], "nothing was queued"


def test_no_address_lies_in_redis(host: Host, relay: None) -> None:
    address = unique_address()
    assert send(host, [mail(address, "127.0.9.1")])[0].status == 202
    stored = in_release(host, STORED)
    assert stored.count("messaging:budget:") >= 4, stored
    assert address.partition("@")[0] not in stored
    assert "127.0.9.1" not in stored


def test_a_form(host: Host, relay: None) -> None:
    """Sent by a browser without scripts: the page says what is used up, and keeps what was typed."""
    form = {"Accept": "text/html", "Content-Type": "application/x-www-form-urlencoded"}
    asked = [Ask("/reverse-text", "127.0.10.1", "POST", form, f"text=desserts{n}") for n in range(6)]
    answers = send(host, asked)
    assert [answer.status for answer in answers] == [303] * 5 + [429]
    assert "Your address has asked for as many tasks as one may" in answers[-1].body
    assert "desserts5" in answers[-1].body
    assert int(answers[-1].headers["retry-after"]) > 0


def test_looking_costs_nothing(host: Host, relay: None) -> None:
    answers = send(host, [Ask("/", "127.0.11.1"), Ask("/healthz", "127.0.11.1"), Ask("/api/", "127.0.11.1")] * 20, 6)
    assert statuses(answers) == {200: 60}
    assert request(host, "/robots.txt").body == "User-agent: *\nDisallow: /\n"
