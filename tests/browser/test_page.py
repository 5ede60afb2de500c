"""What a person sees and does, in a real browser."""

import re
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect
from testinfra.host import Host

from faulty import PYTHON, signal_main
from probe import ready, task_state, unique_address, wait_until
from visits import Visits

HTML = "<h1>Minutes</h1><p style='color: teal'>The engine ran for <b>an hour</b>.</p>"
EVIL = """<p>harmless</p><script>document.title = "owned"; parent.document.title = "owned"</script>
<img src="https://evil.example/seen.png"><img src=x onerror="document.body.textContent = 'owned'">
<link rel="stylesheet" href="https://evil.example/style.css"><iframe src="https://evil.example/"></iframe>
<meta http-equiv="refresh" content="0; url=https://evil.example/"><form action="/reverse-text" method="post"></form>
<a href="https://evil.example/">read on</a>"""
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
REFUSING = """
import asyncio
from aiosmtpd.smtp import SMTP

class Refusing:
    async def handle_RCPT(self, *_):
        return "550 5.1.1 No such mailbox here"

async def serve():
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(Refusing()), "127.0.0.1", 2525)
    await server.serve_forever()

asyncio.run(serve())
"""
SHOWN = """shown => {
  Object.defineProperty(document, "hidden", { value: !shown, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
# Not what is in the frame: it is its sender's, and lets nobody in
OUR_OWN = {"resultTypes": ["violations"], "iframes": False}
COMPUTE = "messaging-worker@compute-1"
PHONE = {"width": 360, "height": 740}


def card(page: Page, title: str) -> Locator:
    return page.get_by_role("region", name=title, exact=True)


def fill_in_mail(page: Page, html: str = "") -> str:
    """Fill in the form for a mail to an address of its own, which is returned."""
    address = unique_address()
    form = card(page, "Email")
    form.get_by_label("To", exact=True).fill(address)
    form.get_by_label("Subject").fill("Minutes of Tuesday")
    form.get_by_label("Text", exact=True).fill("Dear Ada,\n\nit ran for an hour.")
    if html:
        form.get_by_text("Add it as HTML too").click()
        form.get_by_label("HTML", exact=True).fill(html)
    return address


def send_mail(page: Page, html: str = "") -> str:
    """Send a mail and wait until it is delivered; the task's id."""
    fill_in_mail(page, html)
    card(page, "Email").get_by_role("button").click()
    return ended(page, "Email", "succeeded")


def ended(page: Page, title: str, state: str) -> str:
    """Wait until the last task of a card has a state; its id."""
    outcome = card(page, title).locator(".outcome")
    expect(outcome.locator(".badge")).to_have_text(state, timeout=30_000)
    found = UUID.search(outcome.inner_text())
    assert found
    return found.group()


def tasks(page: Page) -> list[str]:
    return [row.get_attribute("data-task") or "" for row in page.locator("[data-task]").all()]


def test_a_mail_is_sent_followed_and_opened(visit: Visits) -> None:
    page = visit()
    address = fill_in_mail(page, HTML)
    card(page, "Email").get_by_role("button").click()
    expect(page.get_by_role("status")).to_contain_text(UUID)
    task_id = ended(page, "Email", "succeeded")
    expect(page.get_by_role("status")).to_have_text("Email: succeeded.")
    card(page, "Email").get_by_role("link", name="Open the mail").click()
    expect(page).to_have_title(re.compile("Minutes of Tuesday"))
    article = page.get_by_role("article")
    for text in (address, f"<{task_id}@", "Dear Ada,\n\nit ran for an hour."):
        expect(article).to_contain_text(text)
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Minutes")).to_be_visible()
    expect(frame.get_by_text("The engine ran for an hour.")).to_have_css("color", "rgb(0, 128, 128)")
    page.get_by_role("link", name="Back to your tasks").click()
    assert tasks(page) == [task_id]


def test_a_text_is_reversed(visit: Visits) -> None:
    page = visit()
    form = card(page, "Reverse text")
    form.get_by_label("Text").fill("Panama\u0301 <b>\nstressed")
    form.get_by_role("button").click()
    ended(page, "Reverse text", "succeeded")
    expect(form.locator(".text")).to_have_text("desserts\n>b< a\u0301manaP")


def test_a_mood_is_read(visit: Visits) -> None:
    page = visit()
    form = card(page, "Sentiment")
    form.get_by_label("Text in English").fill("What a lovely day")
    form.get_by_role("button").click()
    ended(page, "Sentiment", "succeeded")
    expect(form.locator(".result")).to_contain_text("Positive")
    expect(form.get_by_role("img", name=re.compile("0 % negative"))).to_be_visible()


