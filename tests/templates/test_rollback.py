"""Which release a rollback goes to, told by the filter itself from what the hosts say."""

from typing import Any

import pytest

from rendering import ROLES, evaluate, load


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


def leaving(look_of: dict[str, Any]) -> dict[str, Any]:
    """The same once a rollback has begun there: the units of what is live are kept."""
    for each in look_of["releases"]:
        each["settings"] = f"/{each['name']}"
    return look_of


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
        # a deploy that stopped half-way, once where what it deploys was rolled back from before
        ({"one": leaving(look("b", "b", "c", "a", running=("b", "c")))}, "", "b", ""),
        ({"one": leaving(look("b", "b", "c", "a", running=("b", "c"), left="c"))}, "", "b", ""),
        ({"one": leaving(look("b", "b", "a", running=("b", "c")))}, "", "b", ""),
        # one of two hosts has finished it
        ({"one": leaving(look("c", "c", "b")), "two": leaving(look("b", "b", running=("c",)))}, "", "b", ""),
        # a rollback that stopped half-way: before the units, at the units, before it noted what is live
        ({"one": leaving(look("c", "c", "b", "a", left="c"))}, "", "b", ""),
        ({"one": leaving(look("c", "c", "b", "a", running=("b", "c"), left="c"))}, "", "b", ""),
        ({"one": leaving(look("c", "c", "b", "a", running=("b",), left="c"))}, "", "b", ""),
        ({"one": leaving(look("c", "c", "b", "a", running=("a", "c"), left="c"))}, "", "a", ""),
        ({"one": leaving(look("c", "c", "b", "a", running=("a", "c"), left="c"))}, "c", "c", ""),
        # a deploy of d after it stopped half-way too
        ({"one": leaving(look("c", "c", "b", "a", running=("b", "d"), left="c"))}, "", "b", ""),
        # one of two hosts has finished it; or has not yet noted what it leaves
        (
            {
                "one": leaving(look("b", "b", "c", "a", left="c")),
                "two": leaving(look("c", "c", "b", "a", running=("b",), left="c")),
            },
            "",
            "b",
            "",
        ),
        ({"one": leaving(look("c", "c", "b", left="c")), "two": leaving(look("c", "c", "b"))}, "", "b", ""),
        ({"one": look("c", "c", "b", "a"), "two": look("c", "c", "a", "b")}, "", "", "do not agree"),
        ({"one": look("c", "c", "b"), "two": look("c", "c", "b", "a")}, "a", "", "one has no release a; there are: b"),
    ],
)
def test_where_a_rollback_goes(looks: dict[str, Any], wanted: str, to: str, problem: str) -> None:
    found = evaluate("release", "looks | release_back(wanted)", looks=looks, wanted=wanted)
    assert found["to"] == to, found
    assert (problem in found["problem"]) if problem else found["problem"] == "", found


def test_what_is_left_is_noted_before_anything_changes() -> None:
    tasks = load(ROLES / "release/tasks/rollback.yml")
    note = next(task for task in tasks if task["name"] == "Note what is left")
    found = evaluate(
        "release",
        note["host_files"]["files"].strip().removeprefix("{{").removesuffix("}}"),
        __release_to_leave=evaluate(
            "release",
            note["vars"]["__release_to_leave"].strip().removeprefix("{{").removesuffix("}}"),
            __release_look=look("c", "c", "b", running=("b", "c")),
            __release_back={"to": "b"},
        ),
    )
    assert [(each["path"], each["state"]) for each in found] == [("/etc/messaging-system/releases/c/left", "present")]
