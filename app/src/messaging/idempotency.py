"""Requests that are sent again: the same caller, key and task give the same id, and so one task.

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


class KeyReusedError(Exception):
    """The caller has used this key for another request."""


class Idempotency:
    """What is known of the keys of all callers."""

    def __init__(self, redis: Redis, secret: str) -> None:
        self._redis = redis
        self._secret = secret.encode()

    def task_id(self, caller: str, key: str, task: str, kwargs: Mapping[str, Any]) -> tuple[str, bool]:
        """The id of the task that `caller` asks for under `key`, and whether this is surely the first time.

        While Redis is away another request under the same key is not noticed; it gets an id of its own.

        Raises:
            KeyReusedError: this caller has used the key for another task, or for other parameters.
        """
        owner = self._digest(caller, key)
        digest = self._digest(caller, key, task, json.dumps(kwargs, sort_keys=True))
        task_id = str(uuid.UUID(bytes=digest[:16], version=4))
        try:
            earlier = self._redis.set(PREFIX + owner.hex(), task_id, nx=True, get=True, ex=KEPT)
        except RedisError as error:
            logger.warning("key not compared with earlier ones: %s", error)
            return task_id, False
        if earlier not in (None, task_id):
            raise KeyReusedError
        return task_id, earlier is None

    def _digest(self, *parts: str) -> bytes:
        return hmac.digest(self._secret, json.dumps(parts).encode(), hashlib.sha256)
