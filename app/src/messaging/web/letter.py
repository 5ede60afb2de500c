"""A delivered mail, as its reader sees it."""

from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as default_policy
from typing import Self

HEADERS = ("From", "To", "Subject", "Date", "Message-ID")


@dataclass(frozen=True)
class Letter:
    """The headers that matter, and the body in the forms that it has."""

    headers: dict[str, str]
    text: str | None
    html: str | None

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read a message that this service has built."""
        message = message_from_bytes(content, policy=default_policy)
        return cls(
            headers={name: str(message[name]) for name in HEADERS if name in message},
            text=_body(message, "plain"),
            html=_body(message, "html"),
        )


def _body(message: EmailMessage, kind: str) -> str | None:
    part = message.get_body((kind,))
    return None if part is None else str(part.get_content())
