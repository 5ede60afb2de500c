"""What becomes of the results."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from converge import changes, slowest_tasks
from figures import BASELINE, LIMIT, OURS, Round
from report import MEMORY, gathered, main, picture, report, shown

RECAP = """
PLAY RECAP *********************************************************************
host : ok=52   changed=3    unreachable=0    failed=0    skipped=9    rescued=0    ignored=0
b    : ok=2    changed=0    unreachable=0    failed=0    skipped=9    rescued=0    ignored=0

TASKS RECAP ********************************************************************
Saturday 21 November 2026  20:00:00 +0000 (0:00:00.512)       0:00:14.511 ******
===============================================================================
rabbitmq : Install RabbitMQ ------------------------------------------- 12.34s
release : Build it, with a name that is longer than what there is room for on a line -- 1.50s
Gather the few facts that are needed ----------------------------------- 0.61s
"""


def both(measure: str, figure: str, ours: float, baseline: float) -> list[Round]:
    return [
        Round(measure, side, number, {figure: value * number})
        for side, value in ((OURS, ours), (BASELINE, baseline))
        for number in (1, 2, 3)
    ]


def all_of_it(quick: float) -> list[Round]:
    """What meets all goals with quick = 1, and none with less."""
    far = "mails, fast sink, 20 ms away"
    return [
        *both("accept", "accepted/s", 1600 * quick, 1000),
        *both("open loop, 300/s", "p99 ms", 9 / quick, 20),
        *both("mails, python sink, 0 ms away", "mails/s", 601 * quick, 100),
        *both(far, "mails/s", 301 * quick, 10),
        *both(far, "workers MiB", 50, 200),
        Round("accept to delivery, 0 ms away", OURS, 1, {"p50 ms": 11 / quick**2}),
        Round("warm SMTP session, python sink, 0 ms away", LIMIT, 1, {"p50 ms": 1}),
        Round("1 x workers, 100 ms away", OURS, 1, {"mails/s": 100}),
        Round("4 x workers, 100 ms away", OURS, 1, {"mails/s": 370 * quick}),
        Round("memory", OURS, 1, {MEMORY: 390 / quick}),
        Round("converge", OURS, 1, {"first run, s": 99 / quick}),
        Round("converge", OURS, 1, {"nothing to do, s": 15 / quick}),
    ]


def result(rounds: list[Round]) -> dict[str, object]:
    return {
        "machine": {"CPU": "2 x Some CPU <at> 2 GHz"},
        "options": {"rounds": 3},
        "rounds": [each.to_json() for each in rounds],
        "tasks": {"first run": [["rabbitmq : Install", 12.34]]},
    }


@pytest.mark.parametrize(("quick", "verdict"), [(1, "met"), (0.5, "**not met**")])
def test_each_goal_has_a_verdict(quick: float, verdict: str) -> None:
    text = report(result(all_of_it(quick)))
    found = [line for line in text.splitlines() if line.endswith(f"| {verdict} |")]
    assert len(found) == 9, text


def test_what_was_not_measured_is_no_goal_met() -> None:
    text = report(result(both("accept", "accepted/s", 1600, 1000)))
    assert text.count("not measured") == 8


def test_the_table_has_medians_spreads_and_ratios() -> None:
    text = report(result(all_of_it(1)))
    assert "| accept | accepted/s | 3,200 (1,600 - 4,800) | 2,000 (1,000 - 3,000) | 1.60 x (1.60 - 1.60) |" in text
    assert "| warm SMTP session, python sink, 0 ms away | p50 ms | 1.00 |" in text
    assert "| rabbitmq : Install | 12.3 |" in text
    assert "Rounds that do not count" not in text


def test_refused_rounds_are_told() -> None:
    text = report(result([Round("accept", OURS, 1, {}, refused="3 answers were no 2xx")]))
    assert "| accept | ours | 1 | 3 answers were no 2xx |" in text


def test_the_picture_is_svg_with_a_pair_of_bars_a_row() -> None:
    drawn = ElementTree.fromstring(picture(result(all_of_it(1))))
    name = "{http://www.w3.org/2000/svg}"
    bars = [each for each in drawn.iter(f"{name}rect") if each.get("height") == "13"]
    assert [each.get("class") for each in bars] == [OURS, BASELINE] * 3
    assert float(bars[0].get("width", 0)) == pytest.approx(380 * 2 / 3, abs=0.1)
    assert float(bars[1].get("width", 0)) == pytest.approx(380 * 2 / 4.8, abs=0.1)
    texts = [each.text for each in drawn.iter(f"{name}text")]
    assert "accepted requests/s" in texts
    assert "1.60 x" in texts
    assert "2 x Some CPU <at> 2 GHz" in texts


def test_all_of_a_run_is_gathered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accept, first = both("accept", "accepted/s", 16, 10), Round("converge", OURS, 1, {"first run, s": 50})
    measured = result(accept) | {"tasks": {}}
    (tmp_path / "measure.json").write_text(json.dumps({key: measured[key] for key in ("machine", "options", "rounds")}))
    (tmp_path / "converge.json").write_text(json.dumps({"rounds": [first.to_json()], "tasks": {"first run": []}}))
    main(str(tmp_path))
    assert len(json.loads((tmp_path / "results.json").read_text())["rounds"]) == 7
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "picture.svg").exists()


def test_nothing_gathered_is_no_error(tmp_path: Path) -> None:
    assert "not measured" in report(gathered(tmp_path))
    ElementTree.fromstring(picture(gathered(tmp_path)))


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234"), (99.96, "100.0"), (12.345, "12.3"), (1.236, "1.24"), (0.05, "0.05")]
)
def test_three_digits(value: float, text: str) -> None:
    assert shown(value) == text


def test_the_slowest_tasks_are_read() -> None:
    assert slowest_tasks(RECAP) == [
        ("rabbitmq : Install RabbitMQ", 12.34),
        ("release : Build it, with a name that is longer than what there is room for on a line", 1.5),
        ("Gather the few facts that are needed", 0.61),
    ]
    assert changes(RECAP) == 3
