"""A window of a browser, and what it shows, picture by picture."""

import re
import time
from dataclasses import dataclass

from playwright.sync_api import Locator, Page

SIZE = (1488, 714)
# How wide it is on the stage; see stage.html
SHOWN = 1240
EVERY = 0.2


@dataclass(frozen=True)
class Shot:
    """What the window showed, and when; `pointer` is where the mouse was, on the stage."""

    at: float
    url: str
    picture: bytes
    pointer: tuple[float, float]
    words: str


class Window:
    """Does in a page what a person would; each thing that can be seen becomes a picture."""

    def __init__(self, page: Page, pause: float) -> None:
        self._page = page
        self._pause = pause
        self._pointer = (SIZE[0] / 2, SIZE[1] - 40.0)
        self.shots: list[Shot] = []

    def go(self, url: str) -> None:
        self._page.goto(url)
        self._shoot()

    def fill(self, part: str, label: str, text: str) -> None:
        """Type into a field, in place of what is in it."""
        field = self._part(part).get_by_label(label, exact=True)
        self._point_at(field)
        field.fill("")
        # A dozen pictures, however long it is
        for end in range(len(text) // 12 + 1, len(text) + len(text) // 12 + 1, len(text) // 12 + 1):
            field.fill(text[:end])
            self._page.wait_for_timeout(self._pause * 1000)
            self._shoot()

    def press(self, part: str, name: str) -> None:
        """Press what has this name: a button, or a link."""
        there = self._part(part)
        target = there.get_by_role("button", name=name).or_(there.get_by_role("link", name=name))
        self._point_at(target)
        target.click()
        self._shoot()

    def see(self, pattern: str, within: str, limit: float) -> None:
        """Wait until a part of the page matches, and bring it into sight.

        Raises:
            AssertionError: it did not within `limit` seconds.
        """
        seen, deadline = re.compile(pattern), time.monotonic() + limit
        place = self._page.locator(within)
        while not seen.search(place.inner_text() if place.count() else ""):
            self._shoot()
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{self._page.url} does not show {pattern!r} in {within}; it shows:\n{self._words()}"
                )
            self._page.wait_for_timeout(EVERY * 1000)
        if within != "body":
            place.scroll_into_view_if_needed()
        self._shoot()

    def _part(self, name: str) -> Page | Locator:
        return self._page.get_by_role("region", name=name, exact=True) if name else self._page

    def _point_at(self, target: Locator) -> None:
        target.scroll_into_view_if_needed()
        box = target.bounding_box()
        assert box, "what is in sight has a place"
        self._pointer = (box["x"] + min(box["width"] / 2, 120), box["y"] + min(box["height"] / 2, 20))
        self._shoot()

    def _words(self) -> str:
        return str(self._page.locator("body").inner_text())

    def _shoot(self) -> None:
        picture = self._page.screenshot(type="jpeg", quality=90)
        pointer = (self._pointer[0] * SHOWN / SIZE[0], self._pointer[1] * SHOWN / SIZE[0])
        self.shots.append(Shot(time.monotonic(), self._page.url, picture, pointer, self._words()))
