"""The operators' page: how the service is and was, and what to do with the dead letters. It asks for Flower's password.

nginx does not serve it where the tunnel ends, unless `tunnel_opens_operators`.
"""

import hashlib
import hmac
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import cast

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from itsdangerous import BadData, URLSafeTimedSerializer
from redis.exceptions import RedisError

from messaging import presence, store, topology
from messaging.budgets import BudgetsUnavailableError, Use
from messaging.dead import FOREIGN, DeadLetter, DeadLetters, Done
from messaging.history import MINUTE, Past, Sample, all_queues
from messaging.keys import Key, KeysError, read
from messaging.masking import mask, mask_addresses
from messaging.presence import Seen
from messaging.publisher import Depth, PublishError, UnroutableError
from messaging.results import RecordsUnavailableError
from messaging.web import services
from messaging.web.auth import client
from messaging.web.plots import COUNTS, LENGTHS, Plot, plot, span
from messaging.web.problems import NOTHING_HERE, ProblemError
from messaging.windows import MemoryWindows, Window

logger = logging.getLogger(__name__)
blueprint = Blueprint("operators", __name__, url_prefix="/operators")

# Of one client, in each process
GUESSES = 10
GUESSES_EVERY = 60  # seconds
CLIENTS_KNOWN = 1000
# A form may be sent for as long after the page was loaded
FORM_EXPIRES = 12 * 3600
LETTERS_SHOWN = 50
# Seconds for one answer of the broker, and for all letters together: nginx gives up after 8 s. Who looks waits less
# than who decides; the rest is done by another press, or by messagingctl
PATIENCE = 1.5
LOOK_WITHIN = 1.5
ACT_WITHIN = 4.0
# Letters that one decision looks at
ACT_ON = 1000
# and of these, ids that the journal has
NAMED = 20
RANGES = (1, 6, 24)  # hours
USUAL_RANGE = 6
SEE = "On its host: systemctl status"
TASKS = {"send_email": "Email", "reverse_text": "Reversed text", "analyze_sentiment": "Sentiment", "log_time": "Time"}

_guesses = MemoryWindows()


@dataclass(frozen=True)
class Letter:
    """A dead letter as the page shows it: the address masked."""

    task_id: str
    what: str
    reason: str
    died_at: float | None
    replayable: bool


@dataclass(frozen=True)
class Board:
    """All that the page shows; what is None could not be asked, and `trouble` says why, in a sentence for each part."""

    at: float
    trouble: list[str]
    depths: dict[str, Depth] | None
    letters: list[Letter] | None
    past: Past | None
    workers: list[Seen] | None
    uses: list[Use] | None
    keys: dict[str, str]

    @property
    def delayed(self) -> int | None:
        """Tasks that wait to be tried again."""
        if self.depths is None:
            return None
        return sum(depth.messages for name, depth in self.depths.items() if name in _delays())

    @property
    def waiting(self) -> int | None:
        """Tasks that wait for a worker."""
        if self.depths is None:
            return None
        return sum(self.depths[name].messages for name in services().settings.queues)

    @property
    def dead(self) -> int | None:
        """Dead letters. The count may be late, and so may the look."""
        if self.depths is None:
            return None
        return max(self.depths[topology.DEAD_QUEUE].messages, len(self.letters or []))

    @property
    def last(self) -> Sample | None:
        """The newest sample, if it is not an old one."""
        samples = self.past.samples if self.past else []
        return samples[0] if samples and samples[0].at > self.at - 3 * MINUTE else None

    @property
    def failed(self) -> int | None:
        """How many tasks are known to have failed in the last hour."""
        if self.past is None or not self.past.samples:
            return None
        counts = [sample.failed for sample in self.past.samples if sample.at > self.at - 60 * MINUTE]
        known = sum(count or 0 for count in counts)
        return None if None in counts and not known else known


@blueprint.before_request
def ask_password() -> None:
    """Let nobody in without Flower's password; who guesses has to wait.

    Raises:
        ProblemError: 401, 429; 404 where there is no password.
    """
    settings = services().settings
    password = settings.flower_password.get_secret_value()
    if not password:
        raise ProblemError(HTTPStatus.NOT_FOUND, NOTHING_HERE)
    given = request.authorization
    if given is None or given.type != "basic":
        raise _unauthorized()
    attempt = Window(client(), GUESSES, GUESSES_EVERY, 1)
    if len(_guesses.entries) > CLIENTS_KNOWN:
        _guesses.entries.clear()
    # before the password is looked at: a right guess among too many is none
    if wait := max(_guesses.take([attempt]), default=0):
        detail = f"Too many wrong passwords came from here: wait {wait} s."
        raise ProblemError(HTTPStatus.TOO_MANY_REQUESTS, detail, retry_after=wait)
    if not _same(f"{given.username}:{given.password}", f"{settings.flower_user}:{password}"):
        logger.warning("operators' page: a wrong password")
        raise _unauthorized()
    _guesses.give_back([attempt.key])


