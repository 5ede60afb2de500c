"""How much strangers and keys may ask for: counted in Redis, with the library `limits`.

A window moves: whatever minute, hour or day one looks at, it holds no more than its limit. What is counted is stored
under a digest, so that nobody's address lies in Redis. A request that is refused is not counted, and what the
broker did not take is given back.
Source: https://limits.readthedocs.io/en/stable/strategies.html#moving-window
"""

import hashlib
import hmac
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from limits.storage import MemoryStorage, RedisStorage, Storage
from limits.strategies import MovingWindowRateLimiter
from redis import Redis
from redis.exceptions import RedisError

from messaging import metrics
from messaging.job import SEND_EMAIL
from messaging.recipients import mailbox
from messaging.settings import Settings, rate_limits

logger = logging.getLogger(__name__)

PREFIX = "messaging:budget"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Task:
    """What is asked for; `recipient` is empty for what is no mail."""

    name: str
    recipient: str = ""


@dataclass(frozen=True)
class Budget:
    """One budget: its name is the one of its setting, `whose` it is, and its limits as text."""

    name: str
    whose: str
    limits: str


class SpentError(Exception):
    """A budget is used up; it can be tried again after `seconds`, a whole number.

    `too_many`: never as it is, since the budget holds less than one request asked for.
    """

    def __init__(self, budget: str, seconds: int, *, too_many: bool = False) -> None:
        super().__init__(f"budget {budget} is used up")
        self.budget = budget
        self.seconds = seconds
        self.too_many = too_many


class ClosedError(Exception):
    """A budget is of nothing, such as `0/day`."""

    def __init__(self, budget: str) -> None:
        super().__init__(f"budget {budget} is of nothing")
        self.budget = budget


class BudgetsUnavailableError(Exception):
    """Redis cannot be asked."""


@dataclass(frozen=True)
class Taken:
    """What was taken for one task: one entry under each of the keys of a storage."""

    storage: Storage
    keys: tuple[str, ...]

    def give_back(self) -> None:
        """Let it be taken again, since nothing came of the task. While Redis is away it stays taken."""
        try:
            for key in self.keys:
                give_back(self.storage, key)
        except RedisError as error:
            logger.warning("not given back to the budgets: %s", error)


def redis_storage(redis: Redis) -> Storage:
    """Where all processes count together; it shares the client's connections, and its patience."""
    return RedisStorage("redis://", connection_pool=redis.connection_pool, key_prefix=PREFIX)


def give_back(storage: Storage, key: str) -> None:
    """Remove the newest entry of a moving window, which the library has no way to do.

    Of entries that came at nearly the same time it may be another one, which makes no difference.
    Source: `acquire_entry` of limits.storage.RedisStorage and MemoryStorage: both keep a list, the newest first.

    Raises:
        RedisError: Redis is away.
    """
    if isinstance(storage, RedisStorage):
        cast("Redis", storage.get_connection()).lpop(storage.prefixed_key(key))
    elif isinstance(storage, MemoryStorage):
        with storage.locks[key]:
            del storage.events.get(key, [])[:1]


class Budgets:
    """The budgets of this installation. Safe to use from many threads."""

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self._settings = settings
        self._secret = settings.secret_key.get_secret_value().encode()
        self._limiter = MovingWindowRateLimiter(storage)
        self._alone = MovingWindowRateLimiter(MemoryStorage())

    def spend_as_stranger(self, client: str, tasks: Sequence[Task]) -> list[Taken]:
        """Take from the budgets of a client, of the recipients and of the day, or from none; what was taken for each.

        Of requests at the same instant the ones that come too late may be counted in their own client's budget, and in
        their recipient's, all the same; never the other way round.

        Raises:
            ClosedError: a budget is of nothing.
            SpentError: a budget is used up.
            BudgetsUnavailableError: Redis is away.
        """
        settings = self._settings
        wanted = [
            (
                Budget("client", client, settings.budget_client),
                Budget("recipient", mailbox(task.recipient), settings.budget_recipient),
                Budget("day", "", settings.budget_day),
            )
            if task.name == SEND_EMAIL
            else (
                Budget("client_tasks", client, settings.budget_client_tasks),
                Budget("tasks_day", "", settings.budget_tasks_day),
            )
            for task in tasks
        ]
        try:
            return self._spend(self._limiter, wanted)
        except RedisError as error:
            metrics.refused(UNKNOWN)
            raise BudgetsUnavailableError(str(error)) from error

    def spend_as_key(self, key: str, limits: str, tasks: Sequence[Task]) -> list[Taken]:
        """Take from the budget of a key, once for each task; `limits` are its own, empty for the usual ones.

        While Redis is away each process counts for itself, within a smaller budget.

        Raises:
            ClosedError: it is of nothing.
            SpentError: it is used up.
        """
        limits = limits or self._settings.budget_key
        try:
            return self._spend(self._limiter, [(Budget("key", key, limits),)] * len(tasks))
        except RedisError:
            alone = Budget("key_alone", key, self._settings.budget_key_alone)
            return self._spend(self._alone, [(alone,)] * len(tasks))

    def _spend(self, limiter: MovingWindowRateLimiter, wanted: Sequence[tuple[Budget, ...]]) -> list[Taken]:
        """Take for each task, all or nothing: first look at every limit, then take."""
        costs = Counter(itertools.chain.from_iterable(wanted))
        for budget in costs:
            if any(limit.amount == 0 for limit in rate_limits(budget.limits)):
                metrics.refused(budget.name)
                raise ClosedError(budget.name)
        for budget, cost in costs.items():
            if seconds := self._wait(limiter, budget, cost):
                self._refuse(budget, seconds, cost)
        for budget, cost in costs.items():
            for limit in rate_limits(budget.limits):
                if not limiter.hit(limit, *self._names(budget), cost=cost):
                    # somebody was faster
                    self._refuse(budget, self._wait(limiter, budget, cost) or 1, cost)
        return [
            Taken(
                limiter.storage,
                tuple(
                    limit.key_for(*self._names(budget)) for budget in budgets for limit in rate_limits(budget.limits)
                ),
            )
            for budgets in wanted
        ]

    def _wait(self, limiter: MovingWindowRateLimiter, budget: Budget, cost: int) -> int:
        """Seconds until a budget has room; 0 for now."""
        waits = [0]
        for limit in rate_limits(budget.limits):
            reset_at, remaining = limiter.get_window_stats(limit, *self._names(budget))
            if remaining < cost:
                waits.append(max(1, math.ceil(reset_at - time.time())))
        return max(waits)

    def _refuse(self, budget: Budget, seconds: int, cost: int) -> None:
        metrics.refused(budget.name)
        too_many = any(limit.amount < cost for limit in rate_limits(budget.limits))
        raise SpentError(budget.name, seconds, too_many=too_many)

    def _names(self, budget: Budget) -> tuple[str, str]:
        digest = hmac.digest(self._secret, f"budget {budget.name} {budget.whose}".encode(), hashlib.sha256)
        return budget.name, digest.hex()[:32]
