"""From the results of a run to its report: `report.py FOLDER`.

Reads measure.json and converge.json, as far as they are there; writes results.json, table.md and picture.svg, and
prints the table. Ratios are ours by the baseline's.
"""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from figures import BASELINE, LIMIT, OURS, Line, Round, Spread, lines

HERE = Path(__file__).parent


class Table:
    """Looks a line up by its measure and figure."""

    def __init__(self, found: Iterable[Line]) -> None:
        self.lines = list(found)
        self._known = {(line.measure, line.figure): line for line in self.lines}

    def median(self, side: str, measure: str, figure: str) -> float:
        """Raises: KeyError, if it was not measured."""
        return self._known[measure, figure].sides[side].median

    def ratio(self, measure: str, figure: str) -> float:
        """Raises: KeyError, if it was not measured on both sides."""
        ratio = self._known[measure, figure].ratio
        if ratio is None:
            raise KeyError(measure)
        return ratio.median

    def line(self, measure: str, figure: str) -> Line | None:
        return self._known.get((measure, figure))


Verdict = tuple[str, bool]


@dataclass(frozen=True)
class Goal:
    """`reached` says what was measured, and whether it is enough."""

    what: str
    goal: str
    reached: Callable[[Table], Verdict]


def _at_least(goal: float, measure: str, figure: str) -> Callable[[Table], Verdict]:
    def reached(table: Table) -> Verdict:
        ratio = table.ratio(measure, figure)
        return times(ratio), ratio >= goal

    return reached


def _at_most(goal: float, unit: str, measure: str, figure: str) -> Callable[[Table], Verdict]:
    def reached(table: Table) -> Verdict:
        value = table.median(OURS, measure, figure)
        return f"{shown(value)} {unit}", value <= goal

    return reached


def _p99(table: Table) -> Verdict:
    measure, figure = "open loop, 300/s", "p99 ms"
    value, ratio = table.median(OURS, measure, figure), table.ratio(measure, figure)
    return f"{shown(value)} ms, {times(ratio)}", value <= 20 and ratio <= 0.5


def _far_mail(table: Table) -> Verdict:
    # the other sink takes as much CPU time from this machine as the workers do
    measure = "mails, fast sink, 20 ms away"
    rate, memory = table.ratio(measure, "mails/s"), table.ratio(measure, "workers MiB")
    return f"{times(rate)}, memory {times(memory)}", rate >= 30 and memory <= 1


def _delivery(table: Table) -> Verdict:
    delay = table.median(OURS, "accept to delivery, 0 ms away", "p50 ms")
    more = delay - table.median(LIMIT, "warm SMTP session, python sink, 0 ms away", "p50 ms")
    return f"{shown(more)} ms more", more <= 15


def _scale(table: Table) -> Verdict:
    one, four = (table.median(OURS, f"{count} x workers, 100 ms away", "mails/s") for count in (1, 4))
    return f"{shown(four / one / 4)} of linear", four / one / 4 >= 0.9


MEMORY = "idle MiB, all without Flower and monitoring"
GOALS = (
    Goal("accepted requests/s", "at least 1.5 x", _at_least(1.5, "accept", "accepted/s")),
    Goal("p99 of accept at 300/s, open loop", "at most 20 ms and 0.5 x", _p99),
    Goal(
        "mails/s, sink of one Python process", "at least 6 x", _at_least(6, "mails, python sink, 0 ms away", "mails/s")
    ),
    Goal("mails/s, 20 ms away", "at least 30 x, with no more worker memory", _far_mail),
    Goal("accept to delivery, p50, nothing else to do", "at most 15 ms more than one warm SMTP session", _delivery),
    Goal("1 -> 4 workers that wait", "at least 0.9 of linear", _scale),
    Goal("idle memory without Flower and monitoring", "at most 400 MiB", _at_most(400, "MiB", "memory", MEMORY)),
    Goal("first run of the playbook", "at most 100 s", _at_most(100, "s", "converge", "first run, s")),
    Goal("a run with nothing to do", "at most 15 s", _at_most(15, "s", "converge", "nothing to do, s")),
)

PICTURE = (
    ("accepted requests/s", "accept", "accepted/s"),
    ("p99 at 300 requests/s, ms", "open loop, 300/s", "p99 ms"),
    ("CPU per request, ms", "accept", "CPU ms/request"),
    ("mails/s, relay next door", "mails, fast sink, 0 ms away", "mails/s"),
    ("mails/s, relay 5 ms away", "mails, fast sink, 5 ms away", "mails/s"),
    ("mails/s, relay 20 ms away", "mails, fast sink, 20 ms away", "mails/s"),
    ("CPU per mail, ms", "mails, fast sink, 0 ms away", "CPU ms/mail"),
    ("memory of the workers, MiB", "mails, fast sink, 0 ms away", "workers MiB"),
    ("accept to delivery, p50, ms", "accept to delivery, 0 ms away", "p50 ms"),
    ("mails/s until the last has arrived", "end to end", "mails/s from the first request to the last mail"),
)