@blueprint.get("/")
def board() -> ResponseReturnValue:
    """The page."""
    hours = request.args.get("hours", USUAL_RANGE, type=int)
    hours = hours if hours in RANGES else USUAL_RANGE
    # first, for it says which letters could be seen
    token = _signer().dumps("operators")
    seen = _look()
    return render_template(
        "operators.html",
        board=seen,
        plots=_plots(seen, hours) if seen.past else [],
        hours=hours,
        ranges=RANGES,
        settings=services().settings,
        tasks=TASKS,
        own=_own_queues(),
        token=token,
        span=span,
    )


@blueprint.post("/dead")
def decide() -> ResponseReturnValue:
    """Queue dead letters again, or remove them: one, or all that were there when the form was made.

    Raises:
        ProblemError: 400, 403; 503, with what was done up to then to be seen on the page.
    """
    try:
        _, made = _signer().loads(request.form.get("token", ""), max_age=FORM_EXPIRES, return_timestamp=True)
    except BadData:
        raise ProblemError(HTTPStatus.FORBIDDEN, "This form is too old: load the page anew and try again.") from None
    what, task_id = request.form.get("do", ""), request.form.get("task_id", "")
    everything = request.form.get("all") == "yes"
    if what not in ("replay", "purge") or everything == bool(task_id):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "Say do=replay or do=purge, and either a task_id or all=yes.")
    chosen = None if everything else {task_id}
    parts = services()
    letters = DeadLetters(parts.settings, PATIENCE, ACT_WITHIN, ACT_ON)
    try:
        if what == "replay":
            done = letters.replay(parts.records, parts.publisher, parts.claims, chosen, made.timestamp())
        else:
            done = letters.purge(chosen, made.timestamp())
    except (PublishError, RecordsUnavailableError) as error:
        logger.warning("dead letters: %s ended early: %s", what, error)
        detail = "RabbitMQ or Redis does not answer. What is still among the dead letters was not touched: try again."
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, retry_after=5) from error
    named, others = ", ".join(done.task_ids[:NAMED]), len(done.task_ids) - NAMED
    more = f" and {others} more" if others > 0 else ""
    logger.warning("dead letters: an operator said %s: %s%s", what, named or "none was there", more)
    flash(_said(what, done))
    return redirect(url_for("operators.board"), HTTPStatus.SEE_OTHER)


def _said(what: str, done: Done) -> str:
    if not done.task_ids and not done.more:
        return "Nothing to do: it is no longer among the dead letters, or was delivered."
    number = len(done.task_ids)
    count = "1 dead letter was" if number == 1 else f"{number or 'No'} dead letters were"
    outcome = "queued again" if what == "replay" else "removed for good"
    more = f" There are more: press again, or use messagingctl dead {what} on a host." if done.more else ""
    return f"{count} {outcome}.{more}"


def _look() -> Board:
    parts = services()
    trouble: list[str] = []
    depths: dict[str, Depth] | None = None
    dead: list[Letter] | None = None
    try:
        depths = parts.watcher.depths(all_queues(parts.settings))
        # of each at once what is shown: their texts are long
        dead = [_letter(each) for each in DeadLetters(parts.settings, PATIENCE, LOOK_WITHIN).oldest(LETTERS_SHOWN)]
    except UnroutableError:
        trouble.append("A queue is missing in RabbitMQ: run the playbook, which declares them.")
    except PublishError:
        trouble.append(f"RabbitMQ does not answer: queues and dead letters are not known. {SEE} rabbitmq-server.")
    past = workers = uses = None
    reasons: dict[str, str] = {}
    keys: tuple[Key, ...] = ()
    try:
        keys = read(parts.settings.keys_path)
    except KeysError as error:
        trouble.append(f"The API keys cannot be read: {error}.")
    try:
        # the first that cannot be asked ends it: each would wait as long
        workers = presence.seen(parts.redis)
        if relay := cast("str | None", parts.redis.get(store.SMTP_PROBLEM_KEY)):
            trouble.append(f"Mail waits for the relay: {mask_addresses(relay)}.")
        uses = [] if parts.settings.mail_embedded else parts.budgets.used(keys)
        past = parts.history.read()
        records = parts.records.many([each.task_id for each in dead or []])
        reasons = {record.task_id: record.reason for record in records if record and record.reason}
    except (RedisError, BudgetsUnavailableError):
        unknown = "workers, budgets, failures and the last hours are not known"
        trouble.append(f"Redis does not answer: {unknown}. {SEE} redis-server.")
    except RecordsUnavailableError:
        trouble.append("The records of tasks cannot be read: failures and the last hours are not known.")
    if dead is not None:
        dead = [replace(each, reason=reasons.get(each.task_id, each.reason)) for each in dead]
    return Board(
        at=time.time(),
        trouble=[*trouble, *_to_do(depths, workers, dead)],
        depths=depths,
        letters=dead,
        past=past,
        workers=workers,
        uses=uses,
        keys={key.id: key.name for key in keys},
    )


