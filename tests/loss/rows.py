"""The faults, each as one row of the table.

A fault begins while requests come in, lasts as long as its function runs, and is mended when that returns.

LOSS_N: how many requests a row has. LOSS_RATE: of these a second, at the most. LOSS_ROWS: names of rows or parts of
them, separated by commas; empty: all.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from faulty import signal_main
from stage import Stage

N = int(os.environ.get("LOSS_N") or 300)
RATE = float(os.environ.get("LOSS_RATE") or 80)
WANTED = [part.strip() for part in os.environ.get("LOSS_ROWS", "").split(",") if part.strip()]

RABBITMQ = "rabbitmq-server"
REDIS = "redis-server"
WORKER = "messaging-worker@email-1"
WEB = "messaging-web"
# What a worker of the email pool has in hand at once (concurrency in celery_pools). Of these the relay may have taken a
# mail whose record nobody has written: it is sent once more. What the worker holds beyond that has not begun.
IN_FLIGHT = 16


@dataclass(frozen=True)
class Row:
    """`seconds` is about how long the fault lasts. `refuses`: whether somebody may be told 503, and must be.

    `twice` is how many mails may go out twice. `unreachable`: the host is away, so that requests get no answer.
    `forgets`: what Redis had not yet written is gone, so that the service may not know of a mail's end.
    """

    name: str
    fault: Callable[[Stage], None]
    seconds: float
    refuses: tuple[bool, bool] = (False, False)
    twice: int = 0
    unreachable: bool = False
    forgets: bool = False


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


ROWS = (
    Row("worker kill -9", killed(WORKER), 8, twice=IN_FLIGHT),
    Row("web worker kill -9", a_web_worker_killed, 2, MAYBE),
    Row("gunicorn master kill -9", killed(WEB), 4, MAYBE),
    Row("web unit kill -9", killed(WEB, "all"), 4, MAYBE),
    Row("broker stop, start", stopped(RABBITMQ, 5), 15, SURELY),
    Row("broker kill -9", killed(RABBITMQ), 20, SURELY),
    Row("broker frozen 20 s", frozen(RABBITMQ, 20), 22, SURELY),
    Row("memory alarm", alarm("set_vm_memory_high_watermark", "0.0000001", "0.4"), 12, SURELY),
    Row("disk alarm", alarm("set_disk_free_limit", "100TB", "500MB"), 12, SURELY),
    Row("Redis stop, start", stopped(REDIS, 5), 7, SURELY),
    Row("Redis frozen 10 s", frozen(REDIS, 10), 12, SURELY),
    Row("Redis kill -9", killed(REDIS), 2, MAYBE, forgets=True),
    Row("SMTP refusing", smtp("refusing", 10), 10),
    Row("SMTP 451", smtp("later", 10), 10),
    Row("SMTP 421 and dropping", smtp("dropping", 10), 10),
    # less than a worker waits for a verdict, so that no mail meets it twice
    Row("SMTP silent after DATA", smtp("silent", 10), 10, twice=IN_FLIGHT),
    Row("SMTP certificate expired", smtp("expired", 10), 10),
    Row("nginx reload", nginx_reloaded, 3),
    Row("container reboot", rebooted, 30, MAYBE, twice=IN_FLIGHT, unreachable=True),
    Row("power cut", power_cut, 30, MAYBE, twice=IN_FLIGHT, unreachable=True, forgets=True),
)
CHOSEN = [row for row in ROWS if not WANTED or any(part in row.name for part in WANTED)]
