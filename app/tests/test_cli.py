import re
from pathlib import Path

import amqp
import pytest
from click.testing import CliRunner

from messaging import cli, keys
from messaging.dead import DeadLetter
from messaging.job import SEND_EMAIL, Job
from messaging.keys import Keys
from messaging.mailbox import Mailbox


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("MSG_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("MSG_MAILBOX_PATH", str(tmp_path / "mailbox"))
    monkeypatch.setenv("MSG_AMQP_HOSTS", "127.0.0.1:1")
    monkeypatch.setenv("MSG_REDIS_PORT", "1")
    return CliRunner()


def test_config_masks_secrets(run: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "amqp_password").write_text("hunter2")
    result = run.invoke(cli.main, ["config"])
    assert result.exit_code == 0
    assert "MSG_SMTP_PORT=2525" in result.output.splitlines()
    assert "hunter2" not in result.output


def test_bad_settings_are_lines_and_not_a_traceback(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSG_SMTP_PORT", "x")
    result = run.invoke(cli.main, ["config"])
    assert result.exit_code == cli.EX_CONFIG
    assert result.output.startswith("MSG_SMTP_PORT: ")


@pytest.mark.parametrize("command", [["send", "me@example.com"], ["dead", "list"], ["tasks"], ["task", "x"]])
def test_services_that_are_away_are_said_plainly(run: CliRunner, command: list[str]) -> None:
    result = run.invoke(cli.main, command)
    assert result.exit_code == 1
    assert "systemctl status" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["send", "nobody"], "@-sign"),
        (["tasks", "--since", "yesterday"], "30s, 15m, 2h or 7d"),
        (["tasks", "--state", "lost"], "queued"),
        (["dead", "replay"], "--all"),
        (["dead", "replay", "x", "--all"], "--all"),
    ],
)
def test_bad_arguments_are_explained(run: CliRunner, command: list[str], says: str) -> None:
    result = run.invoke(cli.main, command)
    assert result.exit_code == 2
    assert says in result.output


def test_send_keeps_to_the_recipient_policy(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSG_RECIPIENTS_DENY", "victim@example.com")
    result = run.invoke(cli.main, ["send", "victim+1@example.com"])
    assert result.exit_code == 2
    assert "not accepted here" in result.output


def test_what_a_stranger_wrote_does_nothing_to_the_terminal(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a\x1b[31m\x9b31m\u202eb\r\0\nc ü\n"
    job = Job(SEND_EMAIL, {"to": "me@example.com", "text": text}, "t-1", "email")
    monkeypatch.setattr(cli.DeadLetters, "all", lambda self: [DeadLetter(job, "rejected", None, amqp.Message())])
    output = run.invoke(cli.main, ["dead", "show", "t-1"]).output
    assert r"a\x1b[31m\x9b31m\u202eb\r\x00" in output
    assert "\nc ü\n" in output
    assert all(letter.isprintable() or letter == "\n" for letter in output)


def test_mail_lists_and_prints_the_mailbox(run: CliRunner, tmp_path: Path) -> None:
    mailbox = Mailbox(tmp_path / "mailbox", keep=10, max_bytes=10**6)
    mailbox.prepare()
    mailbox.store("from@example.com", ["to@example.com"], b"Subject: Hello\r\n\r\nHow are you?\r\n")
    listed = run.invoke(cli.main, ["mail"])
    assert "to@example.com" in listed.output
    assert "Hello" in listed.output
    assert "How are you?" in run.invoke(cli.main, ["mail", "1"]).output
    assert "only 1" in run.invoke(cli.main, ["mail", "2"]).output


def test_mail_that_leaves_the_host_is_not_looked_for_here(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSG_MAIL_EMBEDDED", "false")
    monkeypatch.setenv("MSG_SMTP_HOST", "smtp.example.com")
    assert "smtp.example.com" in run.invoke(cli.main, ["mail"]).output


@pytest.fixture
def keys_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MSG_KEYS_PATH", str(tmp_path / "keys.json"))
    return tmp_path / "keys.json"


def test_a_key_is_printed_alone_and_once(run: CliRunner, keys_file: Path) -> None:
    made = run.invoke(
        cli.main, ["key", "add", "ci", "--scope", "read", "--scope", "mail", "--budget", "5/minute; 9/day"]
    )
    assert made.exit_code == 0, made.output
    text = made.stdout.removesuffix("\n")
    assert Keys(keys_file).find(text)
    assert "only time" in made.stderr
    listed = run.invoke(cli.main, ["key", "list"])
    heading, line = listed.stdout.splitlines()
    assert heading.split() == ["ID", "NAME", "SCOPES", "BUDGET", "CREATED"]
    [key] = keys.read(keys_file)
    assert re.split(" {2,}", line) == [key.id, "ci", "mail,read", "5/minute; 9/day", key.created]
    assert key.sha256 not in listed.output
    assert text.rpartition("_")[2] not in listed.output


def test_a_key_may_send_mail_and_do_tasks_if_nothing_is_said(run: CliRunner, keys_file: Path) -> None:
    run.invoke(cli.main, ["key", "add", "ci"])
    assert keys.read(keys_file)[0].scopes == ("mail", "tasks")
    assert re.search(" mail,tasks +default ", run.invoke(cli.main, ["key", "list"]).stdout)


@pytest.mark.parametrize("by", ["id", "name"])
def test_a_key_is_revoked(run: CliRunner, keys_file: Path, by: str) -> None:
    run.invoke(cli.main, ["key", "add", "ci"])
    [key] = keys.read(keys_file)
    result = run.invoke(cli.main, ["key", "revoke", getattr(key, by)])
    assert result.stdout == f"{key.id}  ci  revoked\n"
    empty = run.invoke(cli.main, ["key", "list"])
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "no keys" in empty.stderr


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["add", "taken"], "the name taken is taken"),
        (["add", "two words"], "'two words' is no name"),
        (["add", "new", "--scope", "all"], "all is no scope: use mail, tasks, read"),
        (["add", "new", "--budget", "lots"], "the budget 'lots' is not a list of limits"),
        (["revoke", "unknown"], "no key has the id or the name unknown"),
    ],
)
def test_what_cannot_be_done_with_keys_is_said_in_a_line(
    run: CliRunner, keys_file: Path, command: list[str], says: str
) -> None:
    run.invoke(cli.main, ["key", "add", "taken"])
    before = keys_file.read_bytes()
    result = run.invoke(cli.main, ["key", *command])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert keys_file.read_bytes() == before
