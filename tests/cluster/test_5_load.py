"""A host goes away while requests come in: nothing that was accepted is lost."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import pytest

from away import cut_off, power_off, power_on, rejoin
from load import BEFORE, Seen, under_load
from rows import IN_FLIGHT, WANTED, N
from system import members, queues


@dataclass(frozen=True)
class Row:
    """`gap`: seconds in which nothing may be accepted, if that is promised; `twice`: how many mails may go out twice.

    `unreachable`: requests may get no answer, since a host that takes them is gone. `often`: it is one that finds most.
    """

    name: str
    fault: Callable[[], None]
    seconds: float
    gap: float = inf
    twice: int = 0
    unreachable: bool = False
    often: bool = False


def leader() -> str:
    """The broker that the mail goes through."""
    return str(queues(members("rabbitmq")[0])["email"]["leader"])


def a_broker_killed() -> None:
    victim = leader()
    power_off(victim)
    time.sleep(15)
    power_on(victim)


def a_broker_cut_off() -> None:
    victim = leader()
    cut_off(victim)
    time.sleep(30)
    rejoin(victim)


def an_app_host_powered_off() -> None:
    power_off(members("app")[0])
    time.sleep(15)
    power_on(members("app")[0])


def a_worker_host_powered_off() -> None:
    power_off(members("celery")[-1])
    time.sleep(15)
    power_on(members("celery")[-1])


# Promised are 1 s and 15 s, which the table shows; a busy machine gets some more
ROWS = (
    Row("broker killed", a_broker_killed, 20, gap=5, often=True),
    Row("broker cut off 30 s", a_broker_cut_off, 30, gap=25),
    Row("app host powered off", an_app_host_powered_off, 20, unreachable=True, often=True),
    Row("worker host powered off", a_worker_host_powered_off, 20, twice=IN_FLIGHT),
)
CHOSEN = [
    row for row in ROWS if not WANTED or (row.often and "often" in WANTED) or any(part in row.name for part in WANTED)
]


@pytest.mark.parametrize("row", CHOSEN, ids=[row.name for row in CHOSEN])
def test_nothing_accepted_is_lost(healthy: None, row: Row, key: str, table: list[Seen]) -> None:
    seen = under_load(row.name, row.fault, row.seconds, key)
    table.append(seen)
    reckoning = seen.reckoning
    print(seen)
    assert reckoning.requests == N
    # the fault may last as long as half of the requests
    assert reckoning.accepted > N * BEFORE, [answer for answer in seen.answers if answer["status"] != 202][:3]
    assert reckoning.lost == 0
    assert (reckoning.failed, reckoning.dead, reckoning.misreported) == (0, 0, 0)
    assert (reckoning.wrong, reckoning.throttled) == (0, 0), [
        answer for answer in seen.answers if answer["status"] not in (0, 202, 503)
    ][:3]
    # what was on its way to the host that went away; clients go to the other one
    assert reckoning.no_answer <= (N // 10 if row.unreachable else 0), [a for a in seen.answers if not a["status"]][:3]
    assert reckoning.twice <= row.twice
    assert seen.gap <= row.gap
