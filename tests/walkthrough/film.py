"""What was recorded becomes a film, a text cast of its terminals, and the loop in the README."""

import base64
import io
import json
import math
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from pathlib import Path

from playwright.sync_api import Browser, Page
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from story import Step
from terminal import COLUMNS, ROWS, Command, plain
from window import Shot

LONGEST = 180  # seconds
# A wait that is longer is cut to this, and the film says so at its beginning
WAIT = 1.5
LAST = 1.0
CURSOR = "█"
LETTERS = 20
# No text that is longer is shown at once
LINES = 60
OPERATING_SYSTEM_COMMAND = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


@dataclass(frozen=True)
class Look:
    """What was on the screen from a moment on: more text of a terminal, or a page. `pause` is for its reader."""

    at: float
    shown: str | Shot
    pause: float = 0


@dataclass
class Take:
    """What was recorded of a step."""

    step: Step
    looks: list[Look] = field(default_factory=list)

    def add_command(self, command: Command, pause: float) -> None:
        self._add([Look(part.at, part.text) for part in command.printed], pause)

    def add_shots(self, shots: list[Shot], pause: float) -> None:
        self._add([Look(shot.at, shot) for shot in shots], pause)

    def _add(self, looks: list[Look], pause: float) -> None:
        self.looks += [*looks[:-1], replace(looks[-1], pause=pause)]

    @property
    def text(self) -> str:
        """All that its terminals printed, as it is read."""
        return plain("".join(look.shown for look in self.looks if isinstance(look.shown, str)))

    @property
    def waits(self) -> list[float]:
        """Seconds before each look, as they were."""
        times = [look.at for look in self.looks]
        return [0.0, *(after - before for before, after in pairwise(times))]

    @property
    def speed(self) -> int:
        """How many times faster it is shown."""
        return next(speed for speed in count(1) if sum(self._shown(speed)) <= self.step.squeeze)

    def _shown(self, speed: int) -> list[float]:
        return [min(wait / speed, WAIT) for wait in self.waits]

    def moments(self) -> Iterator[tuple[float, str | Shot]]:
        """What is on the screen, and the second of the take from which it is; the end is a moment of its own."""
        second, text = 0.0, ""
        for look, wait in zip(self.looks, self._shown(self.speed), strict=True):
            second += wait
            text += look.shown if isinstance(look.shown, str) else ""
            yield second, text if isinstance(look.shown, str) else look.shown
            second += look.pause
        yield second + LAST, ""


@dataclass(frozen=True)
class Picture:
    """One picture of the film: a file, and for how many seconds it is shown."""

    file: Path
    seconds: float
    step: Step | None


def on_a_terminal(text: str) -> str:
    """The last lines of a text with a terminal's colours, as HTML."""
    lines = re.split(r"\r*\n", OPERATING_SYSTEM_COMMAND.sub("", text))[-LINES:]
    console = Console(file=io.StringIO(), record=True, force_terminal=True, color_system="truecolor", width=100_000)
    console.print(Text.from_ansi("\n".join(lines)), soft_wrap=True, end="")
    return console.export_html(theme=MONOKAI, code_format="{code}", inline_styles=True)


class Film:
    """Pictures in a folder, which become a video."""

    def __init__(self, browser: Browser, folder: Path, scale: float, per_second: int) -> None:
        context = browser.new_context(viewport={"width": 1280, "height": 720}, device_scale_factor=scale)
        self._page: Page = context.new_page()
        self._page.set_content(Path(__file__).with_name("stage.html").read_text())
        self._folder = folder
        self._per_second = per_second
        self.pictures: list[Picture] = []

    def title(self, heading: str, words: str, seconds: float) -> None:
        """A picture with nothing but words."""
        self._picture(seconds, None, heading=heading, words=words)

    def add(self, take: Take, number: int, total: int) -> None:
        """The pictures of a take, no more of them than there are to see.

        Raises:
            AssertionError: something is printed above the upper end of the terminal, and nobody could have read it.
        """
        shown: dict[int, str | Shot] = {}
        end = 0
        for second, what in take.moments():
            end = math.ceil(second * self._per_second)
            shown[end] = what
        size = self._letters(take)
        for tick, after in pairwise(sorted(shown)):
            what = shown[tick]
            common = {
                "place": f"{number}/{total}",
                "caption": take.step.caption,
                "speed": f"x{take.speed}" if take.speed > 1 else "",
                "done": (number - 1 + after / end) / total,
            }
            seconds = (after - tick) / self._per_second
            if isinstance(what, Shot):
                picture = base64.b64encode(what.picture).decode()
                self._picture(seconds, take.step, title=what.url, picture=picture, pointer=list(what.pointer), **common)
            else:
                self._picture(seconds, take.step, terminal=on_a_terminal(what + CURSOR), size=size, **common)

    def _letters(self, take: Take) -> int:
        """How large they can be so that all of it is seen, in pixels."""
        everything = "".join(look.shown for look in take.looks if isinstance(look.shown, str))
        if take.step.scrolls or not everything:
            return LETTERS
        size = self._page.evaluate("([text]) => fit(text)", [on_a_terminal(everything + CURSOR)])
        assert size, f"too many lines: {take.step.caption}"
        return int(size)

    def _picture(self, seconds: float, step: Step | None, **shown: object) -> None:
        nothing = {
            **dict.fromkeys(("place", "caption", "speed", "title", "heading"), ""),
            **dict.fromkeys(("terminal", "picture", "words", "pointer")),
        }
        self._page.evaluate("show", {**nothing, "done": 0, "size": LETTERS, **shown})
        file = self._folder / f"{len(self.pictures):05d}.jpg"
        self._page.screenshot(path=file, type="jpeg", quality=92)
        self.pictures.append(Picture(file, seconds, step))

    @property
    def seconds(self) -> float:
        return sum(picture.seconds for picture in self.pictures)


def video(pictures: list[Picture], target: Path, *options: str) -> None:
    """Make a video of pictures, with Debian's ffmpeg; `options` say how it is encoded."""
    listed = target.with_suffix(".txt")
    lines = [f"file '{picture.file}'\nduration {picture.seconds:.3f}" for picture in pictures]
    # What is said last of the last one counts only if something follows
    listed.write_text("\n".join([*lines, f"file '{pictures[-1].file}'"]) + "\n")
    command = ["ffmpeg", "-loglevel", "error", "-y", "-f", "concat", "-safe", "0", "-i", str(listed)]
    length = f"{sum(picture.seconds for picture in pictures):.3f}"
    subprocess.run([*command, "-t", length, *options, str(target)], check=True, stdin=subprocess.DEVNULL)
    listed.unlink()


def cast(takes: list[Take], began: float) -> str:
    """What was printed in the terminals, as asciicast v2, at the speed at which it was; captions are markers."""
    # https://docs.asciinema.org/manual/asciicast/v2/
    header = {
        "version": 2,
        "width": COLUMNS,
        "height": ROWS,
        "timestamp": int(began),
        "title": "messaging-system: walk-through",
        "idle_time_limit": WAIT,
    }
    lines: list[object] = [header]
    second = 0.0
    for take in takes:
        if isinstance(take.looks[0].shown, Shot):
            continue
        lines += [[round(second, 3), "m", take.step.caption], [round(second, 3), "o", "\x1b[2J\x1b[H"]]
        for look, wait in zip(take.looks, take.waits, strict=True):
            second += wait
            lines.append([round(second, 3), "o", look.shown])
            second += look.pause
        second += LAST
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
