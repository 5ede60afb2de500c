"""Open loop: requests at a fixed rate, whatever becomes of the ones before.

    open_loop.py PORT RATE SECONDS PREFIX

Prints one JSON object: `answers` by status (0: none), and the `milliseconds` of each request that was answered. A
request's time begins when it was due, not when it could be sent: what waits for a connection, or for this program, is
not left out (https://www.youtube.com/watch?v=lJ8ydIuPFeU). The first second is not counted.
"""

import asyncio
import json
import selectors
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import cast

WARM_UP = 1.0
# Seconds after the last request
PATIENCE = 10.0
# select() is exact to the microsecond, where epoll and asyncio round up to a millisecond, and knows 1024 sockets
MOST_CONNECTIONS = 900


@dataclass
class Load:
    """What waits to be sent, who could send it, and what has come back."""

    port: int
    counted_from: float = 0.0
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    idle: list["Connection"] = field(default_factory=list)
    connections: int = 0
    open_requests: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)

    def ask(self, due: float, request: bytes) -> None:
        """Send it as soon as a connection can."""
        self.open_requests += 1
        if self.idle:
            self.idle.pop().send(due, request)
            return
        self.waiting.append((due, request))
        if self.connections < MOST_CONNECTIONS:
            self.connections += 1
            opening = asyncio.get_running_loop().create_task(self._open())
            opening.add_done_callback(lambda done: done.exception())

    async def _open(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: Connection(self), "127.0.0.1", self.port)
        except OSError:
            self.connections -= 1
            if self.waiting:
                self.done(self.waiting.popleft()[0], 0)

    def free(self, connection: "Connection") -> None:
        """It can take another one."""
        if self.waiting:
            connection.send(*self.waiting.popleft())
        else:
            self.idle.append(connection)

    def done(self, due: float, status: int) -> None:
        """The request that was due then has come to its end."""
        self.open_requests -= 1
        if due < self.counted_from:
            return
        self.answers[status] += 1
        if status:
            self.milliseconds.append((time.monotonic() - due) * 1000)


class Connection(asyncio.Protocol):
    """A connection that is kept, with one request at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = b""
        self._due: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._load.free(self)

    def send(self, due: float, request: bytes) -> None:
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        if len(body) < int(headers.get("content-length", "0")) or self._due is None:
            return
        self._received = b""
        due, self._due = self._due, None
        self._load.done(due, int(first.split()[1]))
        if headers.get("connection") == "close":
            self._transport.close()
        else:
            self._load.free(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.connections -= 1
        if self in self._load.idle:
            self._load.idle.remove(self)
        if self._due is not None:
            self._load.done(self._due, 0)


async def run(port: int, rate: float, seconds: float, prefix: str) -> Load:
    """Requests for `seconds` after the warm-up."""
    begun = time.monotonic() + 0.1
    load = Load(port, counted_from=begun + WARM_UP)
    for number in range(round(rate * (seconds + WARM_UP))):
        due = begun + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        target = f"/?sendmail={prefix}-{number}@example.com"
        load.ask(due, f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    deadline = time.monotonic() + PATIENCE
    while load.open_requests and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    if load.open_requests:
        load.answers[0] += load.open_requests
    return load


def precise_loop() -> asyncio.AbstractEventLoop:
    """One that wakes up when it shall."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main(port: str, rate: str, seconds: str, prefix: str) -> None:
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        load = runner.run(run(int(port), float(rate), float(seconds), prefix))
    print(json.dumps({"answers": load.answers, "milliseconds": load.milliseconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
