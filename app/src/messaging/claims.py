"""Leases by task id in Redis: no two workers do the same work at once.

A lease lasts `LEASE` seconds and is renewed while the work lasts, so a dead worker's lease ends by itself. Its owner
is the worker's instance name and its start time: a restarted instance takes over at once what it held before.
Source: https://redis.io/docs/latest/commands/set/#patterns
"""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from redis import Redis
from redis.exceptions import RedisError

from messaging import store
from messaging.settings import Settings
from messaging.store import Entry

logger = logging.getLogger(__name__)

LEASE = 20.0
RENEW_EVERY = 5.0
PREFIX = "messaging:claim:"

# KEYS[1] claim, KEYS[2] record, if it is wanted; ARGV: instance, start time, lease in ms, and of the record how it is
# when the work has begun, and for how many seconds it is kept. What it was comes back, and whether it was replaced:
# only where nobody has begun, so that whoever finds anything else can decide.
_TAKE = """
local held = redis.call('GET', KEYS[1])
if held then
  local instance, started = string.match(held, '^(.*)|([^|]*)$')
  if instance ~= ARGV[1] or tonumber(started) >= tonumber(ARGV[2]) then return {0} end
end
redis.call('SET', KEYS[1], ARGV[1] .. '|' .. ARGV[2], 'PX', ARGV[3])
local text = KEYS[2] and redis.call('GET', KEYS[2])
if not text then return {1} end
local is_json, known = pcall(cjson.decode, text)
local record = is_json and type(known) == 'table' and known.result
if type(record) ~= 'table' or record.state ~= 'queued' or record.attempts ~= 0 or record.crashes ~= 0
    or record.unknowns ~= 0 or record.submitted_at ~= cjson.decode(ARGV[4]).result.submitted_at then
  return {1, text}
end
redis.call('SET', KEYS[2], ARGV[4], 'EX', ARGV[5])
return {1, text, 1}
"""

# KEYS[1] claim, KEYS[2] record; ARGV: owner, and of the record how it looks now, and for how many seconds it is kept.
_END = """
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""

# KEYS[1] claim; ARGV: owner, lease in ms (0 releases it).
_KEEP = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""


class ClaimedElsewhereError(Exception):
    """Another worker is doing this task now."""


class ClaimsUnavailableError(Exception):
    """Redis cannot be asked."""


@dataclass(slots=True)
class Held:
    """A lease that is held.

    `known` is the record that was there, as Redis keeps it. `begun` says that it has been replaced: that the work has
    begun is recorded.
    """

    task_id: str
    known: str | None = None
    begun: bool = False
    over: bool = False


def one_request(settings: Settings, timeout: float, redis: Redis | None = None) -> "Claims":
    """Claims of somebody who is no worker: for the length of a request, under a name of his own.

    `redis` is a client that is there already.
    """
    return Claims(redis or store.connect(settings, timeout), f"request-{uuid.uuid4()}", time.time())


class Claims:
    """The leases of one process."""

    def __init__(self, redis: Redis, instance: str, started: float, lease: float = LEASE) -> None:
        self._instance = instance
        self._started = repr(started)
        self._owner = f"{instance}|{self._started}"
        self._lease_ms = str(round(lease * 1000))
        self._renew_every = min(RENEW_EVERY, lease / 4)
        self._take = redis.register_script(_TAKE)
        self._end = redis.register_script(_END)
        self._keep = redis.register_script(_KEEP)
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._renewer: threading.Thread | None = None

    @contextlib.contextmanager
    def hold(self, task_id: str, begun: Entry | None = None) -> Iterator[Held]:
        """Hold the lease of `task_id` for the length of the block, or until its `end`.

        Args:
            task_id: whose.
            begun: the record of a task whose work begins with this, where records are in Redis too: it replaces that
                of one that waits, in the same round trip.

        Raises:
            ClaimedElsewhereError: somebody else holds it.
            ClaimsUnavailableError: Redis did not answer; the block is not entered.
        """
        try:
            taken, *found = self._take(
                keys=[PREFIX + task_id, *([begun.key] if begun else [])],
                args=[
                    self._instance,
                    self._started,
                    self._lease_ms,
                    *([begun.text, str(begun.seconds)] if begun else []),
                ],
            )
        except RedisError as error:
            raise ClaimsUnavailableError(str(error)) from error
        if not taken:
            raise ClaimedElsewhereError(task_id)
        held = Held(task_id, known=found[0] if found else None, begun=len(found) > 1)
        with self._lock:
            self._held.add(task_id)
            if self._renewer is None or not self._renewer.is_alive():
                self._renewer = threading.Thread(target=self._renew_all, name="claims", daemon=True)
                self._renewer.start()
        try:
            yield held
        finally:
            with self._lock:
                self._held.discard(task_id)
            if not held.over:
                self._update(task_id, "0")

    def end(self, held: Held, entry: Entry) -> None:
        """Store the last record of a task and let go of its lease, in one round trip.

        Raises:
            ClaimsUnavailableError: Redis did not answer, or did not take it; the lease is still held.
        """
        try:
            self._end(keys=[PREFIX + held.task_id, entry.key], args=[self._owner, entry.text, entry.seconds])
        except RedisError as error:
            raise ClaimsUnavailableError(str(error)) from error
        held.over = True

    def _renew_all(self) -> None:
        while True:
            time.sleep(self._renew_every)
            with self._lock:
                held = list(self._held)
            for task_id in held:
                self._update(task_id, self._lease_ms)

    def _update(self, task_id: str, lease_ms: str) -> None:
        try:
            self._keep(keys=[PREFIX + task_id], args=[self._owner, lease_ms])
        except RedisError as error:
            logger.warning("claim not updated, it ends by itself: %s", error)
