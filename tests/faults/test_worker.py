"""Workers that die."""

import json
import time
import uuid
from collections.abc import Callable

from testinfra.host import Host

from faulty import Traffic, in_release, signal_main
from probe import (
    mails,
    request,
    send_mail,
    task_state,
    unique_address,
    wait_for_mail,
    wait_for_state,
    wait_until,
    workers,
)

EMAIL_WORKER = "messaging-worker@email-1"
MAILBOX = "messaging-mailbox"

SUBMIT_TWICE = """
import sys
from messaging.accept import accept
from messaging.claims import one_request
from messaging.job import SEND_EMAIL, Job
from messaging.publisher import Publisher
from messaging.results import Records
from messaging.settings import load

settings = load()
mail = {"to": sys.argv[1], "subject": "Once", "text": "Only once."}
job = Job(task=SEND_EMAIL, kwargs=mail, task_id=sys.argv[2], queue=settings.email_queue)
publisher = Publisher(settings)
accept(Records(settings, 2), publisher, one_request(settings, 2), job)
publisher.submit(job)
"""

CONNECT = """
import sys, time
import amqp
from messaging.job import SEND_EMAIL, Job
from messaging.settings import load

settings = load()
password = settings.amqp_password.get_secret_value()
connection = amqp.Connection(settings.amqp_hosts[0], settings.amqp_user, password, virtual_host=settings.amqp_vhost)
connection.connect()
channel = connection.channel()
"""

# Takes the message and gives it back, again and again, as a worker that dies with it would.
WEAR_OUT = (
    CONNECT
    + """
deadline = time.monotonic() + 30
while time.monotonic() < deadline:
    message = channel.basic_get("email")
    if message is None:
        if channel.queue_declare("email", passive=True).message_count == 0:
            break
        continue
    if message.headers["id"] == sys.argv[1]:  # another test's message is given back at the end
        channel.basic_reject(message.delivery_tag, requeue=True)
"""
)


# Messages that this service never publishes, and one whose body is no task.
FOREIGN = (
    CONNECT
    + """
headers = Job(task=SEND_EMAIL, kwargs={}, task_id=sys.argv[1], queue="email").headers()
for body, content_type, sent_headers in (
    ('{"x": 1}', "application/json", headers),
    ("not json", "application/json", headers),
    ("text", "text/plain", {}),
    ('[[], {"to": null}, {}]', "application/json", headers),
    ("[[], {}, {}]", "application/json", {**headers, "task": "unknown.task"}),
    ("[[], {}, {}]", "application/json", {**headers, "messaging": {"submitted_at": "nan"}}),
):
    message = amqp.Message(body, content_type=content_type, application_headers=sent_headers)
    channel.basic_publish(message, "messaging.submit", "email")
connection.close()
"""
)


def test_strange_messages_stop_no_worker_and_are_kept(host: Host) -> None:
    before = host.check_output("systemctl show --property MainPID %s", EMAIL_WORKER)
    dead = _messages(host, "dead")
    in_release(host, FOREIGN, f"foreign-{unique_address()}")
    address = unique_address()
    send_mail(host, address)
    wait_for_mail(host, address)
    wait_until(lambda: _messages(host, "dead") == dead + 6, "all six are among the dead letters")
    assert host.check_output("systemctl show --property MainPID %s", EMAIL_WORKER) == before
    assert "foreign" in host.check_output("messagingctl dead list")
    host.check_output("messagingctl dead purge --yes --all")
    wait_until(lambda: _messages(host, "dead") == 0, "they are purged")


def test_killed_in_the_middle_of_a_delivery(host: Host) -> None:
    address = unique_address()
    signal_main(host, MAILBOX, "SIGSTOP")
    task_id = send_mail(host, address)
    wait_until(lambda: task_state(host, task_id) == "started", "the worker has begun")
    signal_main(host, EMAIL_WORKER, "SIGKILL")
    signal_main(host, MAILBOX, "SIGCONT")
    wait_for_state(host, task_id, limit=60)
    wait_for_mail(host, address)


def test_killed_under_traffic(host: Host, traffic: Callable[..., Traffic]) -> None:
    with traffic(60, 10) as requests:
        for _ in range(3):
            time.sleep(1.5)
            signal_main(host, EMAIL_WORKER, "SIGKILL")
    requests.check_answers()
    assert not requests.answered(503), "a dead worker is no reason to refuse mail"
    requests.check_delivered(at_most=2)


def test_many_crashes_do_not_end_it_for_good(host: Host) -> None:
    for _ in range(7):
        wait_until(lambda: host.service(EMAIL_WORKER).is_running, "the worker runs", 60)
        signal_main(host, EMAIL_WORKER, "SIGKILL")
    wait_for_state(host, send_mail(host, unique_address()), limit=60)


def test_two_copies_of_a_message_are_one_mail(host: Host) -> None:
    address = unique_address()
    task_id = str(uuid.uuid4())
    in_release(host, SUBMIT_TWICE, address, task_id)
    wait_for_state(host, task_id)
    wait_until(lambda: _messages(host, "email") == 0, "both copies are consumed")
    assert len(mails(host, address)) == 1


def test_what_the_broker_gives_up_on_is_recorded_and_can_be_replayed(host: Host) -> None:
    email_workers = " ".join(unit for unit in workers(host) if "@email-" in unit)
    host.check_output(f"systemctl stop {email_workers}")
    address = unique_address()
    task_id = send_mail(host, address)
    in_release(host, WEAR_OUT, task_id)
    wait_for_state(host, task_id, "failed")
    assert request(host, f"/api/v1/tasks/{task_id}").json()["reason"] == "worker lost"
    listed = host.check_output("messagingctl dead list")
    assert task_id in listed
    assert "delivery_limit" in listed
    assert address not in listed, "addresses are masked in lists"
    assert address in host.check_output("messagingctl dead show %s", task_id)
    host.check_output(f"systemctl start {email_workers}")
    assert "queued again" in host.check_output("messagingctl dead replay %s", task_id)
    wait_for_state(host, task_id)
    wait_for_mail(host, address)
    assert task_id not in host.check_output("messagingctl dead list")


def _messages(host: Host, queue: str) -> int:
    """Messages in a queue, those that a worker holds included."""
    listed = json.loads(
        host.check_output("rabbitmqctl --quiet --formatter json list_queues --vhost messaging name messages")
    )
    return int(next(row["messages"] for row in listed if row["name"] == queue))
