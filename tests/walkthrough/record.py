"""record.py FOLDER: records the walk-through of story.py on a fresh host, which it makes; mk/walkthrough.sh calls it.

Writes walkthrough.mp4, walkthrough.cast and loop.webp into FOLDER; the README shows the last, as docs/walkthrough.webp.
"""

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import Browser, Error, Page, sync_playwright

from film import LONGEST, WAIT, Film, Picture, Take, cast, video
from story import FRESH, STEPS, Fill, Go, Press, Run, See, Step
from terminal import Shell
from window import SHOWN, SIZE, Shot, Window

ROOT = Path(__file__).parent.parent.parent
PUBLIC = "messaging.ngrok.test"
LOOP_LARGEST = 300_000
_WEBP = ("-vf", "scale=800:-2", "-c:v", "libwebp_anim", "-loop", "0", "-quality", "60", "-compression_level", "6")


@dataclass(frozen=True)
class Form:
    """How large it is: pixels for one of the stage, pictures a second, seconds that a key takes, and x264's preset."""

    scale: float
    per_second: int
    pause: float
    preset: str


FULL = Form(1.5, 10, 0.012, "fast")
# Nobody watches it: it shows that all of it is still true
SMALL = Form(0.5, 2, 0, "ultrafast")


@dataclass
class Recorder:
    """Does what the steps say, sees whether it is true, and keeps what it looked like.

    `host` and `internet` are containers, the other one that of the stand-in for ngrok's cloud. `ephemeral` is where
    molecule keeps what belongs to them. It is a context: the shells and the browser end with it.
    """

    host: str
    internet: str
    url: str
    ephemeral: Path
    form: Form
    takes: list[Take] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._values = {"url": self.url, "public": f"https://{PUBLIC}", "run": secrets.token_hex(2)}
        self._shells: dict[str, Shell] = {}
        self._pages: dict[bool, Page] = {}
        self._began = time.time()
        self._stack = ExitStack()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def record(self, *steps: Step) -> None:
        """Take the steps, in turn.

        Raises:
            AssertionError: what a step says is not what was seen.
        """
        for step in steps:
            print(f"recording: {step.caption}", flush=True)
            take = Take(step)
            try:
                for act in step.acts:
                    if isinstance(act, Run):
                        self._run(take, act)
                    else:
                        self._browse(take, act)
                assert step.holds(self._values), f"what was found does not fit together: {self._values}"
            except (AssertionError, TimeoutError, Error) as error:
                raise AssertionError(f"not seen: {step.caption}\n{error}") from error
            self.takes.append(take)
        self._tell_no_secret()

    def produce(self, folder: Path, heading: str, words: str) -> tuple[Path, Path, list[Picture]]:
        """Make the film and the cast of what was recorded; the last are the pictures of the film, in `folder` too."""
        pictures = folder / "pictures"
        pictures.mkdir(parents=True, exist_ok=True)
        film = Film(self._browser(), pictures, self.form.scale, self.form.per_second)
        film.title(heading, words, 5)
        for number, take in enumerate(self.takes, 1):
            film.add(take, number, len(self.takes))
        assert film.seconds <= LONGEST, f"{film.seconds:.0f} s: too long; shorten the pauses in story.py"
        target = folder / "walkthrough.mp4"
        # The last picture stays until the end
        filters = (
            f"fps={self.form.per_second},tpad=stop_mode=clone:stop_duration={LONGEST},scale=out_range=tv,format=yuv420p"
        )
        encoding = ("-c:v", "libx264", "-preset", self.form.preset, "-crf", "22", "-movflags", "+faststart")
        video(film.pictures, target, "-vf", filters, *encoding)
        text = folder / "walkthrough.cast"
        text.write_text(cast(self.takes, self._began))
        return target, text, film.pictures

    def _run(self, take: Take, act: Run) -> None:
        line = self._filled(act.line)
        command = self._shell(act.where).run(line, act.limit)
        take.add_command(command, act.pause)
        position = 0
        for pattern in act.seen:
            found = re.compile(self._filled(pattern, re.escape), re.MULTILINE).search(command.output, position)
            assert found, f"{line} did not print {pattern}. It printed:\n{command.output[-3000:]}"
            self._values |= found.groupdict()
            position = found.end()
        assert command.status == 0, f"{line} ended with {command.status}:\n{command.output[-3000:]}"

    def _browse(self, take: Take, act: Go | Fill | Press | See) -> None:
        if isinstance(act, Go):
            self._window = Window(self._page(act.login), self.form.pause)
            self._window.go(self._filled(act.url))
        window = self._window
        if isinstance(act, Fill):
            window.fill(act.part, act.label, self._filled(act.text))
        elif isinstance(act, Press):
            window.press(act.part, act.name)
        elif isinstance(act, See):
            window.see(self._filled(act.seen, re.escape), act.within, act.limit)
        take.add_shots(window.shots, act.pause if isinstance(act, See) else 0)
        window.shots.clear()

    def _filled(self, text: str, quote: Callable[[str], str] = str) -> str:
        """The text, with the values that it names."""
        return re.sub(r"\{\{(\w+)\}\}", lambda name: quote(self._values[name.group(1)]), text)

    def _shell(self, where: str) -> Shell:
        if where not in self._shells:
            inside = {"TERM": "xterm-256color", "SYSTEMD_PAGER": "cat", "SYSTEMD_URLIFY": "0", "SYSTEMD_EMOJI": "0"}
            settings = [part for name, value in inside.items() for part in ("--env", f"{name}={value}")]
            prompt, within, environment = {
                "operator": ("operator:messaging-system$", [], {}),
                # What is asked is this machine, or a container on it
                "visitor": ("visitor:~$", [], {"no_proxy": "*"}),
                "host": (
                    f"root@{self.host}:~#",
                    ["docker", "exec", "--interactive", "--tty", *settings, self.host],
                    {},
                ),
            }[where]
            shell = Shell(prompt, within, environment, ROOT, self.form.pause)
            self._shells[where] = self._stack.enter_context(shell)
        return self._shells[where]

    def _browser(self) -> Browser:
        if not hasattr(self, "_chromium"):
            self._chromium = self._stack.enter_context(chromium(self.internet))
        return self._chromium

    def _page(self, login: bool) -> Page:
        if login not in self._pages:
            [password] = (self.ephemeral / "secrets").rglob("flower_password")
            context = self._browser().new_context(
                viewport={"width": SIZE[0], "height": SIZE[1]},
                device_scale_factor=self.form.scale * SHOWN / SIZE[0],
                reduced_motion="reduce",
                # The authority is one of the tests
                ignore_https_errors=True,
                http_credentials={"username": "operator", "password": password.read_text().strip()} if login else None,
            )
            context.set_default_timeout(20_000)
            self._pages[login] = context.new_page()
        return self._pages[login]

    def _tell_no_secret(self) -> None:
        """Nothing that was shown may have a password in it, or anything else that nobody is to know."""
        shown = "\n".join(
            look.shown.words if isinstance(look.shown, Shot) else "" for take in self.takes for look in take.looks
        )
        shown += "\n".join(take.text for take in self.takes)
        files = [*(self.ephemeral / "secrets").rglob("*"), self.ephemeral / "certificates/ngrok_token"]
        for file in filter(Path.is_file, files):
            for line in file.read_text().split():
                assert len(line) < 12 or line not in shown, f"{file.name} is shown: nobody may see this film"


