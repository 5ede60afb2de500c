"""API keys: the file they are in, and who changes it."""

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from messaging import keys
from messaging.keys import Keys, KeysError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def add(path: Path, name: str = "ci", *scopes: str, budget: str = "") -> str:
    return keys.add(path, name, scopes or keys.USUAL_SCOPES, budget)


def test_a_key_that_was_made_is_found(path: Path) -> None:
    known = Keys(path)
    text = add(path, "ci", "read", "mail", budget="60/minute; 1000/day")
    found = known.find(text)
    assert found is not None
    assert (found.name, found.scopes, found.budget) == ("ci", ("mail", "read"), "60/minute; 1000/day")
    assert text.startswith(f"msk_{found.id}_")


def test_the_file_has_hashes_and_no_key(path: Path) -> None:
    text = add(path)
    document = json.loads(path.read_text())
    assert document["version"] == 1
    assert document["keys"][0]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert text.rpartition("_")[2] not in path.read_text()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"),
        lambda text: text[:-1],
        lambda text: text + "0",
        lambda text: text.upper(),
        lambda text: f" {text}",
        lambda text: f"{text}\n",
        lambda text: f"msk_{'0' * 10}_{text.rpartition('_')[2]}",
        lambda text: text.removeprefix("msk_"),
        lambda text: "",
    ],
)
def test_what_only_resembles_a_key_is_none(path: Path, change: Any) -> None:
    text = add(path)
    known = Keys(path)
    assert known.find(change(text)) is None
    assert known.find(text) is not None


def test_the_hash_is_not_a_key(path: Path) -> None:
    add(path)
    [key] = keys.read(path)
    assert Keys(path).find(f"msk_{key.id}_{key.sha256}") is None


@pytest.mark.parametrize("by", ["id", "name"])
def test_a_revoked_key_is_forgotten_at_once(path: Path, by: str) -> None:
    known = Keys(path)
    text, other = add(path), add(path, "other")
    found = known.find(text)
    assert found is not None
    assert keys.revoke(path, getattr(found, by)) == found
    assert known.find(text) is None
    assert known.find(other) is not None
    assert [key.name for key in keys.read(path)] == ["other"]


@pytest.mark.parametrize("content", [None, "", " \n", '{"version": 1, "keys": []}'])
def test_no_file_and_an_empty_one_are_no_keys(path: Path, content: str | None) -> None:
    known = Keys(path)
    text = add(path)
    assert known.find(text) is not None
    path.unlink() if content is None else path.write_text(content)
    assert known.find(text) is None
    assert keys.read(path) == ()


GOOD = {"id": "0123456789", "name": "a", "sha256": "0" * 64, "scopes": ["mail"], "budget": "", "created": "2026-01-01"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"version": 1, "keys": [{"id": ', "JSON"),
        (b"\x00\xff", "JSON"),
        ("[]", "object"),
        ('{"version": 2, "keys": []}', "version"),
        ({**GOOD, "scopes": ["all"]}, "keys.0.scopes"),
        ({**GOOD, "scopes": []}, "keys.0.scopes"),
        ({**GOOD, "sha256": "short"}, "keys.0.sha256"),
        ({**GOOD, "scope": "mail"}, "keys.0.scope"),
        ({**GOOD, "budget": "lots"}, "keys.0.budget"),
        ([GOOD, GOOD], "twice"),
        ([GOOD, {**GOOD, "id": "0123456780"}], "twice"),
    ],
)
def test_a_broken_file_leaves_the_keys_as_they_were_and_is_logged_once(
    path: Path, content: Any, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    if not isinstance(content, str | bytes):
        content = json.dumps({"version": 1, "keys": content if isinstance(content, list) else [content]})
    known = Keys(path)
    text = add(path)
    assert known.find(text) is not None
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with caplog.at_level(logging.WARNING):
        assert all(known.find(text) for _ in range(3))
    [line] = caplog.records
    said = line.getMessage()
    assert str(path) in said
    assert says in said
    assert "\n" not in said
    assert line.exc_info is None
    with pytest.raises(KeysError, match=re.escape(str(path))):
        add(path, "new")
    path.unlink()
    assert known.find(text) is None, "and it goes on as soon as there is something that can be used"


def test_a_file_that_was_broken_from_the_start_has_no_keys(path: Path) -> None:
    path.write_text("{")
    assert Keys(path).find(f"msk_{'0' * 10}_{'0' * 64}") is None


def test_nothing_of_a_broken_file_is_shown(path: Path) -> None:
    path.write_text(json.dumps({"version": 1, "keys": [{**GOOD, "sha256": "deadbeef"}]}))
    with pytest.raises(KeysError) as caught:
        keys.read(path)
    assert "deadbeef" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "two words", "a\nb", "-x", "ü", "a" * 64, "a/b", "ci\n"])
def test_a_bad_name_is_refused(path: Path, name: str) -> None:
    with pytest.raises(KeysError, match="name"):
        add(path, name)
    assert not path.exists()


def test_a_name_is_taken_once_and_free_again_after_it_was_revoked(path: Path) -> None:
    add(path)
    with pytest.raises(KeysError, match="ci is taken"):
        add(path)
    [key] = keys.read(path)
    with pytest.raises(KeysError, match="is taken"):
        add(path, key.id)
    keys.revoke(path, "ci")
    add(path)


def test_a_bad_scope_is_refused(path: Path) -> None:
    with pytest.raises(KeysError, match="all is no scope: use mail, tasks, read"):
        add(path, "ci", "mail", "all")


@pytest.mark.parametrize("budget", ["lots", "60", "60/fortnight", "60/minute;", "-1/day", "60 minute"])
def test_a_bad_budget_is_refused(path: Path, budget: str) -> None:
    with pytest.raises(KeysError, match="5/minute; 20/hour"):
        add(path, budget=budget)
    assert not path.exists()


@pytest.mark.parametrize("budget", ["60/minute; 1000/day", "5/hour", "1/10 second;2/2 days"])
def test_a_good_budget_is_taken(path: Path, budget: str) -> None:
    add(path, budget=budget)
    assert keys.read(path)[0].budget == budget


def test_what_is_not_there_cannot_be_revoked(path: Path) -> None:
    add(path)
    with pytest.raises(KeysError, match="no key has the id or the name cd"):
        keys.revoke(path, "cd")


def test_the_file_belongs_to_whom_the_directory_belongs_to(path: Path) -> None:
    path.parent.chmod(0o750)
    add(path)
    seen, directory = path.stat(), path.parent.stat()
    assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o777) == (directory.st_uid, directory.st_gid, 0o640)


def test_a_write_that_fails_leaves_everything_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = add(path)

    def fails(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(KeysError, match="No space left"):
        add(path, "other")
    assert Keys(path).find(text) is not None
    assert [file.name for file in path.parent.iterdir()] == ["keys.json"]


def test_a_file_in_the_place_of_the_directory_is_said_plainly(path: Path) -> None:
    with pytest.raises(KeysError, match="No such file"):
        add(path / "elsewhere" / "keys.json")


ADD = "import pathlib, sys; from messaging import keys; keys.add(pathlib.Path(sys.argv[1]), sys.argv[2], ['mail'])"


def test_of_many_that_are_made_at_once_none_is_lost(path: Path) -> None:
    source = str(Path(keys.__file__).parents[1])
    makers = [
        subprocess.Popen([sys.executable, "-c", ADD, path, f"k{number}"], env={**os.environ, "PYTHONPATH": source})
        for number in range(6)
    ]
    assert [maker.wait(60) for maker in makers] == [0] * 6
    assert {key.name for key in keys.read(path)} == {f"k{number}" for number in range(6)}
