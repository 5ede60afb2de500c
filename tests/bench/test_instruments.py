"""What measures, measured."""

import asyncio
import contextlib
import smtplib
import socket
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from subprocess import Popen

import pytest
import trustme

import open_loop

BENCH = Path(open_loop.__file__).parent
ANSWER = b"HTTP/1.1 %d OK\r\nContent-Length: 2\r\nConnection: %s\r\n\r\n{}"


class Slow:
    """An HTTP server that answers nothing from `begin` to `end`, in seconds since its first request."""

    def __init__(self, begin: float, end: float, status: int = 202, connection: bytes = b"keep-alive") -> None:
        self._times = begin, end
        self._answer = ANSWER % (status, connection)
        self._first = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                now = time.monotonic()
                self._first = self._first or now
                begin, end = (self._first + each for each in self._times)
                if begin < now < end:
                    await asyncio.sleep(end - now)
                # in two parts, as it may come
                writer.write(self._answer[:20])
                await writer.drain()
                writer.write(self._answer[20:])
                if b"close" in self._answer:
                    writer.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        yield server.sockets[0].getsockname()[1]
        server.close()


def loaded(server: Slow, rate: float, seconds: float) -> open_loop.Load:
    async def both() -> open_loop.Load:
        async with server.running() as port:
            return await open_loop.run(port, rate, seconds, "test")

    with asyncio.Runner(loop_factory=open_loop.precise_loop) as runner:
        return runner.run(both())


def test_a_quick_server_is_quick() -> None:
    load = loaded(Slow(0, 0), 100, 0.5)
    assert load.answers == {202: 50}
    assert len(load.milliseconds) == 50
    assert sorted(load.milliseconds)[25] < 20


@pytest.mark.parametrize("connections", [900, 2])
def test_what_waits_while_the_server_stands_still_is_not_left_out(
    connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the counted requests come due in the half second without answers, and wait a quarter on the average."""
    monkeypatch.setattr(open_loop, "MOST_CONNECTIONS", connections)
    load = loaded(Slow(1.25, 1.75), 100, 1.0)
    assert load.answers == {202: 100}
    late = [each for each in load.milliseconds if each > 100]
    assert 35 <= len(late) <= 50
    assert 200 < sum(late) / len(late) < 400
    assert 450 < max(late) < 700


@pytest.mark.parametrize(("status", "connection"), [(503, b"keep-alive"), (202, b"close")])
def test_every_answer_is_counted(status: int, connection: bytes) -> None:
    load = loaded(Slow(0, 0, status, connection), 50, 0.4)
    assert load.answers == {status: 20}


def test_no_server_is_no_answer(free_port: int) -> None:
    with asyncio.Runner(loop_factory=open_loop.precise_loop) as runner:
        load = runner.run(open_loop.run(free_port, 50, 0.2, "test"))
    assert load.answers == {0: 10}
    assert load.milliseconds == []


@pytest.fixture
def free_port() -> int:
    return _free_port()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def program(name: str, *arguments: str) -> Iterator[int]:
    """One of ours, on a port of its own."""
    port = _free_port()
    with Popen([sys.executable, str(BENCH / name), str(port), *arguments]) as process:
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.02)
            yield port
        finally:
            process.kill()


@pytest.fixture
def echo() -> Iterator[int]:
    """Greets, and then says everything twice."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    link, _ = server.accept()
                    threading.Thread(target=talk, args=(link,), daemon=True).start()

        def talk(link: socket.socket) -> None:
            with contextlib.suppress(OSError), link:
                link.sendall(b"hello\n")
                while data := link.recv(100):
                    link.sendall(data + data)

        threading.Thread(target=serve, daemon=True).start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


def test_a_round_trip_through_the_proxy_takes_its_time(echo: int) -> None:
    with (
        program("delay_proxy.py", str(echo), "40") as port,
        socket.create_connection(("127.0.0.1", port)) as link,
    ):
        begun = time.monotonic()
        assert link.recv(100) == b"hello\n"
        greeted = time.monotonic() - begun
        assert 0.075 < greeted < 0.15, "two round trips: the handshake, and what is said on it"
        begun = time.monotonic()
        link.sendall(b"ab\n")
        answer = b""
        while len(answer) < 6:
            answer += link.recv(100)
        assert answer == b"ab\nab\n"
        assert 0.039 < time.monotonic() - begun < 0.08


def test_the_proxy_hangs_up_when_the_other_side_does(closed: int) -> None:
    with (
        program("delay_proxy.py", str(closed), "10") as port,
        socket.create_connection(("127.0.0.1", port), 5) as link,
    ):
        assert link.recv(100) == b""


@pytest.fixture
def closed() -> int:
    return _free_port()


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[tuple[int, ssl.SSLContext, Path]]:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "crt"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    taken = tmp_path / "taken"
    files = (str(tmp_path / "crt"), str(tmp_path / "key"))
    with program("python_sink.py", *files, "bench", "secret", str(taken)) as port:
        yield port, context, taken


def test_the_sink_notes_when_it_took_what(sink: tuple[int, ssl.SSLContext, Path]) -> None:
    port, context, taken = sink
    with smtplib.SMTP_SSL("localhost", port, context=context, timeout=5) as client:
        client.login("bench", "secret")
        begun = time.monotonic()
        client.sendmail("a@example.com", "b@example.com", "Subject: x\r\n\r\n.dot\r\n")
        client.sendmail("a@example.com", "c@example.com", "")
        ended = time.monotonic()
    found = [line.split() for line in taken.read_text().splitlines()]
    assert [address for _, address in found] == ["b@example.com", "c@example.com"]
    assert all(begun <= float(moment) <= ended for moment, _ in found)


def test_the_sink_takes_commands_that_come_together(sink: tuple[int, ssl.SSLContext, Path]) -> None:
    port, context, taken = sink
    with smtplib.SMTP_SSL("localhost", port, context=context, timeout=5) as client:
        client.login("bench", "secret")
        client.send("MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
        assert [client.getreply()[0] for _ in range(3)] == [250, 250, 354]
        client.send("text\r\n.\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<c@example.com>\r\n")
        assert [client.getreply()[0] for _ in range(3)] == [250, 250, 250]
    assert taken.read_text().count("\n") == 1


def test_the_sink_wants_the_login(sink: tuple[int, ssl.SSLContext, Path]) -> None:
    port, context, taken = sink
    with smtplib.SMTP_SSL("localhost", port, context=context, timeout=5) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("bench", "wrong")
        with pytest.raises(smtplib.SMTPException):
            client.sendmail("a@example.com", "b@example.com", "x")
    assert taken.read_text() == ""
