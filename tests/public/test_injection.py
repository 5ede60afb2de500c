"""What a stranger sends over HTTP comes out as what it is: mail in the mailbox, words in an answer, lines in a log.

The finer points are in app/tests/test_injection.py; here the whole way is gone, through nginx, the broker and SMTP.
"""

import json
import re
import uuid
from collections.abc import Callable
from email import message_from_string
from email.policy import default as default_policy
from urllib.parse import quote

import pytest
from testinfra.host import Host

from clients import Ask, post, send
from probe import MAILBOX, TIME_LOG, Response, exchange, mails, parse, unique_address, wait_for_mail, wait_for_state

CONTROLS = re.compile("[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]")
KNOWN_HEADERS = {
    "delivered-to",
    "return-path",
    "date",
    "from",
    "to",
    "subject",
    "message-id",
    "auto-submitted",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
}


@pytest.fixture
def marker() -> str:
    """A word that only this test sends."""
    return f"marker{uuid.uuid4().hex[:10]}"


@pytest.fixture
def logged(host: Host) -> Callable[[], list[str]]:
    """The lines that the services and nginx have written since the test began."""
    cursor = host.check_output("journalctl -n 0 --show-cursor --no-pager").split("cursor: ")[1].strip()

    def lines() -> list[str]:
        units = "-u 'messaging*' -u nginx -t nginx"
        found = host.check_output(f"journalctl --sync; journalctl {units} -o cat --no-pager --after-cursor %s", cursor)
        files = host.run("cat /var/log/nginx/access.log /var/log/nginx/error.log").stdout
        return [line for line in (found + "\n" + files).splitlines() if line]

    return lines


def harmless(answer: Response) -> None:
    """No header and no text that a terminal or a browser would act on."""
    for name, value in answer.headers.items():
        assert value.isascii(), f"{name}: {value!r}"
        assert value.isprintable(), f"{name}: {value!r}"
    assert not CONTROLS.search(answer.body), answer.body
    assert answer.headers["cache-control"] == "no-store"


def test_addresses_that_are_more(host: Host, marker: str, logged: Callable[[], list[str]]) -> None:
    bad = [
        f"{marker}\r\nBcc: victim@example.com\r\n@example.com",
        f"{marker}@example.com\r\nBcc: victim@example.com",
        f"{marker}\n@example.com",
        f"{marker}\0@example.com",
        f"{marker}\u202eb@example.com",
        f"{marker}@exam\u2066ple.com",
        f"{marker}\u200b@example.com",
        f"{marker}\x1b[31m@example.com",
        f'"{marker} b"@example.com',
        f'"{marker}@example.org"@example.com',
        f"{marker}@example.com,victim@example.com",
        f"Victim <{marker}@example.com>",
        f"{marker}@[127.0.0.1]",
        f"{marker}@example.com> SIZE=1",
        f"{marker}" + "a" * 7000 + "@example.com",
        f"{marker}@" + "a." * 3000 + "com",
    ]
    asked = [Ask(f"/?sendmail={quote(address, safe='')}") for address in bad]
    asked += [
        post("/tasks/send-email", {"to": to, "subject": "s", "text": "t"}) for to in (*bad, marker + "a" * 10_000)
    ]
    for each, answer in zip(asked, send(host, asked, 4), strict=True):
        assert answer.status in ((400, 414) if each.method == "GET" else (422,)), (each.target[:80], answer)
        harmless(answer)
    [long] = send(host, [Ask(f"/?sendmail={marker}{'a' * 10_000}@example.com")])
    assert long.status == 414
    lines = logged()
    assert lines, "the requests are in the log of nginx"
    assert not [line for line in lines if marker in line], "no part of an address is logged"
    after = unique_address()
    wait_for_state(host, send(host, [Ask(f"/?sendmail={after}")])[0].json()["task_id"])
    assert mails(host, marker) == []


