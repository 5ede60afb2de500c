"""Measures both sides in alternating rounds: `measure.py --help`. On their host, as root, with the release's Python.

The results are in the file of --output after every round; what is printed is progress.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import ceilings
import sinks
from figures import LIMIT, Round, percentile, rate_until_last_rise
from sides import BROKER, EXTRAS, NotInTimeError, Side, command, cpu_seconds, memory, sides, wait_until

HERE = Path(__file__).parent
BARE_PORT, BARE_APPLICATION = 8092, 8093
TRIES = 2
# Seconds before what is counted, so that connections and caches are there
WARM_UP = 1.0
# Mails a second in the time from accept to delivery
SINGLE_MAILS = 5
# Messages to begin with, for each second that they shall last; later it is known how fast they go
FIRST_FILL = 400
# As our web application has them
PROCESSES, THREADS = 2, 12
SCALE = (1, 4)
# Our worker units in the measures of mails: together they take less memory than the four processes of the baseline's
OURS_AT_ONCE = 2
# Seconds after which nothing is loaded any more
SETTLE = 5.0
WHOLE = "all without Flower and monitoring"
SERVICES = {
    "nginx.service": "nginx",
    "baseline-nginx.service": "nginx",
    "messaging-web.service": "web application",
    "baseline-web.service": "web application",
    "messaging-worker@email-1.service": "mail worker",
    "baseline-worker@1.service": "mail worker",
    "messaging-worker@compute-1.service": "compute worker",
    "redis-server.service": "Redis",
    "messaging-flower.service": "Flower",
    "messaging-metrics.service": "monitoring",
    BROKER: "RabbitMQ",
}
PACKAGES = ("rabbitmq-server", "redis-server", "nginx", "postfix", "wrk")
LIBRARIES = ("celery", "flask", "gunicorn")

Figures = Mapping[str, float]


class RefusedError(Exception):
    """A round that does not count, and why."""


@dataclass
class Benchmark:
    """The two sides, what was asked for, and what has been measured so far. Times in seconds, round trips in ms."""

    sides: tuple[Side, Side]
    options: argparse.Namespace
    username: str
    password: str
    machine: Mapping[str, str]
    done: list[Round] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    loads: int = 0

    # --- rounds -------------------------------------------------------------------------------------------------------

    def alternate(self, measure: str, work: Callable[[Side], Figures]) -> None:
        """`work` for each side in each round; they take turns to begin."""
        for number in range(1, self.options.rounds + 1):
            for side in self.sides if number % 2 else reversed(self.sides):
                self.round(measure, side.name, number, partial(work, side))

    def limit(self, measure: str, work: Callable[[], Figures]) -> None:
        """`work` in each round."""
        for number in range(1, self.options.rounds + 1):
            self.round(measure, LIMIT, number, work)

    def round(self, measure: str, side: str, number: int, work: Callable[[], Figures]) -> None:
        for _ in range(TRIES):
            try:
                done = Round(measure, side, number, work())
            except (RefusedError, NotInTimeError) as error:
                done = Round(measure, side, number, {}, refused=str(error))
            self.done.append(done)
            self.save()
            shown = "  ".join(f"{name} {value:.5g}" for name, value in done.figures.items())
            print(f"{datetime.now(UTC):%H:%M:%S}  {measure}, {side} {number}: {done.refused or shown}", flush=True)
            if not done.refused:
                return

    def save(self) -> None:
        options = {name: value for name, value in vars(self.options).items() if name != "output"}
        result = {"machine": self.machine, "options": options, "rounds": [each.to_json() for each in self.done]}
        self.options.output.write_text(json.dumps(result, indent=1))

    # --- what rounds are made of --------------------------------------------------------------------------------------

    def workers(self, ours: int, baseline: int) -> None:
        """So many instances of each side."""
        for side, instances in zip(self.sides, (ours, baseline), strict=True):
            side.start_workers(instances)

    def only_workers_of(self, side: Side, instances: int) -> None:
        self.workers(*(instances if each is side else 0 for each in self.sides))

    def fresh(self) -> None:
        for side in self.sides:
            side.empty()

    def prefix(self) -> str:
        """For addresses that nobody has asked for before."""
        self.loads += 1
        return f"load-{os.getpid()}-{self.loads}"

    def closed_loop(self, port: int, seconds: float) -> dict[str, float]:
        """wrk; every answer was 2xx."""
        said = command(
            "wrk",
            "--threads=2",
            f"--connections={self.options.connections}",
            f"--duration={max(1, round(seconds))}s",
            f"--script={HERE / 'accept.lua'}",
            f"http://127.0.0.1:{port}",
            self.prefix(),
        )
        result: dict[str, float] = json.loads(said.splitlines()[-1])
        if result["refused"] or result["broken"] or not result["answers"]:
            raise RefusedError(
                f"{result['refused']} answers were no 2xx, {result['broken']} failed, of {result['answers']}"
            )
        return result

    def open_loop(self, port: int, rate: float) -> list[float]:
        """Milliseconds of each request; every answer was 2xx."""
        program = [sys.executable, "-B", str(HERE / "open_loop.py")]
        said = command(*program, str(port), str(rate), str(self.options.seconds), self.prefix())
        result = json.loads(said)
        if any(not 200 <= int(status) < 300 for status in result["answers"]):
            raise RefusedError(f"answers by status: {result['answers']}")
        milliseconds: list[float] = result["milliseconds"]
        return milliseconds

    @contextmanager
    def relay(self, kind: str, round_trip: float) -> Iterator[Callable[[], int]]:
        with sinks.relay(kind, round_trip, self.username, self.password) as taken:
            yield taken

    def fill(self, side: Side, wanted: int) -> int:
        """Ask for mail until so many wait; how many do."""
        while side.depth() < wanted:
            self.closed_loop(side.port, 1)
        return side.depth()

    # --- the measures -------------------------------------------------------------------------------------------------

    def accept(self, side: Side) -> Figures:
        """As many requests as it takes, while nobody works on them."""
        self.workers(0, 0)
        self.fresh()
        self.closed_loop(side.port, WARM_UP)
        units = side.units()
        before, cpu = side.depth(), cpu_seconds(units)
        result = self.closed_loop(side.port, self.options.seconds)
        cpu = cpu_seconds(units) - cpu
        answers = int(result["answers"])
        try:
            wait_until(lambda: side.depth() - before >= answers, "in the queue", 5)
        except NotInTimeError:
            raise RefusedError(f"{answers} answers, and {side.depth() - before} messages in the queue") from None
        return {
            "accepted/s": answers / result["seconds"],
            "p50 ms": result["p50"],
            "p99 ms": result["p99"],
            "p99.9 ms": result["p99.9"],
            "CPU ms/request": cpu * 1000 / answers,
        }

    def latency(self, rate: float, side: Side) -> Figures:
        """At a fixed rate, open loop."""
        self.workers(0, 0)
        self.fresh()
        times = self.open_loop(side.port, rate)
        return {f"p{part:g} ms": percentile(times, part) for part in (50, 99, 99.9)}

    def mails_in_as_much_memory(self, kind: str, round_trip: float, side: Side) -> Figures:
        """The same, with as many of our workers as have room in the memory of the baseline's."""
        return self.mails(kind, round_trip, OURS_AT_ONCE if side is self.sides[0] else 1, side)

    def mails(self, kind: str, round_trip: float, instances: int, side: Side) -> Figures:
        """How fast a full queue gets empty."""
        seconds = self.options.seconds
        self.workers(*(int(each is not side) for each in self.sides))
        self.fresh()
        known = f"{side.name} {kind} {round_trip} {instances}"
        rate = self.rates.get(known, FIRST_FILL)
        waiting = self.fill(side, round(rate * 1.3 * (seconds + WARM_UP)) + 100)
        with self.relay(kind, round_trip) as taken:
            side.start_workers(instances)
            wait_until(lambda: taken() > 0, "the first mail", 60, every=0.01)
            time.sleep(WARM_UP)
            units = side.units()
            samples, cpu = [(time.monotonic(), taken())], cpu_seconds(units)
            used = 0.0
            while samples[-1][0] - samples[0][0] < seconds and samples[-1][1] < waiting:
                time.sleep(0.02)
                samples.append((time.monotonic(), taken()))
                if not used and samples[-1][0] - samples[0][0] > seconds / 2:
                    used = sum(memory(unit) for unit in side.running_workers() if unit not in side.beside)
            cpu = cpu_seconds(units) - cpu
            side.start_workers(0)
            try:
                wait_until(lambda: taken() + side.depth() + side.under_way() >= waiting, "the rest", 5)
            except NotInTimeError:
                left = side.depth() + side.under_way()
                raise RefusedError(f"of {waiting} mails {left} are left, and {taken()} arrived") from None
        delivered = samples[-1][1] - samples[0][1]
        if not delivered:
            raise RefusedError(f"{waiting} mails were too few")
        self.rates[known] = rate_until_last_rise(samples)
        figures = {"mails/s": self.rates[known], "CPU ms/mail": cpu * 1000 / delivered}
        return figures | ({"workers MiB": used} if used else {})

    def delay(self, round_trip: float, side: Side) -> Figures:
        """From the answer to the moment when the relay has taken the mail, one mail at a time."""
        self.workers(1, 1)
        self.fresh()
        asked_at: dict[str, float] = {}
        answered_at: dict[str, float] = {}
        with self.relay(sinks.PYTHON, round_trip) as taken:
            prefix = self.prefix()
            count = round(SINGLE_MAILS * self.options.seconds) + 3
            for number in range(count):
                address = f"{prefix}-{number}@example.com"
                asked_at[address] = time.monotonic()
                status = side.ask(address)
                answered_at[address] = time.monotonic()
                if status != 202:
                    raise RefusedError(f"an answer was {status}")
                wait_until(lambda: taken() >= len(asked_at), "the mail", 30, every=0.005)
                time.sleep(1 / SINGLE_MAILS)
            arrived = {address: float(at) for at, address in map(str.split, sinks.TAKEN.read_text().splitlines())}
        # the first ones open sessions
        counted = list(asked_at)[3:]
        after_request = [(arrived[each] - asked_at[each]) * 1000 for each in counted]
        after_answer = [(arrived[each] - answered_at[each]) * 1000 for each in counted]
        return {
            "p50 ms": statistics.median(after_answer),
            "p99 ms": percentile(after_answer, 99),
            "with the request, p50 ms": statistics.median(after_request),
        }

    def end_to_end(self, side: Side) -> Figures:
        """Requests come as fast as they are taken, and workers deliver: until the last mail has arrived."""
        self.workers(1, 1)
        self.fresh()
        with self.relay(sinks.FAST, 0) as taken:
            begun = time.monotonic()
            answers = int(self.closed_loop(side.port, self.options.seconds / 2)["answers"])
            meanwhile = taken()
            wait_until(lambda: taken() >= answers, f"{answers} mails", 60 * self.options.seconds)
            seconds = time.monotonic() - begun
        return {
            "mails/s from the first request to the last mail": answers / seconds,
            "accepted/s meanwhile": answers / (self.options.seconds / 2),
            "delivered/s meanwhile": meanwhile / (self.options.seconds / 2),
        }

    def memory(self, side: Side) -> Figures:
        """PSS in MiB: a while after the start, and the most under load. The other side is down: they share pages."""
        other = next(each for each in self.sides if each is not side)
        others = [*other.web, *other.others]
        try:
            self.only_workers_of(side, 0)
            command("systemctl", "stop", *others)
            command("systemctl", "restart", *side.web, *side.others)
            self.only_workers_of(side, 1)
            with self.relay(sinks.FAST, 0) as taken:
                # so that everything is loaded that is loaded at the first use
                wait_until(lambda: side.ask(f"{self.prefix()}@example.com") == 202, "an answer")
                for _ in range(50):
                    side.ask(f"{self.prefix()}@example.com")
                wait_until(lambda: taken() >= 50, "50 mails")
                time.sleep(SETTLE)
                idle = most = memory_by_unit(side)
                with ThreadPoolExecutor(1) as beside:
                    load = beside.submit(self.closed_loop, side.port, self.options.seconds)
                    while not load.done():
                        time.sleep(0.5)
                        most = max(most, memory_by_unit(side), key=lambda each: sum(each.values()))
                    load.result()
        finally:
            command("systemctl", "start", *others)
        figures: dict[str, float] = {}
        for when, seen in (("idle", idle), ("loaded", most)):
            figures |= {f"{when} MiB, {SERVICES[unit]}": used for unit, used in seen.items()}
            figures[f"{when} MiB, {WHOLE}"] = sum(used for unit, used in seen.items() if unit not in EXTRAS)
        return figures

    def bare(self) -> Figures:
        """Flask that does nothing, with as many processes and threads as ours."""
        command("systemctl", "start", "bare.service")
        try:
            wait_until(lambda: sinks.listens(BARE_APPLICATION), "bare Flask")
            result = self.closed_loop(BARE_PORT, self.options.seconds)
        finally:
            command("systemctl", "stop", "bare.service")
        return {"requests/s": result["answers"] / result["seconds"], "p50 ms": result["p50"], "p99 ms": result["p99"]}

    def publishes(self, processes: int, threads: int) -> Figures:
        """To a quorum queue, with one channel a thread."""
        return {"publishes/s": ceilings.confirmed_publishes(self.sides[1], processes, threads, self.options.seconds)}

    def warm(self, kind: str, round_trip: float) -> Figures:
        """One mail after the other in one session."""
        with self.relay(kind, round_trip):
            count = round(FIRST_FILL * self.options.seconds / (10 + round_trip)) + 10
            times = ceilings.warm_session(self.username, self.password, count)
        return {"mails/s": 1000 / statistics.mean(times), "p50 ms": statistics.median(times)}


