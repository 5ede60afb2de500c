import os
import time
from pathlib import Path

import pytest

from messaging.settings import Settings, SettingsError, load


def write(directory: Path, lines: str, **secrets: str) -> dict[str, str]:
    (directory / "messaging.env").write_text(lines, encoding="utf-8")
    (directory / "secrets").mkdir()
    for name, value in secrets.items():
        (directory / "secrets" / name).write_text(value, encoding="utf-8")
    return {"MSG_CONFIG_DIR": str(directory), "HOME": "/root"}


def test_defaults_are_a_whole_configuration() -> None:
    assert load({"MSG_CONFIG_DIR": "/nonexistent"}) == Settings()


def test_file_secrets_and_environment(tmp_path: Path) -> None:
    environment = write(
        tmp_path,
        'MSG_SENDMAIL_TEXT="costs $5, ${HOME} # \\"quoted\\"\\nüber"\nMSG_SMTP_PORT="587"\nMSG_DELAYS="1,2,30"\n',
        amqp_password="s3cret#${HOME}",
    )
    settings = load({**environment, "MSG_SMTP_PORT": "465"})
    assert settings.sendmail_text == 'costs $5, ${HOME} # "quoted"\nüber'
    assert settings.smtp_port == 465, "the environment wins over the file"
    assert settings.delays == [1, 2, 30]
    assert settings.amqp_password.get_secret_value() == "s3cret#${HOME}"


def test_a_secret_that_was_replaced_counts_for_a_day(tmp_path: Path) -> None:
    environment = write(tmp_path, "", secret_key="new", secret_key_previous="old")
    file = tmp_path / "secrets/secret_key_previous"
    for hours, expected in ((23, "old"), (25, "")):
        then = time.time() - hours * 3600
        os.utime(file, (then, then))
        assert load(environment).secret_key_previous.get_secret_value() == expected


def test_a_link_to_a_secret_that_is_not_there_is_none(tmp_path: Path) -> None:
    environment = write(tmp_path, "", secret_key="new")
    (tmp_path / "secrets/secret_key_previous").symlink_to(tmp_path / "gone")
    assert load(environment).secret_key.get_secret_value() == "new"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MSG_SMTP_PORT", "70000", "MSG_SMTP_PORT: Input should be less than or equal to 65535"),
        ("MSG_SMTP_SECURITY", "ssl", "MSG_SMTP_SECURITY: Input should be 'none', 'starttls' or 'tls'"),
        ("MSG_MAIL_FROM", "nobody", "MSG_MAIL_FROM: not an email address"),
        ("MSG_TIMEZONE", "Mars/Base", "MSG_TIMEZONE: invalid timezone"),
        ("MSG_DELAYS", "60,5", "DELAYS must grow"),
        ("MSG_SMTP_USERNAME", "me", "SMTP_USERNAME and SMTP_PASSWORD go together"),
        ("MSG_EMAIL_QUEUE", "mail", "EMAIL_QUEUE=mail is not one of QUEUES"),
        ("MSG_RESULT_BACKEND", "sqlite", "MSG_RESULT_BACKEND: Input should be 'redis' or 'mongodb'"),
        ("MSG_RESULT_BACKEND", "mongodb", "RESULT_BACKEND=mongodb needs MONGODB_URL"),
        ("MSG_MONGODB_URL", "redis://:word@server", "MONGODB_URL must begin with mongodb:// or mongodb+srv://"),
        ("MSG_MONGODB_URL", "mongodb://", "MONGODB_URL must begin with"),
        ("MSG_RESULT_EXPIRES", "59", "MSG_RESULT_EXPIRES: Input should be greater than or equal to 86400"),
        ("MSG_RESULT_EXPIRES", "86400", "RESULT_EXPIRES must be MAIL_MAX_AGE and the longest of DELAYS or more"),
        ("MSG_SENDMAIL_SUBJECT", "=?utf-8?q?=0D=0ABcc:_a=40example.com?=", "encoded word"),
        ("MSG_BUDGET_CLIENT", "lots", "MSG_BUDGET_CLIENT: not a list of limits: write it like 5/minute; 20/hour"),
        ("MSG_BUDGET_DAY", "5/minute; 6/fortnight", "MSG_BUDGET_DAY: not a list of limits"),
        ("MSG_BUDGET_KEY", "1000000/day", "MSG_BUDGET_KEY: not a list of limits"),
        ("MSG_BUDGET_KEY", "5/year", "up to a month"),
        ("MSG_BUDGET_RECIPIENT", "", "MSG_BUDGET_RECIPIENT: not a list of limits"),
        ("MSG_RECIPIENTS_DENY", "a@b@example.com", "MSG_RECIPIENTS_DENY: 'a@b@example.com' is no address"),
        ("MSG_RECIPIENTS_ALLOW", "example.com, nothing", "MSG_RECIPIENTS_ALLOW: 'nothing' is no address"),
        ("MSG_RECIPIENTS_ALLOW", " , ", "MSG_RECIPIENTS_ALLOW: has no entries"),
        ("MSG_RECIPIENTS_DENY", ",", "MSG_RECIPIENTS_DENY: has no entries"),
        ("MSG_SMTP_HOTS", "x", "MSG_SMTP_HOTS: no such setting"),
        ("MSG_SENDMAIL_SUBJECT", "a\r\nBcc: x@example.com", "MSG_SENDMAIL_SUBJECT"),
    ],
)
def test_a_bad_value_is_named(name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load({"MSG_CONFIG_DIR": "/nonexistent", name: value})
    assert says in str(raised.value)


def test_an_empty_list_of_recipients_is_one() -> None:
    assert load({"MSG_CONFIG_DIR": "/nonexistent", "MSG_RECIPIENTS_ALLOW": ""}).recipients_allow == []


def test_every_problem_is_told_at_once_and_no_secret_with_it() -> None:
    bad = {"MSG_SMTP_PORT": "0", "MSG_LOG_LEVEL": "loud", "MSG_AMQP_PASSWORDS": "hunter2"}
    with pytest.raises(SettingsError) as raised:
        load({"MSG_CONFIG_DIR": "/nonexistent", **bad})
    assert len(str(raised.value).splitlines()) == 3
    assert "hunter2" not in str(raised.value)


def test_a_login_is_not_sent_in_clear() -> None:
    login = {"MSG_CONFIG_DIR": "/nonexistent", "MSG_SMTP_USERNAME": "me", "MSG_SMTP_PASSWORD": "x"}
    with pytest.raises(SettingsError, match="in clear"):
        load({**login, "MSG_SMTP_HOST": "smtp.example.com"})
    assert load({**login, "MSG_SMTP_HOST": "127.0.0.1"}).smtp_username == "me"


def test_masked_shows_every_setting_and_no_secret() -> None:
    settings = Settings.model_validate({"amqp_password": "hunter2", "redis_password": "hunter3"})
    masked = settings.masked()
    assert masked["MSG_SMTP_PORT"] == "2525"
    assert masked["MSG_AMQP_PASSWORD"] == "**********"
    assert "hunter" not in str(masked)
    assert "hunter" not in repr(settings)


def test_urls_quote_what_a_password_may_hold() -> None:
    settings = Settings.model_validate({"amqp_password": "a/b@c:d#e", "redis_password": "x/y@z"})
    assert settings.amqp_urls == ["amqp://messaging:a%2Fb%40c%3Ad%23e@127.0.0.1:5672/messaging"]
    assert settings.redis_url == "redis://:x%2Fy%40z@127.0.0.1:6379/0"
