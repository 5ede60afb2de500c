"""What callers send and what they are told, as models: they validate, and the API's description is made of them."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.json_schema import SkipJsonSchema

from messaging.addresses import LONGEST_ADDRESS
from messaging.job import ANALYZE_SENTIMENT, LOG_TIME, REVERSE_TEXT, SEND_EMAIL
from messaging.mail.message import ENCODED_WORD
from messaging.recipients import accepted
from messaging.results import State
from messaging.settings import CLEAN, ONE_LINE, Settings

# What a validation has to know
SETTINGS = "settings"

LONGEST_LIST = 200
# of what is wrong, this many are told
MOST_ERRORS = 20

CURSOR = r"^[0-9]{1,11}[.][0-9]{1,9}:[0-9a-f-]{36}$"
MEANINGS = {
    CLEAN: "must not contain NUL",
    ONE_LINE: "must be one line, without control characters and without any that turn its direction",
    CURSOR: "must be as it stands in `next`",
}
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


class Parameters(BaseModel):
    """The parameters of a task."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SendEmail(Parameters):
    """A mail to one recipient."""

    to: Annotated[
        str,
        Field(
            max_length=LONGEST_ADDRESS,
            description="One address. A domain outside ASCII is converted.",
            examples=["me@example.com"],
            json_schema_extra={"format": "email", "minLength": 3},
        ),
    ]
    subject: Annotated[
        str,
        Field(
            min_length=1,
            max_length=200,
            pattern=ONE_LINE,
            description="One line, without encoded words (RFC 2047).",
            examples=["Hello"],
        ),
    ]
    text: Annotated[
        str,
        Field(min_length=1, max_length=50_000, pattern=CLEAN, description="The body.", examples=["How are you?"]),
    ]
    html: Annotated[
        str,
        Field(
            max_length=100_000,
            pattern=CLEAN,
            description="The body as HTML, for readers that show it.",
            examples=["<p>How are <b>you</b>?</p>"],
        ),
    ] = ""

    @field_validator("subject")
    @classmethod
    def _plain(cls, value: str) -> str:
        if ENCODED_WORD.search(value):
            raise ValueError("must not contain an encoded word (=?...?=): write it plainly")
        return value

    @field_validator("to")
    @classmethod
    def _address(cls, value: str, info: ValidationInfo) -> str:
        settings: Settings = (info.context or {})[SETTINGS]
        return accepted(value, settings)


class Text(Parameters):
    """A text to work on."""

    text: Annotated[
        str,
        Field(min_length=1, max_length=2_000, pattern=CLEAN, description="The text.", examples=["What a lovely day"]),
    ]


class ShortText(Parameters):
    """A text of a few sentences."""

    # the analyser's time grows with the square of the words, and it reads an emoji as up to six: half a second at worst
    text: Annotated[
        str,
        Field(min_length=1, max_length=500, pattern=CLEAN, description="The text.", examples=["What a lovely day"]),
    ]


class Nothing(Parameters):
    """A task without parameters."""


TaskId = Annotated[str, Field(json_schema_extra={"format": "uuid"}, examples=["0f8fad5b-d9cb-469f-a165-70867728950e"])]
Url = Annotated[str, Field(json_schema_extra={"format": "uri-reference"})]


class Accepted(BaseModel):
    """A task that was taken: it will be done, or reported as failed with the reason."""

    task_id: Annotated[TaskId, Field(description="Keep it: whoever knows it may read the task.")]
    state: State
    status_url: Annotated[Url, Field(description="Where its state can be read.")]
    tracked: Annotated[
        bool, Field(description="False while states cannot be recorded: the task will be done all the same.")
    ] = True


class Mailed(BaseModel):
    """What a mail brought: the relay has taken it."""

    message_id: Annotated[str, Field(description="Its Message-ID.")]
    reply: Annotated[str, Field(description="What the relay said.")]


class Reversed(BaseModel):
    """What a text brought that was to be reversed."""

    text: str


class Scores(BaseModel):
    """How a text sounds: parts that add up to 1, and all of it in one number."""

    compound: Annotated[float, Field(ge=-1, le=1)]
    negative: Annotated[float, Field(ge=0, le=1)]
    neutral: Annotated[float, Field(ge=0, le=1)]
    positive: Annotated[float, Field(ge=0, le=1)]


class Sentiment(BaseModel):
    """What a text brought whose sentiment was asked for."""

    label: Literal["positive", "neutral", "negative"]
    scores: Scores


class Logged(BaseModel):
    """What the time brought that was to be logged."""

    line: Annotated[str, Field(description="As it stands in the log.")]


