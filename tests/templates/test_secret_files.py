"""The module that makes the passwords on the controller: complete, closed, and never half-way."""

from pathlib import Path
from typing import Any

import pytest

from rendering import load_module

NAMES = ["redis_password", "operator_key"]


@pytest.fixture
def module() -> Any:
    return load_module("base/library/secret_files.py")


def read(directory: Path) -> dict[str, str]:
    return {name: (directory / name).read_text() for name in NAMES}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_set_is_closed_and_random(module: Any, tmp_path: Path) -> None:
    made = tmp_path / "next"
    module.make_set(str(made), NAMES)
    assert names(tmp_path) == ["next"], "nothing is left over"
    assert oct(made.stat().st_mode & 0o777) == "0o700"
    assert {oct((made / name).stat().st_mode & 0o777) for name in NAMES} == {"0o600"}
    assert {len(value) for value in read(made).values()} == {40}
    assert len(set(read(made).values())) == len(NAMES)


def test_a_set_that_cannot_be_completed_is_not_there(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module.os, "rename", fail)
    with pytest.raises(OSError, match="disk full"):
        module.make_set(str(tmp_path / ".next"), NAMES)
    assert names(tmp_path) == []


def test_a_set_that_was_put_in_place_half_is_put_in_place_again(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module.make(str(tmp_path), NAMES)
    before = read(tmp_path)
    module.make_set(str(tmp_path / ".next"), NAMES)
    new = read(tmp_path / ".next")
    write = module.write

    def stop_at_the_second(path: str, content: str) -> None:
        if path.endswith(NAMES[1]):
            raise OSError("killed")
        write(path, content)

    monkeypatch.setattr(module, "write", stop_at_the_second)
    with pytest.raises(OSError, match="killed"):
        module.promote(str(tmp_path), NAMES)
    assert read(tmp_path) == {NAMES[0]: new[NAMES[0]], NAMES[1]: before[NAMES[1]]}
    assert read(tmp_path / ".next") == new, "what is missing can be told"

    monkeypatch.setattr(module, "write", write)
    module.promote(str(tmp_path), NAMES)
    assert read(tmp_path) == new
    assert names(tmp_path) == sorted(NAMES)
