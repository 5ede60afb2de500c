"""How the service is doing, for whoever looks at the page."""

import threading
import time
from dataclasses import dataclass
from datetime import datetime

from messaging import timelog, topology
from messaging.publisher import Depth, PublishError, UnroutableError
from messaging.timelog import TimeLogError
from messaging.web import Services

FRESH = 2.0  # seconds
TIMES = 3
AWAY = (
    "RabbitMQ does not answer, so nothing new can be taken. What was taken before is safe and goes on when it is back."
)


@dataclass(frozen=True)
class Sight:
    """What was seen, and when. `queues` is None where there is `trouble`, `times` where the log cannot be read."""

    at: datetime
    queues: dict[str, Depth] | None
    trouble: str
    times: list[datetime] | None


class Panel:
    """Looks at most every `FRESH` seconds, however many visitors ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sight: Sight | None = None
        self._seen_at = 0.0

    def look(self, parts: Services) -> Sight:
        """How the service is doing now, or was a moment ago.

        While one request waits for a broker that is silent, others are shown what was seen before.
        """
        before = self._sight
        if before is not None and (self._is_fresh() or self._lock.locked()):
            return before
        with self._lock:
            if self._sight is None or not self._is_fresh():
                self._sight = _look(parts)
                self._seen_at = time.monotonic()
            return self._sight

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._seen_at < FRESH


def _look(parts: Services) -> Sight:
    settings = parts.settings
    try:
        queues, trouble = parts.watcher.depths([*settings.queues, topology.DEAD_QUEUE]), ""
    except UnroutableError:
        queues, trouble = None, "A queue is missing in RabbitMQ: the playbook declares them."
    except PublishError:
        queues, trouble = None, AWAY
    try:
        times = timelog.last(settings.timelog_path, TIMES)
    except TimeLogError:
        times = None
    return Sight(datetime.now(settings.timezone), queues, trouble, times)
