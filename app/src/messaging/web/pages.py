"""Pages for people. Everything works without JavaScript; with it, the same addresses answer in JSON."""

import functools
import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from flask import (
    Blueprint,
    Response,
    current_app,
    flash,
    jsonify,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from flask.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue
from pydantic import ValidationError

from messaging import __version__
from messaging.job import ANALYZE_SENTIMENT, REVERSE_TEXT, SEND_EMAIL
from messaging.keys import MAIL, TASKS
from messaging.mailbox import Mailbox
from messaging.masking import mask_addresses
from messaging.publisher import PublishError
from messaging.results import FINAL, Record, RecordsUnavailableError, State
from messaging.web import SAFE_HEADERS, services, visitor
from messaging.web.auth import allow, who
from messaging.web.letter import Letter
from messaging.web.models import KINDS, Kind, field_errors
from messaging.web.panel import Panel, Sight
from messaging.web.problems import ProblemError, for_a_person
from messaging.web.submission import parameters, submit, submit_once

blueprint = Blueprint("pages", __name__)

CALLS = {
    "/?sendmail=<address>": "queue a mail to that address; answers with the task's id",
    "/?talktome": "append the current time to the log; answers with the line",
    "/?talktome=async": "the same through the queue",
    "/api/": "the JSON API: how to submit any kind of task, and to follow or cancel it",
    "/api/v1/openapi.json": "the same for programs",
    "/api/v1/tasks/<task_id>": "the state of a task",
    "/healthz": "is the process alive",
    "/readyz": "can it do its work, and if not, why",
}
TITLES = {SEND_EMAIL: "Email", REVERSE_TEXT: "Reversed text", ANALYZE_SENTIMENT: "Sentiment"}
# Each form carries a key of its own, so that sending it again after an error is safe
KEY = "key"
FORM_KEY = re.compile(r"[\w-]{16,64}", re.ASCII)
# A mail is shown and does nothing: no scripts, no forms, nothing loaded from anywhere. Its links open beside the page
NEW_WINDOW = '<base target="_blank">'
CONTAINED = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; "
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)


