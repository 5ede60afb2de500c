"""messagingctl: what an operator does on the host."""

import json
import sys
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from os import EX_CONFIG
from typing import Any

import click

from messaging import backup, keys, store
from messaging.accept import accept
from messaging.backup import BackupError
from messaging.claims import one_request
from messaging.dead import DeadLetter, DeadLetters
from messaging.job import SEND_EMAIL, Job
from messaging.keys import KeysError
from messaging.mailbox import Mailbox
from messaging.masking import mask
from messaging.publisher import Publisher, PublishError
from messaging.recipients import accepted
from messaging.results import Record, Records, RecordsUnavailableError, State
from messaging.settings import Settings, SettingsError, load

POLL_EVERY = 0.2
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType[float]):
    """A length of time such as 30s, 15m, 2h or 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The length in seconds."""
        if isinstance(value, float):
            return value
        number, unit = str(value)[:-1], str(value)[-1:]
        if not number.isdecimal() or unit not in UNITS:
            self.fail(f"{value!r} is no length of time; write 30s, 15m, 2h or 7d", param, ctx)
        return float(int(number) * UNITS[unit])


def plain_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Say what is wrong in one line instead of a stack trace."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except SettingsError as error:
            click.echo(error, err=True)
            sys.exit(EX_CONFIG)
        except (KeysError, BackupError) as error:
            raise click.ClickException(str(error)) from error
        except (PublishError, RecordsUnavailableError) as error:
            raise click.ClickException(f"{error}\nSee: systemctl status rabbitmq-server redis-server") from error

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Look after messaging-system on this host."""


@main.command()
@click.argument("address")
@click.option("--subject", help="Default: the one of ?sendmail.")
@click.option("--text", help="Default: the one of ?sendmail.")
@click.option(
    "--wait",
    "seconds",
    type=click.FloatRange(min=0),
    default=30,
    show_default=True,
    help="Seconds to wait for the end; 0: do not wait.",
)
@plain_errors
def send(address: str, subject: str | None, text: str | None, seconds: float) -> None:
    """Queue a mail to ADDRESS and show what becomes of it."""
    settings = load()
    try:
        to = accepted(address, settings)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="ADDRESS") from None
    if subject is not None and not subject.isprintable():
        raise click.BadParameter("one line, without control characters", param_hint="--subject")
    kwargs = {"to": to, "subject": subject or settings.sendmail_subject, "text": text or settings.sendmail_text}
    job = Job(task=SEND_EMAIL, kwargs=kwargs, task_id=str(uuid.uuid4()), queue=settings.email_queue)
    records = Records(settings, store.WORKER_TIMEOUT)
    claims = one_request(settings, store.WORKER_TIMEOUT)
    tracked = accept(records, Publisher(settings), claims, job)
    click.echo(job.task_id)
    if not tracked:
        click.echo(f"queued; its state cannot be read while {settings.result_backend} is away", err=True)
        return
    record = records.get(job.task_id)
    deadline = time.monotonic() + seconds
    while record is not None and not record.over and time.monotonic() < deadline:
        time.sleep(POLL_EVERY)
        record = records.get(job.task_id)
    if record is not None:
        click.echo(_line(record, settings))
        if record.state is State.FAILED:
            sys.exit(1)


@main.command()
@click.argument("task_id")
@plain_errors
def task(task_id: str) -> None:
    """Show one task."""
    settings = load()
    record = Records(settings, store.WORKER_TIMEOUT).get(task_id)
    if record is None:
        raise click.ClickException("no task has this id, or its record has expired")
    rows = {
        "task_id": record.task_id,
        "task": record.task,
        "state": record.state,
        "submitted_at": _time(record.submitted_at, settings),
        "updated_at": _time(record.updated_at, settings),
        "attempts": record.attempts,
        "reason": record.reason,
        "result": None if record.result is None else json.dumps(record.result, ensure_ascii=False),
    }
    for name, value in rows.items():
        if value is not None:
            click.echo(f"{name:13}{_harmless(value)}")


@main.command()
@click.option("--state", type=click.Choice([state.value for state in State]), help="Only tasks in this state.")
@click.option(
    "--since", type=Duration(), default="1d", show_default=True, help="Only tasks submitted within this time."
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most this many.")
@plain_errors
def tasks(state: str | None, since: float, limit: int) -> None:
    """List tasks, newest first."""
    settings = load()
    shown = 0
    for record in Records(settings, store.WORKER_TIMEOUT).since(time.time() - since):
        if state is not None and record.state != state:
            continue
        click.echo(_line(record, settings))
        shown += 1
        if shown == limit:
            click.echo(f"(the newest {limit}; --limit shows more)", err=True)
            return
    if not shown:
        click.echo("no task matches", err=True)


@main.group()
def dead() -> None:
    """What was given up on and waits for a decision."""


@dead.command("list")
@plain_errors
def dead_list() -> None:
    """List the dead letters, oldest first."""
    settings = load()
    letters = DeadLetters(settings).all()
    for letter in letters:
        click.echo(f"{letter.job.task_id}  {_died(letter, settings)}  {letter.reason:15}  {_what(letter)}")
    if not letters:
        click.echo("no dead letters", err=True)


@dead.command("show")
@click.argument("task_id")
@plain_errors
def dead_show(task_id: str) -> None:
    """Show one dead letter, its address in full."""
    settings = load()
    found = [letter for letter in DeadLetters(settings).all() if letter.job.task_id == task_id]
    if not found:
        raise click.ClickException("no dead letter has this id")
    for letter in found:
        job = letter.job
        rows = {
            "task_id": job.task_id,
            "task": job.task,
            "submitted_at": _time(job.submitted_at, settings),
            "died_at": _died(letter, settings),
            "died_of": letter.reason,
            "attempt": job.attempt,
            **job.kwargs,
        }
        for name, value in rows.items():
            click.echo(f"{name:13}{_harmless(value)}")


def _chosen(task_ids: tuple[str, ...], everything: bool) -> set[str] | None:
    if everything == bool(task_ids):
        raise click.UsageError("name the tasks, or say --all")
    return None if everything else set(task_ids)


@dead.command()
@click.argument("task_ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@plain_errors
def replay(task_ids: tuple[str, ...], everything: bool) -> None:
    """Queue dead letters again, under the ids they had."""
    chosen = _chosen(task_ids, everything)
    settings = load()
    records = Records(settings, store.WORKER_TIMEOUT)
    claims = one_request(settings, store.WORKER_TIMEOUT)
    done = DeadLetters(settings).replay(records, Publisher(settings), claims, chosen)
    _report("queued again", done.task_ids, chosen)


@dead.command()
@click.argument("task_ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@plain_errors
def purge(task_ids: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Remove dead letters for good."""
    chosen = _chosen(task_ids, everything)
    letters = DeadLetters(load())
    if not yes:
        found = [letter for letter in letters.all() if chosen is None or letter.job.task_id in chosen]
        if found:
            click.confirm(f"{len(found)} will be gone for good. Go on?", abort=True)
    _report("removed", letters.purge(chosen).task_ids, chosen)


