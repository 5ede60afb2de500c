"""API keys on several hosts: who is asked, with which command, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from messaging import cli, keys
from messaging.settings import Settings
from rendering import evaluate, render


def stat(mtime: float, size: int = 300) -> dict[str, Any]:
    return {"exists": True, "size": size, "mtime": mtime}


@pytest.mark.parametrize(
    ("action", "name", "hosts", "says"),
    [
        ("", "", ["a", "b"], "make key-add"),
        ("drop", "x", ["a", "b"], "key_action is drop"),
        ("add", "", ["a", "b"], "NAME=ci"),
        ("revoke", "", ["a", "b"], "KEY="),
        ("add", "ci", ["a"], "b would keep other keys"),
        ("list", "", ["b"], "a would keep other keys"),
    ],
)
def test_what_cannot_be_done_is_refused(action: str, name: str, hosts: list[str], says: str) -> None:
    [line] = evaluate("app", f"'{action}' | app_key_problems('{name}', hosts, ['a', 'b'])", hosts=hosts)
    assert says in line


@pytest.mark.parametrize("scopes", ["mail,,read", ",mail", "mail,", ","])
def test_an_empty_scope_is_refused(scopes: str) -> None:
    [line] = evaluate("app", "'add' | app_key_problems('ci', ['a'], ['a'], scopes)", scopes=scopes)
    assert f"SCOPES={scopes} " in line


@pytest.mark.parametrize("scopes", ["", "mail", "mail,read", "mail, read", "mail read"])
def test_scopes_are_separated_by_commas_or_blanks(scopes: str) -> None:
    assert evaluate("app", "'add' | app_key_problems('ci', ['a'], ['a'], scopes)", scopes=scopes) == []
    assert command("add", "ci", scopes).count("--scope") == len(re.findall(r"\w+", scopes))


@pytest.mark.parametrize(("action", "name"), [("add", "ci"), ("list", ""), ("revoke", "ci")])
def test_what_can_be_done_is_not_refused(action: str, name: str) -> None:
    assert evaluate("app", f"'{action}' | app_key_problems('{name}', ['b', 'a'], ['a', 'b'])") == []


@pytest.mark.parametrize(
    ("stats", "host"),
    [
        ([stat(1), stat(2), stat(1.5)], "b"),
        ([stat(1), stat(9, size=0), {"exists": False}], "a"),
        ([stat(1, size=0), {"exists": False}, {}], ""),
    ],
)
def test_the_keys_that_were_changed_last_count(stats: list[dict[str, Any]], host: str) -> None:
    assert evaluate("app", "['a', 'b', 'c'] | app_keys_source(stats)", stats=stats) == host


def command(action: str, name: str = "", scopes: str = "", budget: str = "") -> list[str]:
    expression = "action | app_key_command(name, scopes, budget)"
    found = evaluate("app", expression, action=action, name=name, scopes=scopes, budget=budget)
    assert found[0] == "/usr/local/bin/messagingctl"
    return [str(part) for part in found[1:]]


def test_the_command_does_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSG_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("MSG_KEYS_PATH", str(tmp_path / "keys.json"))
    run = CliRunner()
    made = run.invoke(cli.main, command("add", "ci", "mail,read", "60/minute; 1000/day"))
    assert made.exit_code == 0, made.output
    [key] = keys.read(tmp_path / "keys.json")
    assert (key.name, key.scopes, key.budget) == ("ci", ("mail", "read"), "60/minute; 1000/day")
    assert run.invoke(cli.main, command("add", "plain")).exit_code == 0
    assert keys.read(tmp_path / "keys.json")[1].scopes == keys.USUAL_SCOPES
    assert "ci" in run.invoke(cli.main, command("list")).stdout
    assert run.invoke(cli.main, command("revoke", "ci")).exit_code == 0
    assert "is no name" in run.invoke(cli.main, command("add", "--help")).stderr


def test_only_root_changes_keys_and_everything_else_is_done_as_the_service() -> None:
    script = render("release", "usr/local/bin/messagingctl.j2")
    assert '[ "$(id -u)" -eq 0 ] && [ "${1:-}" != key ]' in script
    assert "runuser -u messaging" in script


def test_the_file_is_where_the_application_reads_it() -> None:
    assert Path(str(evaluate("app", "__app_keys_path"))) == Settings().keys_path
