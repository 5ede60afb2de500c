"""How the loss matrix counts: a mistake there would hide a loss, or show up only after minutes of load."""

from collections import Counter
from typing import Any

from reckoning import Reckoning


def answer(address: str, status: int, **more: Any) -> dict[str, Any]:
    body = {"task_id": address.upper()} if status == 202 else {"status": status, "detail": "why"}
    return {"address": address, "status": status, "body": body, "retry_after": "1", "seconds": 0.1, **more}


def test_every_answer_is_in_one_column() -> None:
    answers = [
        *(answer(address, 202) for address in ("once", "twice", "failed", "dead", "lost")),
        answer("refused", 503),
        answer("delivered", 503),
        answer("throttled", 429),
        answer("bare", 503, retry_after=None),
        answer("broken", 500),
        {"address": "silent", "status": 0, "error": "TimeoutError()", "seconds": 30.0},
    ]
    taken = Counter({"once": 1, "twice": 2, "delivered": 1})
    states = {"ONCE": "succeeded", "TWICE": "queued", "FAILED": "failed: refused", "DEAD": "failed: refused"}
    row = Reckoning.of("a fault", answers, taken, states, {"DEAD"}, 60.0)
    assert (row.requests, row.accepted) == (11, 5)
    assert (row.once, row.twice, row.failed, row.dead, row.lost) == (1, 1, 1, 1, 1)
    assert (row.refused, row.refused_but_delivered, row.throttled) == (2, 1, 1)
    assert (row.no_answer, row.no_answer_but_delivered, row.wrong) == (1, 0, 2)
    assert (row.misreported, row.slowest) == (1, 30.0)
