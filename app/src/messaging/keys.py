"""API keys: a file on every host of the web application, with a hash of each key and never a key.

A key is 32 random bytes, which nobody guesses: a plain SHA-256 keeps it as well as a slow hash would, at no cost.
"""

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from messaging import settings

logger = logging.getLogger(__name__)

Scope = Literal["mail", "tasks", "read"]
MAIL: Scope = "mail"  # mail, of any wording
TASKS: Scope = "tasks"  # the other tasks
READ: Scope = "read"  # the list of everybody's tasks
SCOPES: tuple[Scope, ...] = (MAIL, TASKS, READ)
USUAL_SCOPES: tuple[Scope, ...] = (MAIL, TASKS)

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_TEXT = re.compile(r"msk_([0-9a-f]{10})_[0-9a-f]{64}", re.ASCII)


class KeysError(Exception):
    """The keys cannot be read, or changed as asked. `str()` says why, in one line."""


class Key(BaseModel):
    """What is kept of a key. `budget` is empty where it has none of its own; `created` is ISO 8601."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{10}$")]
    name: Annotated[str, Field(pattern=NAME)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    budget: Annotated[str, AfterValidator(lambda text: text and settings.budget(text))] = ""
    created: str


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    keys: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        for known in ([key.id for key in self.keys], [key.name for key in self.keys]):
            if len(set(known)) < len(known):
                raise ValueError("an id or a name is there twice")
        return self


# compared with where there is no such id, so that the answer takes as long
_NOBODY = hashlib.sha256(secrets.token_bytes(32)).hexdigest()


@dataclass(frozen=True)
class _Seen:
    """The keys of one state of the file; `stamp` is None while it is missing."""

    stamp: tuple[int, int, int] | None
    keys: dict[str, Key]


class Keys:
    """The keys of a file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _Seen(None, {})
        self._lock = threading.Lock()
        self.refresh()

    def find(self, text: str) -> Key | None:
        """The key that `text` is, or None.

        A file that cannot be used leaves the keys as this process last saw them, and the log says once what is wrong
        with it.
        """
        self.refresh()
        form = _TEXT.fullmatch(text)
        if form is None:
            return None
        key = self._seen.keys.get(form[1])
        digest = hashlib.sha256(text.encode()).hexdigest()
        same = hmac.compare_digest(digest, key.sha256 if key else _NOBODY)
        return key if same else None

    def refresh(self) -> None:
        """Read the file if it has changed. Cheap: asked often, a process has seen the last good state of it."""
        stamp = _stamp(self._path)
        if stamp != self._seen.stamp:
            with self._lock:
                if stamp != self._seen.stamp:
                    self._seen = _Seen(stamp, self._read_or_keep())

    def _read_or_keep(self) -> dict[str, Key]:
        try:
            return {key.id: key for key in read(self._path)}
        except KeysError as error:
            logger.error("API keys stay as they were, %d of them: %s", len(self._seen.keys), error)
            return self._seen.keys


def read(path: Path) -> tuple[Key, ...]:
    """The keys in a file. A missing or empty one has none.

    Raises:
        KeysError: it cannot be read, or is not what was written here.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    except PermissionError:
        raise KeysError(f"{path}: not readable for this user; try again with sudo") from None
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from None
    if not content.strip():
        return ()
    try:
        return _File.model_validate_json(content).keys
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise KeysError(f"{path}: {what}; correct it, or copy it from another host") from None


def add(path: Path, name: str, scopes: Iterable[str], budget: str = "") -> str:
    """Make a key and return its text, which is kept nowhere.

    Raises:
        KeysError: the name, a scope or the budget is wrong, or the file cannot be written.
    """
    if not re.fullmatch(NAME, name):
        raise KeysError(f"{name!r} is no name: use 1 to 63 letters, digits or ._- and begin with a letter or digit")
    wanted = set(scopes)
    if not wanted or not wanted.issubset(SCOPES):
        said = ", ".join(sorted(wanted.difference(SCOPES))) or "nothing"
        raise KeysError(f"{said} is no scope: use {', '.join(SCOPES)}")
    try:
        if budget:
            settings.budget(budget)
    except ValueError as error:
        raise KeysError(f"the budget {budget!r} is {error}") from None
    with _changing(path) as keys:
        # revoked by either: nothing may be both
        taken = {key.name for key in keys} | {key.id for key in keys}
        if name in taken:
            raise KeysError(f"the name {name} is taken: choose another, or revoke that key first")
        key_id = secrets.token_hex(5)
        while key_id in taken or key_id == name:
            key_id = secrets.token_hex(5)
        text = f"msk_{key_id}_{secrets.token_hex(32)}"
        keys.append(
            Key(
                id=key_id,
                name=name,
                sha256=hashlib.sha256(text.encode()).hexdigest(),
                scopes=tuple(scope for scope in SCOPES if scope in wanted),
                budget=budget,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )
    return text


def revoke(path: Path, which: str) -> Key:
    """Take a key out, named by its id or its name, and return what it was.

    Raises:
        KeysError: there is none, or the file cannot be written.
    """
    with _changing(path) as keys:
        found = [key for key in keys if which in (key.id, key.name)]
        if not found:
            raise KeysError(f"no key has the id or the name {which}: `messagingctl key list` shows them")
        keys.remove(found[0])
    return found[0]


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[list[Key]]:
    """The keys, to be changed and then written, while nobody else changes them.

    Readers see the old file or the new one. It belongs to whom its directory belongs to, and its group may read it.

    Raises:
        KeysError: the file cannot be read or written.
    """
    try:
        # the lock is on the directory: the file itself is another one each time
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            keys = list(read(path))
            yield keys
            _write(path, _File(keys=tuple(keys)), os.fstat(directory))
            os.fsync(directory)
        finally:
            os.close(directory)
    except PermissionError:
        raise KeysError(f"{path}: only root changes the keys; try again with sudo") from None
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from None


def _write(path: Path, file: _File, like: os.stat_result) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(file.model_dump_json(indent=1) + "\n")
            os.fchown(handle, like.st_uid, like.st_gid)
            os.fchmod(handle, 0o640)
            stream.flush()
            os.fsync(handle)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        seen = path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        # reading says what is wrong
        return (0, 0, 0)
    return seen.st_mtime_ns, seen.st_ino, seen.st_size
