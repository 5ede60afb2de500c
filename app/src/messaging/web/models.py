"""What callers send and what they are told, as models: they validate, and the API's description is made of them."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from messaging.addresses import LONGEST_ADDRESS, normalise
from messaging.job import ANALYZE_SENTIMENT, LOG_TIME, REVERSE_TEXT, SEND_EMAIL

STAYS_ON_HOST = "stays_on_host"

# Neither NUL, which no mail may hold, nor half of a surrogate pair, which has no encoding
_CLEAN = r"^[^\u0000\ud800-\udfff]*$"


class Parameters(BaseModel):
    """The body of a request that submits a task."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SendEmail(Parameters):
    """A mail to one recipient."""

    to: Annotated[
        str,
        Field(
            min_length=3,
            max_length=LONGEST_ADDRESS,
            description="One address. A domain outside ASCII is converted.",
            examples=["me@example.com"],
            json_schema_extra={"format": "email"},
        ),
    ]
    subject: Annotated[
        str,
        Field(
            min_length=1,
            max_length=200,
            pattern=r"^[^\u0000\r\n\ud800-\udfff]*$",
            description="One line.",
            examples=["Hello"],
        ),
    ]
    text: Annotated[
        str,
        Field(min_length=1, max_length=50_000, pattern=_CLEAN, description="The body.", examples=["How are you?"]),
    ]
    html: Annotated[
        str | None,
        Field(max_length=100_000, description="The same as HTML, for readers that show it.", examples=["<p>Hi</p>"]),
    ] = None

    @field_validator("to")
    @classmethod
    def _address(cls, value: str, info: ValidationInfo) -> str:
        return normalise(value, stays_on_host=bool((info.context or {}).get(STAYS_ON_HOST)))


class Text(Parameters):
    """A text to work on."""

    text: Annotated[
        str,
        Field(min_length=1, max_length=10_000, pattern=_CLEAN, description="The text.", examples=["What a lovely day"]),
    ]


class Nothing(Parameters):
    """A task without parameters."""


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
        Kind("analyze-sentiment", ANALYZE_SENTIMENT, Text, "Say whether an English text is positive or negative"),
        Kind("log-time", LOG_TIME, Nothing, "Append the current time to the log of times"),
    )
}


def field_errors(error: ValidationError) -> list[dict[str, Any]]:
    """`[{"field": ..., "detail": ...}]`: what is wrong, without the values."""
    return [
        {
            "field": ".".join(str(part) for part in problem["loc"]),
            "detail": problem["msg"].removeprefix("Value error, "),
        }
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