@contextmanager
def chromium(internet: str) -> Iterator[Browser]:
    """Debian's Chromium, for which the public name is where the stand-in is."""
    inspect = [
        "docker",
        "inspect",
        "--format",
        "{{ range .NetworkSettings.Networks }}{{ .IPAddress }}{{ end }}",
        internet,
    ]
    address = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.strip()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            # a root user's Chromium has no sandbox of its own
            args=["--no-sandbox", "--no-proxy-server", f"--host-resolver-rules=MAP {PUBLIC} {address}"],
        )
        yield browser
        browser.close()


def loop(pictures: list[Picture], target: Path) -> None:
    """A few of the pictures, again and again, small enough for a README.

    Raises:
        AssertionError: it is not.
    """
    chosen: list[Picture] = []
    for step in dict.fromkeys(picture.step for picture in pictures if picture.step and picture.step.loop):
        of_step = [picture for picture in pictures if picture.step is step]
        count = min(step.loop, len(of_step))
        for number in range(count):
            picture = of_step[(number + 1) * len(of_step) // count - 1]
            chosen.append(Picture(picture.file, 2.5 if number == count - 1 else 0.7, step))
    # How long the last one of a loop is shown nobody says; so it is there twice
    video([*chosen, replace(chosen[-1], seconds=0.1)], target, "-fps_mode", "vfr", *_WEBP)
    size = target.stat().st_size
    assert size <= LOOP_LARGEST, f"{target.name} has {size} bytes, which is too much for a README"


def main(folder: Path) -> None:
    """A film of a fresh host, which stays."""
    host = "messaging-walkthrough"
    with Recorder(
        host=host,
        internet=f"{host}-internet",
        url=f"http://127.0.0.1:{os.environ['SANDBOX_PORT']}",
        ephemeral=Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]),
        form=FULL,
    ) as recorder:
        try:
            recorder.record(FRESH, *STEPS)
        except AssertionError as error:
            sys.exit(str(error))
        words = (
            f"One run on a fresh host, {datetime.now(UTC):%Y-%m-%d}. Nothing is staged.\n"
            f"What is shown faster says so; waits of more than {WAIT} s are cut."
        )
        print("making the film", flush=True)
        target, text, pictures = recorder.produce(folder, "messaging-system", words)
    short = folder / "loop.webp"
    loop(pictures, short)
    shutil.rmtree(pictures[0].file.parent)
    print(f"{sum(picture.seconds for picture in pictures):.0f} s of film")
    for file in (target, text, short):
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
