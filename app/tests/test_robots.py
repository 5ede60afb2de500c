"""Who follows links by himself, and that nothing happens then."""

import re

import pytest

from messaging.web.robots import LONGEST, is_robot
from web_client import Web, problem

ROBOTS = [
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "Slack-ImgProxy (+https://api.slack.com/robots)",
    "Twitterbot/1.0",
    "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
    "WhatsApp/2.23.20.0 A",
    "TelegramBot (like TwitterBot)",
    "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
    "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5 skype-url-preview@microsoft.com",
    "LinkedInBot/1.0 (compatible; Mozilla/5.0; Apache-HttpClient +http://www.linkedin.com)",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/534+ (KHTML, like Gecko) BingPreview/1.0b",
    "Mozilla/5.0 (compatible; Google-Safety; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
    "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html",
    "Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)",
    "http.rb/5.1.1 (Mastodon/4.2.1; +https://example.social/)",
    "Iframely/1.3.1 (+https://iframely.com/docs/about)",
    "Mozilla/5.0 (compatible; SomethingNewBot/0.1)",
    "acme-link-checker",
    "Some Safelinks scanner",
    "Mozilla/5.0 (compatible; Bluesky Cardyb/1.1; +mailto:support@bsky.app)",
    "Mozilla/5.0 (compatible; unfurlist)",
    "Embedder/1.0",
    "kakaotalk-scrap/1.0",
    "Misskey/2024.11.0",
    "Pleroma 2.6.0; https://social.example <admin@social.example>",
    "Mozilla/4.0 (compatible; ms-office; MSOffice 16)",
    "Microsoft Office/16.0 (Windows NT 10.0; Microsoft Outlook 16.0.17928; Pro)",
    "Barracuda Sentinel (EE)",
    "Proofpoint URL Defense",
    "Mimecast",
    "Mozilla/5.0 (Linux; Android 5.0) AppleWebKit/537.36 (KHTML, like Gecko) Mobile Safari/537.36 (compatible; "
    "Bytespider; https://zhanzhang.toutiao.com/)",
    "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X) AppleWebKit/537.36 Chrome/131.0 (compatible; SomethingNewBot/0.1)",
    "Evil Zapier crawler",
]
PEOPLE = [
    "",
    "curl/8.5.0",
    "Wget/1.21.4",
    "python-requests/2.32.3",
    "Python-urllib/3.11",
    "python-httpx/0.27",
    "Go-http-client/1.1",
    "okhttp/4.12.0",
    "PostmanRuntime/7.36.0",
    "HTTPie/3.2.2",
    "axios/1.6.0",
    "Apache-HttpClient/4.5 (Java/17)",
    "Mozilla/5.0 (Windows NT; Windows NT 10.0; en-US) WindowsPowerShell/5.1",
    "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0 Safari/537.36 Edg/131.0",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/120 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 "
    "Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 13; CUBOT P60) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0 Mobile",
    "Mozilla/5.0 (Linux; Android 14; Android SDK Preview Build/UP1A) AppleWebKit/537.36 Chrome/131.0 Mobile",
    "Mozilla/5.0 (Linux; Android 12; Spider X9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0 Mobile",
    "Zapier",
    "Make/production",
    "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)",
    "Mozilla/4.0 (compatible; cron-job.org; http://cron-job.org/abuse/)",
    "Lynx/2.9.0",
]


@pytest.mark.parametrize("user_agent", ROBOTS)
def test_a_robot(user_agent: str) -> None:
    assert is_robot(user_agent)


@pytest.mark.parametrize("user_agent", PEOPLE)
def test_people_and_their_programs(user_agent: str) -> None:
    assert not is_robot(user_agent)


def test_a_long_name_takes_no_longer() -> None:
    assert not is_robot("x" * LONGEST + " Googlebot")


@pytest.mark.parametrize("path", ["/", "/action"])
@pytest.mark.parametrize("query", ["sendmail=me@example.com", "talktome", "talktome=async"])
def test_nothing_happens_for_a_robot(web: Web, path: str, query: str) -> None:
    document = problem(web.get(f"{path}?{query}", headers={"User-Agent": ROBOTS[0]}), 403)
    assert "follows links by itself" in document["detail"]
    assert web.untouched
    assert web.get("/", headers={"User-Agent": ROBOTS[0]}).status_code == 200, "it may look"


@pytest.mark.parametrize("destination", ["image", "iframe", "frame", "script", "style", "video", "object", "embed"])
@pytest.mark.parametrize("site", ["same-origin", "none", "cross-site"])
@pytest.mark.parametrize("query", ["sendmail=me@example.com", "talktome"])
def test_nothing_happens_for_what_a_page_embeds(web: Web, destination: str, site: str, query: str) -> None:
    headers = {"Sec-Fetch-Dest": destination, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    problem(web.get(f"/?{query}", headers=headers), 403)
    assert web.untouched


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Dest": "document"}, {"Sec-Fetch-Dest": "empty"}])
def test_what_somebody_decided_happens(web: Web, headers: dict[str, str]) -> None:
    site = {"Sec-Fetch-Site": "same-origin"} if headers else {}
    assert web.get("/?sendmail=me@example.com", headers={**headers, **site}).status_code == 202


IMAGE = "image/avif,image/webp,*/*;q=0.8"
HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize("path", ["/", "/action"])
@pytest.mark.parametrize("query", ["sendmail=me@example.com", "talktome"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": IMAGE, "Referer": "http://evil.example/"},
        {"Accept": IMAGE},
        {"Accept": IMAGE, "Referer": "http://localhost/"},
        {"Accept": "*/*", "Referer": "http://evil.example/"},
        {"Accept": "text/css,*/*;q=0.1"},
    ],
)
def test_nothing_happens_for_what_a_page_embeds_over_plain_http(
    web: Web, path: str, query: str, headers: dict[str, str]
) -> None:
    """Browsers send Sec-Fetch-* over HTTPS only."""
    problem(web.get(f"{path}?{query}", headers=headers), 403)
    assert web.untouched


@pytest.mark.parametrize(
    ("referer", "status"),
    [
        ("", 202),
        ("http://localhost/", 202),
        ("http://localhost/api/", 202),
        ("http://evil.example/", 403),
        ("http://localhost.evil.example/", 403),
        ("http://evil.example/http://localhost/", 403),
        ("http://[", 403),
    ],
)
def test_over_plain_http_the_referer_says_whose_link_it_was(web: Web, referer: str, status: int) -> None:
    headers = {"Accept": HTML, **({"Referer": referer} if referer else {})}
    assert web.get("/?sendmail=me@example.com", headers=headers).status_code == status
    assert web.untouched is (status == 403)


@pytest.mark.parametrize("accept", ["*/*", "application/json", HTML, "text/plain"])
def test_who_asks_for_no_image_decided(web: Web, accept: str) -> None:
    assert web.get("/?sendmail=me@example.com", headers={"Accept": accept}).status_code == 202


def test_search_engines_are_asked_to_stay_away(web: Web) -> None:
    response = web.get("/robots.txt")
    assert (response.status_code, response.mimetype) == (200, "text/plain")
    assert re.fullmatch(r"User-agent: \*\nDisallow: /\n", response.get_data(as_text=True))
    for path in ("/", "/api/", "/robots.txt", "/nothing", "/?sendmail=nobody"):
        headers = web.get(path).headers
        assert headers["X-Robots-Tag"] == "noindex"
        assert headers["Cache-Control"] == "no-store"
