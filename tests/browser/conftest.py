"""Real Chromium (Debian's own), driven against the host's address, and what it had to say when a test fails."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from testinfra.host import Host

from probe import base_url, pytest_runtest_makereport, ready, wait_until
from visits import Visits

__all__ = ["pytest_runtest_makereport"]

EVIDENCE = Path(__file__).parent.parent.parent / ".test-results/browser"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        # a root user's Chromium has no sandbox of its own
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser, host: Host) -> Iterator[Visits]:
    """`page = visit("/", viewport=...)`. Afterwards the console must have been silent."""
    visits = Visits(chromium, base_url(host))
    yield visits
    for page in visits.pages:
        page.context.close()
    assert not visits.unexpected, "the console was not silent:\n" + "\n".join(visits.unexpected)


@pytest.fixture(autouse=True, scope="module")
def healthy(host: Host) -> None:
    wait_until(lambda: ready(host), "ready before the tests", 60)


def pytest_exception_interact(node: pytest.Item, report: pytest.TestReport) -> None:
    """Keep what the windows of a failed test showed and said."""
    visits = getattr(node, "funcargs", {}).get("visit")
    if not visits:
        return
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w-]+", "-", node.name).strip("-")
    report.sections.append(("requests", "\n".join(visits.requests)))
    report.sections.append(("console", "\n".join(visits.said)))
    (EVIDENCE / f"{name}.txt").write_text("\n".join([*visits.requests, *visits.said]) + "\n")
    for number, page in enumerate(visits.pages):
        if not page.is_closed():
            page.screenshot(path=EVIDENCE / f"{name}-{number}.png", full_page=True)
            report.sections.append(("screenshot", str(EVIDENCE / f"{name}-{number}.png")))
