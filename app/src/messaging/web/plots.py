"""Plots of the last hours, as what an SVG in the page needs. Nothing is drawn by scripts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WIDTH = 600
HEIGHT = 120
# Of what lies close together the highest is drawn: a peak of one minute is what one looks for
POINTS = 180

UNITS = (("d", 86400), ("h", 3600), ("min", 60))
AGES = (60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 21600.0, 43200.0)
# None: not known
Values = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Line:
    """One line: `path` and `area` are drawn, `now` and `most` are said; None where they are not known."""

    name: str
    path: str
    area: str
    now: float | None
    most: float | None
    most_at: float | None


@dataclass(frozen=True)
class Plot:
    """One plot; times are seconds since the epoch. `gaps` are left edge and width of what is not known."""

    title: str
    lines: list[Line]
    top: float
    ticks: list[float]
    gaps: list[tuple[float, float]]
    says: Callable[[float], str]


def span(seconds: float) -> str:
    """A length of time, as people say it."""
    unit, size = next(((unit, size) for unit, size in UNITS if seconds >= size), ("s", 1))
    # half an hour more or less is much after two of them
    return f"{seconds / size:.1f} {unit}".replace(".0", "") if size > 60 else f"{seconds / size:.0f} {unit}"


def count_top(most: float) -> float:
    """The next number that begins with 1, 2 or 5, from 10 on."""
    power = 10.0 ** math.floor(math.log10(max(most, 10)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= most)


def age_top(most: float) -> float:
    """The next length of time that people have a word for."""
    return next((top for top in AGES if top >= most), math.ceil(most / 86400) * 86400.0)


@dataclass(frozen=True)
class Scale:
    """What the values are: how people read one, and where a scale ends that has to hold one."""

    says: Callable[[float], str]
    top: Callable[[float], float]


def plot(title: str, times: Sequence[int], values: Values, start: int, end: int, scale: Scale) -> Plot:
    """A plot from `start` to `end`.

    Args:
        title: what is plotted.
        times: when each value was seen, ascending.
        values: of each line its values.
        start: the left edge, in seconds since the epoch.
        end: the right edge.
        scale: what the values are.
    """
    step = max(60, math.ceil((end - start) / POINTS / 60) * 60)
    count = math.ceil((end - start) / step)
    lines: list[tuple[str, Sequence[float | None], list[float | None]]] = []
    for name, of_line in values.items():
        binned: list[float | None] = [None] * count
        for at, value in zip(times, of_line, strict=True):
            place = min(math.ceil((at - start) / step) - 1, count - 1)
            if place >= 0 and value is not None:
                binned[place] = max(value, binned[place] or 0)
        lines.append((name, of_line, binned))
    top = scale.top(max((value for _, _, binned in lines for value in binned if value is not None), default=0.0))
    known = [any(binned[place] is not None for _, _, binned in lines) for place in range(count)]
    return Plot(
        title=title,
        lines=[_line(name, times, of_line, binned, top) for name, of_line, binned in lines],
        top=top,
        ticks=[start + part * (end - start) / 4 for part in range(5)],
        gaps=[(_x(first, count), _x(last, count) - _x(first, count)) for first, last in _runs(known, wanted=False)],
        says=scale.says,
    )


def _line(
    name: str, times: Sequence[int], values: Sequence[float | None], binned: Sequence[float | None], top: float
) -> Line:
    path, area = [], []
    for first, last in _runs([value is not None for value in binned], wanted=True):
        points = [
            f"{_x(place + 0.5, len(binned)):.1f} {HEIGHT - (binned[place] or 0) / top * HEIGHT:.1f}"
            for place in range(first, last)
        ]
        # a line from a point to itself is a dot
        path.append("M" + "L".join(points if len(points) > 1 else points * 2))
        left, right = _x(first + 0.5, len(binned)), _x(last - 0.5, len(binned))
        area.append(f"M{left:.1f} {HEIGHT}L{'L'.join(points)}L{right:.1f} {HEIGHT}Z")
    known = [(value, at) for value, at in zip(values, times, strict=True) if value is not None]
    most, most_at = max(known, default=(None, None), key=lambda each: each[0])
    return Line(name, "".join(path), "".join(area), values[-1] if values else None, most, most_at)


def _x(place: float, count: int) -> float:
    return place / count * WIDTH


def _runs(known: Sequence[bool], *, wanted: bool) -> list[tuple[int, int]]:
    """Where what is wanted begins, and where it ends, as in a slice."""
    runs: list[tuple[int, int]] = []
    begin: int | None = None
    for place in range(len(known) + 1):
        inside = place < len(known) and known[place] is wanted
        if inside and begin is None:
            begin = place
        elif not inside and begin is not None:
            runs.append((begin, place))
            begin = None
    return runs


COUNTS = Scale("{:,.0f}".format, count_top)
LENGTHS = Scale(span, age_top)
