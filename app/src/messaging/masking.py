"""Addresses made unreadable, for logs and status pages."""

import re

_SEPARATOR = re.compile(r"(@|%(?:25)*40)")  # percent-encoded once or more: URLs, and URLs inside URLs
_LOCAL_PUNCTUATION = frozenset(".!#$%&'*+/=?^_`{|}~-")  # RFC 5322 atext and the dot
_QUERY_NAME = re.compile(r".*[?&][\w.-]+=", re.DOTALL)
_JSON_ESCAPE = re.compile(r"u[0-9a-fA-F]{4}|.", re.DOTALL)
_BETWEEN_JSON_STRINGS = frozenset(" \t\r\n:,]}")
_STARS = "***"


def mask(address: str) -> str:
    """Keep the first letter and the domain of one address: `m***@example.com`."""
    local, at, domain = address.rpartition("@")
    return f"{local[:1]}{_STARS}@{domain}" if at else f"{address[:1]}{_STARS}"


def mask_addresses(text: str) -> str:
    """Mask every address in free text, percent-encoded ones (`%40`) included.

    The text may be a URL, a traceback or a JSON document; JSON stays valid. What only looks like an address (`a@b`, a
    Message-ID, the node name of a worker) is masked as well: a log that shows too little beats one that shows too much.
    Takes time linear in the length of the text.
    """
    parts = _SEPARATOR.split(text)
    for index in range(1, len(parts), 2):
        following = parts[index + 1]
        if following[:1].isalnum() or following[:1] == "[":
            parts[index - 1] = _mask_end(parts[index - 1])
    return "".join(parts)


def _mask_end(text: str) -> str:
    """Mask the local part that `text` ends with."""
    if text.endswith('"'):
        return _mask_quoted_end(text)
    start = len(text)
    while start and (text[start - 1].isalnum() or text[start - 1] in _LOCAL_PUNCTUATION):
        start -= 1
    if start < len(text) and start and text[start - 1] == "\\":  # an escape of JSON or of repr(), not a letter
        escape = _JSON_ESCAPE.match(text, start)
        start = escape.end() if escape else start
    name = _QUERY_NAME.match(text, start)
    start = name.end() if name else start
    while start < len(text) and not text[start].isalnum():
        start += 1
    return f"{text[: start + 1]}{_STARS}" if start < len(text) else text


def _mask_quoted_end(text: str) -> str:
    """Mask a quoted local part (RFC 5321 section 4.1.2), itself escaped when the text is JSON."""
    quote = '\\"' if text.endswith('\\"') else '"'
    before, opening, content = text.removesuffix(quote).rpartition(quote)
    if not opening or not content or content[0] in _BETWEEN_JSON_STRINGS:
        return text
    return f"{before}{quote}{_STARS}{quote}"
