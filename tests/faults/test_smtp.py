"""The place that mail goes to: away, or a provider that does not let us in."""

import uuid
from collections.abc import Iterator
from email import message_from_string

import pytest
from testinfra.host import Host

from faulty import RELAY_CERTIFICATE, RELAY_USERNAME, converge, in_release, relayed, start_relay, stop_relay
from probe import (
    request,
    send_mail,
    unique_address,
    wait_for_mail,
    wait_for_state,
    wait_until,
)

PASSWORD = "right-" + uuid.uuid4().hex
WRONG = "wrong-" + uuid.uuid4().hex

TOO_OLD = """
import sys, time
from messaging.accept import accept
from messaging.claims import one_request
from messaging.job import SEND_EMAIL, Job
from messaging.publisher import Publisher
from messaging.results import Records
from messaging.settings import load

settings = load()
mail = {"to": sys.argv[1], "subject": "Late", "text": "Better late than never."}
submitted_at = time.time() - settings.mail_max_age - 1
job = Job(task=SEND_EMAIL, kwargs=mail, task_id=sys.argv[2], queue=settings.email_queue, submitted_at=submitted_at)
accept(Records(settings, 2), Publisher(settings), one_request(settings, 2), job)
"""


def smtp_check(host: Host) -> str:
    return str(request(host, "/readyz").json()["checks"]["smtp"])


def test_the_mailbox_goes_away_and_comes_back(host: Host) -> None:
    host.check_output("systemctl stop messaging-mailbox")
    address = unique_address()
    task_id = send_mail(host, address)
    wait_for_state(host, task_id, "retrying")
    assert "mail waits" in smtp_check(host)
    host.check_output("systemctl start messaging-mailbox")
    wait_for_state(host, task_id, limit=90)
    wait_for_mail(host, address)
    assert smtp_check(host) == "ok"


def test_mail_past_its_age_is_failed_and_kept_until_somebody_replays_it(host: Host) -> None:
    host.check_output("systemctl stop messaging-mailbox")
    address = unique_address()
    task_id = str(uuid.uuid4())
    in_release(host, TOO_OLD, address, task_id)
    wait_for_state(host, task_id, "failed")
    assert "given up" in request(host, f"/api/v1/tasks/{task_id}").json()["reason"]
    wait_until(lambda: task_id in host.check_output("messagingctl dead list"), "it is among the dead letters")
    host.check_output("systemctl start messaging-mailbox")
    host.check_output("messagingctl dead replay %s", task_id)
    wait_for_state(host, task_id, limit=60)
    wait_for_mail(host, address)


@pytest.fixture
def relay(host: Host) -> Iterator[None]:
    """A provider with STARTTLS and a login, on the host itself; afterwards mail stays on the host again."""
    start_relay(host, PASSWORD)
    yield
    converge()
    stop_relay(host)
    wait_for_state(host, send_mail(host, unique_address()))


def converge_with_relay(password: str) -> None:
    """Run the playbook as an operator would who has got a provider."""
    output = converge(
        mail_from="service@example.com",
        smtp_host="localhost",
        smtp_port=2587,
        smtp_security="starttls",
        smtp_ca_file=RELAY_CERTIFICATE,
        smtp_username=RELAY_USERNAME,
        smtp_password=password,
    )
    assert password not in output, "a password is in the play's output"


def test_a_provider(host: Host, relay: None) -> None:
    """With the wrong password mail waits; with the right one it goes out, once. One converge serves several cases."""
    converge_with_relay(WRONG)
    assert not host.service("messaging-mailbox").is_running, "the mailbox is off as soon as there is a provider"
    waiting = unique_address()
    task_id = send_mail(host, waiting)
    wait_for_state(host, task_id, "retrying")
    wait_until(lambda: "535" in smtp_check(host), "the reason can be read")
    assert relayed(host, waiting) == []

    converge_with_relay(PASSWORD)
    wait_for_state(host, task_id, limit=120)
    assert len(relayed(host, waiting)) == 1

    refused = f"refused-{unique_address()}"
    task_id = send_mail(host, refused)
    wait_for_state(host, task_id, "failed")
    assert "550 5.1.1 No such mailbox here" in request(host, f"/api/v1/tasks/{task_id}").json()["reason"]

    later = f"later-{unique_address()}"
    wait_for_state(host, send_mail(host, later), limit=60)
    assert len(relayed(host, later)) == 1

    dropped = f"dropped-{unique_address()}"
    wait_for_state(host, send_mail(host, dropped), limit=60)
    copies = relayed(host, dropped)
    assert len(copies) == 2, "the outcome was unknown, so it was sent once more"
    assert len({message_from_string(copy)["Message-ID"] for copy in copies}) == 1

    journal = host.check_output("journalctl --no-pager -u 'messaging*'")
    for hidden in (PASSWORD, WRONG, waiting, refused):
        assert hidden not in journal
