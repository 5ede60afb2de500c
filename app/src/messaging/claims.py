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

from redis import Redis
from redis.exceptions import RedisError

from messaging import store
from messaging.settings import Settings

logger = logging.getLogger(__name__)

LEASE = 20.0
RENEW_EVERY = 5.0
PREFIX = "messaging:claim:"

# KEYS[1] claim; ARGV: instance, start time, lease in ms. 1 when the claim is ours now.
_TAKE = """
local held = redis.call('GET', KEYS[1])
if held then
  local instance, started = string.match(held, '^(.*)|([^|]*)$')
  if instance ~= ARGV[1] or tonumber(started) >= tonumber(ARGV[2]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1] .. '|' .. ARGV[2], 'PX', ARGV[3])
return 1
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


def one_request(settings: Settings, timeout: float, redis: Redis | None = None) -> "Claims":
    """Claims of somebody who is no worker: for the length of a request, under a name of his own.

    `redis` is a client that is there already.
    """
    return Claims(redis or store.connect(settings, timeout), f"request-{uuid.uuid4()}", time.time())


class Claims:
    """The leases of one process."""

    def __init__(self, redis: Redis, instance: str, started: float, lease: float = LEASE) -> None:
        self._redis = redis
        self._instance = instance
        self._started = repr(started)
        self._lease_ms = str(round(lease * 1000))
        self._renew_every = min(RENEW_EVERY, lease / 4)
        self._take = redis.register_script(_TAKE)
        self._keep = redis.register_script(_KEEP)
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._renewer: threading.Thread | None = None

    @contextlib.contextmanager
    def hold(self, task_id: str) -> Iterator[None]:
        """Hold the lease of `task_id` for the length of the block.

        Raises:
            ClaimedElsewhereError: somebody else holds it.
            ClaimsUnavailableError: Redis did not answer; the block is not entered.
        """
        try:
            taken = self._take(keys=[PREFIX + task_id], args=[self._instance, self._started, self._lease_ms])
        except RedisError as error:
            raise ClaimsUnavailableError(str(error)) from error
        if not taken:
            raise ClaimedElsewhereError(task_id)
        with self._lock:
            self._held.add(task_id)
            if self._renewer is None or not self._renewer.is_alive():
                self._renewer = threading.Thread(target=self._renew_all, name="claims", daemon=True)
                self._renewer.start()
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(task_id)
            self._update(task_id, "0")

    def _renew_all(self) -> None:
        while True:
            time.sleep(self._renew_every)
            with self._lock:
                held = list(self._held)
            for task_id in held:
                self._update(task_id, self._lease_ms)

    def _update(self, task_id: str, lease_ms: str) -> None:
        try:
            self._keep(keys=[PREFIX + task_id], args=[f"{self._instance}|{self._started}", lease_ms])
        except RedisError as error:
            logger.warning("claim not updated, it ends by itself: %s", error)
