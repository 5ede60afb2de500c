"""The mailbox: bounds, durability and the service itself as a real process."""

import contextlib
import errno
import os
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from messaging import mailbox as module
from messaging.mail.message import build
from messaging.mail.smtp import PermanentFailure, SmtpConfig, SmtpPool, TransientFailure
from messaging.mailbox import Mailbox, MessageTooLargeError

SENDER = "us@example.org"
DATE = datetime(2026, 11, 5, 12, 30, 1, tzinfo=UTC)


def mail(number: int = 0, size: int = 0) -> bytes:
    message = build(
        task_id=f"task-{number}",
        sender=SENDER,
        to=f"to{number}@example.com",
        subject=f"Größe {number}",
        text="x" * size,
        date=DATE,
    )
    return bytes(message)


def files(path: Path) -> list[Path]:
    return [file for name in ("tmp", "new", "cur") for file in (path / name).iterdir()]


@pytest.fixture
def box(tmp_path: Path) -> Mailbox:
    return Mailbox(tmp_path / "box", keep=5, max_bytes=100_000)


# --- the Maildir


def test_stores_and_lists(box: Mailbox) -> None:
    path = box.store(SENDER, ["to1@example.com"], mail(1))
    assert path.parent.name == "new"
    assert path.read_bytes().startswith(b"Return-Path: <us@example.org>\nDelivered-To: to1@example.com\nDate: ")
    assert b"\r" not in path.read_bytes()
    (stored,) = box.messages()
    assert stored == module.StoredMail("to1@example.com", "Größe 1", DATE, path, path.stat().st_size)
    assert [oct(each.stat().st_mode & 0o777) for each in (box.path, path.parent, path)] == ["0o700", "0o700", "0o600"]
    assert not list((box.path / "tmp").iterdir())


def test_newest_first_and_limit(box: Mailbox) -> None:
    for number in range(4):
        box.store(SENDER, [f"to{number}@example.com"], mail(number))
    assert [stored.recipient for stored in box.messages()] == [f"to{number}@example.com" for number in (3, 2, 1, 0)]
    assert [stored.recipient for stored in box.messages(limit=2)] == ["to3@example.com", "to2@example.com"]


def test_no_mailbox_yet(box: Mailbox) -> None:
    assert box.messages() == []
    assert not box.path.exists()


def test_finds_a_message_by_its_id(box: Mailbox) -> None:
    assert box.find("<task-1@example.org>") is None
    for number in range(3):
        box.store(SENDER, [f"to{number}@example.com"], mail(number, 70_000 if number == 1 else 0))
    box.store(SENDER, ["to@example.com"], b"Subject: quoting\r\n\r\n\r\nMessage-ID: <task-1@example.org>\r\n\r\n")
    found = box.find("<task-1@example.org>")
    assert found is not None
    assert b"Delivered-To: to1@example.com\n" in found
    assert found.count(b"x") > 70_000, "the whole of it"
    assert box.find("<task-1@example.or>") is None


def test_message_count_is_bounded(box: Mailbox) -> None:
    for number in range(12):
        box.store(SENDER, [f"to{number}@example.com"], mail(number))
        assert len(files(box.path)) <= 5
    assert [stored.subject for stored in box.messages()] == [f"Größe {number}" for number in range(11, 6, -1)]


def test_bytes_are_bounded(box: Mailbox) -> None:
    for number in range(12):
        box.store(SENDER, ["to@example.com"], mail(number, 30_000))
        assert sum(file.stat().st_size for file in files(box.path)) <= 100_000
    assert [stored.subject for stored in box.messages()] == ["Größe 11", "Größe 10", "Größe 9"]


def test_too_large_message_removes_nothing(box: Mailbox) -> None:
    box.store(SENDER, ["to@example.com"], mail())
    with pytest.raises(MessageTooLargeError):
        box.store(SENDER, ["to@example.com"], mail(1, 100_000))
    assert [stored.subject for stored in box.messages()] == ["Größe 0"]


def test_bounds_survive_a_restart(box: Mailbox) -> None:
    for number in range(5):
        box.store(SENDER, ["to@example.com"], mail(number))
    (box.path / "tmp" / "left-by-a-crash").write_bytes(b"half")
    later = Mailbox(box.path, keep=3, max_bytes=100_000)
    later.prepare()
    assert [stored.subject for stored in later.messages()] == ["Größe 4", "Größe 3", "Größe 2"]
    later.store(SENDER, ["to@example.com"], mail(5))
    assert [stored.subject for stored in later.messages()] == ["Größe 5", "Größe 4", "Größe 3"]
    assert not list((box.path / "tmp").iterdir())


