"""The arithmetic of the benchmark; and what its parts hand to each other."""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

OURS = "ours"
BASELINE = "baseline"
LIMIT = "limit"


@dataclass(frozen=True)
class Round:
    """One measurement of one side.

    `measure` says what was measured and under which conditions; `figures` are its results by name, with the unit in it.
    One with a reason in `refused` does not count.
    """

    measure: str
    side: str
    number: int
    figures: Mapping[str, float]
    refused: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Spread:
    """The median of some values, the lowest and the highest of them, and how many there are."""

    median: float
    lowest: float
    highest: float
    count: int


@dataclass
class Line:
    """One figure of one measure: what each side got, and ours as a ratio to the baseline."""

    measure: str
    figure: str
    sides: dict[str, Spread] = field(default_factory=dict)
    ratio: Spread | None = None


def spread(values: Iterable[float]) -> Spread:
    """Raises: StatisticsError, if there are none."""
    kept = sorted(values)
    return Spread(statistics.median(kept), kept[0], kept[-1], len(kept))


def percentile(values: Iterable[float], part: float) -> float:
    """The smallest of the values that at least `part` percent of them do not exceed (nearest rank).

    Raises:
        ValueError: there are none.
    """
    kept = sorted(values)
    if not kept:
        raise ValueError("no values")
    rank = -int(-len(kept) * part // 100)  # rounded up
    return kept[max(rank, 1) - 1]


def paired_ratios(ours: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """Ours by the baseline's, of rounds with the same number: neighbours in time, so that a slow minute hits both."""
    return [ours[number] / baseline[number] for number in sorted(ours) if baseline.get(number)]


def rate_until_last_rise(samples: Sequence[tuple[float, int]]) -> float:
    """Things per second, of samples (seconds, how many so far): from the first sample to the last one that rose.

    What comes after it is waiting for more that never came. 0 if nothing rose.
    """
    if not samples:
        return 0.0
    begun, before = samples[0]
    rises = [sample for earlier, sample in itertools.pairwise(samples) if sample[1] > earlier[1]]
    if not rises:
        return 0.0
    ended, after = rises[-1]
    return (after - before) / (ended - begun)


def lines(rounds: Iterable[Round]) -> list[Line]:
    """The table: each figure once, in the order of its first appearance, of the rounds that count."""
    values: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for each in rounds:
        if each.refused:
            continue
        for figure, value in each.figures.items():
            sides = values.setdefault((each.measure, figure), {})
            sides.setdefault(each.side, {})[each.number] = value
    table = []
    for (measure, figure), sides in values.items():
        line = Line(measure, figure, {side: spread(found.values()) for side, found in sides.items()})
        ratios = paired_ratios(sides.get(OURS, {}), sides.get(BASELINE, {}))
        line.ratio = spread(ratios) if ratios else None
        table.append(line)
    return table
