"""The log of times: one line appended, whole, from any number of processes."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

ROTATION_SECONDS = 1.0  # how long logrotate may leave the path missing, or not yet ours
_RETRY_SECONDS = 0.005
_TAIL = 4096


class TimeLogError(Exception):
    """The line could not be written whole. The message names the path and the fix."""


def append_now(path: Path, tz: ZoneInfo) -> str:
    """Append the current time in `tz` and return it: ISO 8601, milliseconds, offset, without the line's end.

    The file is opened for each line and never created, so a rotation by rename (logrotate's `create`) loses nothing:
    a line goes to the old file or to the new one.

    Raises:
        TimeLogError: the file is missing for longer than a rotation takes, not writable, or the disk is full.
    """
    with _opened(path) as descriptor:
        line = datetime.now(tz).isoformat(timespec="milliseconds")
        try:
            _append(descriptor, f"{line}\n".encode())
        except OSError as error:
            raise TimeLogError(f"{path}: {error.strerror}; {_fix(path, error)}") from error
    return line


def writable(path: Path) -> None:
    """Check that a line could be appended to `path`; nothing is written.

    Raises:
        TimeLogError: as `append_now` would.
    """
    with _opened(path):
        pass


def last(path: Path, count: int) -> list[datetime]:
    """The last times in the log, newest first; reads its end only, and returns nothing that is not a time.

    Raises:
        TimeLogError: the log cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read(_TAIL).decode("ascii", "replace").splitlines()
    except OSError as error:
        raise TimeLogError(f"{path}: {error.strerror}; {_fix(path, error)}") from error
    times = []
    for line in reversed(lines):
        with suppress(ValueError):
            times.append(datetime.fromisoformat(line))
        if len(times) == count:
            break
    return times


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open `path` for appending, waiting out the moment in which a rotation has moved it away."""
    deadline = time.monotonic() + ROTATION_SECONDS
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            break
        except OSError as error:
            # EACCES too: logrotate creates the file as root and gives it away a moment later.
            if error.errno not in {errno.ENOENT, errno.EACCES} or time.monotonic() >= deadline:
                raise TimeLogError(f"{path}: {error.strerror}; {_fix(path, error)}") from error
        time.sleep(_RETRY_SECONDS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _append(descriptor: int, line: bytes) -> None:
    """Write `line` with one write(2), which O_APPEND makes atomic among writers.

    A full disk can cut a line short. The rest of it is then taken back: the lock, shared by writers, makes sure that
    nobody has written after it meanwhile.
    """
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    written = os.write(descriptor, line)
    if written == len(line):
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    end = os.lseek(descriptor, 0, os.SEEK_CUR)
    if os.fstat(descriptor).st_size == end:
        os.ftruncate(descriptor, end - written)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _fix(path: Path, error: OSError) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "free some space on its file system"
    if error.errno == errno.ENOENT:
        return f"run the playbook again, or: install -o messaging -g adm -m 0640 /dev/null {path}"
    return f"make it a file that this user may write: chown messaging:adm {path} && chmod 0640 {path}"
