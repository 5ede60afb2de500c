from pathlib import Path

import pytest
from click.testing import CliRunner

from messaging import cli
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
