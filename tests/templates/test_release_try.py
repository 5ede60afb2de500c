"""Whether a release may take the place of the live one, from what both say of themselves."""

from pathlib import Path
from typing import Any

import pytest

from rendering import PROBE, ROLES, evaluate, load, load_module

BROKER = {"rabbitmq": "not reachable"}
BOTH = {"rabbitmq": "not reachable", "redis": "not reachable"}


@pytest.fixture
def module() -> Any:
    return load_module("release/library/release_try.py")


@pytest.mark.parametrize(
    ("tried", "live", "accepted", "says"),
    [
        ({}, None, True, ""),
        (None, {}, False, "it does not run:\nImportError"),
        (None, None, False, "it does not run:\nImportError"),
        (BROKER, {}, False, "it is not ready, and the live one is:\n- rabbitmq: not reachable"),
        (BROKER, None, False, "nothing is live here that could be compared:\n- rabbitmq"),
        (BROKER, BOTH, True, "neither is the live one"),
        (BOTH, BROKER, False, "for more reasons than the live one (rabbitmq):\n- rabbitmq: not reachable\n- redis"),
    ],
)
def test_it_may_not_be_less_ready_than_the_live_one(
    module: Any, tried: Any, live: Any, accepted: bool, says: str
) -> None:
    found, reason = module.verdict(tried, live, ["ImportError"])
    assert found is accepted
    assert says in reason


@pytest.mark.parametrize(
    ("tried", "accepted", "says"),
    [
        ({}, True, ""),
        (None, False, "it does not run:\nImportError"),
        (BROKER, True, "no web application is here that could be compared:\n- rabbitmq: not reachable"),
    ],
)
def test_where_no_web_application_is_live_it_has_to_run(module: Any, tried: Any, accepted: bool, says: str) -> None:
    found, reason = module.verdict(tried, None, ["ImportError"], compared=False)
    assert found is accepted
    assert says in reason


@pytest.mark.parametrize(
    ("groups", "live", "compared"),
    [
        (["app", "celery"], "/opt/messaging-system/releases/a", True),
        (["celery"], "/opt/messaging-system/releases/a", False),
        (["celery"], "", True),
        (["app"], "", True),
    ],
)
def test_it_is_compared_where_the_live_one_can_be(groups: list[str], live: str, compared: bool) -> None:
    [task] = [each for each in load(ROLES / "release/tasks/try.yml") if "release_try" in each]
    expression = task["release_try"]["live"].removeprefix("{{").removesuffix("}}")
    probe = {**PROBE, "release_live": [live, ""]}
    found = evaluate("release", expression, group_names=groups, messaging_probe=probe, omit="")
    assert found == ("/run/messaging-web.sock" if compared else "")


def test_one_host_that_refuses_is_enough() -> None:
    tried = {
        "one": {"__release_tried": {"accepted": True, "reason": ""}},
        "two": {"__release_tried": {"accepted": False, "reason": "it does not run"}},
        "three": {},
    }
    refused = evaluate("release", "hosts | release_refused(tried)", hosts=list(tried), tried=tried)
    assert refused == ["two: it does not run"]


def test_a_trial_whose_run_was_killed_ends_by_itself(module: Any) -> None:
    assert "\nRuntimeMaxSec=300\n" in module.SERVICE_UNIT


def test_what_is_live_has_the_path_that_the_units_name(tmp_path: Path) -> None:
    """Otherwise it would be tried, and noted as new, in every run."""
    probe = load_module("base/library/host_probe.py")
    (tmp_path / "disk/messaging-system/releases/a").mkdir(parents=True)
    (tmp_path / "opt").symlink_to("disk")
    link = tmp_path / "opt/messaging-system/current"
    assert probe.led_to(str(link)) == ""
    link.symlink_to("releases/a")
    assert probe.led_to(str(link)) == f"{tmp_path}/opt/messaging-system/releases/a"
    link.unlink()
    link.symlink_to("releases/gone")
    assert probe.led_to(str(link)) == ""
