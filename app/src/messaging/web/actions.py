"""The two actions that a plain GET can ask for: `?sendmail=<address>` and `?talktome`."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import parse_qsl

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from messaging.job import LOG_TIME, SEND_EMAIL
from messaging.keys import MAIL, TASKS
from messaging.recipients import accepted
from messaging.timelog import TimeLogError, append_now
from messaging.web import pages, services
from messaging.web.auth import allow
from messaging.web.crossorigin import refuse_action
from messaging.web.problems import RETRY_AFTER, ProblemError, for_a_person
from messaging.web.robots import is_robot
from messaging.web.submission import queue, ticket, tickets

blueprint = Blueprint("actions", __name__)

SENDMAIL = "sendmail"
TALKTOME = "talktome"
HOW_TO_CALL = "Use ?sendmail=<address> to send a mail, ?talktome to log the time."
MAX_PARAMETERS = 20
PREFETCH_HEADERS = ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")
# a navigation, a script of our own page, or no browser
DECIDED = frozenset({"", "document", "empty"})
# what a page asks for to put into itself
EMBEDDED = ("image/", "video/", "audio/", "text/css", "font/")
PREFETCH_WORDS = ("prefetch", "prerender", "preview")


@dataclass(frozen=True)
class Actions:
    """What a query string asks for. `talktome` is None, "" (at once) or "async" (through the queue)."""

    sendmail: str | None
    talktome: str | None

    @classmethod
    def from_query(cls, query: bytes) -> Self:
        """Read a query string. A plus sign is a plus sign: addresses have them, and no address has a bare space.

        Raises:
            ProblemError: 400, naming the parameter at fault.
        """
        try:
            pairs = parse_qsl(
                query.decode("ascii").replace("+", "%2B"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=MAX_PARAMETERS,
            )
        except ValueError:
            raise _bad("The query string is not percent-encoded UTF-8, or has too many parameters.") from None
        values: dict[str, str] = {}
        for name, value in pairs:
            if name in (SENDMAIL, TALKTOME):
                if name in values:
                    raise _bad(f"{name} is given more than once; one request does it once.", name)
                values[name] = value
        talktome = values.get(TALKTOME)
        if talktome not in (None, "", "async"):
            raise _bad("talktome takes no value, or async to go through the queue.", TALKTOME)
        sendmail = values.get(SENDMAIL)
        if sendmail is not None:
            try:
                sendmail = accepted(sendmail, services().settings)
            except ValueError as error:
                raise _bad(f"sendmail: {error}", SENDMAIL) from None
        return cls(sendmail=sendmail, talktome=talktome)

    def __bool__(self) -> bool:
        return self.sendmail is not None or self.talktome is not None


@blueprint.get("/")
def root() -> ResponseReturnValue:
    """Do what the query string asks for; without an action, say what this service is."""
    if request.method == "HEAD":
        return pages.home()
    actions = Actions.from_query(request.query_string)
    if not actions and request.query_string and not for_a_person():
        # a misspelt parameter is not a visit
        raise _bad(f"No action is named. {HOW_TO_CALL}")
    return perform(actions) if actions else pages.home()


@blueprint.get("/action")
def action() -> ResponseReturnValue:
    """Do what the query string asks for."""
    if request.method == "HEAD":
        return Response(status=HTTPStatus.OK)
    actions = Actions.from_query(request.query_string)
    if not actions:
        raise _bad(f"No action is named. {HOW_TO_CALL}")
    return perform(actions)


def perform(actions: Actions) -> ResponseReturnValue:
    """Queue first, then write: when the broker is away, nothing has happened.

    Raises:
        ProblemError: nothing was done, or the detail says what.
    """
    refuse_undecided()
    refuse_action()
    if actions.sendmail is not None:
        allow(MAIL)
    if actions.talktome is not None:
        allow(TASKS)
    settings = services().settings
    mail = {"to": actions.sendmail, "subject": settings.sendmail_subject, "text": settings.sendmail_text}
    wanted = [
        *([(SEND_EMAIL, mail)] if actions.sendmail is not None else []),
        *([(LOG_TIME, {})] if actions.talktome is not None else []),
    ]
    alone = len(wanted) == 1 and actions.talktome != ""
    admitted = [ticket(*wanted[0])] if alone else tickets(*wanted)
    answer: dict[str, Any] = {}
    if actions.sendmail is not None:
        # nor will the time be logged
        answer |= queue(*admitted)
    if actions.talktome == "async":
        try:
            logging_task = queue(admitted[-1])
        except ProblemError as problem:
            if not answer:
                raise
            raise _half_done("The mail is queued; the time will not be logged.", answer) from problem
        answer |= {TALKTOME: logging_task} if answer else logging_task
    if actions.talktome == "":
        try:
            answer["logged"] = append_now(settings.timelog_path, settings.timezone)
        except TimeLogError:
            admitted[-1].taken.give_back()
            queued = "The mail is queued; the" if answer else "The"
            raise _half_done(f"{queued} time is not logged: /readyz says why.", answer) from None
    response = jsonify(answer)
    if "task_id" in answer:
        response.status_code = HTTPStatus.ACCEPTED
        response.headers["Location"] = answer["status_url"]
        response.headers["Retry-After"] = "1"
    return response


def refuse_undecided() -> None:
    """Refuse a request that nobody has decided to make: of a browser in advance, of a page's image, of a robot.

    Raises:
        ProblemError: 403.
    """
    for name in PREFETCH_HEADERS:
        said = request.headers.get(name, "").lower()
        if said and any(word in said for word in PREFETCH_WORDS):
            raise ProblemError(HTTPStatus.FORBIDDEN, f"{name}: a page that is fetched in advance does nothing here.")
    # https://www.w3.org/TR/fetch-metadata/#sec-fetch-dest-header; over plain HTTP only Accept tells an image
    kinds = list(request.accept_mimetypes.values())
    embedded = "text/html" not in kinds and any(kind.startswith(EMBEDDED) for kind in kinds)
    if request.headers.get("Sec-Fetch-Dest", "") not in DECIDED or embedded:
        detail = "A page asked for this as an image, a frame or the like, and nobody decided to: nothing was done."
        raise ProblemError(HTTPStatus.FORBIDDEN, detail)
    if is_robot(request.headers.get("User-Agent", "")):
        detail = (
            "This User-Agent is one of a program that follows links by itself, such as a crawler or the preview of a "
            "message: nothing was done. If you meant it, use the page, or send another User-Agent."
        )
        raise ProblemError(HTTPStatus.FORBIDDEN, detail)


def _half_done(detail: str, answer: dict[str, Any]) -> ProblemError:
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, retry_after=RETRY_AFTER, **answer)


def _bad(detail: str, parameter: str | None = None) -> ProblemError:
    members: dict[str, Any] = {"parameter": parameter} if parameter else {}
    return ProblemError(HTTPStatus.BAD_REQUEST, detail, **members)
