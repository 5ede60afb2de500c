"""Requests to all nginx hosts from outside, something that happens meanwhile, and the reckoning when all is quiet.

LOSS_N, LOSS_RATE and LOSS_ROWS are those of tests/loss/rows.py.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from faulty import Requests
from reckoning import Reckoning
from rows import RATE, N
from stage import Stage
from system import OUTSIDE, address, host, members

# of the requests, how many come before the fault
BEFORE = 0.3
# Seconds in which all that waits is done, once everything works again
HEALS = 120.0
# Requests while something takes its time
MOST = 100_000
# Name of a row that takes a whole run of the playbook
ROLLING = "the playbook runs"


@dataclass(frozen=True)
class Seen:
    """What became of the requests, and the longest time without an acceptance after the fault, in seconds."""

    reckoning: Reckoning
    gap: float
    answers: Sequence[Mapping[str, Any]]

    def __str__(self) -> str:
        """With what those were told who were refused."""
        told = Counter(
            str(answer["body"]["detail"])[:150] for answer in self.answers if answer["status"] not in (0, 202)
        )
        silent = Counter(answer["error"] for answer in self.answers if answer["status"] == 0)
        return f"{self.reckoning}\nlongest gap {self.gap:.1f} s\nrefused: {dict(told)}\nno answer: {dict(silent)}"


def under_load(name: str, fault: Callable[[], None], seconds: float, key: str, requests: int = N) -> Seen:
    """Do something while requests come in, and count when all is quiet.

    Args:
        name: of the row in the table.
        fault: what happens; it returns when everything is on its way back.
        seconds: about how long that takes, so that half of the requests come meanwhile or later.
        key: an API key.
        requests: how many come in.
    """
    per_second = min(RATE, requests * (1 - BEFORE) / (1.5 * seconds + 2))
    begun = time.monotonic()
    with _requests(requests, per_second, key) as sent:
        time.sleep(BEFORE * requests / per_second)
        happened = time.time()
        fault()
    return _reckon(name, sent, begun, happened)


def during(name: str, work: Callable[[], object], key: str, per_second: float = 10) -> Seen:
    """Do something that takes its time while requests come in, and count when all is quiet."""
    begun, happened = time.monotonic(), time.time()
    with _requests(MOST, per_second, key) as sent:
        try:
            work()
        finally:
            sent.stop()
    return _reckon(name, sent, begun, happened)


def _requests(count: int, per_second: float, key: str) -> Requests:
    targets = ",".join(address(name) for name in members("nginx"))
    return Requests(host(OUTSIDE), count, per_second, targets, key)


def _reckon(name: str, sent: Requests, begun: float, happened: float) -> Seen:
    broker, app = (Stage(host(members(group)[0]), host(OUTSIDE), "") for group in ("rabbitmq", "app"))
    accepted = sent.answered(202)
    quiet = broker.quiet(HEALS + len(sent.answers) / 50)
    asked = app.asked([answer["body"]["task_id"] for answer in accepted])
    taken = broker.taken(sent.prefix)
    reckoning = Reckoning.of(name, sent.answers, taken, asked["states"], asked["dead"], quiet - begun)
    return Seen(reckoning, longest_gap(accepted, happened), sent.answers)


def longest_gap(accepted: Sequence[Mapping[str, Any]], happened: float) -> float:
    """Seconds between one acceptance and the next, where they lay furthest apart after something happened."""
    moments = sorted(answer["at"] + answer["seconds"] for answer in accepted)
    return max((after - before for before, after in pairwise(moments) if after >= happened), default=float("inf"))
