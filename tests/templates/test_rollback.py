"""Which release a rollback goes to, told by the filter itself from what the hosts say."""

from typing import Any

import pytest

from rendering import evaluate


def look(live: str, *names: str, running: tuple[str, ...] = (), left: str = "", unkept: str = "") -> dict[str, Any]:
    """What release_look says of a host on which these were live, the last one first."""
    releases = [
        {
            "name": name,
            "live_at": 100 - number,
            "settings": "" if name in (live, unkept) else f"/{name}",
            "left": name == left,
        }
        for number, name in enumerate(names)
    ]
    return {"live": live, "running": list(running or (live,)), "releases": releases}


HALF = look("a", "a", "b", running=("a", "b"))
HALF["releases"][0]["settings"] = "/a"


@pytest.mark.parametrize(
    ("looks", "wanted", "to", "problem"),
    [
        ({"one": look("c", "c", "b", "a")}, "", "b", ""),
        ({"one": look("c", "c", "b", "a")}, "a", "a", ""),
        ({"one": look("c", "c", "b", "a")}, "x", "", "one has no release x; there are: a, b (make rollback TO=...)"),
        ({"one": look("c", "c", "b", "a")}, "c", "", "c is live already; there are: a, b"),
        ({"one": look("c", "c")}, "", "", "nothing to go back to; there is no other to go to"),
        ({"one": look("c", "c", "b", unkept="b")}, "b", "", "of b nothing was kept of how it ran"),
        ({"one": look("b", "b", "c", "a", left="c")}, "", "a", ""),
        ({"one": look("b", "b", "c", left="c")}, "", "", "c was rolled back from; there are: c"),
        ({"one": look("b", "b", "c", left="c")}, "c", "c", ""),
        ({"one": HALF}, "", "a", ""),
        ({"one": HALF, "two": look("a", "a", "z")}, "", "", "of a nothing was kept"),
        ({"one": look("c", "c", "b", "a"), "two": look("c", "c", "a", "b")}, "", "", "do not agree"),
        ({"one": look("c", "c", "b"), "two": look("c", "c", "b", "a")}, "a", "", "one has no release a; there are: b"),
    ],
)
def test_where_a_rollback_goes(looks: dict[str, Any], wanted: str, to: str, problem: str) -> None:
    found = evaluate("release", "looks | release_back(wanted)", looks=looks, wanted=wanted)
    assert found["to"] == to, found
    assert (problem in found["problem"]) if problem else found["problem"] == "", found