@dataclass(frozen=True)
class Seen:
    """A task of this visitor; `record` is None where nothing is known of it now."""

    task_id: str
    record: Record | None

    @property
    def title(self) -> str:
        """What it is, in a word or two."""
        return TITLES.get(self.record.task, self.record.task) if self.record else "Task"

    @property
    def state(self) -> str:
        """The state's name."""
        return self.record.state if self.record else "unknown"

    @property
    def over(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.record is None or self.record.state in FINAL

    @property
    def can_be_opened(self) -> bool:
        """Whether it is a mail that lies on this host."""
        record = self.record
        return bool(
            record
            and record.task == SEND_EMAIL
            and record.state is State.SUCCEEDED
            and services().settings.mail_embedded
        )

    @property
    def says(self) -> str:
        """One sentence for the notice."""
        reason = f" ({self.record.reason})" if self.record and self.record.reason else ""
        return f"{self.title}: {self.state}{reason}."


@dataclass(frozen=True)
class Live:
    """All on the page that changes by itself. `away` is true while states cannot be read."""

    tasks: list[Seen]
    away: bool
    sight: Sight

    @property
    def unfinished(self) -> bool:
        """Whether it is worth asking again soon."""
        return any(not seen.over for seen in self.tasks) or (self.away and bool(self.tasks))

    def newest(self, kind: Kind) -> Seen | None:
        """The last task of a kind."""
        return next((seen for seen in self.tasks if seen.record and seen.record.task == kind.task), None)

    def regions(self) -> dict[str, str]:
        """The parts of the page that show it, as HTML, by name."""
        return {
            "tasks": render_template("parts/tasks.html", live=self),
            "panel": render_template("parts/panel.html", sight=self.sight),
            **{name: render_template("parts/outcome.html", seen=self.newest(kind)) for name, kind in CARDS.items()},
        }

    def document(self) -> dict[str, Any]:
        """The same for the page's script."""
        tasks = [
            {"task_id": seen.task_id, "state": seen.state, "over": seen.over, "says": seen.says} for seen in self.tasks
        ]
        return {"tasks": tasks, "unfinished": self.unfinished, "regions": self.regions()}


CARDS = {name: KINDS[name] for name in ("send-email", "reverse-text", "analyze-sentiment")}


@blueprint.record
def _set_up(state: BlueprintSetupState) -> None:
    state.app.extensions["messaging.panel"] = Panel()
    state.app.jinja_env.globals.update(asset=asset, version=__version__)
    state.app.jinja_env.filters.update(moment=moment, masked=mask_addresses)


def asset(name: str) -> str:
    """The address of a static file; another content has another address, since a browser may keep one for a minute."""
    return url_for("static", filename=name, v=_digest(Path(cast("str", current_app.static_folder), name)))


@functools.cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def moment(at: float | datetime) -> datetime:
    """A time, given in seconds or with any zone, in the zone of the service."""
    zone = services().settings.timezone
    return at.astimezone(zone) if isinstance(at, datetime) else datetime.fromtimestamp(at, tz=zone)


def home() -> ResponseReturnValue:
    """What the service is, and forms to use it; as JSON for clients that ask for it."""
    if request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json":
        return jsonify({"service": "messaging-system", "version": __version__, "calls": CALLS})
    return _home()


@blueprint.get("/robots.txt")
def robots() -> Response:
    """Nothing here is for search engines."""
    return Response("User-agent: *\nDisallow: /\n", mimetype="text/plain")


@blueprint.get("/recent")
def recent() -> ResponseReturnValue:
    """This visitor's tasks and the panel, for the script of the page: one request for everything that changes."""
    return jsonify(_live().document())


@blueprint.post(f"/<any({', '.join(repr(name) for name in CARDS)}):name>")
def hand_in(name: str) -> ResponseReturnValue:
    """Take a form in. A wrong one comes back with all that was typed, whatever its length."""
    kind = CARDS[name]
    request.max_form_memory_size = request.max_content_length
    fields = (KEY, *kind.parameters.model_fields)
    given = {field: request.form[field].replace("\r\n", "\n") for field in fields if field in request.form}
    try:
        answer = _submit(kind, given)
    except ProblemError as problem:
        if isinstance(problem.__cause__, PublishError) and problem.__cause__.uncertain:
            visitor.remember(problem.members["task_id"])  # it may be done all the same
        if not for_a_person():
            raise
        response = make_response(_home(name, given, problem), problem.status)
        if problem.retry_after is not None:
            response.headers["Retry-After"] = str(problem.retry_after)
        return response
    visitor.remember(answer["task_id"])
    title, task_id = TITLES[kind.task], answer["task_id"]
    unseen = "" if answer.get("tracked", True) else " Its state cannot be followed just now."
    notice = f"{title} queued: task {task_id}.{unseen}"
    if for_a_person():
        flash(notice)
        return redirect(url_for("actions.root"), HTTPStatus.SEE_OTHER)
    return jsonify({**answer, **_live().document(), "notice": notice, KEY: _new_key()}), HTTPStatus.ACCEPTED


@blueprint.get(f"/<any({', '.join(repr(name) for name in CARDS)}):name>")
def form_of(name: str) -> ResponseReturnValue:
    """Where a form's address is opened, such as after an error without JavaScript, the forms are."""
    return redirect(url_for("actions.root"), HTTPStatus.SEE_OTHER)


@blueprint.get("/mail/<task_id>")
def mail(task_id: str) -> ResponseReturnValue:
    """A delivered mail of this visitor."""
    letter = _letter(task_id)
    response = make_response(render_template("mail.html", letter=letter, task_id=task_id))
    response.headers["Content-Security-Policy"] = f"{SAFE_HEADERS['Content-Security-Policy']}; frame-src 'self'"
    return response


@blueprint.get("/mail/<task_id>/html")
def mail_html(task_id: str) -> ResponseReturnValue:
    """The HTML of the same, for the frame on that page."""
    letter = _letter(task_id)
    if letter.html is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, "This mail has no HTML part.")
    response = Response(NEW_WINDOW + letter.html, mimetype="text/html")
    response.headers["Content-Security-Policy"] = CONTAINED
    response.headers["X-DNS-Prefetch-Control"] = "off"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def _home(name: str = "", given: Mapping[str, str] | None = None, problem: ProblemError | None = None) -> str:
    """The page; with what was `given` to the form `name`, and the problem with it."""
    errors = problem.members.get("errors", []) if problem else []
    return render_template(
        "home.html",
        cards=CARDS,
        live=_live(),
        settings=services().settings,
        given={name: given or {}},
        errors={name: {error["field"]: error["detail"] for error in errors}},
        problem=problem,
        new_key=_new_key,
        longest=_longest,
    )


