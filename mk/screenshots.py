"""screenshots.py URL: makes docs/page-light.webp and docs/page-dark.webp from a page that has something to show.

For example, with the environment of `make env`: .venv/bin/python mk/screenshots.py "$(make url)"
"""

import base64
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).parent.parent / "docs"
SIZE = {"width": 1200, "height": 900}
QUALITY = 55
LETTER = "Dear Ada,\n\nthe engine ran for an hour without a jam. Come and see it on Tuesday.\n\nCharles"


def fill(page: Page) -> None:
    """Hand in one of each, and wait until all have ended."""
    page.fill("#send-email-to", "ada@example.com")
    page.fill("#send-email-subject", "The engine runs")
    page.fill("#send-email-text", LETTER)
    page.click("text=Send the mail")
    page.wait_for_selector("[data-region=send-email] a")
    page.fill("#reverse-text-text", "A man, a plan, a canal: Panamá")
    page.click("text=Reverse it")
    page.wait_for_selector("[data-region=reverse-text] .text")
    page.fill("#analyze-sentiment-text", "What a lovely day, though the rain was a little sad.")
    page.click("text=Read the mood")
    page.wait_for_selector("[data-region=analyze-sentiment] .share")
    page.wait_for_timeout(500)


def main(url: str) -> None:
    """Write both pictures."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            context = chromium.new_context(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")
            page = context.new_page()
            for _ in range(3):
                page.request.get(f"{url}/?talktome")
                page.wait_for_timeout(1100)
            page.goto(url)
            fill(page)
            page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
            page.mouse.move(0, 0)
            page.wait_for_timeout(300)
            board = page.locator(".board").bounding_box()
            clip = {"x": 0, "y": 0, "width": SIZE["width"], "height": board["y"] + board["height"] + 32, "scale": 1}
            options = {"format": "webp", "quality": QUALITY, "clip": clip, "captureBeyondViewport": True}
            shot = context.new_cdp_session(page).send("Page.captureScreenshot", options)
            file = DOCS / f"page-{scheme}.webp"
            file.write_bytes(base64.b64decode(shot["data"]))
            print(f"{file}: {file.stat().st_size / 1024:.0f} kB")
        chromium.close()


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
