"""The log of times with real processes, real rotations and a disk that is full."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from messaging import timelog
from messaging.timelog import TimeLogError, append_now, last, writable

UTC = ZoneInfo("UTC")
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d")
WRITER = """
import sys
from pathlib import Path
from zoneinfo import ZoneInfo
from messaging.timelog import append_now
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    print(append_now(Path(sys.argv[1]), ZoneInfo("UTC")))
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "times.log"
    path.touch(mode=0o640)
    return path


def environment() -> dict[str, str]:
    """Lets a child find the package the way that we did."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=10, check=False)


def writer(output: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    with output.open("wb") as stdout:
        return subprocess.Popen([sys.executable, "-c", WRITER, *arguments], env=environment(), stdout=stdout)


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


def test_line(log: Path) -> None:
    before = datetime.now(UTC)
    line = append_now(log, ZoneInfo("Asia/Kolkata"))
    assert LINE.fullmatch(line)
    assert line.endswith("+05:30")
    assert before - timedelta(milliseconds=1) <= datetime.fromisoformat(line) <= datetime.now(UTC)
    assert log.read_text() == f"{line}\n"
    second = append_now(log, UTC)
    assert log.read_text() == f"{line}\n{second}\n"


def test_eight_processes_and_rotations_lose_no_line(log: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    stop = tmp_path_factory.mktemp("stop") / "now"
    # Standard output to a file: a full pipe would stop the writers.
    outputs = [stop.with_name(f"output-{number}") for number in range(8)]
    processes = [writer(output, str(log), str(stop)) for output in outputs]
    try:
        wait_until(lambda: all(output.stat().st_size for output in outputs))
        for rotation in range(10):
            wait_until(lambda: log.stat().st_size > 0)
            log.rename(log.with_suffix(f".{rotation}"))
            time.sleep(0.02)  # the hole that logrotate leaves between its rename and its create
            log.touch(mode=0o640)
        wait_until(lambda: log.stat().st_size > 0)
    finally:
        stop.touch()
    assert [process.wait(10) for process in processes] == [0] * 8
    written = [line for file in log.parent.iterdir() for line in file.read_text().splitlines()]
    promised = [line for output in outputs for line in output.read_text().splitlines()[1:]]
    assert len(written) > 100
    assert sorted(written) == sorted(promised)
    assert all(LINE.fullmatch(line) for line in written)


def test_waits_for_a_rotation(log: Path) -> None:
    log.unlink()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(append_now, log, UTC)
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        log.touch()
        assert log.read_text() in {"", f"{waiting.result(2)}\n"}
    assert log.read_text() == f"{waiting.result()}\n"


@pytest.mark.parametrize("action", [lambda path: append_now(path, UTC), writable], ids=["append_now", "writable"])
def test_missing_file_is_not_created(tmp_path: Path, action: object) -> None:
    path = tmp_path / "none.log"
    start = time.monotonic()
    assert callable(action)
    with pytest.raises(TimeLogError, match=rf"{path}: No such file.*install -o messaging"):
        action(path)
    assert 0.9 < time.monotonic() - start < 2
    assert not path.exists()


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(TimeLogError, match=f"{tmp_path}: Is a directory; make it a file"):
        writable(tmp_path)


def test_not_permitted(log: Path) -> None:
    log.chmod(0o444)
    program = (
        "import os, sys; from pathlib import Path; from messaging import timelog; timelog.ROTATION_SECONDS = 0.05\n"
    )
    program += "os.chdir(sys.argv[1])\n"
    if os.geteuid() == 0:  # root may write everything
        program += "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    program += "try: timelog.writable(Path('times.log'))\nexcept timelog.TimeLogError as error: print(error)"
    result = python(program, str(log.parent))
    assert "times.log: Permission denied; make it a file that this user may write" in result.stdout, result.stderr


def test_writable_writes_nothing(log: Path) -> None:
    writable(log)
    assert log.read_bytes() == b""


def test_last_times(log: Path) -> None:
    assert last(log, 3) == []
    lines = [append_now(log, ZoneInfo("Europe/Berlin")) for _ in range(300)]
    with log.open("ab") as file:
        file.write(b"no time \xff\n2026-11-2")
    assert last(log, 3) == [datetime.fromisoformat(line) for line in lines[:-4:-1]]
    log.unlink()
    with pytest.raises(TimeLogError, match=str(log)):
        last(log, 3)


@pytest.mark.parametrize("room", [0, 7])
def test_full_disk_leaves_no_half_line(log: Path, room: int) -> None:
    """A limit on the size of files cuts a write short just as a full disk does."""
    log.write_text("x" * 99 + "\n")
    program = "import resource, sys; from pathlib import Path; from zoneinfo import ZoneInfo\n"
    program += "from messaging.timelog import append_now, TimeLogError\n"
    program += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({100 + room}, -1))\n"
    program += "try: append_now(Path(sys.argv[1]), ZoneInfo('UTC'))\nexcept TimeLogError as error: print(error)"
    result = python(program, str(log))
    assert str(log) in result.stdout, result.stderr
    if room:
        assert "free some space" in result.stdout
    assert log.read_text() == "x" * 99 + "\n"
    assert LINE.fullmatch(append_now(log, UTC))


def test_each_line_is_one_write(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        writes.append(data)
        return real(descriptor, data)

    monkeypatch.setattr(timelog.os, "write", write)
    threads = [threading.Thread(target=append_now, args=(log, UTC)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(writes) == 5
    assert all(LINE.fullmatch(data.decode().removesuffix("\n")) for data in writes)
