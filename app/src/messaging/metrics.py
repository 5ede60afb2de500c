"""What the web application and the workers count, for Prometheus.

Each process writes into files of its own in one directory in memory; `python -m messaging.metrics` adds them up and
serves them on loopback. A process takes the first free slot and goes on with the numbers in it: files do not pile up,
and no counter goes backwards, when processes come and go. The kernel frees the slot of a process that dies.

Counting never fails what is counted: without the directory, numbers stay in memory and one warning says so.

Source: https://prometheus.github.io/client_python/multiprocess/ (the format of the files)
"""

import contextlib
import fcntl
import logging
import mmap
import os
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Histogram, make_wsgi_app, values
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.mmap_dict import mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from messaging import sdnotify
from messaging.job import ANALYZE_SENTIMENT, LOG_TIME, REVERSE_TEXT, SEND_EMAIL
from messaging.logs import setup_logging
from messaging.settings import Settings, load, or_exit

logger = logging.getLogger(__name__)

SLOTS = 1000
FILE_SIZE = 64 * 1024
UNKNOWN = "unknown"
# unknown: Redis cannot be asked
BUDGETS = ("client", "recipient", "day", "client_tasks", "tasks_day", "key", "key_alone", UNKNOWN)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
TASKS = frozenset({SEND_EMAIL, LOG_TIME, REVERSE_TEXT, ANALYZE_SENTIMENT})
# seconds: from a queue that is empty to a relay that is down for a day
WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
DELIVERIES = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120)
CLIENT_TIMEOUT = 5.0


# --- files ------------------------------------------------------------------------------------------------------------


class SlotFile:
    """Numbers by name, in memory that this process shares with those who read.

    The format is prometheus_client's: how much is used (4 bytes) and 4 bytes of nothing; then for each number the
    length of its name (4 bytes), the name, 1 to 8 blanks up to a multiple of 8, the number and a time (8 bytes each).
    """

    def __init__(self, path: Path) -> None:
        try:
            self._open(path)
        except FileNotFoundError:
            _make_file(path)
            self._open(path)
        except (ValueError, struct.error) as error:
            logger.warning("%s begins anew: %s", path, error)
            _make_file(path)
            self._open(path)

    def number(self, name: str) -> tuple[int, float]:
        """Where a number is, and what it is; a new one is 0."""
        if name not in self._places:
            self._add(name)
        place = self._places[name]
        return place, float(_NUMBER.unpack_from(self._data, place)[0])

    def write(self, place: int, number: float) -> None:
        """Change the number in a place."""
        self._data[place : place + 16] = _NUMBER.pack(number, 0.0)

    def close(self) -> None:
        """Leave the file; its numbers stay."""
        self._data.close()
        os.close(self._descriptor)

    def _open(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._data = mmap.mmap(self._descriptor, 0)
            self._used = max(8, _LENGTH.unpack_from(self._data, 0)[0])
            self._places = dict(self._read())
        except BaseException:
            os.close(self._descriptor)
            raise

    def _read(self) -> Iterator[tuple[str, int]]:
        place = 8
        while place < self._used:
            length = _LENGTH.unpack_from(self._data, place)[0]
            number = place + 4 + length + _padding(length)
            if length <= 0 or number + 16 > min(self._used, len(self._data)):
                raise ValueError(f"no number at {place}")
            yield self._data[place + 4 : place + 4 + length].decode(), number
            place = number + 16

    def _add(self, name: str) -> None:
        text = name.encode()
        entry = _LENGTH.pack(len(text)) + text + b" " * _padding(len(text)) + _NUMBER.pack(0.0, 0.0)
        if self._used + len(entry) > len(self._data):
            size = 2 * len(self._data)
            os.posix_fallocate(self._descriptor, 0, size)
            self._data.close()
            self._data = mmap.mmap(self._descriptor, size)
        self._data[self._used : self._used + len(entry)] = entry
        self._places[name] = self._used + len(entry) - 16
        # last: until now nobody reads it
        self._used += len(entry)
        self._data[:4] = _LENGTH.pack(self._used)


_LENGTH = struct.Struct("i")
_NUMBER = struct.Struct("dd")


def _padding(length: int) -> int:
    return 8 - (length + 4) % 8


def _make_file(path: Path) -> None:
    """An empty file, whole at once for those who read meanwhile. It has all of its memory from the beginning: a page
    that cannot be had later would end the process."""
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, FILE_SIZE)
    new.replace(path)