def test_html_of_a_mail_can_do_nothing(visit: Visits) -> None:
    visit.expect("policy|sandbox|Content Security Policy|evil.example|ERR_BLOCKED_BY")
    page = visit()
    send_mail(page, EVIL)
    card(page, "Email").get_by_role("link", name="Open the mail").click()
    frame = page.frame_locator("iframe")
    expect(frame.get_by_text("harmless")).to_be_visible()
    with page.context.expect_page() as opened:
        frame.get_by_role("link", name="read on").click()
    assert opened.value.evaluate("opener") is None, "a link opens beside the page, which it knows nothing of"
    expect(frame.get_by_text("harmless")).to_be_visible()
    expect(page).to_have_title(re.compile("Minutes of Tuesday"))
    assert any("Content Security Policy" in line for line in visit.said), f"the policy had nothing to do: {visit.said}"
    reached = [response for response in visit.requests if "evil" in response]
    assert not [line for line in visit.said if "ERR_NAME_NOT_RESOLVED" in line], f"went out: {reached}"


def test_several_at_once_are_all_remembered_and_polling_ends(visit: Visits) -> None:
    page = visit()
    fill_in_mail(page)
    card(page, "Reverse text").get_by_label("Text").fill("stressed")
    card(page, "Sentiment").get_by_label("Text in English").fill("It is awful.")
    for title in ("Email", "Reverse text", "Sentiment"):
        card(page, title).get_by_role("button").click()
    for title in ("Email", "Reverse text", "Sentiment"):
        ended(page, title, "succeeded")
    before = tasks(page)
    assert len(set(before)) == 3
    polls = visit.requests.count("GET /recent")
    assert polls <= 3, visit.requests
    page.wait_for_timeout(1500)
    assert visit.requests.count("GET /recent") == polls, "nothing is under way, and it still asks"
    page.reload()
    assert tasks(page) == before


@pytest.fixture
def slow_worker(host: Host) -> Iterator[None]:
    signal_main(host, COMPUTE, "SIGSTOP")
    yield
    signal_main(host, COMPUTE, "SIGCONT")


def test_polling_backs_off_and_pauses_while_the_tab_is_hidden(visit: Visits, host: Host, slow_worker: None) -> None:
    page = visit()
    card(page, "Reverse text").get_by_label("Text").fill("stressed")
    card(page, "Reverse text").get_by_role("button").click()
    ended(page, "Reverse text", "queued")
    page.wait_for_timeout(2000)
    assert 1 <= visit.requests.count("GET /recent") <= 3, visit.requests
    page.evaluate(SHOWN, False)
    before = visit.requests.count("GET /recent")
    page.wait_for_timeout(2000)
    assert visit.requests.count("GET /recent") == before, "nobody looks, and it still asks"
    signal_main(host, COMPUTE, "SIGCONT")
    page.evaluate(SHOWN, True)
    ended(page, "Reverse text", "succeeded")


def test_a_lost_connection_is_said_and_made_up_for(visit: Visits) -> None:
    visit.expect("ERR_FAILED")
    page = visit()
    page.route("**/recent", lambda route: route.abort())
    fill_in_mail(page)
    card(page, "Email").get_by_role("button").click()
    expect(page.get_by_role("status")).to_contain_text("Trying again")
    page.unroute("**/recent")
    ended(page, "Email", "succeeded")
    expect(page.get_by_role("status")).to_have_text("Email: succeeded.")


def test_nobody_sees_the_tasks_of_others(visit: Visits) -> None:
    visit.expect("status of 404")
    page = visit()
    task_id = send_mail(page)
    other = visit()
    expect(card(other, "Your recent tasks")).to_contain_text("Nothing yet")
    assert task_id not in other.content()
    other.goto(f"/mail/{task_id}")
    expect(other.get_by_role("heading", level=1)).to_have_text("Not Found")


def test_what_is_wrong_is_said_where_it_is(visit: Visits) -> None:
    visit.expect("status of 422")
    page = visit()
    fill_in_mail(page)
    address = card(page, "Email").get_by_label("To", exact=True)
    address.fill("nobody@nowhere")
    card(page, "Email").get_by_role("button").click()
    expect(page.get_by_role("status")).to_contain_text("Nothing was queued")
    expect(address).to_have_attribute("aria-invalid", "true")
    expect(address).to_be_focused()
    expect(address).to_have_accessible_description(re.compile("not valid"))
    expect(address).to_have_value("nobody@nowhere")
    address.fill(unique_address())
    card(page, "Email").get_by_role("button").click()
    ended(page, "Email", "succeeded")
    expect(address).not_to_have_attribute("aria-invalid", "true")


@pytest.fixture
def no_mailbox(host: Host) -> Iterator[None]:
    host.check_output("systemctl stop messaging-mailbox")
    yield
    host.run("systemctl stop refusing-relay")
    host.check_output("systemctl start messaging-mailbox")
    wait_until(lambda: ready(host), "ready again")


def test_a_mail_that_fails_tells_why(visit: Visits, host: Host, no_mailbox: None) -> None:
    page = visit()
    fill_in_mail(page)
    card(page, "Email").get_by_role("button").click()
    ended(page, "Email", "retrying")
    expect(card(page, "Email").locator(".reason")).to_be_visible()
    host.check_output("systemd-run --collect --unit=refusing-relay --uid=messaging %s -c %s", PYTHON, REFUSING)
    task_id = ended(page, "Email", "failed")
    expect(card(page, "Email").locator(".reason")).to_contain_text("No such mailbox here")
    expect(page.get_by_role("status")).to_contain_text("No such mailbox here")
    assert task_state(host, task_id) == "failed"


