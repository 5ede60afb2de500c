"""What the API promises beyond the form of its answers."""

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email import message_from_string
from typing import Any

from testinfra.host import Host

from probe import base_url, mails, secrets_on_controller, task_state, unique_address, wait_for_mail, wait_for_state

WORKER = "messaging-worker@email-1"


def call(
    host: Host, path: str, body: Any = None, method: str = "POST", **headers: str
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, document and headers of one request."""
    data = None if body is None else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    if data is not None:
        names["Content-Type"] = "application/json"
    request = urllib.request.Request(f"{base_url(host)}/api/v1{path}", data, names, method=method)
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return answer.status, json.load(answer), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), dict(error.headers)


def mail(address: str) -> dict[str, str]:
    return {"to": address, "subject": "Grüße 🎉", "text": "Hello\n", "html": "<p>Hello</p>"}


@contextmanager
def nobody_works(host: Host) -> Iterator[None]:
    """While mail waits in its queue."""
    host.check_output("systemctl stop %s", WORKER)
    try:
        yield
    finally:
        host.check_output("systemctl start %s", WORKER)


def test_a_mail_of_my_own_wording(host: Host) -> None:
    address = unique_address()
    status, answer, headers = call(host, "/tasks/send-email", mail(address))
    assert (status, answer["state"]) == (202, "queued")
    assert headers["Location"] == f"/api/v1/tasks/{answer['task_id']}"
    assert int(headers["Retry-After"]) > 0
    wait_for_state(host, answer["task_id"])
    delivered = wait_for_mail(host, address)
    assert "multipart/alternative" in delivered
    assert "Subject: =?utf-8?" in delivered


def test_the_other_tasks(host: Host) -> None:
    expected = {
        "reverse-text": ({"text": "désolé 🇩🇪"}, lambda result: result == {"text": "🇩🇪 éloséd"}),
        "analyze-sentiment": ({"text": "I love this"}, lambda result: result["label"] == "positive"),
        "log-time": ({}, lambda result: "T" in result["line"]),
    }
    for name, (body, good) in expected.items():
        _, answer, _ = call(host, f"/tasks/{name}", body)
        wait_for_state(host, answer["task_id"])
        _, task, _ = call(host, f"/tasks/{answer['task_id']}", method="GET")
        assert good(task["result"]), task


def test_what_was_cancelled_is_never_sent(host: Host) -> None:
    cancelled, sent = unique_address(), unique_address()
    with nobody_works(host):
        _, answer, _ = call(host, "/tasks/send-email", mail(cancelled))
        status, task, _ = call(host, f"/tasks/{answer['task_id']}/cancel")
        assert (status, task["state"]) == (200, "cancelled")
        _, later, _ = call(host, "/tasks/send-email", mail(sent))
    wait_for_state(host, later["task_id"])
    wait_for_mail(host, sent)
    assert task_state(host, answer["task_id"]) == "cancelled"
    assert mails(host, cancelled) == []
    status, problem, _ = call(host, f"/tasks/{later['task_id']}/cancel")
    assert (status, problem["state"]) == (409, "succeeded")


def test_a_cancel_that_meets_a_worker_is_one_or_the_other(host: Host) -> None:
    """Cancelled and not sent, or 409 and sent: never both, never neither."""
    prefix = f"race-{uuid.uuid4().hex[:8]}"
    addresses = [f"{prefix}-{number}-@example.com" for number in range(150)]

    def submit(address: str) -> tuple[str, str]:
        _, answer, _ = call(host, "/tasks/send-email", mail(address))
        return address, str(answer["task_id"])

    def cancel(submitted: tuple[str, str]) -> tuple[str, str, int]:
        status, _, _ = call(host, f"/tasks/{submitted[1]}/cancel")
        return *submitted, status

    with ThreadPoolExecutor(8) as pool:
        with nobody_works(host):
            waiting = list(pool.map(submit, addresses))
            raced = list(pool.map(cancel, waiting[:30]))
        # the worker has just started: the others meet it
        raced += list(pool.map(cancel, reversed(waiting[30:])))
    cancelled = {address for address, _, status in raced if status == 200}
    begun = {address: task_id for address, task_id, status in raced if status == 409}
    assert cancelled.union(begun) == {address for address, _, _ in raced}
    for task_id in begun.values():
        wait_for_state(host, task_id)
    # the messages of the cancelled ones are behind these: once this one is delivered, they have been looked at
    _, last, _ = call(host, "/tasks/send-email", mail(unique_address()))
    wait_for_state(host, last["task_id"])
    delivered = [str(message_from_string(text)["Delivered-To"]) for text in mails(host, prefix)]
    assert sorted(delivered) == sorted(begun), f"{len(cancelled)} cancelled, {len(begun)} begun"
    print(f"{len(cancelled)} cancelled, {len(begun)} begun and delivered once")


def test_a_request_sent_many_times_is_one_mail(host: Host) -> None:
    address, key = unique_address(), str(uuid.uuid4())

    def send(_: int) -> tuple[int, dict[str, Any], dict[str, str]]:
        return call(host, "/tasks/send-email", mail(address), Idempotency_Key=key)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(send, range(60)))
    assert {status for status, _, _ in answers} == {202}
    (task_id,) = {answer["task_id"] for _, answer, _ in answers}
    wait_for_state(host, task_id)
    # the copies are behind it in the queue: once this one is there, they have been looked at
    after = unique_address()
    _, last, _ = call(host, "/tasks/send-email", mail(after))
    wait_for_state(host, last["task_id"])
    wait_for_mail(host, address)
    assert send(0)[1] == {**answers[0][1], "state": "succeeded"}
    other = call(host, "/tasks/send-email", mail(after), Idempotency_Key=key)
    assert other[0] == 422, other


def test_operators_see_the_tasks_of_everybody(host: Host) -> None:
    _, answer, _ = call(host, "/tasks/reverse-text", {"text": "abc"})
    wait_for_state(host, answer["task_id"])
    assert call(host, "/tasks", method="GET")[0] == 401
    key = {"Authorization": f"Bearer {secrets_on_controller()['operator_key']}"}
    _, page, _ = call(host, "/tasks?state=succeeded&limit=5", method="GET", **key)
    assert answer["task_id"] in [task["task_id"] for task in page["tasks"]]
    assert len(page["tasks"]) <= 5
    assert call(host, "/tasks?state=failed&since=2999-01-01T00:00:00Z", method="GET", **key)[1] == {"tasks": []}
