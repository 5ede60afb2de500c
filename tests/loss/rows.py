"""The faults, each as one row of the table.

A fault begins while requests come in, lasts as long as its function runs, and is mended when that returns.

LOSS_N: how many requests a row has. LOSS_RATE: of these a second, at the most. LOSS_ROWS: names of rows or parts of
them, separated by commas; empty: all; `often`: the few that find most.
"""

import math
import os
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime

from testinfra.host import Host

from faulty import put, signal_main
from probe import request, send_mail, unique_address, wait_until
from stage import Stage

N = int(os.environ.get("LOSS_N") or 300)
RATE = float(os.environ.get("LOSS_RATE") or 80)
WANTED = [part.strip() for part in os.environ.get("LOSS_ROWS", "").split(",") if part.strip()]

RABBITMQ = "rabbitmq-server"
REDIS = "redis-server"
WORKER = "messaging-worker@email-1"
WEB = "messaging-web"
RESTART = f"systemctl daemon-reload && systemctl restart {WEB} 'messaging-worker@*'"
# What a worker of the email pool has in hand at once (concurrency in celery_pools). Of these the relay may have taken a
# mail whose record nobody has written: it is sent once more. What the worker holds beyond that has not begun.
IN_FLIGHT = 16
# What the application has in hand at once (app_workers times app_threads): killed between the head and the body of its
# answer, it leaves a client with neither a yes nor a no.
IN_HAND = 24


@dataclass(frozen=True)
class Row:
    """`seconds` is about how long the fault lasts. `refuses`: whether many may be told 503, and somebody must be.

    `twice` is how many mails may go out twice, `no_answer` how many requests may get no answer.
    `forgets`: what Redis had not yet written is gone, so that the service may not know of a mail's end.
    `throttles`: somebody may be told 429, though the budgets are of more than comes.
    `around` is what the host needs for it, before the first request and until quiet. `often`: it is one of the few that
    run on every change.
    """

    name: str
    fault: Callable[[Stage], None]
    seconds: float
    refuses: tuple[bool, bool] = (False, False)
    twice: int = 0
    no_answer: int = 0
    forgets: bool = False
    throttles: bool = False
    around: Callable[[Stage], AbstractContextManager[None]] = nullcontext
    often: bool = False


NEVER, MAYBE, SURELY = (False, False), (True, False), (True, True)


def killed(unit: str, whom: str = "main") -> Callable[[Stage], None]:
    def fault(stage: Stage) -> None:
        stage.systemctl("kill", f"--kill-whom={whom}", "--signal=SIGKILL", unit)
        stage.ready()

    return fault


def a_web_worker_killed(stage: Stage) -> None:
    master = stage.host.check_output("systemctl show --property MainPID --value %s", WEB)
    stage.host.check_output("kill -9 $(pgrep --parent %s | head -n 1)", master)
    stage.ready()


def stopped(unit: str, seconds: float) -> Callable[[Stage], None]:
    def fault(stage: Stage) -> None:
        stage.systemctl("stop", unit)
        time.sleep(seconds)
        stage.systemctl("start", unit)
        stage.ready()

    return fault


def frozen(unit: str, seconds: float) -> Callable[[Stage], None]:
    def fault(stage: Stage) -> None:
        signal_main(stage.host, unit, "SIGSTOP")
        time.sleep(seconds)
        signal_main(stage.host, unit, "SIGCONT")
        stage.ready()

    return fault


def alarm(setting: str, value: str, normal: str) -> Callable[[Stage], None]:
    def fault(stage: Stage) -> None:
        stage.host.check_output(f"rabbitmqctl {setting} {value}")
        time.sleep(8)
        stage.host.check_output(f"rabbitmqctl {setting} {normal}")
        stage.ready()

    return fault


def smtp(mood: str, seconds: float) -> Callable[[Stage], None]:
    def fault(stage: Stage) -> None:
        stage.mood(mood)
        time.sleep(seconds)
        stage.mood("well")

    return fault


def nginx_reloaded(stage: Stage) -> None:
    for _ in range(5):
        stage.systemctl("reload", "nginx")
        time.sleep(0.5)


def rebooted(stage: Stage) -> None:
    stage.docker("restart", "--time", "60")
    stage.ready(180)


def power_cut(stage: Stage) -> None:
    stage.docker("kill")
    stage.docker("start")
    stage.ready(180)


DATA = ("/var/lib/rabbitmq", "/var/lib/redis")
SMALL = "/mnt/small"
FILLED = f"{SMALL}/filled"


@contextmanager
def a_small_disk(stage: Stage) -> Iterator[None]:
    """RabbitMQ and Redis write to a small file system, with more to spare than the 500 MB that RabbitMQ wants."""
    run = stage.host.check_output
    used = int(run(f"du -smc {' '.join(DATA)} | tail -n 1").split()[0])
    run(f"systemctl stop {RABBITMQ} {REDIS}")
    run(f"mkdir -p {SMALL} && mount -t tmpfs -o mode=0755,size={used + 800}m small {SMALL}")
    for folder in DATA:
        run(f"cp -a {folder} {SMALL}/ && mount --bind {SMALL}/{folder.rpartition('/')[2]} {folder}")
    run(f"systemctl start {RABBITMQ} {REDIS}")
    stage.ready()
    try:
        yield
    finally:
        run(f"systemctl stop {RABBITMQ} {REDIS}")
        for folder in DATA:
            run(f"umount {folder} && rm -rf {folder} && cp -a {SMALL}/{folder.rpartition('/')[2]} {folder}")
        run(f"umount {SMALL}")
        run(f"systemctl start {RABBITMQ} {REDIS}")
        stage.ready()


