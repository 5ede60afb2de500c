"""Every setting, typed, read once from the environment.

Names are `MSG_` and the field's name in capitals. What the environment does not say is read from
`$MSG_CONFIG_DIR/messaging.env`, secrets from the files in `$MSG_CONFIG_DIR/secrets/`; `<name>_previous` counts
there for a day.
"""

import contextlib
import functools
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from dotenv import dotenv_values
from email_validator import EmailNotValidError, validate_email
from limits import RateLimitItem, parse_many
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from messaging.addresses import list_entry
from messaging.mail.message import ENCODED_WORD

PREFIX = "MSG_"
# Seconds: as long as a repeated request is known
PREVIOUS_KEPT = 24 * 3600
CONFIG_DIR_VARIABLE = "MSG_CONFIG_DIR"
DEFAULT_CONFIG_DIR = Path("/etc/messaging-system")
# What a text and a subject may hold; ECMA 262 and Rust read these alike. Nothing in a subject may turn the direction in
# which it is shown (https://www.unicode.org/reports/tr9/#Explicit_Directional_Embeddings)
CLEAN = r"^[^\u0000]*$"
ONE_LINE = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]*$"
# of one limit: each hit is kept for as long as it counts
MOST_HITS = 100_000
LONGEST_WINDOW = 31 * 24 * 3600  # seconds
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class SettingsError(Exception):
    """The settings cannot be used. `str()` gives one readable line for each problem."""


def _comma_separated(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if value and not parts:
        # an empty list may mean everybody
        raise ValueError("has no entries: separate them by commas, or leave it empty")
    return parts


def _address(value: object) -> object:
    try:
        return validate_email(
            str(value), check_deliverability=False, strict=True, globally_deliverable=False
        ).ascii_email
    except EmailNotValidError as error:
        raise ValueError(f"not an email address: {error}") from None


def _recipients(value: object) -> object:
    parts = _comma_separated(value)
    return [list_entry(part) for part in parts] if isinstance(parts, list) else parts


@functools.cache
def rate_limits(text: str) -> tuple[RateLimitItem, ...]:
    """The limits in a text such as `5/minute; 20/hour`, in the notation of the library `limits`.

    Raises:
        ValueError: it says no limits, or one that is too large to be counted.
    """
    try:
        found = tuple(parse_many(text))
        if any(limit.amount > MOST_HITS or not 0 < limit.get_expiry() <= LONGEST_WINDOW for limit in found):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"not a list of limits: write it like 5/minute; 20/hour; 50/day, each up to {MOST_HITS} and up to a month"
        ) from None
    return found


def budget(text: str) -> str:
    """`text`, once it is known to say limits.

    Raises:
        ValueError: as `rate_limits`.
    """
    rate_limits(text)
    return text


Port = Annotated[int, Field(ge=1, le=65535)]
Budget = Annotated[str, AfterValidator(budget)]
Recipients = Annotated[list[str], BeforeValidator(_recipients)]
Address = Annotated[str, BeforeValidator(_address)]


