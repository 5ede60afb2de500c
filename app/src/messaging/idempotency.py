"""Requests that are sent again: the same caller, key and task give the same id, and so one task.

So does a request without a key that nginx passes on a second time, since whoever had it first went away.

The id is an HMAC with a secret of the service, since whoever knows an id may read the task.
Source: https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
"""

import hashlib
import hmac
import json
import logging
import uuid
from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

KEPT = 24 * 3600  # seconds in which a key stands for its first request
PREFIX = "messaging:idempotency:"
# Of a task that still waits: more would only fill its queue
COPIES_A_MINUTE = 5


class KeyReusedError(Exception):
    """The caller has used this key for another request."""


class Idempotency:
    """What is known of the keys of all callers."""

    def __init__(self, redis: Redis, secret: str, previous: str = "") -> None:
        """`previous`: what `secret` was less than `KEPT` ago, if it was changed; keys that came then go on standing."""
        self._redis = redis
        self._secret = secret.encode()
        self._previous = previous.encode()

    def task_id(self, caller: str, key: str, task: str, kwargs: Mapping[str, Any]) -> tuple[str, bool]:
        """The id of the task that `caller` asks for under `key`, and whether this is surely the first time.

        While Redis is away another request under the same key is not noticed; it gets an id of its own. So does the
        same one while Redis is away, if the secret was changed in between.

        Raises:
            KeyReusedError: this caller has used the key for another task, or for other parameters.
        """
        request = (caller, key, task, json.dumps(kwargs, sort_keys=True))
        name, task_id = _ids(self._secret, *request)
        try:
            if self._previous:
                old_name, old_id = _ids(self._previous, *request)
                if (before := self._redis.get(old_name)) is not None:
                    return _same(before, old_id), False
            earlier = self._redis.set(name, task_id, nx=True, get=True, ex=KEPT)
        except RedisError as error:
            logger.warning("key not compared with earlier ones: %s", error)
            return task_id, False
        return (_same(earlier, task_id), False) if earlier is not None else (task_id, True)

    def of_request(self, request_id: str, caller: str, task: str, kwargs: Mapping[str, Any]) -> str:
        """The id of the task that `caller` asks for in a request without a key; `request_id` is nginx's name for it."""
        request = ("request", request_id, caller, task, json.dumps(kwargs, sort_keys=True))
        return _uuid(_digest(self._secret, *request))

    def may_copy(self, caller: str, key: str) -> bool:
        """Whether a task that still waits may be published once more; asking counts. While Redis is away it may."""
        name = f"{PREFIX}{_digest(self._secret, caller, key).hex()}:copies"
        try:
            with self._redis.pipeline() as pipe:
                pipe.set(name, "0", nx=True, ex=60)
                pipe.incr(name)
                return int(pipe.execute()[-1]) <= COPIES_A_MINUTE
        except RedisError as error:
            logger.warning("copies not counted: %s", error)
            return True

    def forget(self, caller: str, key: str) -> bool:
        """Let a key go whose request was refused: who sends nothing but new keys must not fill Redis with them.

        Whether it is gone; while Redis is away it stays.
        """
        try:
            self._redis.delete(PREFIX + _digest(self._secret, caller, key).hex())
        except RedisError as error:
            logger.warning("key not forgotten: %s", error)
            return False
        return True


def _ids(secret: bytes, caller: str, key: str, *request: str) -> tuple[str, str]:
    """The name under which a key is known, and the id of the task that comes with it."""
    owner = _digest(secret, caller, key)
    return PREFIX + owner.hex(), _uuid(_digest(secret, caller, key, *request))


def _uuid(digest: bytes) -> str:
    return str(uuid.UUID(bytes=digest[:16], version=4))


def _same(earlier: object, task_id: str) -> str:
    """`task_id`, which the key has stood for before.

    Raises:
        KeyReusedError: it stood for another.
    """
    if earlier != task_id:
        raise KeyReusedError
    return task_id


def _digest(secret: bytes, *parts: str) -> bytes:
    return hmac.digest(secret, json.dumps(parts).encode(), hashlib.sha256)
