"""What a client of the service notices."""

import base64
import json

import pytest
from testinfra.host import Host

from probe import (
    TIME_LOG,
    exchange,
    mails,
    parse,
    ready,
    request,
    send_mail,
    unique_address,
    wait_for_mail,
    wait_for_state,
    wait_until,
)

PROBLEM = "application/problem+json"

# Asks for the time many times over one connection while logrotate runs; prints how many were accepted.
_WRITE_WHILE_ROTATING = """
import http.client, subprocess, sys
config, accepted, rotations = sys.argv[1], 0, []
link = http.client.HTTPConnection("127.0.0.1", 80, timeout=10)
for number in range(300):
    if number in (50, 200):
        rotations.append(subprocess.Popen(["logrotate", "--force", "--state", "/run/logrotate-test.status", config]))
    link.request("GET", "/?talktome", headers={"Host": "localhost"})
    answer = link.getresponse()
    answer.read()
    accepted += answer.status == 200
    if number == 150:
        rotations[0].wait()
print(accepted, [rotation.wait() for rotation in rotations])
"""


@pytest.fixture(scope="module", autouse=True)
def _service_is_ready(host: Host) -> None:
    wait_until(lambda: ready(host), "/readyz answers 200", 60)


def test_mail_is_delivered(host: Host) -> None:
    address = unique_address()
    response = request(host, f"/?sendmail={address}")
    assert response.status == 202
    accepted = response.json()
    assert accepted["state"] == "queued"
    assert accepted["status_url"].endswith(f"/api/v1/tasks/{accepted['task_id']}")
    wait_for_state(host, accepted["task_id"])
    mail = wait_for_mail(host, address)
    assert accepted["task_id"] in mail.lower()


def test_time_is_logged(host: Host) -> None:
    response = request(host, "/?talktome")
    assert response.status == 200
    line = response.json()["logged"]
    assert line in host.file(TIME_LOG).content_string.splitlines()


def test_time_is_logged_by_a_worker(host: Host) -> None:
    response = request(host, "/?talktome=async")
    assert response.status == 202
    wait_for_state(host, response.json()["task_id"])


def test_no_line_is_lost_while_the_log_is_rotated(host: Host) -> None:
    config = host.check_output("grep -l %s /etc/logrotate.d/*", TIME_LOG)
    count = f"zcat -f {TIME_LOG}* | wc -l"
    before = int(host.check_output(count))
    accepted, _, rotated = host.check_output("python3 -c %s %s", _WRITE_WHILE_ROTATING, config).partition(" ")
    assert (accepted, rotated) == ("300", "[0, 0]")
    assert int(host.check_output(count)) - before == 300
    log = host.file(TIME_LOG)
    assert (log.user, log.group, oct(log.mode)) == ("messaging", "adm", "0o640")


def test_head_and_prefetch_never_send(host: Host) -> None:
    head, prefetch, get = unique_address(), unique_address(), unique_address()
    assert request(host, f"/?sendmail={head}", method="HEAD").status < 500
    assert request(host, f"/?sendmail={prefetch}", headers={"Sec-Purpose": "prefetch"}).status < 500
    # The queue is in order: once the last one is there, the others would be.
    wait_for_state(host, send_mail(host, get))
    wait_for_mail(host, get)
    assert mails(host, head) == []
    assert mails(host, prefetch) == []


@pytest.mark.parametrize("query", ["sendmail=", "sendmail=nobody", "sendmail=a@example.com&sendmail=b@example.com"])
def test_bad_address_is_a_problem_document(host: Host, query: str) -> None:
    _assert_problem(
        exchange(host, f"GET /?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()), 400
    )


@pytest.mark.parametrize(
    ("status", "raw"),
    [
        pytest.param(400, b"GET / HTTP/1.1\r\nno colon in this line\r\n\r\n", id="malformed header"),
        pytest.param(400, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", id="no host"),
        pytest.param(
            413,
            b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n",
            id="large body",
        ),
        pytest.param(414, b"GET /?" + b"a" * 40000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", id="long line"),
        pytest.param(431, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 40000 + b"\r\n\r\n", id="large header"),
    ],
)
def test_nginx_answers_with_problem_documents(host: Host, status: int, raw: bytes) -> None:
    _assert_problem(exchange(host, raw), status)


@pytest.mark.parametrize("target", ["/", "/no/such/page", "/api/v1/tasks/00000000-0000-0000-0000-000000000000"])
def test_no_version_is_told(host: Host, target: str) -> None:
    server = request(host, target).headers.get("server", "")
    assert server in {"", "nginx"}


def test_unknown_task_is_404(host: Host) -> None:
    response = request(host, "/api/v1/tasks/00000000-0000-4000-8000-000000000000")
    assert (response.status, response.headers["content-type"]) == (404, PROBLEM)


def test_front_page_says_what_this_is(host: Host) -> None:
    page = request(host, "/", headers={"Accept": "text/html"})
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "sendmail" in page.body
    described = request(host, "/", headers={"Accept": "application/json"})
    assert isinstance(described.json(), dict)


def test_without_the_application_nginx_says_503_and_when_to_come_back(host: Host) -> None:
    host.check_output("systemctl stop messaging-web.socket messaging-web.service")
    try:
        answer = exchange(host, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    finally:
        host.check_output("systemctl start messaging-web.socket messaging-web.service")
    _assert_problem(answer, 503)
    assert int(parse(answer).headers["retry-after"]) > 0
    wait_until(lambda: ready(host), "/readyz answers 200 again")


def test_no_address_in_any_log(host: Host) -> None:
    address = unique_address()
    wait_for_state(host, send_mail(host, address))
    request(host, f"/?sendmail={address}&sendmail={address}")
    name = address.partition("@")[0]
    # base64: sudo writes the command into the journal.
    needle = base64.b64encode(name.encode()).decode()
    search = """
        needle=$(echo "$1" | base64 -d)
        grep -rlF "$needle" /var/log --exclude-dir=journal
        journalctl --no-pager --output=export | grep -cF "$needle"
    """
    assert host.run("sh -c %s sh %s", search, needle).stdout.split() == ["0"]


def _assert_problem(answer: bytes, status: int) -> None:
    response = parse(answer)
    assert response.status == status, response
    assert response.headers["content-type"] == PROBLEM
    problem = json.loads(response.body)
    assert problem["status"] == status
    assert problem["title"]
    assert response.headers.get("server", "nginx") == "nginx"
