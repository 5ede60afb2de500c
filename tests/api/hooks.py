"""What schemathesis has to be told beside the description."""

import re
import uuid
from typing import Any

import schemathesis

KEY = "Idempotency-Key"


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    """A key stands for one request: give each its own, where a good one was generated."""
    given = (case.headers or {}).get(KEY)
    if isinstance(given, str) and re.fullmatch(r"[!-~]{1,219}", given):
        case.headers[KEY] = given + str(uuid.uuid4())
