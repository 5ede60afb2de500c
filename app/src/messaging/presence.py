"""Which workers there are: each says so itself, in Redis. Whoever stops in good order takes leave."""

import logging
import threading
import time
from dataclasses import dataclass
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

KEY = "messaging:workers"
EVERY = 20.0  # seconds
# Seconds after which one that says nothing counts as away, and those after which it is forgotten
AWAY = 60.0
FORGOTTEN = 3600.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker, and how many seconds ago it was there."""

    name: str
    ago: float

    @property
    def away(self) -> bool:
        """Whether it should have been heard of since."""
        return self.ago > AWAY


def announce(redis: Redis, name: str, stopping: threading.Event) -> None:
    """Say that the worker `name` is there, until `stopping`, in a thread of its own."""

    def run() -> None:
        tell(redis, name)
        while not stopping.wait(EVERY):
            tell(redis, name)

    threading.Thread(target=run, name="presence", daemon=True).start()


def tell(redis: Redis, name: str) -> None:
    """Say it once. It matters to nobody's work: while Redis is away it is not said."""
    now = time.time()
    try:
        with redis.pipeline(transaction=False) as pipe:
            pipe.zadd(KEY, {name: now})
            pipe.zremrangebyscore(KEY, "-inf", now - FORGOTTEN)
            pipe.execute()
    except RedisError as error:
        logger.debug("not announced: %s", error)


def leave(redis: Redis, name: str) -> None:
    """Take leave."""
    try:
        redis.zrem(KEY, name)
    except RedisError as error:
        logger.debug("not taken leave: %s", error)


def seen(redis: Redis) -> list[Seen]:
    """All workers of the last hour, by name.

    Raises:
        RedisError: nobody knows.
    """
    now = time.time()
    found = cast("list[tuple[str, float]]", redis.zrangebyscore(KEY, now - FORGOTTEN, "+inf", withscores=True))
    return sorted((Seen(name, max(0.0, now - at)) for name, at in found), key=lambda each: each.name)
