"""Whose turn it is, and which rounds count."""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from figures import BASELINE, OURS
from measure import Benchmark, RefusedError
from sides import NotInTimeError, Side


@dataclass
class Work:
    """Notes whose turn it was, and refuses where `refuse` says so."""

    refuse: set[int] = field(default_factory=set)
    turns: list[str] = field(default_factory=list)

    def __call__(self, side: Side) -> dict[str, float]:
        self.turns.append(side.name)
        if len(self.turns) in self.refuse:
            raise RefusedError(f"turn {len(self.turns)}")
        return {"a second": len(self.turns)}


def named(name: str) -> Side:
    return Side(name, 80, (), "worker@{}", (), (), "", "", "", "", ())


@pytest.fixture
def run(tmp_path: Path) -> Benchmark:
    options = argparse.Namespace(rounds=3, output=tmp_path / "results.json")
    return Benchmark((named(OURS), named(BASELINE)), options, "", "", {"CPU": "some"})


def saved(run: Benchmark) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(run.options.output.read_text()))


def test_sides_take_turns_to_begin(run: Benchmark) -> None:
    work = Work()
    run.alternate("accept", work)
    assert work.turns == [OURS, BASELINE, BASELINE, OURS, OURS, BASELINE]
    assert [each.number for each in run.done] == [1, 1, 2, 2, 3, 3]
    assert [each["figures"] for each in saved(run)["rounds"]] == [{"a second": turn} for turn in range(1, 7)]
    assert saved(run)["machine"] == {"CPU": "some"}
    assert saved(run)["options"] == {"rounds": 3}


def test_a_round_that_does_not_count_is_repeated_once_and_told(run: Benchmark) -> None:
    work = Work(refuse={1, 3, 4})
    run.alternate("accept", work)
    assert [(each.side, each.number, each.refused) for each in run.done] == [
        (OURS, 1, "turn 1"),
        (OURS, 1, ""),
        (BASELINE, 1, "turn 3"),
        (BASELINE, 1, "turn 4"),
        (BASELINE, 2, ""),
        (OURS, 2, ""),
        (OURS, 3, ""),
        (BASELINE, 3, ""),
    ]
    assert [each["refused"] for each in saved(run)["rounds"]][:4] == ["turn 1", "", "turn 3", "turn 4"]


def test_what_does_not_come_in_time_does_not_count(run: Benchmark) -> None:
    def late() -> dict[str, float]:
        raise NotInTimeError("the first mail: not within 60 s")

    run.limit("warm", late)
    assert len(run.done) == 6
    assert {each.refused for each in run.done} == {"the first mail: not within 60 s"}