def _report(what: str, done: list[str], chosen: set[str] | None) -> None:
    for task_id in done:
        click.echo(f"{task_id}  {what}")
    missing = sorted((chosen or set()) - set(done))
    for task_id in missing:
        click.echo(f"{task_id}  not {what}: no such dead letter, or already done", err=True)
    if missing:
        sys.exit(1)
    if not done:
        click.echo("no dead letters", err=True)


@main.group()
def key() -> None:
    """API keys of this host. With several hosts use `make key-add` and the like, which changes them on all."""


@key.command("add")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, help="mail, tasks or read; may be repeated. Default: mail and tasks.")
@click.option("--budget", default="", help='Such as "60/minute; 1000/day". Default: the setting budget_key.')
@plain_errors
def key_add(name: str, scopes: tuple[str, ...], budget: str) -> None:
    """Make a key called NAME and print it, once."""
    text = keys.add(load().keys_path, name, scopes or keys.USUAL_SCOPES, budget)
    click.echo("This is the only time that the key is shown; it works at once:", err=True)
    click.echo(text)


@key.command("list")
@plain_errors
def key_list() -> None:
    """List the keys: id, name, scopes, budget and when each was made."""
    found = keys.read(load().keys_path)
    rows = [("ID", "NAME", "SCOPES", "BUDGET", "CREATED")]
    rows += [(each.id, each.name, ",".join(each.scopes), each.budget or "default", each.created) for each in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows if found else []:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not found:
        click.echo("no keys; messagingctl key add NAME makes one", err=True)


@key.command("revoke")
@click.argument("which", metavar="ID|NAME")
@plain_errors
def key_revoke(which: str) -> None:
    """Take a key back, at once."""
    gone = keys.revoke(load().keys_path, which)
    click.echo(f"{gone.id}  {gone.name}  revoked")


@main.group("backup")
def backups() -> None:
    """Records and queued messages, for `make backup` and `make restore`. They hold addresses and mail."""


@backups.command()
@plain_errors
def save() -> None:
    """Print all of it, for a file. The workers must not run meanwhile."""
    counts = backup.save(load(), sys.stdout)
    click.echo(f"{counts.keys} keys of Redis, {counts.messages} messages", err=True)


@backups.command("load")
@click.option("--over", is_flag=True, help="Also where there are tasks already; those stay as they are.")
@plain_errors
def load_backup(over: bool) -> None:
    """Bring back what `save` printed, from the standard input."""
    counts = backup.load(load(), sys.stdin, over=over)
    click.echo(f"{counts.keys} keys of Redis, {counts.messages} messages")


@backups.command()
@plain_errors
def present() -> None:
    """Say what there is that `load` would meet."""
    click.echo(backup.present(load()) or "nothing")


@main.command()
@plain_errors
def config() -> None:
    """Show the settings, secrets masked."""
    for name, value in sorted(load().masked().items()):
        click.echo(f"{name}={value}")


@main.command()
@click.argument("number", type=click.IntRange(min=1), required=False)
@plain_errors
def mail(number: int | None) -> None:
    """List the mails in the embedded mailbox, newest first; or print mail NUMBER of that list."""
    settings = load()
    if not settings.mail_embedded:
        raise click.ClickException(f"mail goes to {settings.smtp_host}; what came before is in {settings.mailbox_path}")
    stored = Mailbox(settings.mailbox_path, settings.mailbox_keep, settings.mailbox_max_mb * 1024 * 1024).messages()
    if number is None:
        for position, message in enumerate(stored, start=1):
            click.echo(f"{position:4}  {message.recipient:40}  {message.date}  {message.subject}")
        click.echo("messagingctl mail 1 prints the newest" if stored else "no mail yet", err=True)
    elif number > len(stored):
        raise click.ClickException(f"there are only {len(stored)} mails")
    else:
        click.echo(stored[number - 1].path.read_bytes().decode("utf-8", errors="replace"))


def _harmless(value: object) -> str:
    """What a stranger wrote, for a terminal: what would move the cursor or turn the text is shown as an escape."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in str(value)
    )


def _line(record: Record, settings: Settings) -> str:
    name = record.task.removeprefix("messaging.")
    line = f"{record.task_id}  {_time(record.submitted_at, settings)}  {name:10}  {record.state}"
    return line if record.reason is None else f"{line}: {record.reason}"


def _what(letter: DeadLetter) -> str:
    name = letter.job.task.removeprefix("messaging.")
    to = letter.job.kwargs.get("to")
    return f"{name} to {mask(to)}" if isinstance(to, str) else name


def _died(letter: DeadLetter, settings: Settings) -> str:
    return "-" if letter.died_at is None else _time(letter.died_at, settings)


def _time(seconds: float, settings: Settings) -> str:
    return datetime.fromtimestamp(seconds, tz=settings.timezone).isoformat(timespec="seconds")
