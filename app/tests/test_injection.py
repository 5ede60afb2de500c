"""Nothing that a caller sends becomes a header, a path, a log line or a template; what comes out is looked at here."""

import json
import logging
import logging.config
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as default_policy
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest

from messaging import logs
from messaging.mail.message import build
from web_client import Web, problem

PAGE = {"Accept": "text/html"}
MAIL = {"to": "me@example.com", "subject": "Hello", "text": "How are you?"}
BIDI = "".join(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
INVISIBLE = re.compile("[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

BAD_ADDRESSES = {
    "cr": "a\r@example.com",
    "lf": "a\n@example.com",
    "header": "a@example.com\r\nBcc: victim@example.com",
    "header in the local part": "a\r\nBcc: victim@example.com\r\n@example.com",
    "folded header": "a@example.com\r\n X: y",
    "nul": "a\0@example.com",
    "nul in the domain": "a@exam\0ple.com",
    "override": "a\u202eb@example.com",
    "isolate": "a@exam\u2066ple.com",
    "zero-width": "a\u200bb@example.com",
    "zero-width in the domain": "a@exam\u200bple.com",
    "byte order mark": "\ufeffa@example.com",
    "next line": "a\x85b@example.com",
    "escape": "a\x1b[31mb@example.com",
    "8-bit escape": "a\x9b31mb@example.com",
    "long": "a" * 10_000 + "@example.com",
    "long domain": "a@" + "b." * 5_000 + "com",
    "many at-signs": "@" * 10_000,
    "quoted": '"a b"@example.com',
    "quoted header": '"a\r\nBcc: v@example.com"@example.com',
    "quoted at-sign": '"v@example.org"@example.com',
    "comment": "a(comment)@example.com",
    "display name": "Victim <a@example.com>",
    "two": "a@example.com,b@example.com",
    "two with a semicolon": "a@example.com;b@example.com",
    "two with a blank": "a@example.com b@example.com",
    "route": "<@example.org:a@example.com>",
    "parameter": "a@example.com> SIZE=1",
    "literal": "a@[127.0.0.1]",
    "literal of IPv6": "a@[IPv6:::1]",
    "template": "{{7*7}}@{{7*7}}.com",
    "path": "../../etc/passwd@example.com/../..",
    "full-width at-sign": "a\uff20example.com",
    "unicode in the local part": "ünïcode@example.com",
    "look-alike line end": "a\u2028b@example.com",
}
GOOD_ADDRESSES = {
    "me@bücher.example": "me@xn--bcher-kva.example",
    "me@例え.テスト": "me@xn--r8jz45g.xn--zckzah",
    "me+tag@example.com": "me+tag@example.com",
    "{{7*7}}@example.com": "{{7*7}}@example.com",
    "$(id)@example.com".replace("(", "{").replace(")", "}"): "${id}@example.com",
    "%n%s@example.com": "%n%s@example.com",
    "a`id`'|b@example.com": "a`id`'|b@example.com",
    "-oQ/tmp@example.com": "-oQ/tmp@example.com",
}
TEXTS = {
    "template": "{{7*7}} {% for x in [1] %}{{ config }}{% endfor %} ${7*7} #{7*7} <%= 7*7 %>",
    "formats": "%n %s %d %(asctime)s {0} {request} {self.__class__}",
    "escapes": "\x1b[31mred\x1b]0;title\x07 \x9b31m",
    "markup": "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>",
    "headers": "Hello\r\n\r\nBcc: victim@example.com\r\n.\r\nMAIL FROM:<x@example.com>\r\nDATA",
    "boundary": "--=_" + "0" * 32 + "--\r\nContent-Type: text/html\r\n\r\n<b>x</b>",
    "bidi": f"a{BIDI}b",
    "from": "From nobody Mon Jan  1\n>From\n..\n.",
    "unicode": "\ufeff\u200b\u2028\u2029\U0001f600\ufffe",
}


@pytest.fixture
def lines() -> Iterator[Callable[[], list[str]]]:
    """Everything that is logged from now on, as it would reach the journal."""
    kept: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(self.format(record))

    config = logs.logging_config("DEBUG")
    handler = Keep()
    handler.setFormatter(logs.MaskingJsonFormatter("%(levelname)s %(name)s %(message)s", json_ensure_ascii=False))
    handler.addFilter(logs.ContextFilter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(config["root"]["level"])
    yield lambda: kept
    root.removeHandler(handler)
    root.setLevel(level)


def check(response: Any) -> str:
    """No response header and no text of ours holds what a terminal or a browser would act on."""
    for name, value in response.headers.items():
        assert name.isascii()
        assert value.isascii(), f"{name}: {value!r}"
        assert value.isprintable(), f"{name}: {value!r}"
    text = str(response.get_data(as_text=True))
    assert not INVISIBLE.search(text), INVISIBLE.findall(text)
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    return text


@pytest.mark.parametrize("address", BAD_ADDRESSES.values(), ids=BAD_ADDRESSES)
def test_an_address_that_is_more_than_one_address(web: Web, address: str, lines: Callable[[], list[str]]) -> None:
    for accept in ({}, PAGE):
        response = web.get(f"/?sendmail={quote(address, safe='')}", headers=accept)
        assert response.status_code == 400
        check(response)
        response = web.post("/send-email", data={**MAIL, "to": address}, headers=accept)
        assert response.status_code == 422
        if not accept:
            check(response)
            assert [error["field"] for error in response.get_json()["errors"]] == ["to"]
    response = web.post("/api/v1/tasks/send-email", json={**MAIL, "to": address})
    assert [error["field"] for error in problem(response, 422)["errors"]] == ["to"]
    assert len(check(response)) < 1000
    assert web.untouched
    for line in lines():
        assert "victim" not in line
        assert "aaaaaaaaaa" not in line


@pytest.mark.parametrize(("address", "sent_to"), GOOD_ADDRESSES.items(), ids=GOOD_ADDRESSES)
def test_an_odd_address_is_one_address(web: Web, address: str, sent_to: str) -> None:
    check(web.get(f"/?sendmail={quote(address, safe='')}"))
    check(web.post("/api/v1/tasks/send-email", json={**MAIL, "to": address}))
    assert [job.kwargs["to"] for job in web.publisher.submitted] == [sent_to, sent_to]
    message = built(web)
    assert message.get_all("To") == [sent_to]
    assert len(message["To"].addresses) == 1


def built(web: Web) -> EmailMessage:
    """The last mail that was queued, built and read back."""
    job = web.publisher.submitted[-1]
    content = bytes(
        build(task_id=job.task_id, sender="from@example.com", date=datetime(2026, 1, 1, tzinfo=UTC), **job.kwargs)
    )
    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert b"\r" not in content.replace(b"\r\n", b"")
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert b"\0" not in content
    message = message_from_bytes(content, policy=default_policy)
    headers = [name.lower() for name in message]
    known = {"date", "from", "to", "subject", "message-id", "auto-submitted", "mime-version", "content-type"}
    assert len(headers) == len(set(headers))
    assert set(headers) - {"content-transfer-encoding"} == known
    return message


def body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_stays_a_text(web: Web, text: str, lines: Callable[[], list[str]]) -> None:
    response = web.post("/api/v1/tasks/send-email", json={**MAIL, "text": text, "html": text})
    assert response.status_code == 202
    check(response)
    message = built(web)
    expected = re.sub(r"\r\n|\r|\n", "\n", text)
    assert body(message, "plain").rstrip("\n") == expected.rstrip("\n")
    assert body(message, "html").rstrip("\n") == expected.rstrip("\n")
    assert [part.get_content_type() for part in message.walk()] == [
        "multipart/alternative",
        "text/plain",
        "text/html",
    ]
    for line in lines():
        assert "victim" not in line
        assert "7*7" not in line


@pytest.mark.parametrize("text", [text for name, text in TEXTS.items() if name not in ("unicode",)])
def test_a_form_that_comes_back_shows_what_was_typed_and_runs_nothing(web: Web, text: str) -> None:
    page = web.post("/send-email", data={"to": text, "subject": text, "text": text}, headers=PAGE)
    assert page.status_code == 422
    shown = page.get_data(as_text=True)
    assert "<script>alert" not in shown
    assert "onerror=alert(1)>" not in shown.replace("&gt;", "")
    assert "49" not in re.sub(r"<time.*?</time>|v=\w+|[0-9a-f]{8,}|[\w-]{22}", "", shown)
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")


BAD_SUBJECTS = {
    "cr": "a\rb",
    "lf": "a\nb",
    "header": "a\r\nBcc: victim@example.com",
    "nul": "a\0b",
    "escape": "a\x1b[31m",
    "8-bit escape": "a\x9b31m",
    "next line": "a\x85b",
    "line separator": "a\u2028b",
    "encoded word": "=?utf-8?q?=0D=0ABcc:_victim=40example.com?=",
    **{f"direction {ord(letter):x}": f"gpj.{letter}exe" for letter in BIDI},
    "long": "s" * 10_000,
    "half of a pair": "\ud800",
}


@pytest.mark.parametrize("subject", BAD_SUBJECTS.values(), ids=BAD_SUBJECTS)
def test_a_subject_that_is_more_than_a_line(web: Web, subject: str) -> None:
    response = web.post("/api/v1/tasks/send-email", json={**MAIL, "subject": subject})
    assert [error["field"] for error in problem(response, 422)["errors"]] == ["subject"]
    check(response)
    if subject != "\ud800":
        response = web.post("/send-email", data={**MAIL, "subject": subject})
        assert [error["field"] for error in problem(response, 422)["errors"]] == ["subject"]
    assert web.untouched


@pytest.mark.parametrize(
    "subject", ["{{7*7}} %n ${x}", "שלום עולם", "👩‍👩‍👧 family", "ü" * 200, "a,b;c <x@y> (c)", "."]
)
def test_a_subject_stays_a_subject(web: Web, subject: str) -> None:
    assert web.post("/api/v1/tasks/send-email", json={**MAIL, "subject": subject}).status_code == 202
    assert built(web)["Subject"] == subject


HEADERS = ("X-Request-ID", "User-Agent", "Referer", "Accept-Language", "X-Forwarded-For", "Forwarded", "Cookie")
VALUES = {
    "markup": "<script>alert('evil')</script>",
    "json": '","evil":"1',
    "template": "{{7*7}}evil",
    "address": "evil@example.com",
    "formats": "%n%s%(evil)s{evil}",
    "long": "evil" * 1500,
    "latin": "evil\xe9\x9b31m",
    "escape": "evil\x1b[31m",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("header", HEADERS)
def test_a_header_goes_nowhere(web: Web, header: str, value: str, lines: Callable[[], list[str]]) -> None:
    web.publisher.error = RuntimeError("so that something is logged")
    for path in ("/?sendmail=me@example.com", "/?sendmail=nobody", "/nothing", "/"):
        for accept in ({}, PAGE):
            text = check(web.get(path, headers={header: value, **accept}))
            assert "evil" not in text or header == "X-Request-ID", text
            assert "<script>alert" not in text
    logged = [json.loads(line) for line in lines()]
    assert logged, "something was logged"
    for line in lines():
        assert "\n" not in line
        assert "\x1b" not in line
    assert not [line for line in logged if "evil" in line]
    assert "evil@" not in "".join(lines())


def test_a_request_id_is_a_plain_word(web: Web) -> None:
    for value in (*VALUES.values(), "a b", "ü", "x" * 65):
        web.get("/?sendmail=me@example.com", headers={"X-Request-ID": value})
    assert {job.request_id for job in web.publisher.submitted} == {None}
    web.get("/?sendmail=me@example.com", headers={"X-Request-ID": "0123456789abcdef"})
    assert web.publisher.submitted[-1].request_id == "0123456789abcdef"


@pytest.mark.parametrize("key", ["a b", "ü", "a\x1b", "x" * 256, ""])
def test_an_idempotency_key_that_is_none(web: Web, key: str) -> None:
    problem(web.post("/api/v1/tasks/log-time", headers={"Idempotency-Key": key}), 400)
    assert web.untouched


@pytest.mark.parametrize("key", ["messaging:tasks", "*", "../../x", "{{7*7}}", "%n"])
def test_an_idempotency_key_names_nothing_of_ours(web: Web, key: str) -> None:
    assert web.post("/api/v1/tasks/log-time", headers={"Idempotency-Key": key}).status_code == 202
    [name] = web.redis.values
    assert re.fullmatch(r"messaging:idempotency:[0-9a-f]{64}", name)


EVIL_HOSTS = [
    "evil.example",
    "evil.example:8080",
    'a"><script>alert(1)</script>',
    "evil.example/path?x=",
    "a@evil.example",
]


@pytest.mark.parametrize("host", EVIL_HOSTS)
def test_what_leads_on_names_no_host(web: Web, host: str) -> None:
    headers = {"Host": host, "X-Forwarded-Host": "evil.example", "X-Forwarded-Prefix": "//evil.example"}
    answers = [
        web.get("/?sendmail=me@example.com", headers=headers),
        web.post("/api/v1/tasks/log-time", headers=headers),
        web.post("/reverse-text", data={"text": "x"}, headers={**headers, **PAGE}),
        web.get("/reverse-text", headers=headers),
    ]
    for answer in answers:
        assert answer.status_code in (202, 302, 303), answer.status_code
        assert re.match(r"/(?!/)", answer.headers["Location"]), answer.headers["Location"]
        assert "evil" not in answer.headers["Location"]
        assert "evil" not in answer.get_data(as_text=True)
    page = check(web.get("/", headers={**headers, **PAGE}))
    assert "<script>alert" not in page


@pytest.mark.parametrize(
    "path",
    [
        "/static/../web/__init__.py",
        "/static/%2e%2e/pages.py",
        "/static/..%2fpages.py",
        "/static/....//pages.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/..\\pages.py",
        "/static/page.js%00.css",
        "//evil.example/",
        "//evil.example/%2e%2e",
        "///evil.example",
        "/\\evil.example",
        "/%5cevil.example",
        "/%0d%0aLocation:%20//evil.example",
        "/%0aSet-Cookie:x=1",
        "/mail/../../etc/passwd",
        "/mail/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/api/v1/tasks/%0d%0aX:1",
        "/api/v1/tasks/..%2f..",
        "/api//v1/tasks",
        "/{{7*7}}",
        "/%u202e",
        "/%E2%80%AE",
        "/" + "a" * 10_000,
        "/;/..;/",
    ],
)
@pytest.mark.parametrize("accept", ["*/*", "text/html"])
def test_a_path_leads_nowhere_else(web: Web, path: str, accept: str) -> None:
    response = web.client.open(path="/", headers={"Accept": accept}, environ_overrides=_raw(path))
    text = check(response) if response.status_code != 308 else ""
    assert response.status_code in (404, 308, 401), (response.status_code, text)
    if response.status_code == 308:
        assert re.match(r"(http://localhost)?/(?![/\\])", response.headers["Location"]), response.headers["Location"]
    for leaked in ("import", "root:", "evil", "49", "Set-Cookie"):
        assert leaked not in re.sub(r"v=\w+", "", text)
    assert "Set-Cookie" not in response.headers


def _raw(path: str) -> dict[str, str]:
    """A path as gunicorn hands it over."""
    return {"PATH_INFO": unquote_to_bytes(path).decode("latin-1"), "RAW_URI": path, "REQUEST_URI": path}