def test_reader_that_moves_and_removes(box: Mailbox) -> None:
    paths = [box.store(SENDER, ["to@example.com"], mail(number)) for number in range(5)]
    paths[0].rename(box.path / "cur" / f"{paths[0].name}:2,S")
    paths[1].unlink()
    for number in range(5, 8):
        box.store(SENDER, ["to@example.com"], mail(number))
        assert len(files(box.path)) <= 5
    assert [stored.subject for stored in box.messages()] == [f"Größe {number}" for number in range(7, 2, -1)]


def test_threads(tmp_path: Path) -> None:
    box = Mailbox(tmp_path / "box", keep=50, max_bytes=10_000_000)
    with ThreadPoolExecutor(8) as threads:
        paths = list(threads.map(lambda number: box.store(SENDER, ["to@example.com"], mail(number)), range(120)))
    assert len(set(paths)) == 120
    assert len(files(box.path)) == 50
    assert len(box.messages()) == 50


def test_on_disk_before_it_returns(box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced under its temporary name, then its directory under the final one."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(box.path).parts[0])
        assert synced[-1] == "tmp" or len(list((box.path / "new").iterdir())) == 1
        real(descriptor)

    monkeypatch.setattr(module.os, "fsync", fsync)
    box.store(SENDER, ["to@example.com"], mail())
    assert synced == ["tmp", "new"]


@pytest.mark.parametrize("call", [1, 2])
def test_failed_sync_leaves_nothing(box: Mailbox, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    calls = 0

    def fsync(_: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.EIO, "Input/output error")

    box.prepare()
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", fsync)
        with pytest.raises(OSError, match="Input/output error"):
            box.store(SENDER, ["to@example.com"], mail())
    assert files(box.path) == []
    for number in range(7):
        box.store(SENDER, ["to@example.com"], mail(number))
    assert len(files(box.path)) == 5


def test_line_end_in_an_address(box: Mailbox) -> None:
    with pytest.raises(ValueError, match="line end"):
        box.store("us@example.org>\nX-Evil: yes", ["to@example.com"], mail())
    with pytest.raises(ValueError, match="line end"):
        box.store(SENDER, ["to@example.com\rX"], mail())


@pytest.mark.parametrize(
    "data",
    [b"", b"\r\n", b"no header at all", b"Subject: =?x?q?=1b[31m?=\r\nDate: nonsense\r\n\r\n", b"\xff\x00: \xff\r\n"],
)
def test_strange_messages_are_listed(box: Mailbox, data: bytes) -> None:
    box.store("", ["to@example.com"], data)
    (stored,) = box.messages()
    assert stored.recipient == "to@example.com"
    assert stored.subject.isprintable()
    assert abs((datetime.now(UTC) - stored.date).total_seconds()) < 60


def test_header_that_poses_as_ours(box: Mailbox) -> None:
    box.store(SENDER, ["to@example.com"], b"Delivered-To: other@example.com\r\n\r\n")
    assert [stored.recipient for stored in box.messages()] == ["to@example.com"]


# --- the service


@dataclass
class Service:
    """A running mailbox."""

    process: "subprocess.Popen[str]"
    port: int
    path: Path

    def pool(self) -> SmtpPool:
        return SmtpPool(SmtpConfig(host="127.0.0.1", port=self.port, timeout=5))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Service] = []

    def start(file_limit: int | None = None, **settings: object) -> Service:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        values = {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "MSG_CONFIG_DIR": str(tmp_path),
            "MSG_MAILBOX_PATH": str(tmp_path / "box"),
            "MSG_MAILBOX_PORT": str(port),
        } | {f"MSG_{name.upper()}": str(value) for name, value in settings.items()}
        program = "import resource, runpy; "
        if file_limit:
            program += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({file_limit}, {file_limit})); "
        program += "runpy.run_module('messaging.mailbox', run_name='__main__')"
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
            (tmp_path / "notify").unlink(missing_ok=True)
            manager.bind(values["NOTIFY_SOCKET"])
            manager.settimeout(15)
            process = subprocess.Popen(
                [sys.executable, "-c", program], env=os.environ | values, stdout=subprocess.PIPE, text=True
            )
            service = Service(process, port, tmp_path / "box")
            running.append(service)
            assert manager.recv(100) == b"READY=1"
        return service

    yield start
    for service in running:
        if service.process.poll() is None:
            service.process.kill()
        service.process.wait()
        assert service.process.stdout is not None
        service.process.stdout.close()


