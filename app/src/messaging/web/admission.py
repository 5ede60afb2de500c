"""Whether a caller may ask for a task now: the budgets, in the words of problem documents."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from messaging.budgets import NOTHING, BudgetsUnavailableError, ClosedError, SpentError, Taken, Task
from messaging.job import SEND_EMAIL
from messaging.store import Entry
from messaging.web import services
from messaging.web.auth import who
from messaging.web.problems import RETRY_AFTER, ProblemError

# Whoever is told of a recipient's budget learns that others wrote to him, and not when
_ROUGHLY = 600
_WORDS = {
    "client": "Your address has asked for as much mail as one may",
    "recipient": "This recipient has been sent as much mail as strangers may send to one",
    "day": "All the mail that strangers may send in a day has been sent",
    "client_tasks": "Your address has asked for as many tasks as one may",
    "tasks_day": "All the tasks that strangers may ask for in a day have been asked for",
    "key": "This key has used up its budget",
    "key_alone": "Budgets cannot be checked just now, and what a key may do meanwhile is used up",
}
_NO_MAIL = "Mail from strangers is not taken here; with an API key it is."
_NO_TASKS = "Tasks of strangers are not taken here; with an API key they are."
_CLOSED = {
    "client": _NO_MAIL,
    "recipient": _NO_MAIL,
    "day": _NO_MAIL,
    "client_tasks": _NO_TASKS,
    "tasks_day": _NO_TASKS,
    "key": "This key's budget is of nothing: an operator may make another key.",
}


def throttled() -> bool:
    """Whether budgets apply to whoever is asking: not while mail stays here, and never to operators."""
    return not services().settings.mail_embedded and who().kind != "operator"


def admit(*tasks: tuple[str, Mapping[str, Any]], record: Entry | None = None) -> list[Taken]:
    """Take a request's tasks, each with its parameters, from the budgets of whoever is asking: all of them, or none.

    For each task there is what was taken, to be given back if nothing comes of it. While mail stays on the host there
    are no budgets, and for operators never. Where there are, `record`, of the only task, is stored with it.

    Raises:
        RecordedError: there is such a record.
        ProblemError: 403, a budget is of nothing; 429, one is used up; 503, it cannot be checked.
    """
    parts = services()
    asking = who()
    if not throttled():
        return [NOTHING] * len(tasks)
    wanted = [Task(name, kwargs["to"] if name == SEND_EMAIL else "") for name, kwargs in tasks]
    try:
        if asking.kind == "key":
            return parts.budgets.spend_as_key(asking.id, asking.budget, wanted, record)
        return parts.budgets.spend_as_stranger(asking.id, wanted, record)
    except ClosedError as error:
        if error.budget not in _CLOSED:
            # for a key while Redis is away
            detail = "Budgets cannot be checked just now, so nothing was queued."
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, retry_after=RETRY_AFTER) from None
        raise ProblemError(HTTPStatus.FORBIDDEN, _CLOSED[error.budget], budget=error.budget) from None
    except SpentError as error:
        raise _spent(error) from None
    except BudgetsUnavailableError:
        detail = "Budgets cannot be checked just now, so nothing was queued. With an API key it would go on."
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, retry_after=RETRY_AFTER) from None


def _spent(error: SpentError) -> ProblemError:
    seconds = error.seconds
    if error.budget == "recipient":
        seconds = -(-seconds // _ROUGHLY) * _ROUGHLY
    said, when = _WORDS[error.budget], f"in {_in_words(seconds)}"
    if error.too_many:
        said, when = "This asks for more at once than its budget ever holds", f"{when}, and ask for one at a time"
    detail = f"{said}; nothing was queued. Try again {when}."
    return ProblemError(HTTPStatus.TOO_MANY_REQUESTS, detail, retry_after=seconds, budget=error.budget)


def _in_words(seconds: int) -> str:
    for size, unit in ((3600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return f"{-(-seconds // size)} {unit}s"
    return f"{seconds} second{'' if seconds == 1 else 's'}"
