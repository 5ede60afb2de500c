"""Shells in terminals of their own, and what they print, with the time at which they did."""

import codecs
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

COLUMNS = 100
ROWS = 35

# What terminals call semantic prompts: the prompt tells the exit status of the command before it, and nobody sees it.
_PROMPT = r"\[\e]133;D;$?\a\e[1;32m\]%s\[\e[0m\] "
_FOREIGN = {"NO_COLOR", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
_ENDED = re.compile(r"\x1b\]133;D;(\d+)\x07")
_UNSEEN = re.compile(r"\x1b\](?:[^\x07\x1b]*)(?:\x07|\x1b\\)|\x1b\[[0-9;:]*m|\x1b\[\?[0-9;]*[hl]|\r")


@dataclass(frozen=True)
class Printed:
    """Some of what was printed, and when, in seconds of a clock that only goes forward."""

    at: float
    text: str


@dataclass(frozen=True)
class Command:
    """What a command looked like, from its prompt to the end of its output."""

    printed: list[Printed]
    status: int

    @property
    def output(self) -> str:
        """What came after the line that was typed, as it is read."""
        return plain("".join(part.text for part in self.printed)).partition("\n")[2]


def plain(text: str) -> str:
    """Without colours, and what else a terminal does not show."""
    return _UNSEEN.sub("", text)


def without(path: str, printed: list[Printed]) -> list[Printed]:
    """The same with `.` in place of a path: where somebody keeps his files is nobody's business."""
    left, result = "", []
    for part in printed:
        text = (left + part.text).replace(path, ".")
        # The rest of it may come in the next part
        begun = next((size for size in range(len(path) - 1, 0, -1) if text.endswith(path[:size])), 0)
        left = text[len(text) - begun :]
        result.append(Printed(part.at, text[: len(text) - begun]))
    return [*result, Printed(result[-1].at, left)]


class Shell:
    """An interactive bash in a real terminal; it ends with the block.

    `within` is what it runs in: ["docker", "exec", ...] or nothing. `prompt` says on the screen where it is. It is in
    `folder`, of which nobody hears. A key takes `pause` seconds.
    """

    def __init__(
        self, prompt: str, within: list[str], environment: Mapping[str, str], folder: Path, pause: float
    ) -> None:
        self._pause = pause
        self._folder = str(folder)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._terminal, theirs = pty.openpty()
        termios.tcsetwinsize(self._terminal, (ROWS, COLUMNS))
        # It is nobody's make but its own, and it has colours
        inherited = {name: os.environ[name] for name in os.environ if name not in _FOREIGN}
        # Nothing of readline's: what is typed is echoed as it is. Its settings are in no file, so that all are alike.
        bash = ["bash", "--noediting", "--norc", "--noprofile", "-i"]
        self._process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *within, *bash],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env={**inherited, "TERM": "xterm-256color", "PS1": "", "PS2": "", **environment},
        )
        os.close(theirs)
        # The size of a terminal inside another one follows when its first program already runs
        set_up = f"stty cols {COLUMNS} rows {ROWS}; unset HISTFILE; PS1='{_PROMPT % prompt}'\n"
        os.write(self._terminal, set_up.encode())
        self._prompt = self._until_prompt(30)[0][-1:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A shell at its prompt ends, also one in a container; one that is not is hung up
        os.write(self._terminal, b"exit\n")
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
        os.close(self._terminal)
        self._process.wait()

    def run(self, line: str, limit: float) -> Command:
        """Type a line, and wait until the prompt is there again.

        Raises:
            TimeoutError: it is not, after `limit` seconds.
        """
        printed = [Printed(time.monotonic(), part.text) for part in self._prompt]
        for letter in line:
            os.write(self._terminal, letter.encode())
            pressed = time.monotonic()
            while (left := pressed + self._pause - time.monotonic()) > 0:
                printed += self._read(left)
        os.write(self._terminal, b"\n")
        more, status = self._until_prompt(limit)
        self._prompt = more[-1:]
        return Command(without(self._folder, printed + more[:-1]), status)

    def _until_prompt(self, limit: float) -> tuple[list[Printed], int]:
        """What is printed up to the next prompt, which is the last of them, and the exit status that it tells."""
        printed: list[Printed] = []
        deadline = time.monotonic() + limit
        while True:
            printed += self._read(deadline - time.monotonic())
            text = "".join(part.text for part in printed)
            ended = _ENDED.search(text)
            # the prompt ends with what comes after its colour
            if ended and text.endswith("\x1b[0m "):
                end = printed[-1].at
                before: list[Printed] = []
                left = ended.start()
                for part in printed:
                    if left > 0:
                        before.append(Printed(part.at, part.text[:left]))
                    left -= len(part.text)
                return [*before, Printed(end, text[ended.end() :])], int(ended.group(1))
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done after {limit:.0f} s; it printed:\n{plain(text)[-2000:]}")

    def _read(self, seconds: float) -> list[Printed]:
        """What is there within some seconds; it does not wait for more once there is something."""
        ready, _, _ = select.select([self._terminal], [], [], max(0.0, seconds))
        if not ready:
            return []
        try:
            data = os.read(self._terminal, 65536)
        except OSError as error:  # all that a terminal says when nobody is at its other end
            raise EOFError("the shell has ended") from error
        return [Printed(time.monotonic(), self._decode(data))]
