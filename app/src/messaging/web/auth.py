"""Who is calling."""

import hmac
from http import HTTPStatus

from flask import request

from messaging.web import services
from messaging.web.problems import ProblemError

OPERATOR = "operator"


def caller() -> str:
    """Whose request this is: the operators', or that of whoever has this address."""
    return OPERATOR if is_operator() else request.remote_addr or ""


def is_operator() -> bool:
    """Whether the request carries the operators' key."""
    given = request.authorization.token if request.authorization and request.authorization.type == "bearer" else None
    known = services().settings.operator_key.get_secret_value()
    return bool(given and known) and hmac.compare_digest((given or "").encode(), known.encode())


def refuse_wrong_key() -> None:
    """Tell a caller whose key is wrong, who would be taken for a stranger otherwise.

    Raises:
        ProblemError: 401.
    """
    if request.authorization and request.authorization.type == "bearer":
        require_operator("This key is not known.")


def require_operator(why: str) -> None:
    """Let only operators through.

    Raises:
        ProblemError: 401, saying `why` and how.
    """
    if not is_operator():
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED,
            f"{why} Send the operators' key: `Authorization: Bearer <key>`.",
            headers={"WWW-Authenticate": "Bearer"},
        )
