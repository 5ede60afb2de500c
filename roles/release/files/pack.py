#!/usr/bin/env python3
"""Name a release after what is in it, and pack it.

    pack.py APP_DIR            prints {"release": "..."}
    pack.py APP_DIR OUT_DIR    also writes OUT_DIR/<release>.tar.gz and prints its path as "archive"

A release is called <version>-<12 hex digits over path and content of all its files>: the same files give the same name
and, byte for byte, the same archive. Standard library only, since it runs with any Python of the controller.
"""

import gzip
import hashlib
import io
import json
import os
import re
import sys
import tarfile
from pathlib import Path

TOP = ("pyproject.toml", "requirements.txt", "src")
# 1 January 2000: a wheel is a zip archive, which knows no date before 1980
DATE = 946684800
SKIPPED = {"__pycache__", "tests"}


def files(app):
    """The files of a release, sorted, relative to the application's directory."""
    for top in TOP:
        if not (app / top).exists():
            raise FileNotFoundError(f"{app / top} is missing: give the directory of the application")
    found = []
    for top in TOP:
        for path in [app / top, *(app / top).rglob("*")]:
            relative = path.relative_to(app)
            hidden = any(part.startswith(".") or part in SKIPPED for part in relative.parts)
            made = any(part.endswith((".egg-info", ".pyc")) for part in relative.parts)
            if path.is_file() and not hidden and not made:
                found.append(relative)
    return sorted(found, key=lambda path: path.as_posix())


def version(app):
    """The version in pyproject.toml."""
    found = re.search(r'^version\s*=\s*"([0-9A-Za-z.+-]+)"', (app / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    if not found:
        raise ValueError(f'{app / "pyproject.toml"}: no version = "..." in it')
    return found.group(1)


def archive(app):
    """A tar.gz without owners, dates or modes of this machine."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path in files(app):
            content = (app / path).read_bytes()
            entry = tarfile.TarInfo(path.as_posix())
            entry.size = len(content)
            entry.mode = 0o644
            entry.mtime = DATE
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def name(app):
    """<version>-<digest> of the application in this directory."""
    digest = hashlib.sha256()
    for path in files(app):
        content = (app / path).read_bytes()
        digest.update(f"{path.as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return f"{version(app)}-{digest.hexdigest()[:12]}"


def main(arguments):
    if len(arguments) not in (1, 2):
        sys.exit(__doc__)
    app = Path(arguments[0]).resolve()
    result = {"release": name(app)}
    if len(arguments) == 2:
        target = Path(arguments[1]).resolve() / f"{result['release']}.tar.gz"
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        temporary.write_bytes(archive(app))
        temporary.replace(target)
        result["archive"] = str(target)
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