def shown(value: float) -> str:
    """Three digits are enough."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def times(ratio: float) -> str:
    return f"{shown(ratio)} x"


def spread_shown(spread: Spread | None, unit: str = "") -> str:
    """The median, and from where to where it goes; one value alone has no spread."""
    if spread is None:
        return ""
    if spread.count == 1:
        return f"{shown(spread.median)}{unit}"
    return f"{shown(spread.median)}{unit} ({shown(spread.lowest)} - {shown(spread.highest)})"


def goals(table: Table) -> list[tuple[str, str, str, str]]:
    """What, goal, what was measured, and the verdict."""
    rows = []
    for goal in GOALS:
        try:
            said, enough = goal.reached(table)
            rows.append((goal.what, goal.goal, said, "met" if enough else "**not met**"))
        except KeyError:
            rows.append((goal.what, goal.goal, "not measured", ""))
    return rows


def text_of(rows: Iterable[Iterable[str]], *head: str) -> str:
    """A Markdown table."""
    lines_of = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines_of)


def report(result: dict[str, Any]) -> str:
    """The whole of it in Markdown."""
    rounds = [Round.from_json(each) for each in result["rounds"]]
    table = Table(lines(rounds))
    both = [line for line in table.lines if LIMIT not in line.sides and line.measure != "converge"]
    alone = [line for line in table.lines if LIMIT in line.sides]
    parts = []
    if result["machine"]:
        parts.append(", ".join(f"{name} {value}" for name, value in result["machine"].items()))
        parts.append(
            "Medians (lowest - highest) of the rounds; `ratio` is ours by the baseline's, of neighbouring rounds. "
            + ", ".join(f"{name} {value}" for name, value in result["options"].items() if value)
        )
    parts += ["## Goals", text_of(goals(table), "what", "goal", "measured", "")]
    if both:
        rows = [
            [
                line.measure,
                line.figure,
                *(spread_shown(line.sides.get(side)) for side in (OURS, BASELINE)),
                spread_shown(line.ratio, " x"),
            ]
            for line in both
        ]
        parts += ["## Both sides", text_of(rows, "measure", "figure", "ours", "baseline", "ratio")]
    if alone:
        rows = [[line.measure, line.figure, spread_shown(line.sides[LIMIT])] for line in alone]
        parts += ["## Limits", text_of(rows, "what", "figure", "alone")]
    if result["tasks"]:
        rows = [[line.figure, spread_shown(line.sides[OURS])] for line in table.lines if line.measure == "converge"]
        parts += ["## The playbook", text_of(rows, "run", "seconds")]
        for run, tasks in result["tasks"].items():
            rows = [[name, f"{seconds:.1f}"] for name, seconds in tasks]
            parts += [f"The slowest tasks of: {run}", text_of(rows, "task", "seconds")]
    refused = [[each.measure, each.side, str(each.number), each.refused] for each in rounds if each.refused]
    if refused:
        parts += ["## Rounds that do not count", text_of(refused, "measure", "side", "round", "why")]
    return "\n\n".join(["# Benchmark", *parts]) + "\n"


def picture(result: dict[str, Any]) -> str:
    """An SVG with a pair of bars for each of the main figures, the longer one as long as there is room."""
    table = Table(lines(Round.from_json(each) for each in result["rounds"]))
    rows = []
    for title, measure, figure in PICTURE:
        line = table.line(measure, figure)
        if line and line.ratio and {OURS, BASELINE} <= set(line.sides):
            longest = max(each.highest for each in line.sides.values())
            bars = [
                {"side": side, "shown": shown(line.sides[side].median)}
                | {name: part / longest for name, part in asdict(line.sides[side]).items() if name != "count"}
                for side in (OURS, BASELINE)
            ]
            rows.append({"title": title, "ratio": times(line.ratio.median), "bars": bars})
    engine = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return engine.get_template("picture.svg.j2").render(rows=rows, machine=result["machine"].get("CPU", ""))


def gathered(folder: Path) -> dict[str, Any]:
    """All that the parts of the run have left in it."""
    result: dict[str, Any] = {"machine": {}, "options": {}, "rounds": [], "tasks": {}}
    for name in ("measure.json", "converge.json"):
        file = folder / name
        if file.exists():
            found = json.loads(file.read_text())
            result |= found | {"rounds": result["rounds"] + found["rounds"]}
    return result


def main(folder: str) -> None:
    where = Path(folder)
    result = gathered(where)
    (where / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    (where / "picture.svg").write_text(picture(result))
    text = report(result)
    (where / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
