"""How much strangers and keys may ask for, counted in moving windows.

What is counted is stored under a digest, so that nobody's address lies in Redis. A request that is refused is not
counted, and what the broker did not take is given back.
"""

import functools
import hashlib
import hmac
import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError

from messaging import metrics
from messaging.job import SEND_EMAIL
from messaging.keys import Key
from messaging.recipients import mailbox
from messaging.settings import Settings, rate_limits
from messaging.store import Entry
from messaging.windows import MemoryWindows, Window, Windows

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


@dataclass(frozen=True)
class Use:
    """Of one limit of a budget: how much it is of, in how many seconds, and how much of that is used now."""

    budget: Budget
    amount: int
    seconds: int
    used: int


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
    """What was taken for one task: one entry of each of these windows; `recorded`: and its record was stored."""

    windows: Windows
    keys: tuple[str, ...]
    recorded: bool = False

    def give_back(self) -> None:
        """Let it be taken again, since nothing came of the task. While Redis is away it stays taken."""
        try:
            self.windows.give_back(self.keys)
        except RedisError as error:
            logger.warning("not given back to the budgets: %s", error)


NOTHING = Taken(MemoryWindows(), ())


class Budgets:
    """The budgets of this installation. Safe to use from many threads."""

    def __init__(self, settings: Settings, windows: Windows) -> None:
        self._settings = settings
        self._secret = settings.secret_key.get_secret_value().encode()
        self._windows = windows
        self._alone = MemoryWindows()

    def spend_as_stranger(self, client: str, tasks: Sequence[Task], record: Entry | None = None) -> list[Taken]:
        """Take from the budgets of a client, of the recipients and of the day, or from none; what was taken for each.

        With it `record`, of the only task, is stored.

        Raises:
            RecordedError: there is such a record.
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
            return self._spend(self._windows, wanted, record)
        except RedisError as error:
            self._forget(record)
            metrics.refused(UNKNOWN)
            raise BudgetsUnavailableError(str(error)) from error

    def spend_as_key(self, key: str, limits: str, tasks: Sequence[Task], record: Entry | None = None) -> list[Taken]:
        """Take from the budget of a key, once for each task; `limits` are its own, empty for the usual ones.

        With it `record`, of the only task, is stored. While Redis is away it is not, and each process counts for
        itself, within a smaller budget.

        Raises:
            RecordedError: there is such a record.
            ClosedError: it is of nothing.
            SpentError: it is used up.
        """
        limits = limits or self._settings.budget_key
        try:
            return self._spend(self._windows, [(Budget("key", key, limits),)] * len(tasks), record)
        except RedisError:
            alone = Budget("key_alone", key, self._settings.budget_key_alone)
            try:
                # a record that is there all the same is the task's, for it is published
                return self._spend(self._alone, [(alone,)] * len(tasks))
            except (ClosedError, SpentError):
                self._forget(record)
                raise

    def used(self, keys: Iterable[Key]) -> list[Use]:
        """How much is used of the budgets that all strangers share, and of those of `keys`.

        Raises:
            BudgetsUnavailableError: Redis is away.
        """
        settings = self._settings
        budgets = [
            Budget("day", "", settings.budget_day),
            Budget("tasks_day", "", settings.budget_tasks_day),
            *(Budget("key", key.id, key.budget or settings.budget_key) for key in keys),
        ]
        windows = [(budget, window) for budget in budgets for window in self._windows_of(budget, 0)]
        try:
            taken = self._windows.used([window for _, window in windows])
        except RedisError as error:
            raise BudgetsUnavailableError(str(error)) from error
        return [
            Use(budget, window.amount, window.seconds, used)
            for (budget, window), used in zip(windows, taken, strict=True)
        ]

    def _spend(
        self, windows: Windows, wanted: Sequence[tuple[Budget, ...]], record: Entry | None = None
    ) -> list[Taken]:
        """Take for each task, all or nothing."""
        costs = Counter(itertools.chain.from_iterable(wanted))
        for budget in costs:
            if any(limit.amount == 0 for limit in rate_limits(budget.limits)):
                metrics.refused(budget.name)
                raise ClosedError(budget.name)
        asked = {budget: self._windows_of(budget, cost) for budget, cost in costs.items()}
        waits = windows.take(list(itertools.chain.from_iterable(asked.values())), record)
        for budget, cost in costs.items():
            waiting, waits = waits[: len(asked[budget])], waits[len(asked[budget]) :]
            if any(waiting):
                self._refuse(budget, max(waiting), cost)
        recorded = windows.stores and record is not None
        return [
            Taken(windows, tuple(window.key for each in budgets for window in asked[each]), recorded)
            for budgets in wanted
        ]

    def _forget(self, record: Entry | None) -> None:
        """Of a task that is refused since no answer came: it may have been recorded for all that.

        While Redis is away its record stays, if there is one.
        """
        if record is not None:
            try:
                self._windows.forget(record)
            except RedisError as error:
                logger.warning("it may be recorded although it was refused: %s", error)

    def _windows_of(self, budget: Budget, cost: int) -> list[Window]:
        return [Window(*each, cost) for each in _limits_of(self._secret, budget)]

    def _refuse(self, budget: Budget, seconds: int, cost: int) -> None:
        metrics.refused(budget.name)
        too_many = any(limit.amount < cost for limit in rate_limits(budget.limits))
        raise SpentError(budget.name, seconds, too_many=too_many)


@functools.lru_cache(maxsize=1000)
def _limits_of(secret: bytes, budget: Budget) -> tuple[tuple[str, int, int], ...]:
    """Of each limit of a budget the name under which it is counted, how much it is of, and its seconds."""
    digest = hmac.digest(secret, f"budget {budget.name} {budget.whose}".encode(), hashlib.sha256).hex()[:32]
    return tuple(
        (limit.key_for(budget.name, digest), limit.amount, limit.get_expiry()) for limit in rate_limits(budget.limits)
    )
