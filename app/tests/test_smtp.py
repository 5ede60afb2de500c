"""The pool against real sockets: a relay that answers by script, and aiosmtpd for login and encryption."""

import contextlib
import pickle
import re
import select
import socket
import ssl
import struct
import threading
import time
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import AuthResult, LoginPassword

from messaging.mail import failures, smtp
from messaging.mail.session import Session
from messaging.mail.smtp import (
    AllInUse,
    DeliveryError,
    OutcomeUnknown,
    PermanentFailure,
    SessionFailure,
    SmtpConfig,
    SmtpPool,
    TransientFailure,
)

SENDER, RECIPIENT, DATA = "us@example.org", "you@example.com", b"Subject: x\r\n\r\nhello\r\n"
DROP, SILENCE, RESET = "DROP", "SILENCE", "RESET"
Script = dict[str, Any]


class Relay:
    """An SMTP server that answers each verb by script; one script a connection, the last one for all further ones.

    Verbs are those of SMTP, `greeting`, `END` (the final dot) and `BODY` (after 354, before the message is read).
    """

    def __init__(
        self,
        *scripts: Script,
        tls: ssl.SSLContext | None = None,
        starttls: ssl.SSLContext | None = None,
        offers: tuple[str, ...] = (),
    ):
        self.scripts = scripts or ({},)
        self.offers = offers
        self.tls, self.starttls = tls, starttls
        self.commands: list[list[str]] = []
        self.messages: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port: int = self.listener.getsockname()[1]
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.open.append(connection)
                script = self.scripts[min(len(self.commands), len(self.scripts) - 1)]
                seen: list[str] = []
                self.commands.append(seen)
                threading.Thread(target=self._talk, args=(connection, dict(script), seen), daemon=True).start()

    def _talk(self, connection: socket.socket, script: Script, seen: list[str]) -> None:
        with contextlib.suppress(OSError):
            try:
                if self.tls:
                    connection = self.tls.wrap_socket(connection, server_side=True)
                self._converse(connection, script, seen)
            finally:
                connection.close()

    def _converse(self, connection: socket.socket, script: Script, seen: list[str]) -> None:
        stream = connection.makefile("rb")
        reply: Any = None

        def answer(verb: str, default: str) -> bool:
            """Whether the conversation goes on."""
            nonlocal reply
            reply = script.get(verb, default)
            if isinstance(reply, list):
                reply = reply.pop(0) if len(reply) > 1 else reply[0]
            if callable(reply):
                return bool(reply(connection))
            if reply in {DROP, RESET}:
                if reply == RESET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)
                return False
            if reply == SILENCE:
                while connection.recv(65536):
                    pass
                return False
            connection.sendall(f"{reply}\r\n".encode())
            return True

        if not answer("greeting", "220 relay.test ready"):
            return
        while line := stream.readline():
            command = line.decode(errors="replace").rstrip("\r\n")
            seen.append(command)
            verb = command.partition(" ")[0].upper()
            default = {"DATA": "354 go on", "QUIT": "221 bye"}.get(verb, "250 ok")
            if verb == "EHLO":
                plain = self.starttls and not isinstance(connection, ssl.SSLSocket)
                *lines, last = ("relay.test", *self.offers, *(["STARTTLS"] if plain else []))
                default = "".join(f"250-{each}\r\n" for each in lines) + f"250 {last}"
            if verb == "STARTTLS":
                default = "220 go on"
            if not answer(verb, default):
                return
            if verb == "STARTTLS" and self.starttls:
                connection = self.starttls.wrap_socket(connection, server_side=True)
                stream = connection.makefile("rb")
            if verb == "QUIT":
                return
            if verb == "DATA" and str(reply).startswith("354"):
                if "BODY" in script and not answer("BODY", ""):
                    return
                body = b""
                while not (b"\r\n" + body).endswith(b"\r\n.\r\n"):
                    part = stream.readline()
                    if not part:
                        return
                    body += part
                self.messages.append(body)
                if not answer("END", f"250 2.0.0 Ok: queued as {len(self.messages)}"):
                    return

    def verbs(self, connection: int) -> list[str]:
        return [command.partition(" ")[0] for command in self.commands[connection]]

    def hang_up(self) -> None:
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.listener.close()
        self.hang_up()