def memory_by_unit(side: Side) -> dict[str, float]:
    units = [*side.web, *side.running_workers(), *side.others, BROKER]
    return {unit: memory(unit) for unit in units}


def machine() -> dict[str, str]:
    """Where the figures come from."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    total = re.search(r"^MemTotal: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    packages = command("dpkg-query", "--show", "--showformat=${Package} ${Version}\n", *PACKAGES)
    return {
        "CPU": f"{len(os.sched_getaffinity(0))} x {cpu[1] if cpu else platform.machine()}",
        "memory": f"{int(total[1]) / 1024**2:.0f} GiB" if total else "",
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        **dict(line.split(" ", 1) for line in packages.splitlines()),
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = partial(parser.add_argument, metavar="")
    add("--output", type=Path, required=True, help="file for the results")
    add("--rounds", type=int, default=5, help="rounds of each measure")
    add("--seconds", type=float, default=10, help="length of a round")
    add("--connections", type=int, default=32, help="clients of the closed loop")
    add("--rates", type=numbers, default=[100, 300, 600], help="requests/s of the open loop, separated by commas")
    add("--round-trips", type=numbers, default=[0, 5, 20], help="to the relay in ms, separated by commas")
    add("--scale-round-trip", type=float, default=100, help="in ms, so that time to wait is all that counts")
    add("--only", type=lambda text: text.split(","), default=[], help=f"some of {','.join(MEASURES)}")
    options = parser.parse_args()
    if unknown := set(options.only) - set(MEASURES):
        parser.error(f"no such measure: {', '.join(sorted(unknown))}")
    return options


def far(round_trip: float) -> str:
    return f"{round_trip:g} ms away"


def measure_memory(run: Benchmark) -> None:
    run.alternate("memory", run.memory)


def measure_accept(run: Benchmark) -> None:
    run.alternate("accept", run.accept)


def measure_open(run: Benchmark) -> None:
    for rate in run.options.rates:
        run.alternate(f"open loop, {rate:g}/s", partial(run.latency, rate))


def measure_mails(run: Benchmark) -> None:
    for kind in (sinks.PYTHON, sinks.FAST):
        for round_trip in run.options.round_trips:
            work = partial(run.mails_in_as_much_memory, kind, round_trip)
            run.alternate(f"mails, {kind} sink, {far(round_trip)}", work)


def measure_delay(run: Benchmark) -> None:
    for round_trip in run.options.round_trips:
        run.alternate(f"accept to delivery, {far(round_trip)}", partial(run.delay, round_trip))


def measure_end(run: Benchmark) -> None:
    run.alternate("end to end", run.end_to_end)


def measure_scale(run: Benchmark) -> None:
    for instances in SCALE:
        work = partial(run.mails, sinks.FAST, run.options.scale_round_trip, instances)
        run.alternate(f"{instances} x workers, {far(run.options.scale_round_trip)}", work)


def measure_limits(run: Benchmark) -> None:
    run.limit("bare Flask through nginx", run.bare)
    for processes, threads in ((1, 1), (PROCESSES, THREADS)):
        work = partial(run.publishes, processes, threads)
        run.limit(f"confirmed publishes, {processes * threads} at once", work)
    for kind in (sinks.PYTHON, sinks.FAST):
        for round_trip in run.options.round_trips:
            run.limit(f"warm SMTP session, {kind} sink, {far(round_trip)}", partial(run.warm, kind, round_trip))


# In this order: what a load leaves behind in RabbitMQ and Redis is not idle memory
MEASURES = {
    "memory": measure_memory,
    "accept": measure_accept,
    "open": measure_open,
    "mails": measure_mails,
    "delay": measure_delay,
    "end": measure_end,
    "scale": measure_scale,
    "limits": measure_limits,
}


def main() -> None:
    options = asked()
    os.environ.setdefault("MSG_CONFIG_DIR", "/etc/messaging-system/current")
    secrets = json.loads((HERE / "secrets.json").read_text())
    run = Benchmark(sides(secrets["baseline"]), options, secrets["username"], secrets["relay"], machine())
    try:
        run.workers(1, 1)
        for side in run.sides:
            wait_until(side.has_queue, f"the queue of {side.name}")
        for name, measure in MEASURES.items():
            if not options.only or name in options.only:
                measure(run)
    finally:
        run.workers(1, 1)


if __name__ == "__main__":
    main()