@pytest.fixture
def silent_broker(host: Host) -> Iterator[None]:
    signal_main(host, "rabbitmq-server", "SIGSTOP")
    yield
    signal_main(host, "rabbitmq-server", "SIGCONT")
    wait_until(lambda: ready(host), "ready again")


@pytest.mark.parametrize("scripts", [True, False])
def test_a_dead_broker_is_admitted_and_nothing_typed_is_lost(
    visit: Visits, host: Host, silent_broker: None, scripts: bool
) -> None:
    visit.expect("status of 503")
    page = visit(java_script_enabled=scripts)
    address = fill_in_mail(page)
    card(page, "Email").get_by_role("button").click()
    expect(page.get_by_role("status")).to_contain_text(re.compile("broker did not (take|confirm)"))
    expect(card(page, "Email").get_by_label("To", exact=True)).to_have_value(address)
    expect(card(page, "Email").get_by_label("Text", exact=True)).to_have_value("Dear Ada,\n\nit ran for an hour.")
    page.goto("/")
    expect(card(page, "The service now")).to_contain_text("RabbitMQ does not answer")
    signal_main(host, "rabbitmq-server", "SIGCONT")
    wait_until(lambda: ready(host), "ready again")

    def back() -> bool:
        page.get_by_role("link", name="Refresh").click()
        return card(page, "The service now").get_by_role("row", name=re.compile("^email")).is_visible()

    wait_until(back, "the panel has the queues again")


def test_without_javascript(visit: Visits) -> None:
    visit.expect("status of 422")
    page = visit(java_script_enabled=False)
    fill_in_mail(page)
    card(page, "Email").get_by_label("To", exact=True).fill("nobody@nowhere")
    card(page, "Email").get_by_role("button").click()
    address = card(page, "Email").get_by_label("To", exact=True)
    expect(address).to_have_attribute("aria-invalid", "true")
    expect(card(page, "Email").get_by_label("Subject")).to_have_value("Minutes of Tuesday")
    address.fill(unique_address())
    card(page, "Email").get_by_role("button").click()
    expect(page.get_by_role("status")).to_contain_text(UUID)
    assert page.url.endswith("/")

    def delivered() -> bool:
        page.get_by_role("link", name="Refresh").click()
        return card(page, "Email").get_by_role("link", name="Open the mail").is_visible()

    wait_until(delivered, "the mail can be opened")
    assert len(tasks(page)) == 1
    card(page, "Email").get_by_role("link", name="Open the mail").click()
    expect(page.get_by_role("article")).to_contain_text("it ran for an hour.")


def test_by_keyboard_alone(visit: Visits) -> None:
    page = visit()

    def tab_to(target: Locator) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            if target.evaluate("element => element === document.activeElement"):
                style = "element => getComputedStyle(element).outlineStyle"
                assert target.evaluate(style) != "none", "whoever has no mouse must see where he is"
                return
        pytest.fail("not reached by the tabulator")

    form = card(page, "Email")
    tab_to(form.get_by_label("To", exact=True))
    page.keyboard.type(unique_address())
    tab_to(form.get_by_role("button"))
    page.keyboard.press("Enter")
    ended(page, "Email", "succeeded")
    expect(form.get_by_role("button")).to_be_focused()
    tab_to(form.get_by_role("link", name="Open the mail"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("article")).to_be_visible()
    tab_to(page.get_by_role("link", name="Back to your tasks"))


def everything(page: Page) -> Iterator[str]:
    """Go from page to page, and say where."""
    page.goto("/")
    yield "the page, empty"
    send_mail(page, HTML)
    for title, field in (("Reverse text", "Text"), ("Sentiment", "Text in English")):
        card(page, title).get_by_label(field).fill("What a lovely day, and howlongawordcanbe" + "e" * 200)
        card(page, title).get_by_role("button").click()
        ended(page, title, "succeeded")
    card(page, "Email").get_by_label("To", exact=True).fill("nobody@nowhere")
    card(page, "Email").get_by_role("button").click()
    expect(page.locator("[aria-invalid=true]")).to_be_visible()
    yield "the page with results and an error"
    card(page, "Email").get_by_role("link", name="Open the mail").click()
    yield "the mail"
    page.goto("/nope")
    yield "the error page"
    page.goto("/api/")
    yield "the reference"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(visit: Visits, scheme: str) -> None:
    visit.expect("status of (404|422)")
    page = visit(color_scheme=scheme, reduced_motion="reduce")
    axe = Axe()
    found = {}
    for place in everything(page):
        results = axe.run(page, options=OUR_OWN)
        assert results.response["passes"], f"axe did not look at {place}"
        if results.violations_count:
            found[place] = results.generate_report()
    assert not found, "\n\n".join(f"{place}: {report}" for place, report in found.items())


def test_on_a_phone_nothing_sticks_out(visit: Visits) -> None:
    visit.expect("status of (404|422)")
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True)
    width = "document.documentElement.scrollWidth"
    wide = {place: found for place in everything(page) if (found := page.evaluate(width)) > PHONE["width"]}
    assert not wide
