"""How long the oldest mail has waited, for the monitoring.

The records say it, whatever the mail waits in: a queue, a delay or a worker. Each is looked at once, for those before
the first that waits have ended for good, and the next look begins there. Mail that was accepted while Redis was away
has no record, and is not seen here.
"""

import threading
import time
from collections.abc import Callable
from itertools import islice

from messaging.job import SEND_EMAIL
from messaging.results import FINAL, LOOK_AT, Records

# Seconds that one look may take, and for which a task may be listed behind younger ones
LONGEST_LOOK = 0.5
SETTLED = 5.0


class OldestMail:
    """Looks through the records, from where it was before."""

    def __init__(self, records: Records, clock: Callable[[], float] = time.time) -> None:
        self._records = records
        self._clock = clock
        self._begin = float("-inf")
        self._lock = threading.Lock()

    def age(self) -> float | None:
        """Seconds since the oldest mail that has not ended was asked for, 0 where there is none.

        None when there was too much to look at: the next look goes on with it.

        Raises:
            RecordsUnavailableError: they cannot be read.
        """
        with self._lock:
            return self._look(time.monotonic() + LONGEST_LOOK)

    def _look(self, deadline: float) -> float | None:
        settled = self._clock() - SETTLED
        cursors = self._records.oldest_first(self._begin)
        # mostly the second one waits: more are asked for at once only when there are more to look at
        size = 2
        while some := list(islice(cursors, size)):
            if time.monotonic() > deadline:
                return None
            size = min(2 * size, LOOK_AT)
            records = self._records.many([task_id for _, task_id in some])
            for (submitted_at, _), record in zip(some, records, strict=True):
                if record is not None and record.task == SEND_EMAIL and record.state not in FINAL:
                    return max(0.0, self._clock() - submitted_at)
                self._begin = max(self._begin, min(submitted_at, settled))
        return 0.0