def test_service_delivers_and_stops(start: Start) -> None:
    service = start()
    pool = service.pool()
    reply = pool.send(SENDER, "to1@example.com", mail(1))
    box = Mailbox(service.path, 1000, 100_000_000)
    (stored,) = box.messages()
    assert (stored.recipient, stored.subject, stored.date) == ("to1@example.com", "Größe 1", DATE)
    assert reply == f"250 2.0.0 Ok: stored as {stored.path.name}"
    began = time.monotonic()
    assert service.stop() == 0, "an idle warm session held the stop up"
    assert time.monotonic() - began < 3
    assert service.process.stdout is not None
    output = service.process.stdout.read()
    assert "listening on 127.0.0.1" in output
    assert "to1@example.com" not in output


def test_service_is_only_on_loopback(start: Start) -> None:
    service = start()
    sockets = Path("/proc/net/tcp").read_text().splitlines() + Path("/proc/net/tcp6").read_text().splitlines()
    listening = [line.split()[1] for line in sockets if line.split()[3] == "0A"]
    assert [address for address in listening if address.endswith(f":{service.port:04X}")] == [
        f"0100007F:{service.port:04X}"
    ]


def test_stop_finishes_the_message_being_received(start: Start) -> None:
    service = start()
    with smtplib.SMTP("127.0.0.1", service.port, timeout=10) as client, smtplib.SMTP("127.0.0.1", service.port) as idle:
        client.ehlo()
        idle.ehlo()
        client.mail(SENDER)
        client.rcpt("to@example.com")
        assert client.docmd("DATA")[0] == 354
        client.send(b"Subject: half\r\n\r\nfirst")
        service.process.send_signal(signal.SIGTERM)
        assert idle.getreply()[0] == 421
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", service.port)).close()
        client.send(b" second\r\n.\r\n")
        assert client.getreply()[0] == 250
        assert client.getreply()[0] == 421
        client.close()
        idle.close()
    assert service.process.wait(10) == 0
    (stored,) = Mailbox(service.path, 10, 10_000).messages()
    assert stored.path.read_bytes().endswith(b"\n\nfirst second\n")


def test_message_larger_than_the_mailbox(start: Start) -> None:
    service = start(mailbox_max_mb=1)
    service.pool().send(SENDER, "to@example.com", mail())
    with pytest.raises(PermanentFailure, match="the server takes 1048576"):
        service.pool().send(SENDER, "to@example.com", mail(1, 1_100_000))
    with smtplib.SMTP("127.0.0.1", service.port, timeout=10) as client:
        client.ehlo()
        client.mail(SENDER)
        client.rcpt("to@example.com")
        assert client.data(mail(1, 1_100_000))[0] == 552
        assert client.mail(SENDER)[0] == 250
    assert len(files(service.path)) == 1


def test_long_lines_are_refused(start: Start) -> None:
    """RFC 5321 section 4.5.3.1: 512 octets for a command, 1000 for a line of text."""
    service = start()
    with smtplib.SMTP("127.0.0.1", service.port, timeout=10) as client:
        client.ehlo()
        assert client.docmd("NOOP", "x" * 600)[0] == 500
        client.mail(SENDER)
        client.rcpt("to@example.com")
        assert client.data(b"x" * 998 + b"\r\n")[0] == 250
        client.mail(SENDER)
        client.rcpt("to@example.com")
        assert client.data(b"x" * 1200 + b"\r\n")[0] == 500
    assert len(files(service.path)) == 1


def test_full_disk_is_a_452(start: Start) -> None:
    """A limit on the size of files cuts a write short just as a full disk does."""
    service = start(file_limit=40_000)
    pool = service.pool()
    with pytest.raises(TransientFailure, match=r"452 4\.3\.1"):
        pool.send(SENDER, "to@example.com", mail(1, 60_000))
    assert files(service.path) == []
    assert pool.send(SENDER, "to@example.com", mail(2)).startswith("250")
    assert len(files(service.path)) == 1


def test_bounds_under_load(start: Start) -> None:
    service = start(mailbox_keep=20)
    pool = service.pool()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: pool.send(SENDER, f"to{number}@example.com", mail(number)), range(100)))
    assert len(files(service.path)) == 20


def test_port_in_use(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = {"PYTHONPATH": os.pathsep.join(sys.path), "MSG_CONFIG_DIR": str(tmp_path)}
        environment |= {"MSG_MAILBOX_PATH": str(tmp_path / "box"), "MSG_MAILBOX_PORT": str(taken.getsockname()[1])}
        result = subprocess.run(
            [sys.executable, "-m", "messaging.mailbox"],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=15,
            check=False,
        )
    assert result.returncode == 1
    assert "cannot start" in result.stdout