def test_odd_addresses_that_are_one(host: Host, marker: str) -> None:
    odd = {
        f"{marker}@bücher.example": f"{marker}@xn--bcher-kva.example",
        f"{marker}+tag@example.com": f"{marker}+tag@example.com",
        f"{marker}{{{{7*7}}}}%n$x`id`@example.com": f"{marker}{{{{7*7}}}}%n$x`id`@example.com",
    }
    for written, sent_to in odd.items():
        [answer] = send(host, [Ask(f"/?sendmail={quote(written, safe='')}")])
        assert answer.status == 202, answer
        wait_for_state(host, answer.json()["task_id"])
        message = message_from_string(wait_for_mail(host, sent_to), policy=default_policy)
        assert message["Delivered-To"] == sent_to
        assert [each.addr_spec for each in message["To"].addresses] == [sent_to]


TEXT = (
    "{{7*7}} ${7*7} <%= 7*7 %> %n %s\r\n.\r\nMAIL FROM:<x@example.com>\r\nRCPT TO:<victim@example.com>\r\n"
    "Bcc: victim@example.com\r\n\r\n--=_0--\r\nContent-Type: text/html\r\n\r\n"
    "<script>alert(1)</script>\x1b[31m\u202e\u2066\u200b\r\nFrom nobody\n..\n"
)