class Slot:
    """This process's place in the directory. Call it with `lock` held."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: list[Value] = []
        self._directory: Path | None = None
        self._taken: tuple[Path, int] | None = None
        self._files: dict[str, SlotFile] = {}

    def use(self, directory: Path) -> None:
        """From now on, count into this directory."""
        with self.lock:
            self._begin_anew()
            self._directory = directory

    def forked(self) -> None:
        """A child has counted nothing yet, and must not hold the slot of its parent."""
        self.lock = threading.Lock()
        self._begin_anew()

    def enter(self) -> None:
        """Have all numbers go on in the slot's files, where new ones can be seen as 0."""
        if self._directory is None:
            return
        if self._taken is None:
            self._taken = self._take(self._directory)
        lock_file = self._taken[0]
        for value in self.values:
            if value.file is None:
                if value.kind not in self._files:
                    self._files[value.kind] = SlotFile(lock_file.with_name(f"{value.kind}_{lock_file.stem}.db"))
                value.file = self._files[value.kind]
                value.place, before = value.file.number(value.name)
                value.number += before

    def _begin_anew(self) -> None:
        self._leave()
        for value in self.values:
            value.number = 0.0

    def give_up(self, error: Exception) -> None:
        """Count in memory only."""
        logger.warning("metrics are not kept: %s", error or type(error).__name__)
        self._leave()
        self._directory = None

    def _leave(self) -> None:
        for value in self.values:
            value.file = None
        for file in self._files.values():
            file.close()
        self._files = {}
        if self._taken is not None:
            os.close(self._taken[1])
            self._taken = None

    @staticmethod
    def _take(directory: Path) -> tuple[Path, int]:
        for number in range(SLOTS):
            path = directory / f"slot-{number}.lock"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
            else:
                return path, descriptor
        raise OSError(f"{directory}: all {SLOTS} slots are taken")


_slot = Slot()
os.register_at_fork(after_in_child=_slot.forked)


class Value:
    """One number of this process, as prometheus_client asks for it."""

    _multiprocess = True

    def __init__(
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Iterable[str],
        labelvalues: Iterable[str],
        help_text: str,
        **_options: Any,
    ) -> None:
        self.kind = typ
        self.name = mmap_key(metric_name, name, list(labelnames), list(labelvalues), help_text)
        self.number = 0.0
        self.file: SlotFile | None = None
        self.place = 0
        with _slot.lock:
            _slot.values.append(self)

    def inc(self, amount: float) -> None:
        """Add to it."""
        with _slot.lock:
            self.number += amount
            try:
                if self.file is None:
                    _slot.enter()
                if self.file is not None:
                    self.file.write(self.place, self.number)
            except Exception as error:
                _slot.give_up(error)

    def get(self) -> float:
        """What it is now, in this process or in the slot that it goes on with."""
        with _slot.lock:
            return self.number


# --- what is counted --------------------------------------------------------------------------------------------------

values.ValueClass = Value

_requests = Counter(
    "messaging_http_requests_total",
    "HTTP requests that were answered.",
    ["endpoint", "method", "status"],
    registry=None,
)
_accepted = Counter("messaging_tasks_accepted_total", "Tasks that the broker has confirmed.", ["task"], registry=None)
_succeeded = Counter("messaging_tasks_succeeded_total", "Tasks that were done.", ["task"], registry=None)
_failed = Counter("messaging_tasks_failed_total", "Tasks that failed for good.", ["task"], registry=None)
_cancelled = Counter(
    "messaging_tasks_cancelled_total", "Tasks that were cancelled before they had begun.", ["task"], registry=None
)
_retried = Counter("messaging_tasks_retried_total", "Attempts that are to be repeated.", ["task"], registry=None)
_dead = Counter("messaging_tasks_dead_total", "Messages put among the dead letters.", ["task"], registry=None)
_refused = Counter(
    "messaging_refused_total",
    "Requests refused since a budget is used up, or cannot be checked.",
    ["budget"],
    registry=None,
)
_queue_wait = Histogram(
    "messaging_queue_wait_seconds",
    "Time from the request for a task to its first start.",
    ["task"],
    buckets=WAITS,
    registry=None,
)
_delivery = Histogram("messaging_delivery_seconds", "Time of one SMTP conversation.", buckets=DELIVERIES, registry=None)


def write_to(directory: Path) -> None:
    """Keep the numbers of this process, and of those that it forks, in this directory."""
    for task in TASKS:
        for metric in (_accepted, _succeeded, _failed, _retried, _cancelled, _dead, _queue_wait):
            metric.labels(_label(task))
    for budget in BUDGETS:
        _refused.labels(budget)
    _slot.use(directory)