class Settings(BaseModel):
    """All settings; times in seconds unless the name says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    amqp_hosts: Annotated[list[str], BeforeValidator(_comma_separated), Field(min_length=1)] = ["127.0.0.1:5672"]
    amqp_vhost: str = "messaging"
    amqp_user: str = "messaging"
    amqp_password: SecretStr = SecretStr("")
    # certificates that a broker's own, made for the address in amqp_hosts, has to come from; empty: no TLS
    amqp_ca_file: str = ""
    queues: Annotated[list[str], BeforeValidator(_comma_separated), Field(min_length=1)] = ["email", "compute"]
    email_queue: str = "email"
    compute_queue: str = "compute"
    delays: Annotated[list[Annotated[int, Field(ge=1)]], BeforeValidator(_comma_separated), Field(min_length=1)] = [
        5,
        15,
        60,
        300,
        1800,
    ]
    publish_timeout: Annotated[float, Field(gt=0, le=30)] = 1.5

    redis_host: str = "127.0.0.1"
    redis_port: Port = 6379
    redis_password: SecretStr = SecretStr("")
    # the same as amqp_ca_file
    redis_ca_file: str = ""
    result_backend: Literal["redis", "mongodb"] = "redis"
    mongodb_url: SecretStr = SecretStr("")
    result_expires: Annotated[int, Field(ge=24 * 3600)] = 7 * 24 * 3600

    metrics_path: Path = Path("/run/messaging-metrics")
    metrics_port: Port = 9180

    timelog_path: Path = Path("/var/log/messaging_system.log")
    timezone: ZoneInfo = ZoneInfo("UTC")

    mail_from: Address = "messaging@localhost.localdomain"
    mail_max_age: Annotated[int, Field(ge=1)] = 24 * 3600
    sendmail_subject: Annotated[str, Field(min_length=1, max_length=200, pattern=ONE_LINE)] = "A message for you"
    sendmail_text: Annotated[str, Field(min_length=1, max_length=50_000, pattern=CLEAN)] = (
        "Somebody asked messaging-system to send you this message."
    )

    smtp_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    smtp_port: Port = 2525
    smtp_security: Literal["none", "starttls", "tls"] = "none"
    smtp_username: str = ""
    smtp_password: SecretStr = SecretStr("")
    # a worker is given 120 s to finish, and one delivery takes three times this at the most
    smtp_timeout: Annotated[float, Field(gt=0, le=35)] = 20.0
    smtp_ca_file: str = ""

    # the addresses of nginx on other hosts; on this one it comes through the socket
    proxies: Annotated[list[str], BeforeValidator(_comma_separated)] = []

    mail_embedded: bool = True
    mailbox_path: Path = Path("/var/lib/messaging-system/mailbox")
    mailbox_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    mailbox_port: Port = 2525
    mailbox_keep: Annotated[int, Field(ge=1)] = 1000
    mailbox_max_mb: Annotated[int, Field(ge=1)] = 100

    # only with a relay: while mail stays on the host nobody is throttled
    budget_client: Budget = "5/minute; 20/hour; 50/day"
    budget_recipient: Budget = "2/hour; 5/day"
    budget_day: Budget = "500/day"
    budget_client_tasks: Budget = "30/minute; 1000/day"
    budget_tasks_day: Budget = "5000/day"
    budget_key: Budget = "60/minute; 1000/day"
    budget_key_alone: Budget = "10/minute"

    # addresses, domains and, with a dot before it, all below a domain
    recipients_allow: Recipients = []
    recipients_deny: Recipients = []

    # signs cookies and the ids of repeated requests
    secret_key: SecretStr = SecretStr("")
    # what it was before it was changed: still read, and not signed with
    secret_key_previous: SecretStr = SecretStr("")
    # Authorization: Bearer, for what only operators may see
    operator_key: SecretStr = SecretStr("")
    # the same for whoever was given a key; only hashes are in it, and it may change at any time
    keys_path: Path = DEFAULT_CONFIG_DIR / "keys.json"

    # of Flower, and of the operators' page
    flower_user: Annotated[str, Field(min_length=1, pattern=r"^[^:\x00-\x1f]+$")] = "operator"
    flower_password: SecretStr = SecretStr("")
    # RabbitMQ's own interface, login included: how long the queues are
    flower_broker_api: SecretStr = SecretStr("")
    flower_max_tasks: Annotated[int, Field(ge=1)] = 5000

    instance: str = "messaging"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if bool(self.smtp_username) != bool(self.smtp_password.get_secret_value()):
            raise ValueError("SMTP_USERNAME and SMTP_PASSWORD go together: set both or neither")
        if self.smtp_username and self.smtp_security == "none" and self.smtp_host not in LOOPBACK_HOSTS:
            raise ValueError("SMTP_SECURITY=none would send the login in clear: use starttls or tls")
        mongodb_url = self.mongodb_url.get_secret_value()
        if self.result_backend == "mongodb" and not mongodb_url:
            raise ValueError(
                "RESULT_BACKEND=mongodb needs MONGODB_URL, such as mongodb://user:password@server/messaging"
            )
        if mongodb_url and not re.match(r"mongodb(\+srv)?://[^/\s]", mongodb_url):
            raise ValueError("MONGODB_URL must begin with mongodb:// or mongodb+srv:// and the name of a server")
        for name, queue in (("EMAIL_QUEUE", self.email_queue), ("COMPUTE_QUEUE", self.compute_queue)):
            if queue not in self.queues:
                raise ValueError(f"{name}={queue} is not one of QUEUES={','.join(self.queues)}")
        if ENCODED_WORD.search(self.sendmail_subject):
            raise ValueError("SENDMAIL_SUBJECT contains an encoded word (=?...?=): write it plainly")
        if self.result_expires < self.mail_max_age + self.delays[-1]:
            raise ValueError(
                "RESULT_EXPIRES must be MAIL_MAX_AGE and the longest of DELAYS or more: a waiting mail has a record"
            )
        if self.delays != sorted(set(self.delays)):
            raise ValueError("DELAYS must grow from one to the next, such as 5,15,60")
        return self

    @property
    def amqp_urls(self) -> list[str]:
        """URL of each broker, password included: never log them."""
        login = f"{quote(self.amqp_user, safe='')}:{quote(self.amqp_password.get_secret_value(), safe='')}"
        return [f"amqp://{login}@{host}/{quote(self.amqp_vhost, safe='')}" for host in self.amqp_hosts]

    @property
    def redis_url(self) -> str:
        """URL of the Redis database, password included: never log it."""
        scheme, query = "redis", ""
        if self.redis_ca_file:
            scheme = "rediss"
            query = "?" + urlencode({"ssl_cert_reqs": "required", "ssl_ca_certs": self.redis_ca_file})
        password = quote(self.redis_password.get_secret_value(), safe="")
        return f"{scheme}://:{password}@{self.redis_host}:{self.redis_port}/0{query}"

    def masked(self) -> dict[str, str]:
        """Every setting as text under its environment name, secrets as asterisks."""
        return {
            PREFIX + name.upper(): ",".join(map(str, value)) if isinstance(value, list) else str(value)
            for name, value in self
        }


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Raises:
        SettingsError: with one line for each setting that is unknown, unreadable or out of range.
    """
    environment = os.environ if environment is None else environment
    config_dir = Path(environment.get(CONFIG_DIR_VARIABLE, DEFAULT_CONFIG_DIR))
    raw = {**_read_file(config_dir / "messaging.env"), **_read_secrets(config_dir / "secrets"), **environment}
    values = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in raw.items()
        if name.startswith(PREFIX) and name != CONFIG_DIR_VARIABLE
    }
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(_readable(problem) for problem in error.errors(include_url=False))) from None


