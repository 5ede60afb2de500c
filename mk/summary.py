"""summary.py FOLDER SECONDS: one line for all the JUnit files of a test run, after what was not run at all."""

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree


def main(folder: str, seconds: str) -> None:
    """Add up the files in `folder` and print the totals."""
    total: Counter[str] = Counter()
    for file in Path(folder).glob("*.xml"):
        for suite in ElementTree.parse(file).getroot().iter("testsuite"):
            total.update({name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")})
    failed = total["failures"] + total["errors"]
    passed = total["tests"] - failed - total["skipped"]
    not_run = Path(folder, "not-run")
    for line in not_run.read_text().splitlines() if not_run.exists() else []:
        print(f"not run: {line}")
    minutes, rest = divmod(int(seconds), 60)
    print(f"{passed} passed, {failed} failed, {total['skipped']} skipped in {minutes} min {rest} s")


main(*sys.argv[1:3])
