"""Which release a rollback goes to, told by the filter itself from what the hosts say."""

from pathlib import Path
from typing import Any

import pytest

from rendering import ROLES, evaluate, load, load_module


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


MAILBOX = {"SMTP_HOST": "127.0.0.1", "SMTP_USERNAME": "", "MAIL_EMBEDDED": "true", "QUEUES": "email,compute"}
RELAY = MAILBOX | {"SMTP_HOST": "smtp.example.com", "SMTP_USERNAME": "me", "MAIL_EMBEDDED": "false"}
OTHER = RELAY | {"SMTP_HOST": "smtp.example.net"}
OPEN = RELAY | {"SMTP_USERNAME": ""}


@pytest.mark.parametrize(
    ("then", "now", "mailbox", "queues", "problem"),
    [
        (RELAY, [RELAY], False, ["email"], ""),
        (MAILBOX, [MAILBOX], True, ["compute", "email"], ""),
        (OPEN, [RELAY], False, ["email"], ""),
        (RELAY, [OTHER], False, [], "one: it logs in at smtp.example.com as me, whose password is not here any more"),
        (RELAY, [RELAY | {"SMTP_USERNAME": "you"}], False, [], "password"),
        (RELAY, [OPEN], False, [], "password"),
        (RELAY, [MAILBOX], True, [], "password"),
        # a deploy to another relay that stopped half-way has brought its password
        (RELAY, [RELAY, OTHER], False, [], "password"),
        (MAILBOX, [RELAY], False, [], "one: its mail goes to the embedded mailbox, which is not here any more"),
        (MAILBOX, [MAILBOX], False, [], "embedded mailbox"),
        (MAILBOX, [RELAY], True, [], ""),
        (RELAY, [RELAY], False, ["email", "reports"], "it does not know the queue reports, which workers here work on"),
        (None, [RELAY], False, ["email"], ""),
    ],
)
def test_a_rollback_is_refused_where_its_settings_need_what_is_gone(
    then: Any, now: list[Any], mailbox: bool, queues: list[str], problem: str
) -> None:
    here = {"releases": [{"name": "a", "reads": then}], "reads": now, "mailbox": mailbox, "queues": queues}
    found = evaluate("release", "looks | release_back_lacks('a', ['one'])", looks={"one": here})
    assert (problem in found[0]) if problem else found == [], found


def test_the_mailbox_may_be_on_a_host_that_is_not_in_this_run() -> None:
    here = {"releases": [{"name": "a", "reads": MAILBOX}], "reads": [MAILBOX], "mailbox": False, "queues": []}
    assert evaluate("release", "looks | release_back_lacks('a', ['one'])", looks={"two": here}) == []
    there = here | {"mailbox": True}
    assert evaluate("release", "looks | release_back_lacks('a', ['one'])", looks={"two": here, "one": there}) == []


def test_what_a_host_says_of_its_releases(tmp_path: Path) -> None:
    module = load_module("release/library/release_look.py")
    root, etc, units = (tmp_path / name for name in ("root", "etc", "units"))
    settings = etc / "releases/a/0123"
    (root / "releases/a").mkdir(parents=True)
    (root / "releases/a/.complete").touch()
    (root / "current").symlink_to("releases/a")
    (settings / "units").mkdir(parents=True)
    (settings / "units/messaging-web.service").touch()
    (settings / "messaging.env").write_text(
        "# digest: 0\n" + "".join(f'MSG_{name}="{value}"\n' for name, value in {**RELAY, "AMQP_USER": "x"}.items())
    )
    (etc / "releases/a/live").symlink_to("0123")
    (etc / "current").symlink_to("releases/a/0123")
    (etc / "workers").mkdir()
    (etc / "workers/email-1.env").write_text("# Ansible managed\nWORKER_QUEUES=email,reports\nWORKER_POOL=threads\n")
    units.mkdir()
    (units / "messaging-mailbox.service").write_text(
        f"[Service]\nEnvironment=MSG_CONFIG_DIR={settings}\nExecStart={root}/releases/a/venv/bin/python\n"
    )
    found = module.look(root=str(root), etc=str(etc), units=str(units))
    [release] = found.pop("releases")
    assert (release["name"], release["settings"], release["reads"], release["left"]) == (
        "a",
        str(settings),
        RELAY,
        False,
    )
    assert found == {
        "live": "a",
        "running": ["a"],
        "reads": [RELAY, RELAY],
        "mailbox": True,
        "queues": ["email", "reports"],
    }