def request(endpoint: str | None, method: str, status: int) -> None:
    """A request was answered."""
    _requests.labels(endpoint or UNKNOWN, method if method in METHODS else UNKNOWN, str(status)).inc()


def accepted(task: str) -> None:
    """The broker has a new task."""
    _accepted.labels(_label(task)).inc()


def begun(task: str, submitted_at: float) -> None:
    """A worker starts a task for the first time. Clocks of two hosts may differ."""
    _queue_wait.labels(_label(task)).observe(max(0.0, time.time() - submitted_at))


def ended(task: str, *, succeeded: bool) -> None:
    """A task is done, or has failed for good."""
    (_succeeded if succeeded else _failed).labels(_label(task)).inc()


def retried(task: str) -> None:
    """A task will be tried again."""
    _retried.labels(_label(task)).inc()


def cancelled(task: str) -> None:
    """A task was cancelled before it had begun."""
    _cancelled.labels(_label(task)).inc()


def dead(task: object) -> None:
    """A message was put among the dead letters."""
    _dead.labels(_label(task)).inc()


def refused(budget: str) -> None:
    """A request was refused, since a budget is used up or cannot be checked. `budget` is a name of ours."""
    _refused.labels(budget).inc()


@contextlib.contextmanager
def delivery() -> Iterator[None]:
    """Around one SMTP conversation, however it ends."""
    started = time.monotonic()
    try:
        yield
    finally:
        _delivery.observe(time.monotonic() - started)


def _label(task: object) -> str:
    """Only names of ours: what a stranger sends must not become a series."""
    return task.removeprefix("messaging.") if isinstance(task, str) and task in TASKS else UNKNOWN


# --- serving ----------------------------------------------------------------------------------------------------------


class DirectoryCollector(Collector):
    """The sum of all files in the directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        """All metrics. A file that cannot be read is left out, and the log says which."""
        files = [str(file) for file in sorted(self._directory.glob("*.db")) if self._readable(file)]
        return list(_merge(files))

    def _readable(self, file: Path) -> bool:
        try:
            _merge([str(file)])
        except Exception as error:
            logger.warning("%s cannot be read: %r", file, error)
            return False
        return True


def _merge(files: list[str]) -> Iterable[Metric]:
    return cast("Iterable[Metric]", cast("Any", MultiProcessCollector).merge(files))


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_TIMEOUT

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """No client waits for another; none may take long."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.info("a client went away: %r", sys.exception())

    def server_bind(self) -> None:
        # without a question to the DNS for our own name
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]
        self.setup_environ()


class OldestMailCollector(Collector):
    """How long the oldest mail has waited; nothing where that cannot be said now."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._age: Callable[[], float | None] | None = None

    def collect(self) -> Iterable[Metric]:
        """The metric, after one look at the records."""
        metric = GaugeMetricFamily(
            "messaging_oldest_mail_seconds", "Time since the oldest mail that has not ended was asked for."
        )
        age, why = None, "there is more to look at than one look takes, the next goes on with it"
        try:
            age = self._look()
        except Exception as error:
            why = str(error)
        if age is not None:
            metric.add_metric([], age)
        else:
            logger.info("the age of the oldest mail is not known: %s", why)
        return [metric]

    def _look(self) -> float | None:
        with self._lock:
            if self._age is None:
                # where nobody asks, these take no memory
                from messaging.oldest import OldestMail
                from messaging.results import Records
                from messaging.store import WEB_TIMEOUT

                self._age = OldestMail(Records(self._settings, WEB_TIMEOUT)).age
        return self._age()


def serve(directory: Path, port: int, *others: Collector) -> WSGIServer:
    """A server of `/metrics` on loopback that is ready to `serve_forever()`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(DirectoryCollector(directory))
    for collector in others:
        registry.register(collector)
    metrics_app = make_wsgi_app(registry)

    def app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/metrics":
            return metrics_app(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"the metrics are at /metrics\n"]

    return make_server("127.0.0.1", port, app, server_class=_Server, handler_class=_Handler)


def main() -> None:
    """Serve until the end."""
    with or_exit():
        settings = load()
    setup_logging(settings)
    with serve(settings.metrics_path, settings.metrics_port, OldestMailCollector(settings)) as server:
        sdnotify.notify("READY=1")
        server.serve_forever()


if __name__ == "__main__":
    main()