def disk_full(stage: Stage) -> None:
    # to the last byte
    stage.host.run(f"dd if=/dev/zero of={FILLED} bs=1M; dd if=/dev/zero of={FILLED}.rest bs=1")
    time.sleep(10)
    stage.host.check_output(f"rm -f {FILLED} {FILLED}.rest")
    stage.ready()


CLOCK = "/etc/messaging-clock"
CLOCK_DROP_IN = "/etc/systemd/system/messaging-.service.d/99-clock.conf"


@contextmanager
def our_own_clock(stage: Stage) -> Iterator[None]:
    """The units of the service take the time from libfaketime, which is right until somebody steps it."""
    run = stage.host.check_output
    library = run("dpkg --listfiles libfaketime | grep libfaketimeMT")
    drop_in = f"""
        [Service]
        Environment=LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={CLOCK} FAKETIME_CACHE_DURATION=1
        # the monotonic clock goes on, as it does when a real one is stepped; a mend of its waits would make them hang
        Environment=FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_FORCE_MONOTONIC_FIX=0
    """
    put(stage.host, "+0\n", CLOCK)
    put(stage.host, textwrap.dedent(drop_in), CLOCK_DROP_IN)
    run(RESTART)
    stage.ready()
    try:
        yield
    finally:
        run(f"rm {CLOCK} {CLOCK_DROP_IN}")
        run(RESTART)
        stage.ready()


def seconds_ahead(host: Host) -> float:
    """By how much the clock of the service is ahead of the host's; not a number when it does not answer."""
    try:
        task = request(host, f"/api/v1/tasks/{send_mail(host, unique_address())}").json()
    except AssertionError:
        return math.nan
    return datetime.fromisoformat(task["updated_at"]).timestamp() - float(host.check_output("date +%s"))


def clock_stepped(seconds: int) -> Callable[[Stage], None]:
    def fault(stage: Stage) -> None:
        put(stage.host, f"{seconds:+d}\n", CLOCK)
        wait_until(lambda: abs(seconds_ahead(stage.host) - seconds) < 5, "the service has another time", 20)

    return fault


ROWS = (
    Row("worker kill -9", killed(WORKER), 8, twice=IN_FLIGHT, often=True),
    Row("web worker kill -9", a_web_worker_killed, 2, MAYBE, no_answer=IN_HAND),
    Row("gunicorn master kill -9", killed(WEB), 4, MAYBE, no_answer=IN_HAND),
    Row("web unit kill -9", killed(WEB, "all"), 4, MAYBE, no_answer=IN_HAND, often=True),
    Row("broker stop, start", stopped(RABBITMQ, 5), 15, SURELY),
    Row("broker kill -9", killed(RABBITMQ), 20, SURELY, often=True),
    Row("broker frozen 20 s", frozen(RABBITMQ, 20), 22, SURELY),
    Row("memory alarm", alarm("set_vm_memory_high_watermark", "0.0000001", "0.4"), 12, SURELY),
    Row("disk alarm", alarm("set_disk_free_limit", "1000000GB", "500MB"), 12, SURELY),
    Row("Redis stop, start", stopped(REDIS, 5), 7, SURELY),
    Row("Redis frozen 10 s", frozen(REDIS, 10), 12, SURELY),
    Row("Redis kill -9", killed(REDIS), 2, MAYBE, forgets=True),
    Row("SMTP refusing", smtp("refusing", 10), 10, twice=IN_FLIGHT),
    Row("SMTP 451", smtp("later", 10), 10),
    Row("SMTP 421 and dropping", smtp("dropping", 10), 10),
    # less than a worker waits for a verdict, so that no mail meets it twice
    Row("SMTP silent after DATA", smtp("silent", 10), 10, twice=IN_FLIGHT, often=True),
    Row("SMTP certificate expired", smtp("expired", 10), 10, twice=IN_FLIGHT),
    Row("disk full", disk_full, 25, SURELY, forgets=True, around=a_small_disk),
    Row("clock + 1 h", clock_stepped(3600), 5, around=our_own_clock),
    # budgets go by the clock: what was spent a moment ago is an hour ahead, and counts until Redis forgets it
    Row("clock - 1 h", clock_stepped(-3600), 5, throttles=True, around=our_own_clock),
    Row("nginx reload", nginx_reloaded, 3),
    Row("container reboot", rebooted, 30, MAYBE, twice=IN_FLIGHT, no_answer=N),
    Row("power cut", power_cut, 30, MAYBE, twice=IN_FLIGHT, no_answer=N, forgets=True, often=True),
)
CHOSEN = [
    row for row in ROWS if not WANTED or (row.often and "often" in WANTED) or any(part in row.name for part in WANTED)
]
