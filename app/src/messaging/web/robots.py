"""Programs that follow links nobody has decided to follow: crawlers, scanners, and what makes previews of links.

Most say so in their User-Agent; the list of them is the package crawler-user-agents. It also names what people and
their programs call an address with on purpose, such as curl: these are let through.
Source: https://github.com/monperrus/crawler-user-agents
"""

import functools
import re

from crawleruseragents import CRAWLER_USER_AGENTS_DATA

# Somebody has told these where to go
ON_PURPOSE = frozenset({"http-library", "browser-automation", "monitoring"})
# Nor do these follow links, though the list has them: somebody made a rule that calls
RULES = re.compile(r"Zapier\b|Make/production\b")
# For those that the list does not know; Cubot makes telephones
_UNLISTED = (
    r"(?<!cu)bot\b|crawler|link-?check|safelinks|cardyb|unfurl|embedder|-scrap\b|misskey|pleroma|ms-office|"
    r"microsoft outlook|barracuda|proofpoint|mimecast"
)
UNLISTED = re.compile(rf"{_UNLISTED}|spider|preview", re.IGNORECASE)
# There are telephones called Spider, and versions of Android called Preview
UNLISTED_ON_ANDROID = re.compile(_UNLISTED, re.IGNORECASE)
ANDROID = "Mozilla/5.0 (Linux; Android"
# Searching takes time, and is done once for a name; a longer one says what it is in the beginning
LONGEST = 500


def is_robot(user_agent: str) -> bool:
    """Whether this is the name of a program that follows links by itself."""
    return _is_robot(user_agent[:LONGEST])


@functools.lru_cache(maxsize=1000)
def _is_robot(name: str) -> bool:
    if RULES.match(name):
        return False
    robots, on_purpose = patterns()
    unlisted = UNLISTED_ON_ANDROID if name.startswith(ANDROID) else UNLISTED
    return bool(robots.search(name) or (unlisted.search(name) and not on_purpose.search(name)))


@functools.cache
def patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The list's names of robots, and of what is used on purpose. Takes a tenth of a second the first time."""
    robots = [entry["pattern"] for entry in CRAWLER_USER_AGENTS_DATA if ON_PURPOSE.isdisjoint(entry["tags"])]
    others = [entry["pattern"] for entry in CRAWLER_USER_AGENTS_DATA if not ON_PURPOSE.isdisjoint(entry["tags"])]
    return re.compile("|".join(robots)), re.compile("|".join(others))
