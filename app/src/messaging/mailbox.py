"""The embedded mailbox: an SMTP server on loopback that keeps what it gets in a Maildir, bounded, oldest out first.

Started as `python -m messaging.mailbox`.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import default as default_policy
from itertools import count
from pathlib import Path
from types import SimpleNamespace

from aiosmtpd.smtp import SMTP, Envelope, Session

from messaging.sdnotify import notify

_STOP_SECONDS = 10.0  # how long a stop waits for messages that are being received
_POLL_SECONDS = 0.02
_WRITERS = 4  # each waits for its own fsync
_HEADER_BYTES = 64 * 1024
# What the parser of the standard library lets out for a header that is not one.
_HEADER_ERRORS = (ValueError, LookupError, TypeError, AttributeError, HeaderParseError)

_log = logging.getLogger(__name__)


class MessageTooLargeError(Exception):
    """The message alone is larger than the mailbox may be."""


@dataclass(frozen=True, slots=True)
class StoredMail:
    """One message of the mailbox.

    Attributes:
        recipient: the envelope's recipient; several are separated by a comma and a blank.
        subject: decoded, without control characters.
        date: the message's own date, or else when it was stored; with a time zone.
        path: the file.
        size: bytes on disk.
    """

    recipient: str
    subject: str
    date: datetime
    path: Path
    size: int


class Mailbox:
    """A Maildir with bounds: `tmp` holds what is being written, `new` what has arrived, `cur` what a reader has seen.

    One process stores; any number may read. `store` is safe for threads.
    """

    def __init__(self, path: Path, keep: int, max_bytes: int) -> None:
        """Touch nothing yet. At most `keep` messages and `max_bytes` bytes will be held."""
        self.path = path
        self.max_bytes = max_bytes
        self._keep = keep
        self._host = socket.gethostname().replace("/", "_").replace(":", "_")
        self._numbers = count()
        self._lock = threading.Lock()
        self._held: OrderedDict[Path, int] = OrderedDict()  # file: bytes, oldest first
        self._held_bytes = 0
        self._prepared = False

    def prepare(self) -> None:
        """Make the directories, remove what a crash has left half-written, and apply the bounds.

        Raises:
            OSError: the directory cannot be used.
        """
        with self._lock:
            self._prepare()

    def store(self, sender: str, recipients: Sequence[str], data: bytes) -> Path:
        """Keep one message and return its file; it is on the disk, name and all, when this returns.

        The envelope goes into the headers Return-Path and Delivered-To; line ends become those of Unix.

        Raises:
            MessageTooLargeError: it is larger than the whole mailbox may be. Nothing else was removed for it.
            OSError: the disk is full or failed; nothing of the message is left.
            ValueError: an address contains a line end.
        """
        content = _with_envelope(sender, recipients, data)
        if len(content) > self.max_bytes:
            raise MessageTooLargeError(f"{len(content)} bytes, the mailbox holds {self.max_bytes}")
        with self._lock:
            if not self._prepared:
                self._prepare()
            name = self._new_name()
        temporary, final = self.path / "tmp" / name, self.path / "new" / name
        try:
            _write_synced(temporary, content)
            with self._lock:
                self._make_room(1, len(content))
                temporary.rename(final)
                self._add(final, len(content))
            _sync_directory(final.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            self._forget(final)
            raise
        return final

    def messages(self, limit: int | None = None) -> list[StoredMail]:
        """What the mailbox holds, newest first, at most `limit`; reads the disk, so any process may ask.

        Raises:
            OSError: the mailbox exists and may not be read.
        """
        found: list[StoredMail] = []
        for path in sorted(self._files(), key=lambda path: path.name, reverse=True):
            if limit is not None and len(found) >= limit:
                break
            with contextlib.suppress(FileNotFoundError):  # made room for another since
                found.append(_read(path))
        return found

    def find(self, message_id: str) -> bytes | None:
        """The newest message with this Message-ID; None when there is none, or it has made room for others.

        Reads the disk, the heads of all messages at the most.

        Raises:
            OSError: the mailbox exists and may not be read.
        """
        wanted = f"\nMessage-ID: {message_id}\n".encode()
        for path in sorted(self._files(), key=lambda path: path.name, reverse=True):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:  # made room for another since
                head = file.read(_HEADER_BYTES)
                if wanted in head.partition(b"\n\n")[0] + b"\n":
                    return head + file.read()
        return None

    def _prepare(self) -> None:
        for directory in (self.path, *(self.path / name for name in ("tmp", "new", "cur"))):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in (self.path / "tmp").iterdir():
            leftover.unlink()
        self._scan()
        self._make_room(0, 0)
        self._prepared = True

    def _scan(self) -> None:
        self._held, self._held_bytes = OrderedDict(), 0
        for path in sorted(self._files(), key=lambda path: path.name):
            with contextlib.suppress(FileNotFoundError):
                self._add(path, path.stat().st_size)

    def _files(self) -> Iterator[Path]:
        for name in ("new", "cur"):
            with contextlib.suppress(FileNotFoundError):
                yield from (self.path / name).iterdir()

    def _new_name(self) -> str:
        """A name that sorts by time and is never used twice (https://cr.yp.to/proto/maildir.html)."""
        seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
        return f"{seconds}.M{microseconds:06}P{os.getpid()}Q{next(self._numbers):08}.{self._host}"

    def _add(self, path: Path, size: int) -> None:
        self._held[path] = size
        self._held_bytes += size

    def _forget(self, path: Path) -> None:
        """Take back a message that was not stored after all."""
        with self._lock:
            self._held_bytes -= self._held.pop(path, 0)
            path.unlink(missing_ok=True)

    def _make_room(self, messages: int, size: int) -> None:
        """Remove the oldest until so many messages, of so many bytes together, fit in."""
        while self._held and (len(self._held) + messages > self._keep or self._held_bytes + size > self.max_bytes):
            oldest, oldest_size = self._held.popitem(last=False)
            self._held_bytes -= oldest_size
            try:
                oldest.unlink()
            except FileNotFoundError:  # a reader has moved or removed it: look again
                self._scan()


def _with_envelope(sender: str, recipients: Sequence[str], data: bytes) -> bytes:
    head = f"Return-Path: <{sender}>\nDelivered-To: {', '.join(recipients)}\n"
    if len(head.splitlines()) != 2:
        raise ValueError("an address contains a line end")
    return head.encode() + data.replace(b"\r\n", b"\n")


def _write_synced(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Make a rename in the directory last: fsync(2) of the file does not cover its name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> StoredMail:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        headers = BytesHeaderParser(policy=default_policy).parsebytes(file.read(_HEADER_BYTES))
    return StoredMail(
        recipient=_text(headers, "Delivered-To"),
        subject=_text(headers, "Subject"),
        date=_date(headers) or datetime.fromtimestamp(status.st_mtime, UTC),
        path=path,
        size=status.st_size,
    )


def _text(headers: Message, name: str) -> str:
    """One header as text that is safe to print; empty when it is missing or beyond understanding."""
    try:
        text = str(headers.get(name, ""))
    except _HEADER_ERRORS:
        return ""
    return "".join(character if character.isprintable() else " " for character in text)


def _date(headers: Message) -> datetime | None:
    try:
        header = headers.get("Date")
    except _HEADER_ERRORS:
        return None
    date = getattr(header, "datetime", None)
    if not isinstance(date, datetime):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


class _Handler:
    """What aiosmtpd asks: where a message goes."""

    def __init__(self, mailbox: Mailbox, writers: ThreadPoolExecutor) -> None:
        self._mailbox = mailbox
        self._writers = writers

    async def take(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Store the message; the answer says what became of it."""
        content = envelope.content or b""
        data = content if isinstance(content, bytes) else content.encode()
        try:
            path = await asyncio.get_running_loop().run_in_executor(
                self._writers, self._mailbox.store, envelope.mail_from or "", envelope.rcpt_tos, data
            )
        except MessageTooLargeError as error:
            return f"552 5.3.4 message too large: {error}"
        except OSError as error:
            _log.error("could not store a message: %s", error)
            return f"452 4.3.1 could not store the message: {error.strerror or error}"
        _log.info("stored %s for %s", path.name, ", ".join(envelope.rcpt_tos))
        return f"250 2.0.0 Ok: stored as {path.name}"

    async def apologise(self, error: Exception) -> str:
        """A fault of ours must not fail a message for good, as aiosmtpd's own answer (500) would."""
        _log.error("could not handle a command", exc_info=error)
        return "451 4.3.0 internal error"


class _Connection(SMTP):
    """One client; knows whether a message is under way."""

    def __init__(self, hooks: SimpleNamespace, connections: "set[_Connection]", size_limit: int) -> None:
        super().__init__(
            hooks,
            data_size_limit=size_limit,
            hostname="localhost",  # None would ask the DNS
            ident="messaging-system mailbox",
            loop=asyncio.get_running_loop(),
        )
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)
        super().connection_lost(error)

    @property
    def receiving(self) -> bool:
        """Whether a message is between MAIL FROM and its final reply."""
        return self.envelope is not None and self.envelope.mail_from is not None

    def dismiss(self) -> None:
        """Say 421 and hang up (RFC 5321 section 3.8)."""
        if isinstance(self.transport, asyncio.Transport) and not self.transport.is_closing():
            self.transport.write(b"421 4.3.2 the mailbox is stopping\r\n")
            self.transport.close()


async def serve(mailbox: Mailbox, host: str, port: int, stop: asyncio.Event, listening: Callable[[int], None]) -> None:
    """Take mail until `stop` is set; messages that are being received then are finished (10 s at most).

    Args:
        mailbox: where the mail goes.
        host: the address to listen on.
        port: TCP port; 0 for any.
        stop: ends the service.
        listening: called with the port once mail is taken.

    Raises:
        OSError: the port or the mailbox cannot be used.
    """
    await asyncio.to_thread(mailbox.prepare)
    connections: set[_Connection] = set()
    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="mailbox") as writers:
        handler = _Handler(mailbox, writers)
        hooks = SimpleNamespace(handle_DATA=handler.take, handle_exception=handler.apologise)
        server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(hooks, connections, mailbox.max_bytes), host, port, backlog=512
        )
        listening(server.sockets[0].getsockname()[1])
        await stop.wait()
        server.close()
        deadline = time.monotonic() + _STOP_SECONDS
        while connections and time.monotonic() < deadline:
            for connection in tuple(connections):
                if not connection.receiving:
                    connection.dismiss()
            await asyncio.sleep(_POLL_SECONDS)
        for connection in tuple(connections):
            connection.dismiss()


async def _run(mailbox: Mailbox, host: str, port: int) -> None:
    stop = asyncio.Event()

    def stopping() -> None:
        notify("STOPPING=1")
        stop.set()

    def listening(port: int) -> None:
        _log.info("listening on %s:%d", host, port)
        notify("READY=1")

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping)
    await serve(mailbox, host, port, stop, listening)
    _log.info("stopped")


def main() -> None:
    """Run the service with the settings of this host until SIGTERM. Exits with 1 when it cannot start."""
    from messaging.logs import setup_logging
    from messaging.settings import SettingsError, load

    try:
        settings = load()
    except SettingsError as error:
        sys.exit(str(error))
    setup_logging(settings)
    logging.getLogger("mail.log").setLevel(logging.WARNING)  # aiosmtpd would log every command
    mailbox = Mailbox(settings.mailbox_path, settings.mailbox_keep, settings.mailbox_max_mb * 1024 * 1024)
    try:
        asyncio.run(_run(mailbox, settings.mailbox_host, settings.mailbox_port))
    except OSError as error:
        _log.error("the mailbox cannot start: %s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
