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
from typing import Any, Protocol

from redis import Redis

from messaging.store import INDEX_KEY, Entry

# KEYS: windows, and a record and the order of tasks, if there is one to be stored; ARGV: how many windows, of each its
# amount, its seconds and what is wanted of it, and of the record what an `Entry` has. The seconds until each has room,
# or nothing when all had, or -1 when there is such a record. The clock is the server's: hosts that count together need
# not agree on the time.
_TAKE = """
local windows = tonumber(ARGV[1])
local record, order = KEYS[windows + 1], KEYS[windows + 2]
if record and redis.call('EXISTS', record) == 1 then return {-1} end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local waits, full = {}, false
for i = 1, windows do
  local amount, seconds, cost = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  waits[i] = 0
  if cost > amount then
    waits[i] = seconds
  else
    local entry = tonumber(redis.call('LINDEX', KEYS[i], amount - cost) or nil)
    if entry and entry >= now - seconds then waits[i] = math.max(1, math.ceil(entry + seconds - now)) end
  end
  full = full or waits[i] > 0
end
if full then return waits end
local at = string.format('%.6f', now)
for i = 1, windows do
  for _ = 1, ARGV[3 * i + 1] do redis.call('LPUSH', KEYS[i], at) end
  redis.call('LTRIM', KEYS[i], 0, ARGV[3 * i - 1] - 1)
  redis.call('EXPIRE', KEYS[i], ARGV[3 * i])
end
if record then
  local text, seconds, task_id, submitted_at = unpack(ARGV, 3 * windows + 2)
  redis.call('SET', record, text, 'EX', seconds)
  redis.call('ZADD', order, 'GT', submitted_at, task_id)
  redis.call('ZREMRANGEBYSCORE', order, '-inf', now - seconds)
end
return {}
"""
_RECORDED = [-1]
# KEYS: a record and the order of tasks; ARGV: of the record its text and its task. Only as it was stored above: another
# request may have found it, and published the task.
_FORGET = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
"""


class RecordedError(Exception):
    """The task is recorded already: nothing was taken for it."""


# The same lists, the newest entry first: of each how many entries are younger than its seconds
_USED = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local used = {}
for i, key in ipairs(KEYS) do
  local low, high, since = 0, redis.call('LLEN', key), now - tonumber(ARGV[i])
  while low < high do
    local middle = math.floor((low + high) / 2)
    if tonumber(redis.call('LINDEX', key, middle)) >= since then low = middle + 1 else high = middle end
  end
  used[i] = low
end
return used
"""


@dataclass(frozen=True, slots=True)
class Window:
    """At most `amount` in any `seconds`; `cost` is wanted of it now."""

    key: str
    amount: int
    seconds: int
    cost: int


class Windows(Protocol):
    """Where they are kept. `stores`: records are there too."""

    stores: bool

    def take(self, wanted: Sequence[Window], record: Entry | None = None) -> list[int]:
        """Take from all of them, which have different keys, or from none.

        For each the seconds until it has room, 0 if it has; nothing at all when everything was taken. With it `record`
        is stored, where that can be.

        Raises:
            RecordedError: there is such a record.
            RedisError: they cannot be asked.
        """

    def forget(self, record: Entry) -> None:
        """Remove a record that a `take` may have stored although no answer came, unless somebody wrote it anew.

        Raises:
            RedisError: they cannot be asked.
        """

    def used(self, windows: Sequence[Window]) -> list[int]:
        """How much of each is taken now.

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

    stores = True

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._take = redis.register_script(_TAKE)
        self._used = redis.register_script(_USED)

    def take(self, wanted: Sequence[Window], record: Entry | None = None) -> list[int]:
        """See `Windows`: one round trip, and nobody comes in between."""
        keys = [f"{self._prefix}:{window.key}" for window in wanted]
        args: list[Any] = [len(wanted), *(n for each in wanted for n in (each.amount, each.seconds, each.cost))]
        if record is not None:
            keys += [record.key, INDEX_KEY]
            args += [record.text, record.seconds, record.task_id, repr(record.submitted_at)]
        waits: list[int] = self._take(keys, args)
        if waits == _RECORDED:
            raise RecordedError
        return waits

    def forget(self, record: Entry) -> None:
        """See `Windows`. A Redis that stalls does it when it goes on: the whole script is with it, not its digest."""
        self._redis.eval(_FORGET, 2, record.key, INDEX_KEY, record.text, record.task_id)

    def used(self, windows: Sequence[Window]) -> list[int]:
        """See `Windows`."""
        keys = [f"{self._prefix}:{window.key}" for window in windows]
        found: list[int] = self._used(keys, [window.seconds for window in windows])
        return found

    def give_back(self, keys: Iterable[str]) -> None:
        """See `Windows`."""
        with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.lpop(f"{self._prefix}:{key}")
            pipe.execute()


class MemoryWindows:
    """In this process. What nobody asks for any more stays: it is for a few keys."""

    stores = False

    def __init__(self) -> None:
        self.entries: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def take(self, wanted: Sequence[Window], record: Entry | None = None) -> list[int]:
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

    def forget(self, record: Entry) -> None:
        """See `Windows`: here are none."""

    def used(self, windows: Sequence[Window]) -> list[int]:
        """See `Windows`."""
        now = time.time()
        with self._lock:
            return [
                sum(entry >= now - window.seconds for entry in self.entries.get(window.key, [])) for window in windows
            ]

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