@functools.cache
def _longest(name: str, field: str) -> int:
    """How long a field of a form may be."""
    schema = CARDS[name].parameters.model_json_schema()
    return int(schema["properties"][field]["maxLength"])


def _submit(kind: Kind, given: Mapping[str, str]) -> dict[str, Any]:
    """Queue what a form says; sent again as it is, it is the same task.

    Raises:
        ProblemError: 403, 422 or 503.
    """
    allow(MAIL if kind.task == SEND_EMAIL else TASKS)
    kwargs = _checked(kind, {field: value for field, value in given.items() if field != KEY})
    key = given.get(KEY, "")
    if not FORM_KEY.fullmatch(key):
        return submit(kind.task, kwargs)
    # what was changed in between is another task
    return submit_once(kind.task, kwargs, f"{key}-{hashlib.sha256(json.dumps(kwargs).encode()).hexdigest()}")


def _new_key() -> str:
    return secrets.token_urlsafe(16)


def _checked(kind: Kind, given: dict[str, str]) -> dict[str, Any]:
    """The parameters of a task from a form.

    Raises:
        ProblemError: 422, with what is wrong with each field.
    """
    settings = services().settings
    if kind.task == SEND_EMAIL and not settings.mail_embedded and MAIL not in who().scopes:
        # through a real relay strangers send one text only, or this would be a way to send spam
        given = {"to": given.get("to", ""), "subject": settings.sendmail_subject, "text": settings.sendmail_text}
    try:
        return parameters(kind, given)
    except ValidationError as error:
        errors = [
            {**each, "detail": _sentence(each["detail"]) if given.get(each["field"]) else "Please fill this in."}
            for each in field_errors(error)
        ]
        detail = "Nothing was queued: please look at what is marked."
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors) from None


def _sentence(detail: str) -> str:
    return f"{detail[:1].upper()}{detail[1:].rstrip('.')}."


def _live() -> Live:
    tasks: list[Seen] = []
    away = False
    for task_id in visitor.tasks():
        try:
            # once it is away, no more time is spent on it
            record = None if away else services().records.get(task_id)
        except RecordsUnavailableError:
            record, away = None, True
        tasks.append(Seen(task_id, record))
    panel = cast("Panel", current_app.extensions["messaging.panel"])
    return Live(tasks, away, panel.look(services()))


def _letter(task_id: str) -> Letter:
    """A delivered mail of this visitor.

    Raises:
        ProblemError: 404; an id that is not the visitor's is answered as one that does not exist.
    """
    settings = services().settings
    if task_id not in visitor.tasks():
        raise ProblemError(HTTPStatus.NOT_FOUND, "None of your recent tasks is a mail with this id.")
    seen = Seen(task_id, services().records.get(task_id))
    if seen.record is None or not seen.can_be_opened:
        raise ProblemError(HTTPStatus.NOT_FOUND, "This mail does not lie in the mailbox of this host, or not yet.")
    mailbox = Mailbox(settings.mailbox_path, settings.mailbox_keep, settings.mailbox_max_mb * 1024 * 1024)
    content = mailbox.find(seen.record.result["message_id"])
    if content is None:
        detail = (
            f"This mail was delivered and is no longer here: the mailbox keeps {settings.mailbox_keep}, the oldest go "
            "first. With several hosts it may lie on another one."
        )
        raise ProblemError(HTTPStatus.NOT_FOUND, detail)
    return Letter.from_bytes(content)