def test_a_text_and_a_subject_stay_what_they_are(host: Host, marker: str, logged: Callable[[], list[str]]) -> None:
    address = unique_address()
    subject = f"{{{{7*7}}}} ${{7*7}} %n <script> 👩‍👩‍👧 {marker}"
    body = {"to": address, "subject": subject, "text": TEXT + marker, "html": TEXT}
    [answer] = send(host, [post("/tasks/send-email", body)])
    assert answer.status == 202, answer
    wait_for_state(host, answer.json()["task_id"])
    message = message_from_string(wait_for_mail(host, address), policy=default_policy)
    assert message["Subject"] == subject
    assert {name.lower() for name in message} <= KNOWN_HEADERS, message.keys()
    assert len(message["To"].addresses) == 1
    text, html = (message.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert html is not None
    assert _lines(text.get_content()) == _lines(TEXT + marker)
    assert _lines(html.get_content()) == _lines(TEXT)
    assert len(list(message.walk())) == 3
    assert not [line for line in logged() if marker in line]
    inside = host.check_output("find %s -newer /etc/hostname -name '*{{*' -o -name '*marker*'", MAILBOX)
    assert inside == "", "no name of a file is a stranger's"


def _lines(text: str) -> list[str]:
    return re.sub(r"\r\n|\r", "\n", text).rstrip("\n").split("\n")


@pytest.mark.parametrize(
    "subject", ["a\r\nBcc: victim@example.com", "a\0b", "gpj.\u202eexe", "a\u2067b", "a\x9b31m", "=?utf-8?q?=0D=0A?="]
)
def test_a_subject_that_is_more_than_a_line(host: Host, subject: str) -> None:
    [answer] = send(host, [post("/tasks/send-email", {"to": "me@example.com", "subject": subject, "text": "t"})])
    assert answer.status == 422, answer
    assert [error["field"] for error in answer.json()["errors"]] == ["subject"]
    harmless(answer)


def test_headers_go_nowhere(host: Host, marker: str, logged: Callable[[], list[str]]) -> None:
    values = [
        f"<script>{marker}</script>",
        f'","{marker}":"1',
        f"{{{{7*7}}}}{marker}",
        f"{marker}@example.com",
        f"\x1b[31m{marker}",
        f"{marker}\x9b\xff",
    ]
    names = ["X-Request-ID", "Referer", "X-Forwarded-For", "Forwarded", "X-Forwarded-Host", "Cookie", "X-Real-IP"]
    for value in values:
        for target in ("/?sendmail=nobody", "/nothing"):
            head = "".join(f"{name}: {value}\r\n" for name in names)
            raw = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n".encode("latin-1")
            answer = parse(exchange(host, raw))
            # with an escape in its headers it is not even read
            read = "\x1b" not in value
            assert answer.status == (404 if read and target == "/nothing" else 400), (value, answer)
            harmless(answer)
            assert marker not in answer.body
            assert marker not in str(answer.headers)
            if read:
                assert re.fullmatch(r"[0-9a-f]{32}", answer.json()["request_id"]), "nginx makes it, whatever was sent"
    for line in logged():
        assert marker not in line or "user_agent" in line, line


def test_lines_of_the_log_are_whole_json(host: Host, marker: str, logged: Callable[[], list[str]]) -> None:
    agent = f'evil","x":"\\" \x1b[31m {marker} {marker}@example.com'.encode("latin-1")
    answer = parse(
        exchange(
            host,
            b"GET /?sendmail=nobody HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nUser-Agent: "
            + agent
            + b"\r\n\r\n",
        )
    )
    assert answer.status == 400
    lines = [line for line in logged() if line.startswith("{")]
    assert lines
    for line in lines:
        document = json.loads(line)
        assert "x" not in document
        assert not CONTROLS.search(line), line
        assert f"{marker}@" not in line, line


def test_what_leads_on_names_no_host(host: Host) -> None:
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Prefix": "//evil.example"}
    form = {**headers, "Accept": "text/html", "Content-Type": "application/x-www-form-urlencoded"}
    answers = send(
        host,
        [
            Ask(f"/?sendmail={unique_address()}", headers=headers),
            Ask("/reverse-text", headers=headers),
            Ask("/reverse-text", method="POST", headers=form, body="text=abc"),
        ],
    )
    for answer in answers:
        assert answer.status in (202, 303), answer
        assert re.match(r"/(?!/)", answer.headers["location"]), answer.headers["location"]
        assert "evil" not in answer.headers["location"] + answer.body


@pytest.mark.parametrize(
    "path",
    [
        "/static/../web/__init__.py",
        "/static/%2e%2e/%2e%2e/__init__.py",
        "/static/..%2f..%2f__init__.py",
        "/static/%2fetc%2fpasswd",
        "/static/..\\pages.py",
        "/static/page.js%00.css",
        "//evil.example/",
        "//evil.example/%2e%2e",
        "/\\evil.example",
        "/%0d%0aSet-Cookie:%20x=1",
        "/mail/..%2f..%2fetc%2fpasswd",
        "/api/v1/tasks/%0d%0aX:1",
        "/{{7*7}}",
        "/%E2%80%AE",
    ],
)
def test_a_path_leads_nowhere_else(host: Host, path: str) -> None:
    answer = parse(exchange(host, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()))
    assert answer.status in (400, 404), answer
    harmless(answer)
    assert "set-cookie" not in answer.headers
    for leaked in ("import ", "root:", "evil", "49"):
        assert leaked not in answer.json()["detail"], answer


@pytest.mark.parametrize(
    "headers",
    [
        {"User-Agent": "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)"},
        {"User-Agent": "WhatsApp/2.23.20.0 A"},
        {"User-Agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"},
        {"Sec-Fetch-Dest": "image", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Dest": "image", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Purpose": "prefetch;prerender"},
    ],
)
def test_what_nobody_decided_does_not_happen(host: Host, headers: dict[str, str]) -> None:
    address = unique_address()
    before = host.check_output("wc -c %s", TIME_LOG)
    asked = [Ask(f"/?sendmail={address}", headers=headers), Ask("/?talktome", headers=headers)]
    asked += [Ask(each.target, method="HEAD") for each in asked]
    answers = send(host, asked)
    assert [answer.status for answer in answers] == [403, 403, 200, 200]
    assert host.check_output("wc -c %s", TIME_LOG) == before
    after = unique_address()
    wait_for_state(
        host, send(host, [Ask(f"/?sendmail={after}", headers={"User-Agent": "curl/8"})])[0].json()["task_id"]
    )
    assert mails(host, address) == []