class Task(BaseModel):
    """A task and what became of it."""

    task_id: TaskId
    task: Literal["send_email", "log_time", "reverse_text", "analyze_sentiment"]
    state: State
    submitted_at: datetime
    updated_at: datetime
    attempts: Annotated[int, Field(ge=0, description="How often a worker has begun it.")]
    result: Annotated[
        Mailed | Reversed | Sentiment | Logged | SkipJsonSchema[None],
        Field(description="What it brought, once it has succeeded."),
    ] = None
    reason: Annotated[str, Field(description="Why it failed, or waits.")] = ""


class TaskList(BaseModel):
    """Tasks, newest first."""

    tasks: list[Task]
    next: Annotated[
        Url, Field(description="Where the list goes on, maybe. A part may be shorter than asked for, even empty.")
    ] = ""


class FieldError(BaseModel):
    """What is wrong with one field."""

    field: str
    detail: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: Annotated[str, Field(description="What is wrong, and the fix.")]
    request_id: Annotated[str, Field(description="By this the log knows the request.")] = ""
    task_id: Annotated[str, Field(description="The task that this is about.")] = ""
    parameter: Annotated[str, Field(description="The parameter or header at fault.")] = ""
    state: Annotated[str, Field(description="The state that the task is in.")] = ""
    budget: Annotated[str, Field(description="The budget that is used up.")] = ""
    errors: Annotated[list[FieldError], Field(description="Every field of the body that is wrong.")] = []


def _date_time(value: object) -> object:
    """RFC 3339, and none of the other forms that pydantic would take."""
    if isinstance(value, str):
        # a plus sign in an address is a space
        value = re.sub(r" (?=\d\d:\d\d$)", "+", value) if value.count(":") == 3 else value
    if not isinstance(value, str) or not DATE_TIME.fullmatch(value):
        raise ValueError("must be a date and time with its zone, such as 2026-01-31T12:00:00Z")
    return value


DateTime = Annotated[AwareDatetime, BeforeValidator(_date_time)]


class TaskQuery(BaseModel):
    """What `GET /tasks` can be asked."""

    model_config = ConfigDict(extra="forbid")

    state: Annotated[State | SkipJsonSchema[None], Field(description="Only tasks in this state.")] = None
    since: Annotated[DateTime | SkipJsonSchema[None], Field(description="Only tasks submitted then or later.")] = None
    until: Annotated[DateTime | SkipJsonSchema[None], Field(description="Only tasks submitted then or earlier.")] = None
    limit: Annotated[
        int, Field(ge=1, le=LONGEST_LIST, description="How many at most."), BeforeValidator(lambda value: _whole(value))
    ] = 50
    after: Annotated[
        Annotated[str, Field(pattern=CURSOR)] | SkipJsonSchema[None],
        Field(description="As in `next`."),
    ] = None


def _whole(value: object) -> object:
    """A number as it is written in JSON."""
    if isinstance(value, str) and not re.fullmatch(r"-?(0|[1-9][0-9]*)", value, re.ASCII):
        raise ValueError("must be a whole number")
    return value


@dataclass(frozen=True)
class Kind:
    """One kind of task: `name` in addresses, `task` in messages, the model of its parameters, and what it does."""

    name: str
    task: str
    parameters: type[Parameters]
    summary: str


KINDS = {
    kind.name: kind
    for kind in (
        Kind("send-email", SEND_EMAIL, SendEmail, "Send a mail"),
        Kind("reverse-text", REVERSE_TEXT, Text, "Reverse a text"),
        Kind("analyze-sentiment", ANALYZE_SENTIMENT, ShortText, "Tell whether an English text is positive or negative"),
        Kind("log-time", LOG_TIME, Nothing, "Append the current time to the log of times"),
    )
}

_PLAINLY = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "string_type": "must be a text",
    "string_unicode": "must be a text in Unicode, without half of a pair",
    "string_too_short": "has less than {min_length} characters",
    "string_too_long": "has more than {max_length} characters",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "enum": f"must be one of {', '.join(State)}",
}


def field_errors(error: ValidationError) -> list[dict[str, str]]:
    """`[{"field": ..., "detail": ...}]`: what is wrong, without the values."""
    found = []
    for problem in error.errors(include_url=False, include_input=False)[:MOST_ERRORS]:
        context = problem.get("ctx") or {}
        detail = MEANINGS.get(str(context.get("pattern"))) or _PLAINLY.get(problem["type"], "").format(**context)
        field = str(problem["loc"][0]) if problem["loc"] else ""
        found.append({"field": field, "detail": (detail or problem["msg"].removeprefix("Value error, ")).rstrip(".")})
    return found
