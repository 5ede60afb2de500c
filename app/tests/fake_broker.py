"""A stand-in for RabbitMQ that takes messages, refuses them, or says nothing of them, as a test wants it."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from enum import Enum, auto

import trustme

METHOD, HEADER, BODY, END = 1, 2, 3, 0xCE
SUSPECT = b"\x07suspectt\x01"


class Mood(Enum):
    """What becomes of a message."""

    CONFIRMS = auto()
    REFUSES = auto()
    SILENT = auto()


class FakeBroker:
    """Talks as much AMQP 0-9-1 as the publisher needs.

    `messages` are the headers of those it was sent, `greeted` how many connections were opened.
    """

    def __init__(self, address: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> None:
        self.mood = Mood.CONFIRMS
        self.messages: list[bytes] = []
        self.greeted = 0
        self._context = context
        self._listener = socket.create_server((address, 0))
        self._clients: list[socket.socket] = []
        self.host = f"{address}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def kill(self) -> None:
        """Be gone, with all connections."""
        for each in (self._listener, *self._clients):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            self._clients.append(client)
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
                self._clients.append(client)
            stream = client.makefile("rb")
            if stream.read(8) != b"AMQP\0\0\x09\x01":
                return
            self.greeted += 1
            _send(client, 0, 10, 10, b"\0\x09" + _long(0) + _long_string(b"PLAIN") + _long_string(b"en_US"))
            tag = 0
            for kind, channel, payload in _frames(stream.read):
                if kind == HEADER:
                    self.messages.append(payload)
                    tag += 1
                    self._answer(client, channel, tag)
                elif kind == METHOD and payload[:4] in _ANSWERS:
                    _send(client, channel, *_ANSWERS[payload[:4]])

    def _answer(self, client: socket.socket, channel: int, tag: int) -> None:
        if self.mood is not Mood.SILENT:
            method = 80 if self.mood is Mood.CONFIRMS else 120
            _send(client, channel, 60, method, struct.pack(">QB", tag, 0))


# by class and method: what a client asks, and what it is told
_ANSWERS = {
    struct.pack(">HH", 10, 11): (10, 30, struct.pack(">HIH", 100, 131072, 0)),
    struct.pack(">HH", 10, 40): (10, 41, b"\0"),
    struct.pack(">HH", 20, 10): (20, 11, struct.pack(">I", 0)),
    struct.pack(">HH", 85, 10): (85, 11, b""),
}


def certified(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """For a broker whose certificate is for `name`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


def _frames(read: Callable[[int], bytes]) -> Iterator[tuple[int, int, bytes]]:
    while head := read(7):
        kind, channel, size = struct.unpack(">BHI", head)
        payload = read(size)
        if read(1) != bytes([END]):
            return
        yield kind, channel, payload


def _send(client: socket.socket, channel: int, of_class: int, method: int, arguments: bytes) -> None:
    payload = struct.pack(">HH", of_class, method) + arguments
    client.sendall(struct.pack(">BHI", METHOD, channel, len(payload)) + payload + bytes([END]))


def _long(number: int) -> bytes:
    return struct.pack(">I", number)


def _long_string(text: bytes) -> bytes:
    return _long(len(text)) + text
