"""What is compared, and how to handle it on its host. As root, with the Python of the live release."""

import http.client
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import amqp
import redis

from figures import BASELINE, OURS
from messaging.settings import load

CGROUPS = Path("/sys/fs/cgroup")
WORKERS = Path("/etc/messaging-system/workers")
BROKER = "rabbitmq-server.service"
# What each prints costs time too
JOURNAL = "systemd-journald.service"
# Not there in the baseline, and not needed for mail
EXTRAS = ("messaging-flower.service", "messaging-metrics.service")


class NotInTimeError(Exception):
    """Something that was waited for did not come."""


@dataclass(frozen=True)
class Side:
    """One of the two: ports, units and queues.

    `worker` is the unit of a worker, with {} for its number; `beside` are units that run as long as the workers do.
    """

    name: str
    port: int
    web: tuple[str, ...]
    worker: str
    beside: tuple[str, ...]
    others: tuple[str, ...]
    vhost: str
    user: str
    password: str
    queue: str
    waiting: tuple[str, ...]

    def units(self) -> list[str]:
        """All that works for it; the broker and the journal work for both."""
        return [*self.web, *self.running_workers(), *self.others, BROKER, JOURNAL]

    def running_workers(self) -> list[str]:
        pattern = self.worker.format("*")
        listed = command("systemctl", "list-units", "--plain", "--no-legend", "--state=active", pattern, *self.beside)
        return [line.split()[0] for line in listed.splitlines()]

    def start_workers(self, instances: int) -> None:
        """So many and no more; none: those beside them stop too."""
        wanted = [self.worker.format(number + 1) for number in range(instances)] + list(self.beside) * bool(instances)
        unwanted = [unit for unit in self.running_workers() if unit not in wanted]
        if unwanted:
            command("systemctl", "stop", *unwanted)
        if self.name == OURS:
            self._write_instances(instances)
        if wanted:
            command("systemctl", "start", *wanted)

    def _write_instances(self, instances: int) -> None:
        """What `make scale` does."""
        for file in WORKERS.glob("email-*.env"):
            if int(re.sub(r"\D", "", file.stem)) > max(instances, 1):
                file.unlink()
        for number in range(2, instances + 1):
            shutil.copy(WORKERS / "email-1.env", WORKERS / f"email-{number}.env")

    def depth(self, queue: str = "") -> int:
        """Messages that are ready in its queue, counted by the queue itself."""
        with self._channel() as channel:
            declared = channel.queue_declare(queue or self.queue, passive=True)
            return int(declared[1]) if declared else 0

    def has_queue(self) -> bool:
        """Whether it is there; the baseline's is made by its first worker."""
        try:
            self.depth()
        except amqp.NotFound:
            return False
        return True

    def under_way(self) -> int:
        """Messages that wait to be tried again."""
        return sum(self.depth(queue) for queue in self.waiting)

    def empty(self) -> None:
        """Forget all messages, and all that Redis knows."""
        with self._channel() as channel:
            for queue in (self.queue, *self.waiting):
                channel.queue_purge(queue)
        if self.name == OURS:
            settings = load()
            secret = settings.redis_password.get_secret_value()
            redis.Redis(port=settings.redis_port, password=secret).flushall()

    def _channel(self) -> "Channel":
        return Channel(self.vhost, self.user, self.password)

    def ask(self, address: str) -> int:
        """One request for a mail; the status."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        link.request("GET", f"/?sendmail={address}")
        answer = link.getresponse()
        answer.read()
        link.close()
        return answer.status


class Channel:
    """`with Channel(...) as channel:` for a few questions to the broker."""

    def __init__(self, vhost: str, user: str, password: str) -> None:
        self._connection = amqp.Connection("127.0.0.1", userid=user, password=password, virtual_host=vhost)

    def __enter__(self) -> amqp.Channel:
        self._connection.connect()
        return self._connection.channel()

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def sides(baseline_password: str) -> tuple[Side, Side]:
    """Ours and the baseline."""
    settings = load()
    return (
        Side(
            name=OURS,
            port=80,
            web=("nginx.service", "messaging-web.service"),
            worker="messaging-worker@email-{}.service",
            beside=("messaging-worker@compute-1.service",),
            others=("redis-server.service", *EXTRAS),
            vhost=settings.amqp_vhost,
            user=settings.amqp_user,
            password=settings.amqp_password.get_secret_value(),
            queue=settings.email_queue,
            waiting=("dead", *(f"delay.{delay}" for delay in settings.delays)),
        ),
        Side(
            name=BASELINE,
            port=8090,
            web=("baseline-nginx.service", "baseline-web.service"),
            worker="baseline-worker@{}.service",
            beside=(),
            others=(),
            vhost="baseline",
            user="baseline",
            password=baseline_password,
            queue="celery",
            waiting=(),
        ),
    )


def command(*arguments: str) -> str:
    """What it printed.

    Raises:
        CalledProcessError: it failed; its words are on stderr.
    """
    return subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout


def wait_until(check: Callable[[], bool], what: str, limit: float = 60, every: float = 0.05) -> None:
    """Raises: NotInTimeError, after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not check():
        if time.monotonic() > deadline:
            raise NotInTimeError(f"{what}: not within {limit:.0f} s")
        time.sleep(every)


def _cgroup(unit: str) -> Path:
    return CGROUPS / command("systemctl", "show", "--property=ControlGroup", "--value", unit).strip().lstrip("/")


def cpu_seconds(units: Iterable[str]) -> float:
    """CPU time that these running units have used since they were started."""
    total = 0
    for unit in units:
        used = re.search(r"^usage_usec (\d+)$", (_cgroup(unit) / "cpu.stat").read_text(), re.MULTILINE)
        total += int(used[1]) if used else 0
    return total / 1e6


def memory(unit: str) -> float:
    """PSS of all processes of a unit in MiB: what they share with others counts in part."""
    total = 0
    cgroup = _cgroup(unit)
    # a unit that does not run has none, and would name the root
    for file in cgroup.rglob("cgroup.procs") if cgroup != CGROUPS else ():
        for pid in file.read_text().split():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found = re.search(r"^Pss: +(\d+) kB$", rollup, re.MULTILINE)
            total += int(found[1]) if found else 0
    return total / 1024
