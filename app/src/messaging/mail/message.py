"""A message built from its parts, the same bytes each time."""

import functools
import hashlib
import re
from binascii import b2a_qp
from dataclasses import dataclass
from datetime import datetime
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.policy import SMTP
from email.utils import format_datetime

# 76: the limit for a line with an encoded word (RFC 2047 section 2)
_POLICY = SMTP.clone(max_line_length=76)
# b2a_qp encodes a blank at the end of a line whatever its length is by then; 76 is the limit (RFC 2045 section 6.7)
_LONG = re.compile(rb"^(.{74})(=20|=09)(?=\r$)", re.MULTILINE)
_SOFT_BREAK = rb"\1=\r\n\2"
_TASK_ID = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_TASK_ID_LENGTH = 128
_FORBIDDEN = re.compile(r"[\r\n\0]")
# What a parser of headers would decode, line ends in it too (RFC 2047 section 2), or might
ENCODED_WORD = re.compile(r"=\?.*\?.*\?.*\?=", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Message:
    """A message: its Message-ID, and the bytes that SMTP sends."""

    message_id: str
    content: bytes

    def __bytes__(self) -> bytes:
        return self.content


def build(
    *,
    task_id: str,
    sender: str,
    to: str,
    subject: str,
    text: str,
    html: str | None = None,
    date: datetime,
) -> Message:
    """Build a message to one recipient, in ASCII: every relay takes it, 8BITMIME or not.

    The same arguments give the same bytes, Message-ID `<task_id@domain of sender>` included, so that a message sent
    twice is recognised as one by its receivers. Not by way of EmailMessage, which takes longer to make a message than
    it takes to deliver one.

    Args:
        task_id: letters, digits, `_`, `-` and single dots (RFC 5322 dot-atom).
        sender: a plain address, without a display name.
        to: a plain address, only one.
        subject: any characters but line ends and NUL; no encoded word (RFC 2047).
        text: the body; lines may end as they like.
        html: an alternative to the text.
        date: when the message was accepted, with a time zone.

    Raises:
        ValueError: a part that cannot stand in a header: CR, LF, NUL or an encoded word, an address that is none, more
            than one, or outside ASCII, a date without a time zone.
    """
    if not _TASK_ID.fullmatch(task_id) or len(task_id) > _TASK_ID_LENGTH:
        raise ValueError("the task id cannot be the left side of a Message-ID")
    if date.tzinfo is None:
        raise ValueError("the date has no time zone")
    if _FORBIDDEN.search(subject):
        raise ValueError("the subject contains a line end or NUL")
    if len(subject.splitlines()) > 1:
        raise ValueError("the subject has more than one line")
    if ENCODED_WORD.search(subject):
        raise ValueError("the subject contains an encoded word")
    subject.encode()  # a lone surrogate has no encoding: UnicodeEncodeError is a ValueError
    author, recipient = _address("sender", sender), _address("recipient", to)
    message_id = f"<{task_id}@{author.domain}>"
    body = _part("plain", text)
    if html is not None:
        boundary = _boundary(task_id)
        parts = "".join(f"--{boundary}\r\n{part}" for part in (body, _part("html", html)))
        body = f'Content-Type: multipart/alternative; boundary="{boundary}"\r\n\r\n{parts}--{boundary}--\r\n'
    content = (
        f"Date: {format_datetime(date)}\r\n"
        f"From: {author}\r\n"
        f"To: {recipient}\r\n"
        f"{_subject(subject)}"
        f"Message-ID: {message_id}\r\n"
        # RFC 3834: no out-of-office answers, please
        "Auto-Submitted: auto-generated\r\n"
        "MIME-Version: 1.0\r\n"
        f"{body}"
    )
    return Message(message_id, content.encode("ascii"))


def _part(kind: str, text: str) -> str:
    """A text with its headers, in quoted-printable (RFC 2045 section 6.7)."""
    lines = b"".join(line + b"\r\n" for line in text.encode().splitlines())
    return (
        f'Content-Type: text/{kind}; charset="utf-8"\r\n'
        "Content-Transfer-Encoding: quoted-printable\r\n\r\n"
        f"{_LONG.sub(_SOFT_BREAK, b2a_qp(lines, istext=True)).decode('ascii')}"
    )


@functools.lru_cache(maxsize=100)
def _subject(subject: str) -> str:
    """The header, folded, with encoded words where it has to have them."""
    return str(_POLICY.header_factory("Subject", subject).fold(policy=_POLICY))


@functools.lru_cache(maxsize=100)
def _address(name: str, value: str) -> Address:
    """Parse one plain address; the message of the ValueError never repeats it."""
    try:
        address = Address(addr_spec=value)
    except (ValueError, IndexError, HeaderParseError):  # all three come out of the standard library's parser
        address = None
    # The same text again, or the parser has skipped something, such as a comment.
    if (
        address is None
        or not address.username
        or not address.domain
        or address.addr_spec != value
        or not value.isascii()
    ):
        raise ValueError(f"the {name} is not a single plain ASCII address")
    return address


def _boundary(task_id: str) -> str:
    """A fixed boundary. `=_` cannot occur in quoted-printable, so no body can contain it (RFC 2045 section 6.7)."""
    return "=_" + hashlib.sha256(task_id.encode()).hexdigest()[:32]
