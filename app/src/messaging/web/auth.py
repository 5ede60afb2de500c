"""Who is calling, and what he may do."""

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, cast

from flask import g, request

from messaging.keys import SCOPES, Scope
from messaging.web import services
from messaging.web.problems import ProblemError

OPERATOR = "operator"
# addresses of one network of this size are one client: it is what a household or a single machine is given
IPV6_NETWORK = 64


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    `id` is the IPv4 address or IPv6 network of the anonymous, the public part of a key, or "operator". `budget` is the
    key's own, and empty where it has none.
    """

    kind: Literal["anonymous", "key", "operator"]
    id: str
    scopes: frozenset[Scope] = frozenset()
    budget: str = ""


def who() -> Caller:
    """Who sent this request.

    Raises:
        ProblemError: 401, a key was given that is not known: its owner must not be taken for a stranger.
    """
    if "caller" not in g:
        g.caller = _identify()
    return cast("Caller", g.caller)


def caller() -> str:
    """The same as a name, for what each caller has of his own."""
    return who().id


def refuse_unknown_key() -> None:
    """Answer a key that is not known with 401 wherever it is sent; what asks for our health sends none.

    Raises:
        ProblemError: 401.
    """
    services().keys.refresh()
    if request.blueprint != "health":
        who()


def allow(scope: Scope) -> None:
    """Let strangers through, and of those with a key the ones whose key has the scope.

    Raises:
        ProblemError: 403, naming the scope.
    """
    asking = who()
    if asking.kind == "key" and scope not in asking.scopes:
        headers = {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}
        raise ProblemError(HTTPStatus.FORBIDDEN, f"This key lacks the scope `{scope}`.", headers=headers)


def require(scope: Scope, why: str) -> None:
    """Let only those through whose key has the scope.

    Raises:
        ProblemError: 401 for strangers, saying `why` and how; 403, naming the scope.
    """
    if who().kind == "anonymous":
        raise _unauthorized(f"{why} Send one with the scope `{scope}`: `Authorization: Bearer <key>`.")
    allow(scope)


def _identify() -> Caller:
    given = request.authorization
    # browsers send Flower's password here too
    if given is None or given.type == "basic":
        return Caller("anonymous", client())
    text = (given.token or "") if given.type == "bearer" else ""
    known = services().settings.operator_key.get_secret_value()
    if known and text and hmac.compare_digest(_sha256(text), _sha256(known)):
        return Caller("operator", OPERATOR, frozenset(SCOPES))
    key = services().keys.find(text)
    if key is None:
        detail = "This key is not known, or was revoked. Send `Authorization: Bearer <key>`, or none."
        raise _unauthorized(detail, 'Bearer error="invalid_token"')
    return Caller("key", key.id, frozenset(key.scopes), key.budget)


def client() -> str:
    """The address of whoever sent this request, or his network: who has one address of it has them all."""
    address = request.remote_addr or ""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(ip), IPV6_NETWORK), strict=False))


def _sha256(text: str) -> bytes:
    """Of one length, so that comparing tells nothing about it."""
    return hashlib.sha256(text.encode()).digest()


def _unauthorized(detail: str, challenge: str = "Bearer") -> ProblemError:
    """Source of the challenges: https://www.rfc-editor.org/rfc/rfc6750#section-3.1"""
    return ProblemError(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": challenge})
