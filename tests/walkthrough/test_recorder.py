"""The recorder takes nothing for seen that is not, tells no secret, and says what it has made shorter."""

import json
import re
from pathlib import Path

import pytest

from film import LAST, WAIT, Look, Take, cast, on_a_terminal
from record import ROOT, SMALL, Recorder
from story import AGAIN, FRESH, STEPS, Fill, Go, Run, See, Step
from terminal import Printed, without

SECRET = "kept-to-itself-4711"


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/some_password").write_text(f"{SECRET}\n")
    return Recorder("none", "none", "http://127.0.0.1:1", tmp_path, SMALL)


def typed(line: str, *seen: str, limit: float = 10) -> Run:
    return Run("operator", line, seen, limit)


def test_what_is_found_is_known_to_what_comes_later(recorder: Recorder) -> None:
    with recorder:
        recorder.record(
            Step("first", (typed("echo $((40 + 2))", r"^(?P<answer>\d+)$"),)),
            Step("then", (typed("echo it is {{answer}}", r"^it is {{answer}}$"),), holds=lambda v: v["answer"] == "42"),
        )
    assert recorder.takes[1].text.splitlines() == ["operator:messaging-system$ echo it is 42", "it is 42"]


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (Step("it", (typed("echo one", "two"),)), "echo one did not print two. It printed:\none"),
        (Step("it", (typed("echo two; echo one", "one", "two"),)), "did not print two"),
        (Step("it", (typed("# two", "two"),)), "did not print two"),
        (Step("it", (typed("echo one; false", "one"),)), "ended with 1"),
        (Step("it", (typed("echo one; sleep 60", "one", limit=1),)), "not done after 1 s; it printed:\n.*one"),
        (Step("it", (typed("echo one", "one"),), holds=lambda _: False), "does not fit together"),
    ],
)
def test_what_is_not_seen_ends_it(recorder: Recorder, step: Step, why: str) -> None:
    with recorder, pytest.raises(AssertionError, match=rf"(?s)^not seen: it\n.*{why}"):
        recorder.record(step)


def test_a_secret_ends_it(recorder: Recorder, tmp_path: Path) -> None:
    with recorder, pytest.raises(AssertionError, match="some_password is shown") as raised:
        recorder.record(Step("it", (typed(f"cat {tmp_path}/secrets/*", "to-itself"),)))
    assert SECRET not in str(raised.value)


def test_where_it_is_recorded_is_not_told(recorder: Recorder) -> None:
    with recorder:
        recorder.record(Step("it", (typed("echo $PWD/x", r"^\./x$"),)))
    assert str(ROOT) not in cast(recorder.takes, 0)


@pytest.mark.parametrize("cut", range(1, 12))
def test_nor_where_it_comes_in_two_parts(cut: int) -> None:
    text = "see /here/is/x and /here"
    parts = without("/here/is", [Printed(1, text[:cut]), Printed(2, text[cut:])])
    assert "".join(part.text for part in parts) == "see ./x and /here"


def take(*at: float, squeeze: float = 25) -> Take:
    return Take(Step("it", (), squeeze=squeeze), [Look(second, f"{second}\n") for second in at])


def test_waits_are_cut_and_nothing_else() -> None:
    assert [second for second, _ in take(5, 6, 60).moments()] == [0, 1, 1 + WAIT, 1 + WAIT + LAST]


def test_what_is_faster_says_how_much() -> None:
    long = take(*range(101), squeeze=15)
    assert long.speed == 7
    assert list(long.moments())[-1][0] == pytest.approx(100 / 7 + LAST)
    assert take(0, 14, squeeze=15).speed == 1


def test_the_cast_goes_at_its_own_speed() -> None:
    header, *events = [json.loads(line) for line in cast([take(5, 6, 60), take(70)], 1000).splitlines()]
    assert (header["version"], header["timestamp"], header["idle_time_limit"]) == (2, 1000, WAIT)
    assert [(at, text) for at, kind, text in events if kind == "o" and text[0] != "\x1b"] == [
        (0, "5\n"),
        (1, "6\n"),
        (55, "60\n"),
        (55 + LAST, "70\n"),
    ]
    assert [at for at, kind, _ in events if kind == "m"] == [0, 55 + LAST]


def test_lines_are_kept_whole_and_coloured() -> None:
    shown = on_a_terminal("\x1b]133;D;0\x07\x1b[32mok\x1b[0m <b>\r\r\nafter\r\n")
    assert re.fullmatch(r'<span style="color: #98e024[^>]*">ok</span> &lt;b&gt;\nafter\n', shown)


@pytest.mark.parametrize("step", [FRESH, AGAIN, *STEPS], ids=lambda step: step.caption)
def test_each_step_says_what_must_be_seen(step: Step) -> None:
    assert [act for act in step.acts if isinstance(act, Run | See) and act.seen]
    assert len(step.caption) < 110, "it has one line"
    assert len({isinstance(act, Run) for act in step.acts}) == 1, "it is in the terminal or in the browser"
    addresses = [act.url for act in step.acts if isinstance(act, Go)]
    assert "STAND-IN" in step.caption or not any("public" in url for url in addresses), "what is a stand-in says so"
    assert all("@example.com" in act.text for act in step.acts if isinstance(act, Fill) and act.label == "To")
