"""Flower: what operators see of the tasks, and that nobody else sees anything."""

import json

import pytest
from testinfra.host import Host

from probe import (
    exchange,
    flower,
    flower_login,
    flower_task,
    parse,
    ready,
    request,
    secrets_on_controller,
    send_mail,
    unique_address,
    wait_for_state,
    wait_until,
)

SOCKET = "/run/messaging-flower.sock"
PAGES = ["/flower/", "/flower/tasks", "/flower/api/tasks", "/flower/metrics", "/flower/healthcheck"]
TRICKS = [
    "/flower/static/css/flower.css",
    "/flower/no/such/page",
    "//flower/api/tasks",
    "/flower//api/tasks",
    "/flower/../flower/api/tasks",
    "/flower/%2e%2e/flower/api/tasks",
    "/%66lower/api/tasks",
    "/flower%2fapi/tasks",
    "/static/..%2fflower/api/tasks",
    "/FLOWER/api/tasks",
    "/flower;/api/tasks",
    "/flower/api/tasks?x=/flower/healthcheck",
    "http://localhost/flower/api/tasks",
]

# Not root, and not nginx
_KNOCK = "import socket; socket.socket(socket.AF_UNIX).connect('/run/messaging-flower.sock')"


@pytest.fixture(scope="module", autouse=True)
def _service_is_ready(host: Host) -> None:
    wait_until(lambda: ready(host), "/readyz answers 200", 60)


def test_without_the_password_every_page_is_closed(host: Host) -> None:
    for target in PAGES:
        for headers in ({}, flower_login("wrong"), flower_login("")):
            answer = request(host, target, headers=headers)
            assert answer.status == 401, target
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["www-authenticate"].startswith("Basic ")
            assert json.loads(answer.body)["status"] == 401


def test_no_other_way_of_writing_the_path_leads_in(host: Host) -> None:
    for target in TRICKS:
        raw = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        answer = parse(exchange(host, raw.encode()))
        assert answer.status in {400, 401, 404}, (target, answer)
        assert answer.headers["content-type"] == "application/problem+json", (target, answer)


def test_with_the_password_every_page_is_there(host: Host) -> None:
    for target in PAGES:
        assert flower(host, target).status == 200, target


def test_operators_can_only_look(host: Host) -> None:
    assert flower(host, "/flower/api/worker/shutdown/email-1", "POST").status == 403


def test_only_nginx_can_reach_it(host: Host) -> None:
    socket = host.file(SOCKET)
    assert (socket.user, socket.group, oct(socket.mode)) == ("root", "www-data", "0o660")
    knock = host.run("runuser -u messaging -- python3 -c %s", _KNOCK)
    assert "PermissionError" in knock.stderr


def test_a_mail_can_be_found_and_its_address_cannot(host: Host) -> None:
    address = unique_address()
    task_id = send_mail(host, address)
    wait_for_state(host, task_id)
    info = wait_until(
        lambda: (seen := flower_task(host, task_id)).get("state") == "SUCCESS" and seen, "Flower knows the mail"
    )
    assert info["name"] == "messaging.send_email"
    assert info["worker"].startswith("email-")
    name = address.partition("@")[0]
    assert name not in flower(host, "/flower/api/tasks?limit=20").body
    assert name not in flower(host, "/flower/api/workers?refresh=true").body


def test_no_password_of_ours_is_shown(host: Host) -> None:
    pages = ("/flower/api/workers", "/flower/workers", "/flower/broker")
    shown = "".join(flower(host, page).body for page in pages)
    assert [name for name, secret in secrets_on_controller().items() if secret in shown] == []
