"""Refuses what another site's page makes a browser send here, without tokens.

A browser says where a request comes from; whoever says nothing is no browser, and has no cookies that another site
could make use of.
Source: https://pkg.go.dev/net/http#CrossOriginProtection and https://words.filippo.io/csrf/
"""

from http import HTTPStatus
from urllib.parse import urlsplit

from flask import request

from messaging.web.problems import ProblemError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def refuse() -> None:
    """Refuse a request of another origin that would do something.

    Raises:
        ProblemError: 403.
    """
    if request.method not in SAFE_METHODS and not _ours():
        raise ProblemError(HTTPStatus.FORBIDDEN, "Another site's page sent this; only our own pages may.")


def refuse_action() -> None:
    """Refuse a GET that would do something, when another site's page, frame or mail made the browser send it.

    Raises:
        ProblemError: 403.
    """
    if not _ours():
        detail = "Another site asked for this. Type the address into the address bar, or use the page."
        raise ProblemError(HTTPStatus.FORBIDDEN, detail)


def _ours() -> bool:
    # only sent over HTTPS and to localhost, so that Origin has to do elsewhere
    site = request.headers.get("Sec-Fetch-Site")
    if site:
        return site in ("same-origin", "none")
    # a GET has no Origin; where it comes from is then only said by Referer, if at all
    origin = request.headers.get("Origin") or request.headers.get("Referer")
    if not origin:
        return True
    try:
        return urlsplit(origin).netloc.lower() == request.host.lower()
    except ValueError:
        return False
