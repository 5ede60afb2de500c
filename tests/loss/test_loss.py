"""The loss matrix: N requests at a steady rate, one fault in the middle, then quiet, and the count at the SMTP end."""

import time
from collections.abc import Callable, Iterator

import pytest
from testinfra.host import Host

from faulty import Requests
from reckoning import Reckoning
from rows import CHOSEN, RATE, N, Row
from stage import Stage

# Of the requests, how many come before the fault; and how many may be refused because the machine has other work to do
BEFORE = 0.3
STRAINED = 0.05
# Seconds in which all that waits is done, once everything works again: the longest delays, and the ends of all pauses
HEALS = 120.0


@pytest.fixture(scope="module")
def key(host: Host) -> Iterator[str]:
    """Every other request carries it: Redis away, those are still accepted."""
    host.run("messagingctl key revoke loss")
    yield host.check_output("messagingctl key add loss --scope mail --budget %s", "1000/second").strip()
    host.check_output("messagingctl key revoke loss")


@pytest.mark.parametrize("row", CHOSEN, ids=[row.name for row in CHOSEN])
def test_nothing_accepted_is_lost(stage: Stage, row: Row, key: str, keep: Callable[[Reckoning], None]) -> None:
    # half of the requests come while the fault lasts or later, however few they are
    per_second = min(RATE, N * (1 - BEFORE) / (1.5 * row.seconds + 2))
    stage.host.check_output("messagingctl dead purge --yes --all")
    with row.around(stage):
        begun = time.monotonic()
        with Requests(stage.outside, N, per_second, stage.target, key) as requests:
            time.sleep(BEFORE * N / per_second)
            row.fault(stage)
        ended = time.monotonic()
        quiet = stage.quiet(HEALS + N / 50)
        taken = stage.taken(requests.prefix)
        asked = stage.asked([answer["body"]["task_id"] for answer in requests.answered(202)])
    reckoning = Reckoning.of(row.name, requests.answers, taken, asked["states"], asked["dead"], quiet - begun)
    keep(reckoning)
    print(reckoning, f"quiet {quiet - ended:.1f} s after the last answer")
    assert reckoning.requests == N
    assert reckoning.accepted > N * BEFORE / 2
    assert reckoning.lost == 0
    assert (reckoning.failed, reckoning.dead) == (0, 0), [s for s in asked["states"].values() if s != "succeeded"][:5]
    assert reckoning.wrong == 0, [a for a in requests.answers if a["status"] not in (0, 202, 503)][:3]
    assert row.throttles or not reckoning.throttled, requests.answered(429)[:3]
    assert reckoning.twice <= row.twice, [each for each in taken.items() if each[1] > 1]
    may, must = row.refuses
    assert may or reckoning.refused <= N * STRAINED, requests.answered(503)[:3]
    assert reckoning.refused or not must, "nobody was refused: the fault was none"
    assert reckoning.no_answer <= row.no_answer, requests.answered(0)[:3]
    assert row.forgets or not reckoning.misreported, [s for s in asked["states"].values() if s != "succeeded"][:5]
