"""Windows of visitors, and what they say."""

import re
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Request

TELL_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
"""


@dataclass
class Visits:
    """Opens windows, each of a visitor of its own, and hears what they say."""

    browser: Browser
    base_url: str
    pages: list[Page] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def __call__(self, path: str = "/", **options: Any) -> Page:
        context = self.browser.new_context(base_url=self.base_url, **options)
        context.add_init_script(TELL_VIOLATIONS)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", self._requested)
        self.pages.append(page)
        page.goto(path)
        return page

    def expect(self, pattern: str) -> None:
        """Take what matches as part of the test: a browser says aloud that an answer was an error."""
        self.expected.append(pattern)

    @property
    def unexpected(self) -> list[str]:
        return [line for line in self.said if not any(re.search(pattern, line) for pattern in self.expected)]

    def _heard(self, message: ConsoleMessage) -> None:
        self.said.append(f"{message.type}: {message.text}")

    def _requested(self, request: Request) -> None:
        self.requests.append(f"{request.method} {request.url.removeprefix(self.base_url)}")
