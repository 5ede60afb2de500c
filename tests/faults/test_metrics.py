"""What is counted is what was done, and stays counted."""

import json
import socket
import uuid

from prometheus_client.parser import text_string_to_metric_families
from testinfra.host import Host

from faulty import in_release
from probe import exchange, parse, request, send_mail, unique_address, wait_for_state, wait_until

PORT = 9180

# A mail that cannot be built, and one that is past its age: the first only fails, the second is kept as well.
SUBMIT = """
import sys, time
from messaging.accept import accept
from messaging.claims import one_request
from messaging.job import SEND_EMAIL, Job
from messaging.publisher import Publisher
from messaging.results import Records
from messaging.settings import load

settings = load()
task_id, subject, age = sys.argv[1], sys.argv[2], float(sys.argv[3])
mail = {"to": "metrics@example.com", "subject": subject, "text": "Counted."}
job = Job(task=SEND_EMAIL, kwargs=mail, task_id=task_id, queue=settings.email_queue, submitted_at=time.time() - age)
accept(Records(settings, 2), Publisher(settings), one_request(settings, 2), job)
"""


def scrape(host: Host) -> dict[str, float]:
    """Every number, by its name and labels."""
    answer = parse(exchange(host, b"GET /metrics HTTP/1.0\r\n\r\n", port=PORT))
    assert answer.status == 200, answer
    return {
        " ".join([sample.name, *(str(value) for _, value in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(answer.body)
        for sample in family.samples
    }


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What has changed, without the times, and without the requests that only looked."""
    beside = ("_bucket", "_sum", " api.task ", " health.readyz ")
    changed = {name: number - before.get(name, 0) for name, number in after.items() if number != before.get(name, 0)}
    return {name: number for name, number in changed.items() if not any(part in name for part in beside)}


def wait_for(host: Host, before: dict[str, float], expected: dict[str, float]) -> None:
    wait_until(lambda: expected.items() <= grown(before, scrape(host)).items(), f"grown by {expected}", 15)


def test_the_numbers_are_what_was_done(host: Host) -> None:
    before = scrape(host)
    for _ in range(7):
        assert request(host, "/healthz").status == 200
    for _ in range(2):
        assert request(host, f"/{uuid.uuid4()}").status == 404
    for _ in range(3):
        wait_for_state(host, send_mail(host, unique_address()))
    failing = str(uuid.uuid4())
    in_release(host, SUBMIT, failing, "two\nlines", "0")
    wait_for_state(host, failing, "failed")
    expected = {
        "messaging_http_requests_total health.healthz GET 200": 7,
        "messaging_http_requests_total unknown GET 404": 2,
        "messaging_http_requests_total actions.root GET 202": 3,
        "messaging_tasks_accepted_total send_email": 3,
        "messaging_tasks_succeeded_total send_email": 3,
        "messaging_tasks_failed_total send_email": 1,
        "messaging_queue_wait_seconds_count send_email": 4,
        "messaging_delivery_seconds_count": 3,
    }
    wait_for(host, before, expected)
    assert grown(before, scrape(host)) == expected


def test_what_is_retried_and_what_is_given_up(host: Host) -> None:
    before = scrape(host)
    host.check_output("systemctl stop messaging-mailbox")
    old = str(uuid.uuid4())
    in_release(host, SUBMIT, old, "Late", "1000000")
    wait_for_state(host, old, "failed")
    task_id = send_mail(host, unique_address())
    wait_for_state(host, task_id, "retrying")
    host.check_output("systemctl start messaging-mailbox")
    wait_for_state(host, task_id, limit=90)
    attempts = request(host, f"/api/v1/tasks/{task_id}").json()["attempts"]
    expected = {
        "messaging_tasks_retried_total send_email": attempts - 1,
        "messaging_tasks_failed_total send_email": 1,
        "messaging_tasks_dead_total send_email": 1,
        "messaging_tasks_succeeded_total send_email": 1,
        "messaging_tasks_accepted_total send_email": 1,
        "messaging_queue_wait_seconds_count send_email": 2,
    }
    assert attempts > 1
    wait_for(host, before, expected)
    waits = {name: number - before.get(name, 0) for name, number in scrape(host).items() if "queue_wait" in name}
    assert waits["messaging_queue_wait_seconds_bucket +Inf send_email"] == 2
    assert waits["messaging_queue_wait_seconds_bucket 86400.0 send_email"] == 1, "one came a million seconds late"
    host.check_output("messagingctl dead purge --yes %s", old)


def test_no_number_goes_backwards_when_units_restart(host: Host) -> None:
    wait_for_state(host, send_mail(host, unique_address()))
    before = scrape(host)
    host.check_output("systemctl restart messaging-web messaging-worker@email-1")
    host.check_output("systemctl kill --signal=KILL messaging-worker@email-1")
    wait_until(lambda: request(host, "/healthz").status == 200, "the web is back")
    wait_for_state(host, send_mail(host, unique_address()))
    wait_for(host, before, {"messaging_tasks_succeeded_total send_email": 1})
    after = scrape(host)
    assert before.keys() <= after.keys()
    assert [name for name in before if after[name] < before[name]] == []
    files = host.check_output("ls /run/messaging-metrics").split()
    host.check_output("systemctl restart messaging-web messaging-worker@email-1 messaging-metrics")
    wait_for_state(host, send_mail(host, unique_address()))
    assert len(host.check_output("ls /run/messaging-metrics").split()) <= len(files) + 3, "files pile up"
    assert (
        scrape(host)["messaging_tasks_succeeded_total send_email"]
        >= after["messaging_tasks_succeeded_total send_email"]
    )


def test_nobody_outside_can_read_them(host: Host) -> None:
    for path in ("/metrics", "/metrics/", "//metrics"):
        assert request(host, path).status == 404, path
    [address, *_] = json.loads(host.check_output("ip -json -4 address show scope global"))[0]["addr_info"]
    try:
        socket.create_connection((address["local"], PORT), 3).close()
    except OSError:
        return
    raise AssertionError(f"{address['local']}:{PORT} can be reached")
