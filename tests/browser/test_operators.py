"""What an operator sees and does at /operators/, in a real browser."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from testinfra.host import Host

from faulty import in_release
from probe import secrets_on_controller, wait_until
from visits import Visits

NAME = "somebody-nobody-shall-see"
PHONE = {"width": 360, "height": 740}

# A mail that is delivered, one for the dead letters and one that fails; then what the web application does every minute
BREAK = """
import sys, time, uuid
from messaging import store
from messaging.accept import accept
from messaging.claims import one_request
from messaging.history import History
from messaging.job import SEND_EMAIL, Job
from messaging.publisher import Publisher
from messaging.results import Records
from messaging.settings import load

settings = load()
redis, records, publisher = store.connect(settings, 2), Records(settings, 2), Publisher(settings)
mail = {"to": sys.argv[1] + "@example.com", "subject": "Hello", "text": "How are you?"}
for changes in ({}, {"text": ["not", "a", "text"]}, {"to": "a@example.com, " + mail["to"]}):
    job = Job(task=SEND_EMAIL, kwargs={**mail, **changes}, task_id=str(uuid.uuid4()), queue=settings.email_queue)
    accept(records, publisher, one_request(settings, 2, redis), job)
    while not records.get(job.task_id).over:
        time.sleep(0.1)
    print(job.task_id)
minute = time.time() + 60
while not History(settings, redis, records, publisher).sample(minute):
    minute += 60
"""


@pytest.fixture(scope="module")
def broken(host: Host) -> Iterator[list[str]]:
    """The ids of a mail that is a dead letter, and of one that has failed."""
    _, dead, failed = in_release(host, BREAK, NAME).split()
    yield [dead, failed]
    host.run("messagingctl dead purge --yes %s", dead)


def operators(visit: Visits, path: str = "/operators/", **options: Any) -> Page:
    login = {"username": "operator", "password": secrets_on_controller()["flower_password"]}
    return visit(path, http_credentials=login, **options)


def letter(page: Page, task_id: str) -> Any:
    return page.get_by_role("region", name="Dead letters").get_by_role("listitem").filter(has_text=task_id[:8])


def test_everybody_can_use_it(visit: Visits, broken: list[str]) -> None:
    page = operators(visit, viewport=PHONE, has_touch=True, is_mobile=True, reduced_motion="reduce")
    letter(page, broken[0]).get_by_text("Remove").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page)
        assert found.response["passes"]
        assert not found.violations_count, f"{scheme}: {found.generate_report()}"


def test_an_operator_sees_what_happened_and_decides(visit: Visits, host: Host, broken: list[str]) -> None:
    page = operators(visit, java_script_enabled=False)
    dead, failed = broken
    for worker in ("compute-1@", "email-1@"):
        expect(page.get_by_role("region", name="Workers")).to_contain_text(worker)
    expect(page.get_by_role("row", name=re.compile(r"^email 0 \d+$"))).to_be_visible()
    drawn = page.get_by_role("img", name=re.compile(r"^Tasks a minute: accepted at most [1-9]"))
    expect(drawn).to_be_visible()
    assert drawn.locator("path.line").first.get_attribute("d")
    expect(page.get_by_role("region", name="Last failures")).to_contain_text(failed[:8])
    expect(letter(page, dead)).to_contain_text("s***@example.com")
    assert NAME not in page.content()

    letter(page, dead).get_by_role("button", name="Try").click()
    expect(page.get_by_role("status")).to_have_text("1 dead letter was queued again.")

    def back() -> bool:
        page.get_by_role("link", name="Refresh").click()
        return bool(letter(page, dead).is_visible())

    wait_until(back, "it died again")
    # by keyboard
    letter(page, dead).get_by_text("Remove").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("1 dead letter was removed for good.")
    expect(letter(page, dead)).to_have_count(0)
    assert dead not in host.check_output("messagingctl dead list")