def _to_do(
    depths: Mapping[str, Depth] | None, workers: Sequence[Seen] | None, dead: Sequence[Letter] | None
) -> Iterator[str]:
    """What in it needs somebody."""
    for name in services().settings.queues:
        if depths is not None and not depths[name].consumers:
            yield f"No worker reads the queue {name}. {SEE} 'messaging-worker@*'."
    if workers is not None and not workers:
        yield f"No worker has said that it is there. {SEE} 'messaging-worker@*'."
    for worker in workers or ():
        if worker.away:
            yield f"The worker {worker.name} has not been heard of for {span(worker.ago)}."
    if dead:
        yield "There are dead letters: look why, and try them again or remove them."


def _letter(dead: DeadLetter) -> Letter:
    name = TASKS.get(dead.job.task.removeprefix("messaging."), "Not one of our tasks")
    to = dead.job.kwargs.get("to")
    return Letter(
        task_id=dead.job.task_id,
        what=f"{name} to {mask(to)}" if isinstance(to, str) else name,
        reason=dead.reason,
        died_at=dead.died_at,
        replayable=dead.job.task != FOREIGN,
    )


def _plots(seen: Board, hours: int) -> list[Plot]:
    settings = services().settings
    known = seen.past.samples if seen.past else []
    # the clock of whoever took the newest may be ahead
    end = max([int(seen.at // MINUTE) * MINUTE, *(sample.at for sample in known[:1])])
    start = end - hours * 60 * MINUTE
    samples = [sample for sample in reversed(known) if start < sample.at <= end]
    times = [sample.at for sample in samples]

    def depths(names: list[str]) -> list[float | None]:
        return [
            None if sample.queues is None else sum(sample.queues.get(name, 0) for name in names) for sample in samples
        ]

    others = [name for name in settings.queues if name != settings.email_queue]
    queues = {
        settings.email_queue: depths([settings.email_queue]),
        ", ".join(others): depths(others),
        "to be tried again": depths(_delays()),
        "dead letters": depths([topology.DEAD_QUEUE]),
    }
    if not others:
        del queues[""]
    rates: dict[str, list[float | None]] = {
        name: [getattr(sample, name) for sample in samples] for name in ("accepted", "succeeded", "failed")
    }
    ages: dict[str, list[float | None]] = {"oldest mail": [sample.oldest or 0.0 for sample in samples]}
    many = [("Waiting", queues, COUNTS), ("Tasks a minute", rates, COUNTS), ("Age of the oldest mail", ages, LENGTHS)]
    return [plot(title, times, values, start, end, scale) for title, values, scale in many]


def _delays() -> list[str]:
    return [topology.delay_queue(seconds) for seconds in services().settings.delays]


def _own_queues() -> dict[str, str]:
    """The queues that no worker reads, and what they are for."""
    delays = services().settings.delays
    waits = {topology.delay_queue(seconds): f"tried again after {span(seconds)}" for seconds in delays}
    return {**waits, topology.DEAD_QUEUE: "for you to decide", topology.UNROUTED_QUEUE: "no queue took it"}


def _signer() -> URLSafeTimedSerializer:
    settings = services().settings
    known = [settings.secret_key_previous.get_secret_value(), settings.secret_key.get_secret_value()]
    return URLSafeTimedSerializer([key for key in known if key], salt="operators")


def _same(given: str, wanted: str) -> bool:
    # of one length, so that comparing tells nothing about it
    digests = [hashlib.sha256(text.encode(errors="replace")).digest() for text in (given, wanted)]
    return hmac.compare_digest(*digests)


def _unauthorized() -> ProblemError:
    """The realm is Flower's too: who has given the password there need not give it again."""
    detail = "This page asks for the user and the password of the operators, as Flower does."
    headers = {"WWW-Authenticate": 'Basic realm="operators", charset="UTF-8"'}
    return ProblemError(HTTPStatus.UNAUTHORIZED, detail, headers=headers)
