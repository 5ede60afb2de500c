"""One SMTP session: connect, TLS, login, and one message after the other.

`smtplib` speaks the protocol; what is here bounds it in time and tells apart what it mixes up: a message that was not
handed over, one that was refused, and one whose fate is unknown.
"""

import contextlib
import ipaddress
import re
import select
import smtplib
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from messaging.mail.failures import (
    DeliveryError,
    NoMoreSessions,
    OutcomeUnknown,
    PermanentFailure,
    SessionFailure,
    TransientFailure,
    one_line,
    retry_after,
    words_of,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Security = Literal["none", "starttls", "tls"]
Exchange = Callable[[], tuple[int, bytes]]

_CHUNK_BYTES = 64 * 1024
_REPLY_BYTES = 64 * 1024
_LINE_END = re.compile(rb"\r\n|\r|\n")
_LEADING_DOT = re.compile(rb"^\.", re.MULTILINE)
_REPLY_LINE = re.compile(rb"([2-5]\d\d)([ -]?)(.*)", re.DOTALL)
_PATH = re.compile(r"[\x21-\x3b\x3d\x3f-\x7e]+")  # printable ASCII without blanks and angle brackets
_HOST_NAME = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")
_SECRET_MIN_LENGTH = 2

_READY = 220
_LOGGED_IN = 235
_NEXT_STEP = 334
_GO_ON = 354
_CLOSING = 421
# Login or encryption is missing or was refused (RFC 4954, RFC 3207): true of every message, whatever the command.
_SESSION_CODES = frozenset({_CLOSING, 530, 534, 535, 538})


@dataclass(frozen=True, slots=True)
class SmtpConfig:
    """How to reach the relay. Times in seconds.

    Attributes:
        timeout: the limit of one step (connect, one command and its reply).
        ca_file: certificates to trust instead of the system's, PEM; empty for the system's.
        helo_name: what we call ourselves; empty: the host's full name, else its address (RFC 5321 4.1.3).
        max_messages: messages sent over one session.
        max_age: age at which a session is given up.
        max_idle: how long a session may wait for its next message.
        deadline: the limit of one `send()` as a whole; None: three times `timeout`.
    """

    host: str
    port: int
    security: Security = "none"
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    timeout: float = 20.0
    ca_file: str | None = None
    helo_name: str | None = None
    max_messages: int = 100
    max_age: float = 300.0
    max_idle: float = 30.0
    deadline: float | None = None

    @property
    def send_seconds(self) -> float:
        """The limit of one `send()` as a whole."""
        return 3 * self.timeout if self.deadline is None else self.deadline


class Limits:
    """The time that one `send()` has left."""

    def __init__(self, step: float, total: float) -> None:
        self._step = step
        self._end = time.monotonic() + total

    def step(self, steps: int = 1, *, patient: bool = False) -> float:
        """Seconds that the next socket operation may take: so many steps, or, `patient`, all that is left.

        Raises:
            TimeoutError: nothing is left.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left if patient else min(self._step * steps, left)


class _Client(smtplib.SMTP):
    """smtplib on our own socket: the time limit holds for every read and write, and replies are bounded in size."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(local_hostname="localhost")  # replaced before EHLO; None would ask the DNS here
        self.limits = limits
        self.patient = False
        self.received = bytearray()
        # commands that go with the first of them, and those that have gone
        self.together: list[str] = []
        self.gone: list[str] = []
        # whether nothing was sent over it yet: a session that falls silent later may be a dead one
        self.fresh = True

    def adopt(self, connection: socket.socket) -> None:
        """Speak over `connection` from now on, forgetting what was read and learnt before (RFC 3207 section 4.2)."""
        self.sock = connection
        self.received.clear()
        self.helo_resp = self.ehlo_resp = None
        self.esmtp_features = {}
        self.does_esmtp = False

    def send(self, s: "ReadableBuffer | str") -> None:
        """Write all of `s`; an OSError means that its last bytes have not left."""
        connection = self._connection()
        rest = memoryview(s.encode("ascii") if isinstance(s, str) else s)
        while rest:
            connection.settimeout(self.limits.step(patient=self.patient))
            rest = rest[connection.send(rest[:_CHUNK_BYTES]) :]

    def putcmd(self, cmd: str, args: str = "") -> None:
        """Send a command, and with the first of `together` all of them; what has gone is not sent again."""
        line = f"{cmd} {args}" if args else cmd
        if self.gone[:1] == [line]:
            del self.gone[0]
        elif self.together[:1] == [line]:
            self.send("".join(f"{each}\r\n" for each in self.together))
            self.gone, self.together = self.together[1:], []
        else:
            super().putcmd(cmd, args)

    def getreply(self) -> tuple[int, bytes]:
        """Read one reply, of one or more lines (RFC 5321 section 4.2.1)."""
        lines: list[bytes] = []
        left = _REPLY_BYTES
        while True:
            line = self._read_line(left)
            left -= len(line)
            if left < 0:
                raise smtplib.SMTPServerDisconnected("the answer does not end")
            parsed = _REPLY_LINE.fullmatch(line.rstrip(b"\r\n"))
            if not parsed:
                raise smtplib.SMTPServerDisconnected("the answer is not SMTP")
            lines.append(parsed[3].strip())
            if parsed[2] != b"-":
                return int(parsed[1]), b"\n".join(lines)

    def _read_line(self, limit: int) -> bytes:
        connection = self._connection()
        start = 0
        while (end := self.received.find(b"\n", start) + 1) == 0:
            start = len(self.received)
            if start > limit:
                raise smtplib.SMTPServerDisconnected("the answer does not end")
            # a server may answer what came together when it has worked on all of it
            steps = 1 + len(self.gone) if self.fresh else 1
            connection.settimeout(self.limits.step(steps, patient=self.patient))
            chunk = connection.recv(_CHUNK_BYTES)
            if not chunk:
                raise smtplib.SMTPServerDisconnected("the server closed the connection")
            self.received += chunk
        line = bytes(self.received[:end])
        del self.received[:end]
        return line

    def _connection(self) -> socket.socket:
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected("the connection is closed")
        return self.sock


class Session:
    """A session with the relay, ready for MAIL FROM. Belongs to one thread at a time; made by `open`."""

    def __init__(self, config: SmtpConfig, limits: Limits) -> None:
        self._config = config
        self._client = _Client(limits)
        self._mid_transaction = False
        self.usable = False
        self._messages = 0
        self._opened = self._last_used = time.monotonic()

    @classmethod
    def open(cls, config: SmtpConfig, limits: Limits, context: ssl.SSLContext | None) -> "Session":
        """Connect, encrypt and log in.

        Args:
            config: where, and as whom.
            limits: the time there is.
            context: checks the server's certificate; needed unless the security is `none`.

        Raises:
            SessionFailure: any of that failed.
        """
        session = cls(config, limits)
        try:
            session._greet(context)
        except BaseException:
            session.close()
            raise
        session.usable = True
        return session

    def start(self, sender: str, recipient: str, size: int, limits: Limits) -> None:
        """Begin a message of `size` bytes: MAIL FROM is accepted.

        Where the server offers it, what comes next is sent at the same time (RFC 2920).

        Raises:
            SessionFailure: it was not, and the session is not usable any more.
        """
        self._client.limits = limits
        if not _PATH.fullmatch(sender):
            raise self._broken("the sender's address cannot be sent over SMTP")
        if self._mid_transaction:
            self._command("RSET")
            self._mid_transaction = False
        self._client.fresh = self._messages == 0
        if self._client.has_extn("pipelining") and _PATH.fullmatch(recipient) and not self._size_refused(size):
            self._client.together = [f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA"]
        self._command("MAIL", f"FROM:<{sender}>")

    def transfer(self, recipient: str, data: bytes) -> str:
        """Hand the message over and return the server's final reply. `start` comes first.

        Raises:
            DeliveryError: one of its four kinds; `usable` says whether the session still is.
        """
        self._mid_transaction = True
        self._messages += 1
        if not _PATH.fullmatch(recipient):
            raise PermanentFailure("the recipient's address cannot be sent over SMTP")
        if refused := self._size_refused(len(data)):
            raise PermanentFailure(refused)
        try:
            self._recipient_command("RCPT", f"TO:<{recipient}>")
        except DeliveryError:
            self._call_off()
            raise
        self._recipient_command("DATA", expected=_GO_ON)
        self._send_data(data)
        reply = self._final_reply()
        self._mid_transaction = False
        return reply

    def rest(self) -> None:
        """Start waiting for the next message."""
        self._last_used = time.monotonic()

    def expired(self) -> bool:
        """Whether the session has done enough, is too old or has waited for too long."""
        now = time.monotonic()
        config = self._config
        return (
            self._messages >= config.max_messages
            or now - self._opened >= config.max_age
            or now - self._last_used >= config.max_idle
        )

    def spoken_to(self) -> bool:
        """Whether the server has said something unasked (a 421) or hung up: the session is stale then."""
        connection = self._client.sock
        if connection is None or self._client.received:
            return True
        poll = select.poll()
        poll.register(connection, select.POLLIN | select.POLLHUP | select.POLLERR)
        return bool(poll.poll(0))

    def quit(self) -> None:
        """Say goodbye without waiting for an answer, and close."""
        self._client.limits = Limits(1.0, 1.0)
        with contextlib.suppress(OSError):  # the server may have hung up before
            self._client.putcmd("QUIT")
        self.close()

    def close(self) -> None:
        """Close the connection. Never raises and never waits."""
        self.usable = False
        connection, self._client.sock = self._client.sock, None
        if connection is not None:
            connection.close()

    def _greet(self, context: ssl.SSLContext | None) -> None:
        client, config = self._client, self._config
        where = f"{config.host}:{config.port}"
        try:
            connection = self._connect()
            client.local_hostname = config.helo_name or _own_name(connection)
        except (OSError, UnicodeError) as error:
            raise SessionFailure(one_line(f"cannot connect to {where}: {words_of(error)}")) from None
        client.adopt(connection)
        if config.security == "tls":
            self._encrypt(context)
        code, words = self._ask(f"no greeting from {where}", client.getreply)
        if code != _READY:
            failure = self._refused(f"{where} does not take mail", code, words)
            raise NoMoreSessions(failure.reason) if code == _CLOSING else failure
        self._hello()
        if config.security == "starttls":
            if not client.has_extn("starttls"):
                raise self._broken(f"{where} does not offer STARTTLS; is it the right port?")
            self._command("STARTTLS", expected=_READY)
            self._encrypt(context)
            self._hello()
        if config.username:
            self._login()

    def _connect(self) -> socket.socket:
        """Connect to the first of the host's addresses that answers."""
        config, limits = self._config, self._client.limits
        failure: OSError = OSError("the name has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(limits.step())
                connection.connect(address)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                connection.close()
                failure = error
            else:
                return connection
        raise failure

    def _encrypt(self, context: ssl.SSLContext | None) -> None:
        client = self._client
        if context is None or client.sock is None:
            raise self._broken("TLS is not set up")
        try:
            client.sock.settimeout(client.limits.step())
            client.adopt(context.wrap_socket(client.sock, server_hostname=self._config.host))
        except OSError as error:
            reason = words_of(error)
            if isinstance(error, ssl.SSLCertVerificationError):
                reason += " (smtp_ca_file names a private authority)"
            raise self._broken(f"no encryption with {self._config.host}:{self._config.port}: {reason}") from None

    def _hello(self) -> None:
        client = self._client
        code, words = self._ask("EHLO", client.ehlo)
        if not _positive(code) and code != _CLOSING:
            code, words = self._ask("HELO", client.helo)
        if not _positive(code):
            raise self._refused("the server refused EHLO and HELO", code, words)

    def _login(self) -> None:
        """Log in (RFC 4954), once: each refusal may count towards a lock-out."""
        offered = self._client.esmtp_features.get("auth", "").upper().split()
        name, password = self._config.username, self._config.password
        if "PLAIN" in offered:  # RFC 4616
            steps = [f"AUTH PLAIN {_base64(chr(0) + name + chr(0) + password)}"]
        elif "LOGIN" in offered:
            steps = ["AUTH LOGIN", _base64(name), _base64(password)]
        else:
            raise self._broken(f"the server offers no login by PLAIN or LOGIN: {' '.join(offered) or 'none at all'}")
        for number, step in enumerate(steps, start=1):
            code, words = self._ask("login", partial(self._client.docmd, step))
            if code != (_LOGGED_IN if number == len(steps) else _NEXT_STEP):
                raise self._refused("the server refused the login", code, words)

    def _size_refused(self, size: int) -> str:
        """Why the server would refuse so many bytes (SIZE, RFC 1870), known before MAIL FROM, where it would look like
        our fault; empty if it would not."""
        limit = self._client.esmtp_features.get("size", "")[:20]
        too_large = limit.isdecimal() and 0 < int(limit) < size
        return f"the message has {size} bytes, the server takes {int(limit)}" if too_large else ""

    def _call_off(self) -> None:
        """Read the answer to a DATA that has gone although there is no recipient; a server that wants a message then
        gets an empty one (RFC 2920 section 3.1)."""
        client = self._client
        if not (client.gone and self.usable):
            return
        try:
            code, _ = client.docmd("DATA")
            if code == _GO_ON:
                client.send(".\r\n")
                code, _ = client.getreply()
        except (OSError, ValueError):
            self.usable = False
        else:
            self.usable = code != _CLOSING

    def _command(self, verb: str, arguments: str = "", *, expected: int | None = None) -> None:
        """A command that fails for the session's sake, whatever the answer says."""
        code, words = self._ask(verb, partial(self._client.docmd, verb, arguments))
        if code != expected if expected else not _positive(code):
            raise self._refused(f"the server refused {_name(verb)}", code, words)

    def _recipient_command(self, verb: str, arguments: str = "", *, expected: int | None = None) -> None:
        """A command that fails for the recipient's or the message's sake."""
        code, words = self._ask(verb, partial(self._client.docmd, verb, arguments))
        if code != expected if expected else not _positive(code):
            raise self._sorted(f"the server refused {_name(verb)}", code, words)

    def _send_data(self, data: bytes) -> None:
        """Send the message and the final dot; when that fails the server cannot have seen the dot."""
        lines = _LEADING_DOT.sub(b"..", _LINE_END.sub(b"\r\n", data))
        end = b".\r\n" if lines.endswith(b"\r\n") else b"\r\n.\r\n"
        try:
            self._client.send(lines + end)
        except OSError as error:
            failure = error
        else:
            return
        early = self._early_reply(failure)
        if early is not None:
            raise self._sorted("the server refused the message", *early)
        raise self._broken(f"the link was lost in the middle of the message: {words_of(failure)}")

    def _early_reply(self, failure: OSError) -> tuple[int, bytes] | None:
        """What a server said before it hung up on an unfinished message, such as 552 for too long a one."""
        if isinstance(failure, TimeoutError):
            return None
        try:
            code, words = self._client.getreply()
        except OSError:
            return None
        finally:
            self.usable = False
        return None if _positive(code) else (code, words)

    def _final_reply(self) -> str:
        """The answer to the final dot. It may take all the time that is left: giving up early makes duplicates."""
        client = self._client
        client.patient = True
        try:
            code, words = client.getreply()
        except OSError as error:
            self.usable = False
            lost = words_of(error)
        else:
            lost = "" if code >= 400 or _positive(code) else f"{code} {_text(words)}"
        finally:
            client.patient = False
        if lost:
            self.usable = False
            raise OutcomeUnknown(self._clean(f"the message was handed over, but no verdict came: {lost}"))
        if _positive(code):
            return self._clean(f"{code} {_text(words)}")
        raise self._sorted("the server refused the message", code, words, after_data=True)

    def _ask(self, what: str, exchange: Exchange) -> tuple[int, bytes]:
        """One command and its reply; a link that fails is the session's fault."""
        try:
            code, words = exchange()
        except (OSError, ValueError) as error:
            failure = error
        else:
            return code, words
        raise self._broken(f"{_name(what)}: {words_of(failure)}")

    def _sorted(self, what: str, code: int, words: bytes, *, after_data: bool = False) -> DeliveryError:
        """The failure that a negative reply to RCPT, to DATA or to the message means."""
        if code == _CLOSING:
            self.usable = False
        if (code in _SESSION_CODES and not (after_data and code == _CLOSING)) or code < 400:
            return self._refused(what, code, words)
        reason = self._clean(f"{what}: {code} {_text(words)}")
        return PermanentFailure(reason) if code >= 500 else TransientFailure(reason, retry_after(_text(words)))

    def _refused(self, what: str, code: int, words: bytes) -> SessionFailure:
        return self._broken(f"{what}: {code} {_text(words)}")

    def _broken(self, reason: str) -> SessionFailure:
        """A failure after which the session is not used again."""
        self.usable = False
        return SessionFailure(self._clean(reason))

    def _clean(self, reason: str) -> str:
        """One line in which a server that repeats the login does no harm."""
        name, password = self._config.username, self._config.password
        for secret in (f"\0{name}\0{password}", password, name):
            if len(secret) >= _SECRET_MIN_LENGTH and name:
                either = f"{re.escape(secret)}|{re.escape(_base64(secret))}"
                reason = re.sub(rf"(?<!\w)(?:{either})(?!\w)", "***", reason, flags=re.IGNORECASE)
        return one_line(reason)


def _positive(code: int) -> bool:
    return 200 <= code < 300


def _text(words: bytes) -> str:
    return words.decode("utf-8", "replace")


def _base64(text: str) -> str:
    return b64encode(text.encode("utf-8", "surrogateescape")).decode("ascii")


def _name(verb: str) -> str:
    return {"MAIL": "MAIL FROM", "RCPT": "RCPT TO"}.get(verb, verb)


def _own_name(connection: socket.socket) -> str:
    """The name for EHLO (RFC 5321 section 4.1.1.1), found without asking the DNS."""
    name = socket.gethostname()
    if _HOST_NAME.fullmatch(name):
        return name
    address = ipaddress.ip_address(connection.getsockname()[0].partition("%")[0])
    return f"[{'IPv6:' if address.version == 6 else ''}{address}]"
