"""Which hosts of a play are worked on at the same time."""

from typing import Any

import pytest

from rendering import ROOT, evaluate, load


@pytest.mark.parametrize("playbook", ["playbook.yml", "playbooks/rollback.yml"])
@pytest.mark.parametrize(
    ("members", "serial"),
    [
        ({"a": ["a", "b", "c"], "b": ["a", "b", "c"], "c": ["a", "b", "c"]}, 1),
        # two systems in one inventory
        ({"a": ["a"], "b": ["b"]}, "100%"),
        ({"a": ["a"]}, "100%"),
        ({}, "100%"),
    ],
)
def test_one_web_application_of_several_restarts_at_a_time(playbook: str, members: dict[str, Any], serial: Any) -> None:
    [play] = [each for each in load(ROOT / playbook) if each["name"] == "Web application"]
    assert play["any_errors_fatal"], "the next host only if all went well"
    found = evaluate(
        "app",
        play["serial"].strip().removeprefix("{{").removesuffix("}}"),
        groups={"app": list(members)},
        hostvars={host: {"messaging_members": {"app": hosts}} for host, hosts in members.items()},
    )
    assert found == serial
