"""Events: what Flower is told of the tasks, without ever holding up the work.

Celery's own events say SUCCESS of everything that returns, leave over a connection that a broker in alarm blocks, and
carry tracebacks and addresses. Ours say how it ended, leave in a thread of their own, and carry neither.
Source: https://docs.celeryq.dev/en/stable/userguide/monitoring.html#event-reference
"""

import json
import logging
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from celery.events import EventDispatcher
from celery.exceptions import Reject
from celery.worker.request import Request

from messaging import topology
from messaging.masking import mask_addresses
from messaging.publisher import Publisher, PublishError
from messaging.results import State

logger = logging.getLogger(__name__)

# Seconds in which events gather: one message to the broker, however many they are
PAUSE = 0.25
# Events that wait while the broker takes none; the oldest go first
KEPT = 5000
LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one delivery of a task ended. Celery passes on what a task returns as its `repr()`, cut off at 1024."""

    state: State
    reason: str | None = None

    def __repr__(self) -> str:
        return f"{self.state} {(self.reason or '')[:LONGEST_REASON]}"


def _of_outcome(said: str, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The event, and its fields, for what a task returned."""
    state, _, reason = said.partition(" ")
    told = {"exception": mask_addresses(reason), "traceback": ""}
    if state == State.RETRYING:
        return "task-retried", told
    if state == State.FAILED:
        return "task-failed", told
    if state == State.CANCELLED:
        return "task-revoked", {"terminated": False, "signum": None, "expired": False}
    return "task-succeeded", {**fields, "result": ""}


class TaskRequest(Request):
    """Celery's request, whose events say how the task ended."""

    _error: str = ""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """As Celery's, and keeps the reason, which Celery wraps before its event tells it."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        self._error = str(error.args[0] if isinstance(error, Reject) else error)
        super().on_failure(exc_info, send_failed_event, return_ok)

    def send_event(self, type: str, **fields: Any) -> None:
        """Send one event; the message has been acknowledged or rejected by then, which this does not touch."""
        if type == "task-succeeded":
            type, fields = _of_outcome(str(fields.get("result")), fields)
        elif type == "task-failed":
            fields = {"exception": mask_addresses(self._error[:LONGEST_REASON]), "traceback": ""}
        super().send_event(type, **fields)

    def info(self, safe: bool = False) -> Any:
        """What `inspect` shows of a task: never its arguments."""
        return super().info(safe=True)


class Outbox:
    """Events on their way to the broker. They may be lost: the records say what became of a task."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._waiting: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._closing = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, events: Iterable[dict[str, Any]]) -> None:
        """Take events; returns at once."""
        self._waiting.extend(events)
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Send what waits, if that takes no longer than two seconds."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(2)

    def _run(self) -> None:
        while not self._closing.wait(PAUSE):
            self._send()
        self._send()

    def _send(self) -> None:
        events = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not events:
            return
        try:
            self._publisher.announce(json.dumps(events, default=str), topology.EVENTS_EXCHANGE, "task.multi")
        except PublishError as error:
            logger.debug("%s events not sent: %s", len(events), error)


class Dispatcher(EventDispatcher):
    """Celery's dispatcher, with an outbox in place of its own connection."""

    outbox: ClassVar[Outbox]

    def _publish(self, event: Any, *_: Any, **__: Any) -> None:
        self.outbox.put(event if isinstance(event, list) else [event])