@contextlib.contextmanager
def or_exit() -> Iterator[None]:
    """End the process over settings that cannot be used, in a way that systemd does not try again.

    Raises:
        SystemExit: EX_CONFIG; the reasons are on standard error.
    """
    try:
        yield
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(os.EX_CONFIG)


def _readable(problem: ErrorDetails) -> str:
    """One line for one pydantic error, without the value: it may be a secret."""
    names = [str(part) for part in problem["loc"]]
    message = problem["msg"].removeprefix("Value error, ")
    if not names:
        return f"settings: {message}"
    name = PREFIX + names[0].upper()
    return f"{name}: no such setting" if problem["type"] == "extra_forbidden" else f"{name}: {message}"


def _read_file(path: Path) -> dict[str, str]:
    try:
        if not path.exists():
            return {}
        with path.open(encoding="utf-8") as stream:
            values = dotenv_values(stream=stream, interpolate=False)
    except PermissionError:
        raise SettingsError(f"{path}: not readable for this user; try again with sudo") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from None
    return {name: value for name, value in values.items() if value is not None}


def _read_secrets(directory: Path) -> dict[str, str]:
    try:
        # a link that leads nowhere: a secret that this host does not have
        files = [file for file in sorted(directory.glob("[!.]*")) if file.exists() and not _over(file)]
        return {PREFIX + file.name.upper(): file.read_text(encoding="utf-8").rstrip("\n") for file in files}
    except PermissionError:
        raise SettingsError(f"{directory}: not readable for this user; try again with sudo") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{directory}: {error}") from None


def _over(file: Path) -> bool:
    """Whether this secret was replaced longer ago than anybody has to know it."""
    return file.name.endswith("_previous") and time.time() - file.stat().st_mtime > PREVIOUS_KEPT
