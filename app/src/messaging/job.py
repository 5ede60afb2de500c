"""What travels through the broker: one task, its arguments and what is known of its earlier attempts."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

# Our part of the message headers, beside Celery's own
# (https://docs.celeryq.dev/en/stable/internals/protocol.html).
HEADER = "messaging"

SEND_EMAIL = "messaging.send_email"
LOG_TIME = "messaging.log_time"
REVERSE_TEXT = "messaging.reverse_text"
ANALYZE_SENTIMENT = "messaging.analyze_sentiment"
SET_STATE = "messaging.set_state"

HIDDEN = "'(not shown)'"
LATEST = 32503680000.0  # the year 3000


@dataclass(frozen=True, slots=True)
class Job:
    """One task on its way to a worker.

    `submitted_at` is in seconds since the epoch. `attempt` counts from 1. `unknowns` is how many attempts ended without
    anybody knowing whether the mail went out. `suspect` says that an earlier delivery of this very message may have
    done the work, although the broker calls this one the first.
    """

    task: str
    kwargs: Mapping[str, Any]
    task_id: str
    queue: str
    submitted_at: float = field(default_factory=time.time)
    attempt: int = 1
    unknowns: int = 0
    suspect: bool = False
    request_id: str | None = None

    def next_attempt(self, *, unknown: bool = False) -> Self:
        """The job for another try."""
        return replace(self, attempt=self.attempt + 1, unknowns=self.unknowns + unknown)

    def headers(self) -> dict[str, Any]:
        """Message headers: Celery's protocol 2, arguments hidden from everything that prints them, and ours."""
        return {
            "lang": "py",
            "task": self.task,
            "id": self.task_id,
            "root_id": self.task_id,
            "parent_id": None,
            "group": None,
            "retries": self.attempt - 1,
            "eta": None,
            "expires": None,
            "timelimit": [None, None],
            "argsrepr": HIDDEN,
            "kwargsrepr": HIDDEN,
            "origin": "messaging",
            "ignore_result": True,
            HEADER: {
                "queue": self.queue,
                "submitted_at": repr(self.submitted_at),
                "attempt": self.attempt,
                "unknowns": self.unknowns,
                "suspect": self.suspect,
                "request_id": self.request_id or "",
            },
        }

    def body(self) -> str:
        """Message body: Celery's protocol 2."""
        return json.dumps([[], self.kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])

    @classmethod
    def from_headers(cls, headers: Mapping[str, Any], kwargs: Mapping[str, Any]) -> Self:
        """The job that `headers` describe.

        Raises:
            KeyError, ValueError: the message was not made by `headers()`.
        """
        ours = headers[HEADER]
        submitted_at = float(ours["submitted_at"])
        if not isinstance(headers["id"], str) or not 0 <= submitted_at <= LATEST:
            raise ValueError("no id, or no time")
        return cls(
            task=headers["task"],
            kwargs=kwargs,
            task_id=headers["id"],
            queue=ours["queue"],
            submitted_at=submitted_at,
            attempt=int(ours["attempt"]),
            unknowns=int(ours["unknowns"]),
            suspect=bool(ours["suspect"]),
            request_id=ours["request_id"] or None,
        )