class Clock:
    """Time that passes when a test says so; for the pauses only."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=[(), ("PIPELINING",)], ids=["one command at a time", "pipelining"])
def relay(request: pytest.FixtureRequest) -> Iterator[Callable[..., Relay]]:
    made: list[Relay] = []

    def make(*scripts: Script, **options: Any) -> Relay:
        made.append(Relay(*scripts, offers=request.param, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


PIPELINING = pytest.mark.parametrize("relay", [("PIPELINING",)], indirect=True)


def pool_for(port: int, clock: Callable[[], float] = time.monotonic, **options: Any) -> SmtpPool:
    return SmtpPool(SmtpConfig(**{"host": "127.0.0.1", "port": port, "timeout": 2.0} | options), clock)


def send(pool: SmtpPool, data: bytes = DATA) -> str:
    return pool.send(SENDER, RECIPIENT, data)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


# --- a message that arrives


def test_sends_and_keeps_the_session(relay: Callable[..., Relay], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda *_: pytest.fail("asked the DNS for our own name"))
    monkeypatch.setattr(socket, "gethostname", lambda: "short")
    server = relay()
    pool = pool_for(server.port)
    assert send(pool) == "250 2.0.0 Ok: queued as 1"
    assert send(pool) == "250 2.0.0 Ok: queued as 2"
    transaction = [f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{RECIPIENT}>", "DATA"]
    assert server.commands == [["ehlo [127.0.0.1]", *transaction, *transaction]]


def test_data_is_transparent(relay: Callable[..., Relay]) -> None:
    server = relay()
    send(pool_for(server.port), b"a: b\n\n.\n..\r\n.x\rend")
    assert server.messages == [b"a: b\r\n\r\n..\r\n...\r\n..x\r\nend\r\n.\r\n"]


def test_no_smuggling_through_line_ends(relay: Callable[..., Relay]) -> None:
    server = relay()
    send(pool_for(server.port), b"a: b\r\n\r\nx\n.\r\nMAIL FROM:<evil@example.com>\r\n")
    assert len(server.messages) == 1
    assert server.verbs(0)[-1] == "DATA"


@pytest.mark.parametrize("multi", ["250-relay\r\n250-SIZE 5000\r\n250 HELP"])
def test_message_above_the_servers_limit(relay: Callable[..., Relay], multi: str) -> None:
    server = relay({"EHLO": multi})
    pool = pool_for(server.port)
    with pytest.raises(PermanentFailure, match="6000 bytes, the server takes 5000"):
        send(pool, b"x" * 6000)
    assert pool.problem is None
    assert send(pool).startswith("250")


def test_falls_back_to_helo(relay: Callable[..., Relay]) -> None:
    assert send(pool_for(relay({"EHLO": "502 what?"}).port)).startswith("250")


def test_threads_share_the_pool(relay: Callable[..., Relay]) -> None:
    server = relay()
    pool = pool_for(server.port)
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda number: send(pool, f"n: {number}\r\n\r\n".encode()), range(200)))
    assert len(replies) == 200
    assert {int(re.findall(rb"n: (\d+)", message)[0]) for message in server.messages} == set(range(200))
    assert len(server.messages) == 200
    assert len(server.commands) <= 8


# --- failures, sorted


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        ({"RCPT": "550 5.1.1 no such user"}, PermanentFailure, "550 5.1.1 no such user"),
        ({"DATA": "554 5.7.1 not from you"}, PermanentFailure, "554 5.7.1 not from you"),
        ({"END": "552 too big"}, PermanentFailure, "552 too big"),
        ({"RCPT": "451 try again in 90 seconds"}, TransientFailure, "451 try again in 90 seconds"),
        ({"DATA": "452 no space"}, TransientFailure, "452 no space"),
        ({"END": "450 later"}, TransientFailure, "450 later"),
        ({"END": "421 going down, not taken"}, TransientFailure, "421 going down"),
        ({"greeting": "554 no service"}, SessionFailure, "554 no service"),
        ({"greeting": "421 too busy"}, SessionFailure, "421 too busy"),
        ({"greeting": DROP}, SessionFailure, "closed the connection"),
        ({"greeting": "HTTP/1.1 400 Bad Request"}, SessionFailure, "not SMTP"),
        ({"EHLO": "421 bye"}, SessionFailure, "EHLO and HELO: 421 bye"),
        ({"EHLO": "550 no", "HELO": "550 no"}, SessionFailure, "550 no"),
        ({"MAIL": "451 4.7.1 slow down"}, SessionFailure, "MAIL FROM: 451 4.7.1 slow down"),
        ({"MAIL": "550 5.7.1 sender unknown"}, SessionFailure, "MAIL FROM: 550 5.7.1 sender unknown"),
        ({"MAIL": DROP}, SessionFailure, "closed the connection"),
        ({"RCPT": "421 bye"}, SessionFailure, "421 bye"),
        ({"RCPT": "530 5.7.0 log in first"}, SessionFailure, "530 5.7.0"),
        ({"RCPT": DROP}, SessionFailure, "closed the connection"),
        ({"DATA": "421 bye"}, SessionFailure, "421 bye"),
        ({"DATA": "250 eh"}, SessionFailure, "250 eh"),
        ({"DATA": DROP}, SessionFailure, "closed the connection"),
        ({"END": DROP}, OutcomeUnknown, "closed the connection"),
        ({"END": RESET}, OutcomeUnknown, "."),
        ({"END": "gibberish"}, OutcomeUnknown, "not SMTP"),
        ({"END": "354 what"}, OutcomeUnknown, "354 what"),
        ({"END": "250-half of an answer\r\n250"}, None, ""),
    ],
    ids=str,
)
def test_sorts_failures(
    relay: Callable[..., Relay], script: Script, kind: type[DeliveryError] | None, words: str
) -> None:
    pool = pool_for(relay(script).port)
    if kind is None:
        assert send(pool).startswith("250")
        return
    with pytest.raises(kind, match=words) as caught:
        send(pool)
    assert type(caught.value) is kind
    assert "\n" not in caught.value.reason
    assert (pool.problem is not None) == (kind is SessionFailure)


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ({"greeting": SILENCE}, SessionFailure),
        ({"RCPT": SILENCE}, SessionFailure),
        ({"END": SILENCE}, OutcomeUnknown),
    ],
    ids=str,
)
def test_silence_is_bounded(relay: Callable[..., Relay], script: Script, kind: type[DeliveryError]) -> None:
    pool = pool_for(relay(script).port, timeout=0.2, deadline=0.4)
    start = time.monotonic()
    with pytest.raises(kind, match="no answer in time"):
        send(pool)
    assert time.monotonic() - start < 1.0


def test_one_step_does_not_outlast_the_deadline(relay: Callable[..., Relay]) -> None:
    start = time.monotonic()
    with pytest.raises(SessionFailure, match="no answer in time"):
        send(pool_for(relay({"RCPT": SILENCE}).port, timeout=30, deadline=0.3))
    assert time.monotonic() - start < 2


def test_the_verdict_may_take_longer_than_a_step(relay: Callable[..., Relay]) -> None:
    def ponder(connection: socket.socket) -> bool:
        time.sleep(0.4)
        connection.sendall(b"250 2.0.0 after some thought\r\n")
        return True

    server = relay({"END": ponder})
    assert send(pool_for(server.port, timeout=0.2, deadline=5.0)) == "250 2.0.0 after some thought"


def test_a_trickle_does_not_outlast_the_deadline(relay: Callable[..., Relay]) -> None:
    def trickle(connection: socket.socket) -> bool:
        while True:
            connection.sendall(b"250-x\r\n")
            time.sleep(0.02)

    pool = pool_for(relay({"MAIL": trickle}).port, timeout=0.3, deadline=0.6)
    start = time.monotonic()
    with pytest.raises(SessionFailure, match="no answer in time"):
        send(pool)
    assert 0.5 < time.monotonic() - start < 1.2


def test_an_endless_answer_is_cut(relay: Callable[..., Relay]) -> None:
    def flood(connection: socket.socket) -> bool:
        while True:
            connection.sendall(b"250-" + b"x" * 1000 + b"\r\n")

    with pytest.raises(SessionFailure, match="the answer does not end"):
        send(pool_for(relay({"MAIL": flood}).port, timeout=5))


def test_an_endless_line_is_cut(relay: Callable[..., Relay]) -> None:
    def flood(connection: socket.socket) -> bool:
        while True:
            connection.sendall(b"250-" + b"x" * 1000)

    with pytest.raises(SessionFailure, match="the answer does not end"):
        send(pool_for(relay({"MAIL": flood}).port, timeout=5))


def test_link_lost_in_the_middle_of_the_message(relay: Callable[..., Relay]) -> None:
    pool = pool_for(relay({"BODY": RESET}).port)
    with pytest.raises(SessionFailure, match="in the middle of the message"):
        send(pool, b"x" * 20_000_000)


def test_server_that_stops_reading_in_the_middle(relay: Callable[..., Relay]) -> None:
    stopped = threading.Event()
    pool = pool_for(relay({"BODY": lambda _: stopped.wait(5)}).port, timeout=0.3)
    with pytest.raises(SessionFailure, match="in the middle of the message: no answer in time"):
        send(pool, b"x" * 20_000_000)
    stopped.set()


def test_refusal_in_the_middle_of_the_message(relay: Callable[..., Relay]) -> None:
    def refuse(connection: socket.socket) -> bool:
        connection.sendall(b"552 5.3.4 far too large\r\n")
        return False

    pool = pool_for(relay({"BODY": refuse}).port)
    with pytest.raises(PermanentFailure, match=r"552 5.3.4 far too large"):
        send(pool, b"x" * 20_000_000)
    assert pool.problem is None


@pytest.mark.parametrize(
    "recipient", ["a@b>\r\nRCPT TO:<c@d", "a@b\r\n", "a b@c", "ä@example.com", "", "a@b> SIZE=1", "a\0@b"]
)
def test_recipient_that_would_break_the_command(relay: Callable[..., Relay], recipient: str) -> None:
    server = relay()
    pool = pool_for(server.port)
    with pytest.raises(PermanentFailure, match="cannot be sent over SMTP"):
        pool.send(SENDER, recipient, DATA)
    assert "RCPT" not in " ".join(server.commands[0]).upper()
    assert send(pool).startswith("250")


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("4.7.1 try again in 90 seconds", 90.0),
        ("greylisted for 5 minutes", 300.0),
        ("please retry after 60s", 60.0),
        ("Greylisting in action, please come back in 00:04:59", 299.0),
        ("wait 1 hour", 3600.0),
        ("try again later", None),
        ("see http://example.com/in 5", None),
    ],
)
def test_retry_after(words: str, seconds: float | None) -> None:
    assert failures.retry_after(words) == seconds


def test_transient_failure_carries_the_delay(relay: Callable[..., Relay]) -> None:
    with pytest.raises(TransientFailure) as caught:
        send(pool_for(relay({"RCPT": "451 4.7.1 try again in 90 seconds"}).port))
    assert caught.value.retry_after == 90.0
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), copy.reason, copy.retry_after) == (TransientFailure, caught.value.reason, 90.0)


def test_reason_is_one_short_plain_line(relay: Callable[..., Relay]) -> None:
    with pytest.raises(PermanentFailure) as caught:
        send(pool_for(relay({"RCPT": "550-\x1b[31mred\r\n550 \u202e\x07" + "x" * 900}).port))
    assert caught.value.reason.isprintable()
    assert len(caught.value.reason) == 300
    assert "550 [31mred x" in caught.value.reason


# --- sessions: kept, renewed, given up


def test_refused_recipient_keeps_the_session(relay: Callable[..., Relay]) -> None:
    server = relay({"RCPT": ["550 no", "250 ok"]})
    pool = pool_for(server.port)
    with pytest.raises(PermanentFailure):
        send(pool)
    assert send(pool).startswith("250")
    assert send(pool).startswith("250")
    assert len(server.commands) == 1
    assert server.verbs(0).count("RSET") == 1
    assert [each for each in server.messages if b"hello" in each] == server.messages[-2:], "it got nothing of the first"


@PIPELINING
@pytest.mark.parametrize("data", ["554 no valid recipients", "354 go on", "421 enough", DROP])
def test_a_data_that_went_with_a_refused_recipient(relay: Callable[..., Relay], data: str) -> None:
    server = relay({"RCPT": ["550 no", "250 ok"], "DATA": [data, "354 go on"]}, {})
    pool = pool_for(server.port)
    with pytest.raises(PermanentFailure, match="550 no"):
        send(pool)
    assert send(pool).startswith("250")
    assert [each for each in server.messages if each != b".\r\n"] == [DATA + b".\r\n"]
    assert len(server.commands) == (1 if data[0] in "53" else 2), "the session is kept where it can be"


@PIPELINING
def test_a_server_may_answer_when_it_has_worked_on_all_that_came_together(relay: Callable[..., Relay]) -> None:
    def ponder(connection: socket.socket) -> bool:
        time.sleep(1)
        return bool(connection.send(b"250 ok\r\n"))

    server = relay({"MAIL": ponder})
    assert send(pool_for(server.port, timeout=0.5)).startswith("250")


def test_what_can_go_together_does() -> None:
    """RFC 2920: all three commands arrive before the first is answered."""
    group = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode()

    def serve(listener: socket.socket) -> bytes:
        connection, _ = listener.accept()
        connection.settimeout(5)
        with connection:
            connection.sendall(b"220 hello\r\n")
            connection.recv(1000)
            connection.sendall(b"250-relay.test\r\n250 PIPELINING\r\n")
            received = b""
            while len(received) < len(group):
                received += connection.recv(1000)
            connection.sendall(b"250 ok\r\n250 ok\r\n354 go on\r\n")
            connection.recv(1000)
            connection.sendall(b"250 taken\r\n")
        return received

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as beside:
        serving = beside.submit(serve, listener)
        assert send(pool_for(listener.getsockname()[1])) == "250 taken"
        assert serving.result() == group


@pytest.mark.parametrize("mail", [DROP, RESET, "421 idle for too long", "452 too many messages on this session"])
def test_stale_session_is_replaced_at_once(relay: Callable[..., Relay], mail: str) -> None:
    server = relay({"MAIL": ["250 ok", mail]}, {})
    pool = pool_for(server.port)
    assert send(pool).startswith("250")
    assert send(pool).startswith("250")
    assert len(server.commands) == 2
    assert pool.problem is None


def test_stale_session_is_replaced_only_once(relay: Callable[..., Relay]) -> None:
    server = relay({"MAIL": ["250 ok", DROP]}, {"MAIL": DROP})
    pool = pool_for(server.port)
    send(pool)
    with pytest.raises(SessionFailure):
        send(pool)
    assert len(server.commands) == 2


def test_fresh_session_is_not_tried_twice(relay: Callable[..., Relay]) -> None:
    server = relay({"MAIL": DROP}, {})
    with pytest.raises(SessionFailure):
        send(pool_for(server.port))
    assert len(server.commands) == 1


def test_session_that_the_server_closed_is_seen_without_a_command(
    relay: Callable[..., Relay], caplog: pytest.LogCaptureFixture
) -> None:
    server = relay()
    pool = pool_for(server.port)
    send(pool)
    server.hang_up()
    (session,) = pool._idle
    assert session._client.sock is not None
    assert select.select([session._client.sock], [], [], 5)[0]
    with caplog.at_level("DEBUG", logger="messaging"):
        assert send(pool).startswith("250")
    assert "stale" not in caplog.text, "a command was spent on finding out"


@pytest.mark.parametrize("option", [{"max_messages": 1}, {"max_age": 0.0}, {"max_idle": 0.0}], ids=str)
def test_session_is_given_up(relay: Callable[..., Relay], option: dict[str, float]) -> None:
    server = relay()
    pool = pool_for(server.port, **option)
    send(pool)
    send(pool)
    assert len(server.commands) == 2
    wait_until(lambda: server.verbs(0)[-1] == "QUIT")


def test_close_says_goodbye(relay: Callable[..., Relay]) -> None:
    server = relay()
    pool = pool_for(server.port)
    send(pool)
    pool.close()
    wait_until(lambda: server.verbs(0)[-1] == "QUIT")
    assert send(pool).startswith("250")
    assert len(server.commands) == 2


def test_session_of_an_interrupted_task_is_not_used_again(
    relay: Callable[..., Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = relay()
    pool = pool_for(server.port)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "_final_reply", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            send(pool)
    assert send(pool).startswith("250")
    assert len(server.commands) == 2


# --- the pause


def test_pause_doubles_and_ends(relay: Callable[..., Relay]) -> None:
    bad: Script = {"MAIL": "451 not now"}
    server = relay(*[bad] * 8, {})
    clock = Clock()
    pool = pool_for(server.port, clock)
    pauses = []
    for number in range(1, 9):
        with pytest.raises(SessionFailure, match="451 not now") as caught:
            send(pool)
        assert caught.value.retry_after is not None
        pauses.append(caught.value.retry_after)
        for _ in range(3):
            with pytest.raises(SessionFailure, match="451 not now"):
                send(pool)
        assert len(server.commands) == number, "a message was tried during the pause"
        assert pool.problem is not None
        clock.now += caught.value.retry_after
    assert [round(pause / base, 1) for pause, base in zip(pauses, [1, 2, 4, 8, 16, 30, 30, 30], strict=True)] == [
        pytest.approx(1.0, abs=0.21)
    ] * 8
    assert len(set(pauses)) > 1
    assert send(pool).startswith("250")
    assert pool.problem is None


def test_pause_starts_small_again_after_a_success(relay: Callable[..., Relay]) -> None:
    bad: Script = {"greeting": "421 no"}
    server = relay(bad, bad, {"MAIL": ["250 ok", "421 no"]}, bad)
    clock = Clock()
    pool = pool_for(server.port, clock)
    for _ in range(2):
        with pytest.raises(SessionFailure):
            send(pool)
        clock.now += 60
    send(pool)
    with pytest.raises(SessionFailure) as caught:
        send(pool)
    assert caught.value.retry_after == pytest.approx(1.0, abs=0.21)


@pytest.mark.parametrize("probe", [{"RCPT": "550 no"}, {"END": "451 later"}], ids=str)
def test_a_refused_message_ends_the_pause(relay: Callable[..., Relay], probe: Script) -> None:
    clock = Clock()
    pool = pool_for(relay({"greeting": "421 no"}, probe).port, clock)
    with pytest.raises(SessionFailure):
        send(pool)
    clock.now += 60
    with pytest.raises((PermanentFailure, TransientFailure)):
        send(pool)
    assert pool.problem is None


def test_a_probe_of_unknown_outcome_does_not_end_the_pause(relay: Callable[..., Relay]) -> None:
    clock = Clock()
    pool = pool_for(relay({"greeting": "421 no"}, {"END": DROP}).port, clock)
    with pytest.raises(SessionFailure):
        send(pool)
    clock.now += 60
    with pytest.raises(OutcomeUnknown):
        send(pool)
    with pytest.raises(SessionFailure, match="no verdict"):
        send(pool)


def test_one_probe_at_a_time(relay: Callable[..., Relay]) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def wait(connection: socket.socket) -> bool:
        asked.set()
        go_on.wait(5)
        connection.sendall(b"220 at last\r\n")
        return True

    server = relay({"greeting": "421 no"}, {"greeting": wait}, {})
    clock = Clock()
    pool = pool_for(server.port, clock, timeout=5.0)
    with pytest.raises(SessionFailure):
        send(pool)
    clock.now += 60
    with ThreadPoolExecutor(1) as thread:
        probe = thread.submit(send, pool)
        assert asked.wait(5)
        with pytest.raises(SessionFailure, match="421 no"):
            send(pool)
        go_on.set()
        assert probe.result(5).startswith("250")
    assert len(server.commands) == 2
    assert send(pool).startswith("250")


def test_failures_at_once_are_one_pause(relay: Callable[..., Relay]) -> None:
    together = threading.Barrier(6)

    def all_at_once(connection: socket.socket) -> bool:
        together.wait(5)
        connection.sendall(b"421 no\r\n")
        return False

    clock = Clock()
    pool = pool_for(relay({"MAIL": all_at_once}).port, clock)
    with ThreadPoolExecutor(6) as threads:
        errors = [task.exception() for task in [threads.submit(send, pool) for _ in range(6)]]
    assert all(isinstance(error, SessionFailure) for error in errors)
    assert pool._paused_until - clock.now < 1.3


# --- a relay that grants fewer sessions than there are threads

FULL: Script = {"greeting": "421 4.7.0 too many connections"}


def later(words: str, seconds: float = 0.03) -> Callable[[socket.socket], bool]:
    """Answers after a while, in which others need a session."""

    def answer(connection: socket.socket) -> bool:
        time.sleep(seconds)
        connection.sendall(f"{words}\r\n".encode())
        return True

    return answer


def send_all(pool: SmtpPool, threads: int, count: int) -> None:
    with ThreadPoolExecutor(threads) as executor:
        for sent in [executor.submit(send, pool) for _ in range(count)]:
            assert sent.result(10).startswith("250")


@pytest.mark.parametrize("greeting", ["220 ready", later("220 at last", 0.2)], ids=["at once", "after the refusals"])
def test_messages_wait_for_the_sessions_that_are_granted(relay: Callable[..., Relay], greeting: Any) -> None:
    granted: Script = {"greeting": greeting, "END": later("250 taken")}
    server = relay(granted, granted, FULL)
    pool = pool_for(server.port)
    send_all(pool, threads=8, count=40)
    assert pool.problem is None, "no pause"
    assert len(server.messages) == 40
    assert len(server.commands) <= 8, "nobody asks again and again for what was refused"


def test_after_a_while_the_relay_is_asked_for_more(relay: Callable[..., Relay]) -> None:
    slow: Script = {"END": later("250 taken")}
    server = relay(slow, FULL, slow)
    clock = Clock()
    pool = pool_for(server.port, clock)
    send_all(pool, threads=2, count=10)
    send_all(pool, threads=2, count=10)
    assert len(server.commands) == 2
    clock.now += 61
    send_all(pool, threads=2, count=10)
    assert len(server.commands) == 3


def test_it_is_asked_for_one_more_only_however_many_messages_wait(relay: Callable[..., Relay]) -> None:
    slow: Script = {"END": later("250 taken")}
    server = relay(slow, slow, FULL)
    clock = Clock()
    pool = pool_for(server.port, clock)
    send_all(pool, threads=8, count=24)
    before = len(server.commands)
    for minute in (1, 2):
        clock.now += 61
        send_all(pool, threads=8, count=24)
        assert len(server.commands) == before + minute
    assert pool.problem is None


def test_a_relay_may_count_a_session_that_we_have_just_left(
    relay: Callable[..., Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "STILL_COUNTED", 0.2)
    server = relay({}, FULL, {})
    pool = pool_for(server.port, max_messages=1)
    send(pool)
    assert send(pool).startswith("250"), "no pause"
    assert len(server.commands) == 3, "and it was not asked again and again"


def test_a_session_that_we_have_just_left_lowers_nothing(
    relay: Callable[..., Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "STILL_COUNTED", 0.2)
    over = threading.Event()

    def slow(connection: socket.socket) -> bool:
        over.wait(10)
        connection.sendall(b"250 taken\r\n")
        return True

    server = relay({"END": slow}, {"END": slow}, FULL, FULL, {})
    pool = pool_for(server.port, max_messages=1)
    with ThreadPoolExecutor(3) as executor:
        sent = [executor.submit(send, pool) for _ in range(2)]
        wait_until(lambda: len(server.messages) == 2)
        sent.append(executor.submit(send, pool))
        wait_until(lambda: pool._granted == 2)
        over.set()
        assert all(each.result(10).startswith("250") for each in sent)
    assert len(server.commands) == 5
    assert pool._granted == 2


def test_a_message_does_not_wait_forever_for_a_session(relay: Callable[..., Relay]) -> None:
    over = threading.Event()

    def slow(connection: socket.socket) -> bool:
        over.wait(10)
        connection.sendall(b"250 taken\r\n")
        return True

    server = relay({"END": slow}, FULL)
    pool = pool_for(server.port, timeout=0.3, deadline=10.0)
    with ThreadPoolExecutor(1) as executor:
        first = executor.submit(send, pool)
        wait_until(lambda: server.verbs(0)[-1:] == ["DATA"] if server.commands else False)
        with pytest.raises(AllInUse, match="were in use") as caught:
            send(pool)
        assert caught.value.retry_after == 5
        assert pool.problem is None, "the relay is well"
        pool._problem = "421 going down"
        with pytest.raises(AllInUse):
            send(pool)
        assert pool.problem, "the relay said nothing new"
        over.set()
        assert first.result(10).startswith("250")
    assert send(pool).startswith("250")
    assert pool.problem is None


@PIPELINING
def test_what_waited_for_a_session_does_not_outlast_the_deadline(relay: Callable[..., Relay]) -> None:
    server = relay({"END": later("250 taken", 1.5), "MAIL": ["250 ok", SILENCE]}, FULL)
    pool = pool_for(server.port, timeout=2.0, deadline=2.5)
    with ThreadPoolExecutor(1) as executor:
        first = executor.submit(send, pool)
        wait_until(lambda: len(server.messages) == 1)
        start = time.monotonic()
        with pytest.raises(SessionFailure):
            send(pool)
        assert time.monotonic() - start < 3.2
        assert first.result(10).startswith("250")


def test_a_session_that_is_given_up_makes_room_for_another(relay: Callable[..., Relay]) -> None:
    once: Script = {"END": later("250 taken")}
    server = relay(once, FULL, once)
    pool = pool_for(server.port, max_messages=5)
    send_all(pool, threads=2, count=20)
    assert len(server.commands) >= 5


def test_a_relay_that_goes_down_is_no_full_one(relay: Callable[..., Relay]) -> None:
    server = relay({"MAIL": ["250 ok", "421 going down"]}, FULL)
    pool = pool_for(server.port)
    send(pool)
    with pytest.raises(SessionFailure, match="421"):
        send(pool)
    assert pool.problem is not None


def test_when_all_are_refused_at_once_the_pool_pauses(relay: Callable[..., Relay]) -> None:
    together = threading.Barrier(4)

    def refuse(connection: socket.socket) -> bool:
        together.wait(5)
        connection.sendall(b"421 no\r\n")
        return False

    pool = pool_for(relay({"greeting": refuse}).port)
    with ThreadPoolExecutor(4) as executor:
        errors = [task.exception() for task in [executor.submit(send, pool) for _ in range(4)]]
    assert [type(error) for error in errors] == [SessionFailure] * 4
    assert pool.problem is not None


def test_nothing_listens() -> None:
    port = free_port()
    pool = pool_for(port)
    with pytest.raises(SessionFailure, match=f"cannot connect to 127.0.0.1:{port}: Connection refused"):
        send(pool)
    assert pool.problem is not None


def test_name_that_does_not_resolve() -> None:
    with pytest.raises(SessionFailure, match=r"cannot connect to nowhere.invalid:25"):
        send(SmtpPool(SmtpConfig(host="nowhere.invalid", port=25)))


# --- encryption and login


def server_context(authority: trustme.CA, name: str = "localhost") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.mark.parametrize("security", ["tls", "starttls"])
class TestEncryption:
    """The same for implicit TLS and for STARTTLS."""

    def make(self, relay: Callable[..., Relay], security: str, context: ssl.SSLContext, *scripts: Script) -> Relay:
        return relay(*scripts, **{security: context})

    def test_delivers(self, relay: Callable[..., Relay], authority: trustme.CA, ca_file: str, security: str) -> None:
        server = self.make(relay, security, server_context(authority))
        pool = pool_for(server.port, host="localhost", security=security, ca_file=ca_file)
        assert send(pool).startswith("250")
        assert send(pool).startswith("250")
        assert len(server.commands) == 1, "the session was not kept"

    def test_big_message(self, relay: Callable[..., Relay], authority: trustme.CA, ca_file: str, security: str) -> None:
        server = self.make(relay, security, server_context(authority))
        send(pool_for(server.port, host="localhost", security=security, ca_file=ca_file), b"x" * 3_000_000)
        assert len(server.messages[0]) == 3_000_005

    def test_unknown_authority(self, relay: Callable[..., Relay], authority: trustme.CA, security: str) -> None:
        server = self.make(relay, security, server_context(authority))
        with pytest.raises(SessionFailure, match=r"not trusted.*smtp_ca_file") as caught:
            send(pool_for(server.port, host="localhost", security=security))
        assert caught.value.__context__ is None

    def test_wrong_name(self, relay: Callable[..., Relay], authority: trustme.CA, ca_file: str, security: str) -> None:
        server = self.make(relay, security, server_context(authority, "other.example.com"))
        with pytest.raises(SessionFailure, match="not trusted: Hostname mismatch"):
            send(pool_for(server.port, host="localhost", security=security, ca_file=ca_file))
        server = self.make(relay, security, server_context(authority))
        with pytest.raises(SessionFailure, match="not trusted: IP address mismatch"):
            send(pool_for(server.port, host="127.0.0.1", security=security, ca_file=ca_file))
        assert not server.messages

    @pytest.mark.filterwarnings("ignore:ssl:DeprecationWarning")
    def test_old_protocol(
        self, relay: Callable[..., Relay], authority: trustme.CA, ca_file: str, security: str
    ) -> None:
        context = server_context(authority)
        context.options |= ssl.OP_NO_TLSv1_2 | ssl.OP_NO_TLSv1_3
        with pytest.raises(SessionFailure):
            send(
                pool_for(self.make(relay, security, context).port, host="localhost", security=security, ca_file=ca_file)
            )

    @pytest.mark.filterwarnings("ignore:Requiring AUTH:UserWarning")  # implicit TLS is not seen as TLS by aiosmtpd
    def test_login(self, authority: trustme.CA, ca_file: str, security: str) -> None:
        """Against aiosmtpd, which refuses mail without a login and a login without encryption."""
        given: list[Any] = []

        def check(server: object, session: object, envelope: object, mechanism: str, data: LoginPassword) -> AuthResult:
            given.append((mechanism, data.login, data.password))
            return AuthResult(success=data.password == "päss wörd".encode(), handled=False)

        context = server_context(authority)
        options: Any = {"tls_context": context, "require_starttls": True} if security == "starttls" else {}
        controller = Controller(
            Sink(),
            hostname="localhost",
            port=free_port(),
            authenticator=check,
            auth_required=True,
            auth_require_tls=security == "starttls",
            ssl_context=context if security == "tls" else None,
            **options,
        )
        controller.start()
        try:
            login = {"host": "localhost", "security": security, "ca_file": ca_file, "username": "bob"}
            assert send(pool_for(controller.port, **login, password="päss wörd")).startswith("250")
            with pytest.raises(SessionFailure, match="refused the login: 535"):
                send(pool_for(controller.port, **login, password="wrong"))
        finally:
            controller.stop()
        assert given[0] == ("PLAIN", b"bob", "päss wörd".encode())
        assert len(given) == 2, "a refused login was repeated"


def test_starttls_not_offered(relay: Callable[..., Relay]) -> None:
    server = relay()
    with pytest.raises(SessionFailure, match="does not offer STARTTLS"):
        send(pool_for(server.port, security="starttls", username="bob", password="secret"))
    assert "AUTH" not in server.verbs(0)
    assert not server.messages


def test_starttls_drops_what_was_slipped_in_before(
    relay: Callable[..., Relay], authority: trustme.CA, ca_file: str
) -> None:
    server = relay({"STARTTLS": "220 go on\r\n250-injected\r\n250 AUTH PLAIN"}, starttls=server_context(authority))
    pool = pool_for(
        server.port, host="localhost", security="starttls", ca_file=ca_file, username="bob", password="secret"
    )
    with pytest.raises(SessionFailure):
        send(pool)
    assert "AUTH" not in server.verbs(0)


def test_tls_against_a_plain_server(relay: Callable[..., Relay]) -> None:
    with pytest.raises(SessionFailure, match="TLS failed: wrong version number"):
        send(pool_for(relay().port, security="tls"))


def test_ca_file_that_is_missing(relay: Callable[..., Relay]) -> None:
    with pytest.raises(SessionFailure, match=r"smtp_ca_file /nowhere.pem: No such file"):
        send(pool_for(relay().port, security="tls", ca_file="/nowhere.pem"))


def test_login_by_login_mechanism(relay: Callable[..., Relay]) -> None:
    name, password = (b64encode(text).decode() for text in (b"bob", b"secret"))
    server = relay(
        {"EHLO": "250-relay\r\n250 AUTH LOGIN XOAUTH2", "AUTH": "334 VXNlcm5hbWU6", name.upper(): "334 UGFzc3dvcmQ6"}
        | {password.upper(): "235 welcome"}
    )
    assert send(pool_for(server.port, username="bob", password="secret")).startswith("250")


def test_no_login_that_we_know(relay: Callable[..., Relay]) -> None:
    server = relay({"EHLO": "250-relay\r\n250 AUTH XOAUTH2"})
    with pytest.raises(SessionFailure, match="no login by PLAIN or LOGIN: XOAUTH2"):
        send(pool_for(server.port, username="bob", password="secret"))


def test_refused_login_gives_nothing_away(relay: Callable[..., Relay]) -> None:
    echo = b64encode(b"\0bob@example.org\0hunter2!").decode()
    words = f"535 5.7.8 bad login of BOB@example.org with hunter2!, {echo}"
    server = relay({"EHLO": "250-relay\r\n250 AUTH PLAIN", "AUTH": words})
    pool = pool_for(server.port, username="bob@example.org", password="hunter2!")
    with pytest.raises(SessionFailure, match=r"535 5.7.8 bad login of") as caught:
        send(pool)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    everything = "".join(traceback.format_exception(error)) + repr(error) + str(vars(error)) + str(pool.problem)
    everything += repr(pool._config)
    for secret in ("hunter2", "bob@example.org", echo):
        assert secret.lower() not in everything.lower()
    assert server.verbs(0).count("AUTH") == 1
