"""Messages: the same bytes each time, safe for every relay, and readable by the standard library's parser."""

import re
from datetime import UTC, datetime, timedelta, timezone
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

import pytest

from messaging.mail.message import build

DATE = datetime(2026, 11, 5, 12, 30, 1, tzinfo=timezone(timedelta(hours=2)))
TASK_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
PARTS: dict[str, Any] = {
    "task_id": TASK_ID,
    "sender": "us@example.org",
    "to": "you@example.com",
    "subject": "Grüße",
    "text": "Hällo\n.\nFrom me\n" + "long " * 300,
    "date": DATE,
}


def parsed(**changes: Any) -> EmailMessage:
    message = message_from_bytes(bytes(build(**PARTS | changes)), policy=default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def test_headers() -> None:
    message = parsed()
    assert {name: str(message[name]) for name in ("From", "To", "Subject", "Message-ID", "Date", "Auto-Submitted")} == {
        "From": "us@example.org",
        "To": "you@example.com",
        "Subject": "Grüße",
        "Message-ID": f"<{TASK_ID}@example.org>",
        "Date": "Thu, 05 Nov 2026 12:30:01 +0200",
        "Auto-Submitted": "auto-generated",
    }
    assert message.get_content().splitlines() == PARTS["text"].splitlines()


@pytest.mark.parametrize("html", [None, "<p>Hällo</p>"])
def test_same_parts_give_the_same_bytes(html: str | None) -> None:
    assert len({bytes(build(**PARTS, html=html)) for _ in range(3)}) == 1
    assert bytes(build(**PARTS, html=html)) != bytes(build(**PARTS | {"task_id": "other"}, html=html))


def test_html_is_an_alternative() -> None:
    message = parsed(html="<p>Hällo</p>")
    assert message.get_content_type() == "multipart/alternative"
    plain, html = message.iter_parts()
    assert (plain.get_content_type(), html.get_content_type()) == ("text/plain", "text/html")
    assert html.get_content().splitlines() == ["<p>Hällo</p>"]


def test_boundary_cannot_be_forged() -> None:
    boundary = parsed(html="x").get_boundary()
    plain, html = parsed(text=f"--{boundary}--\n", html=f"--{boundary}\n").iter_parts()
    assert plain.get_content().splitlines() == [f"--{boundary}--"]
    assert html.get_content().splitlines() == [f"--{boundary}"]


@pytest.mark.parametrize("html", [None, "<p>" + "ü" * 3000])
def test_every_relay_takes_the_bytes(html: str | None) -> None:
    data = bytes(
        build(
            **PARTS
            | {
                "subject": "ü" * 200 + " " + "x" * 300,
                "text": "\0\x7f\r\nbare\rreturn\n"
                + "y" * 3000
                + "\n"
                + "x" * 74
                + " \n"
                + "x" * 73
                + " \t\n"
                + "x" * 75
                + " ",
                "to": "l" * 64 + "@" + ("d" * 60 + ".") * 3 + "example.com",
            },
            html=html,
        )
    )
    assert data.isascii()
    assert b"\0" not in data
    assert not re.findall(rb"(?<!\r)\n|\r(?!\n)", data)
    body = data.partition(b"\r\n\r\n")[2]
    assert max(map(len, body.split(b"\r\n"))) <= 76
    assert max(map(len, data.split(b"\r\n"))) <= 998
    assert b"quoted-printable" in data
    assert b"8bit" not in data


def test_long_address_is_not_encoded() -> None:
    address = "l" * 64 + "@" + ("d" * 60 + ".") * 3 + "example.com"
    assert f"To: {address}\r\n".encode() in bytes(build(**PARTS | {"to": address}))


@pytest.mark.parametrize("bad", ["\r\nBcc: x@example.com", "\n", "\r", "\0", "=?utf-8?q?=0D=0ABcc:_x=40example.com?="])
@pytest.mark.parametrize("field", ["task_id", "sender", "to", "subject"])
def test_header_injection(field: str, bad: str) -> None:
    for value in (PARTS[field] + bad, bad + PARTS[field], PARTS[field][:3] + bad + PARTS[field][3:]):
        with pytest.raises(ValueError, match=r"."):
            build(**PARTS | {field: value})


@pytest.mark.parametrize(
    "address",
    [
        "a@b, c@d",
        "a@b,c@d",
        "a@b;",
        "You <you@example.com>",
        "<you@example.com>",
        "you@exämple.com",
        "yöu@example.com",
        "you (me)@example.com",
        "you",
        "@example.com",
        "you@",
        "",
        "a b@example.com",
        "undisclosed:;",
    ],
)
@pytest.mark.parametrize("field", ["sender", "to"])
def test_not_one_plain_address(field: str, address: str) -> None:
    with pytest.raises(ValueError, match="not a single plain ASCII address") as caught:
        build(**PARTS | {field: address})
    assert not address or address not in str(caught.value)


@pytest.mark.parametrize("task_id", ["", "a b", "a@b", "a>", ".a", "a..b", "x" * 129, "ä"])
def test_task_id_that_is_no_message_id(task_id: str) -> None:
    with pytest.raises(ValueError, match="Message-ID"):
        build(**PARTS | {"task_id": task_id})


def test_date_needs_a_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        build(**PARTS | {"date": DATE.replace(tzinfo=None)})
    assert "+0000" in str(parsed(date=DATE.astimezone(UTC))["Date"])


@pytest.mark.parametrize("bad", ["\v", "\f", "\x1c", "\x1e", "\x85", "\u2028"])
def test_a_subject_is_one_line_to_every_reader(bad: str) -> None:
    with pytest.raises(ValueError, match="more than one line"):
        build(**PARTS | {"subject": f"Hello{bad}Bcc: x@example.com"})


def test_blanks_at_the_end_of_a_line_stay() -> None:
    text = "".join(f"{'x' * length} \n{'x' * length}\t\n{'x' * length} \t\n" for length in range(70, 80))
    assert parsed(text=text).get_content().splitlines() == text.splitlines()


def test_lone_surrogate() -> None:
    for field in ("subject", "text"):
        with pytest.raises(ValueError, match="surrogate"):
            build(**PARTS | {field: "\ud800"})
