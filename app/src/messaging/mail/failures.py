"""Why a message was not delivered, sorted by what to do about it."""

import re
import ssl

_REASON_LENGTH = 300
_RETRY_CLOCK = re.compile(r"\b(?:in|after|for|wait)\s+(\d{1,2}):(\d{2}):(\d{2})\b", re.IGNORECASE)
_RETRY_WORDS = re.compile(
    r"\b(?:in|after|for|wait)\s+(\d{1,6})\s*(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?)\b", re.IGNORECASE
)
_UNIT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class DeliveryError(Exception):
    """A message that was not, or perhaps not, delivered.

    Attributes:
        reason: one plain line with the server's words, at most 300 characters. It names neither login nor password.
        retry_after: seconds after which another try makes sense, where that is known.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class PermanentFailure(DeliveryError):
    """The server refuses this recipient or this message for good: another try would end the same."""


class TransientFailure(DeliveryError):
    """The server refuses this recipient or this message for now: try again, after `retry_after` if it is known."""


class AllInUse(TransientFailure):
    """All the sessions that the relay grants are in use by ourselves: news neither of the message nor of the relay."""


class SessionFailure(DeliveryError):
    """No usable session: the fault is ours or the server's, never the message's, and nothing was handed over."""


class NoMoreSessions(SessionFailure):
    """The server greets with a 421: it is going down, or grants no more sessions than there are."""


class OutcomeUnknown(DeliveryError):
    """The whole message was handed over and no answer came: it may have been delivered."""


def one_line(text: str) -> str:
    """`text` on one line of at most 300 characters, with control characters and runs of blanks as one blank."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= _REASON_LENGTH else line[: _REASON_LENGTH - 1] + "…"


def words_of(error: Exception) -> str:
    """What went wrong below SMTP, in a few words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or 'unknown reason').replace('_', ' ').lower()}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def retry_after(words: str) -> float | None:
    """The delay that a server asks for, in seconds: 'try again in 5 minutes', 'greylisted for 300 s', 'in 00:04:59'."""
    clock = _RETRY_CLOCK.search(words)
    if clock:
        hours, minutes, seconds = map(int, clock.groups())
        return hours * 3600.0 + minutes * 60.0 + seconds
    delay = _RETRY_WORDS.search(words)
    return int(delay[1]) * _UNIT_SECONDS[delay[2][0].lower()] if delay else None
