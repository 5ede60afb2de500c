"""A stand-in for distance: `delay_proxy.py PORT TARGET-PORT MILLISECONDS`, the time of one round trip.

What goes in comes out half a round trip later, in both directions; and the other side learns of a connection one and a
half round trips after it was made, as with TCP's handshake. `tc netem` does it in the kernel, if that has it.
"""

import asyncio
import sys
from collections import deque
from typing import cast

from open_loop import precise_loop


class Pipe(asyncio.Protocol):
    """One end of a connection through the proxy; what it receives goes to the other end, later."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._under_way: deque[tuple[float, bytes | None]] = deque()
        self.not_before = 0.0
        self.other: Pipe | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._send(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._send(None)

    def _send(self, data: bytes | None) -> None:
        due = max(self._loop.time(), self.not_before) + self._delay
        self._under_way.append((due, data))
        if len(self._under_way) == 1:
            self._loop.call_at(due, self.arrive)

    def arrive(self) -> None:
        """Hand over what is due, in its order, as soon as there is an other end."""
        if self.other is None or self.other.transport is None:
            return
        while self._under_way and self._under_way[0][0] <= self._loop.time():
            _, data = self._under_way.popleft()
            if data is None:
                self.other.transport.close()
            elif not self.other.transport.is_closing():
                self.other.transport.write(data)
        if self._under_way:
            self._loop.call_at(self._under_way[0][0], self.arrive)


class Entrance(Pipe):
    """The end that the client sees."""

    def __init__(self, target: int, round_trip: float) -> None:
        super().__init__(round_trip / 2)
        self._target = target
        self._round_trip = round_trip

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.not_before = self._loop.time() + self._round_trip
        self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        await asyncio.sleep(self._round_trip * 1.5)
        other = Pipe(self._delay)
        other.other = self
        try:
            await self._loop.create_connection(lambda: other, "127.0.0.1", self._target)
        except OSError:
            if self.transport is not None:
                self.transport.close()
            return
        self.other = other
        if self._under_way:
            self.arrive()


async def serve(port: int, target: int, round_trip: float) -> None:
    """Until it is killed; `round_trip` in seconds."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Entrance(target, round_trip), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main(port: str, target: str, milliseconds: str) -> None:
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(serve(int(port), int(target), float(milliseconds) / 1000))


if __name__ == "__main__":
    main(*sys.argv[1:])
