"""Moving windows: at most so much in whatever minute, hour or day one looks at. Many are asked at once.

Not the strategies of `limits`: these ask for one window at a time and twice for each, which for a stranger's mail is
twelve round trips to Redis. The lists are kept in its form, the newest entry first.
Source: https://limits.readthedocs.io/en/stable/strategies.html#moving-window
"""

import math
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from redis import Redis

# KEYS: windows; ARGV: of each its amount, its seconds and what is wanted of it. The seconds until each has room, or
# nothing when all had. The clock is the server's: hosts that count together need not agree on the time.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local waits, full = {}, false
for i, key in ipairs(KEYS) do
  local amount, seconds, cost = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  waits[i] = 0
  if cost > amount then
    waits[i] = seconds
  else
    local entry = tonumber(redis.call('LINDEX', key, amount - cost) or nil)
    if entry and entry >= now - seconds then waits[i] = math.max(1, math.ceil(entry + seconds - now)) end
  end
  full = full or waits[i] > 0
end
if full then return waits end
now = string.format('%.6f', now)
for i, key in ipairs(KEYS) do
  for _ = 1, ARGV[3 * i] do redis.call('LPUSH', key, now) end
  redis.call('LTRIM', key, 0, ARGV[3 * i - 2] - 1)
  redis.call('EXPIRE', key, ARGV[3 * i - 1])
end
return {}
"""


@dataclass(frozen=True, slots=True)
class Window:
    """At most `amount` in any `seconds`; `cost` is wanted of it now."""

    key: str
    amount: int
    seconds: int
    cost: int


class Windows(Protocol):
    """Where they are kept."""

    def take(self, wanted: Sequence[Window]) -> list[int]:
        """Take from all of them, which have different keys, or from none.

        For each the seconds until it has room, 0 if it has; nothing at all when everything was taken.

        Raises:
            RedisError: they cannot be asked.
        """

    def give_back(self, keys: Iterable[str]) -> None:
        """Remove the newest entry of each. Of entries that came at nearly the same time it may be another one, which
        makes no difference.

        Raises:
            RedisError: they cannot be asked.
        """


class RedisWindows:
    """In Redis, where all processes count together."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._take = redis.register_script(_TAKE)

    def take(self, wanted: Sequence[Window]) -> list[int]:
        """See `Windows`: one round trip, and nobody comes in between."""
        keys = [f"{self._prefix}:{window.key}" for window in wanted]
        waits: list[int] = self._take(keys, [n for each in wanted for n in (each.amount, each.seconds, each.cost)])
        return waits

    def give_back(self, keys: Iterable[str]) -> None:
        """See `Windows`."""
        with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.lpop(f"{self._prefix}:{key}")
            pipe.execute()


class MemoryWindows:
    """In this process. What nobody asks for any more stays: it is for a few keys."""

    def __init__(self) -> None:
        self.entries: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def take(self, wanted: Sequence[Window]) -> list[int]:
        """See `Windows`."""
        now = time.time()
        with self._lock:
            waits = [self._wait(window, now) for window in wanted]
            if any(waits):
                return waits
            for window in wanted:
                entries = [now] * window.cost + self.entries.get(window.key, [])
                self.entries[window.key] = entries[: window.amount]
            return []

    def give_back(self, keys: Iterable[str]) -> None:
        """See `Windows`."""
        with self._lock:
            for key in keys:
                del self.entries.get(key, [])[:1]

    def _wait(self, window: Window, now: float) -> int:
        if window.cost > window.amount:
            return window.seconds
        entries = self.entries.get(window.key, [])
        position = window.amount - window.cost
        if position >= len(entries) or entries[position] < now - window.seconds:
            return 0
        return max(1, math.ceil(entries[position] + window.seconds - now))
