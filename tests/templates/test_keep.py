"""What make backup, restore and remove refuse, asked directly."""

import json
from pathlib import Path
from typing import Any

import pytest

from rendering import HOST, evaluate

HOSTS = [HOST, "other"]
# messaging-test has everything, other runs workers
CLUSTER: dict[str, Any] = {
    "groups": {"all": HOSTS, "rabbitmq": [HOST], "redis": [HOST], "app": [HOST], "celery": HOSTS},
    "cluster_address": "10.0.0.1",
}
BACKUP, RESTORE, REMOVE = (f"__base_{verb}_checks" for verb in ("backup", "restore", "remove"))
READ = {"rc": 0, "stdout": json.dumps({"format": 1, "hosts": [HOST]}), "stderr": ""}


def problems(checks: str, **values: Any) -> list[str]:
    return list(evaluate("base", f"{checks} | problems", **{"ansible_play_hosts_all": [HOST], **values}))


def test_a_whole_system_is_backed_up(tmp_path: Path) -> None:
    values = {"messaging_secrets_dir": str(tmp_path)}
    assert problems(BACKUP, **values) == []
    [line] = problems(BACKUP, **values, **CLUSTER)
    assert f"is not one whole system ({HOST}, other)" in line
    assert problems(BACKUP, **values, **CLUSTER | {"ansible_play_hosts_all": HOSTS}) == []


def test_no_backup_while_passwords_change(tmp_path: Path) -> None:
    (tmp_path / ".next").mkdir()
    [line] = problems(BACKUP, messaging_secrets_dir=str(tmp_path))
    assert "make rotate-secrets" in line


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"restore_from": ""}, "make restore FROM="),
        ({"__base_restore_read": {"rc": 2, "stdout": "", "stderr": "tar: x: Cannot open"}}, "Cannot open"),
        ({"__base_restore_read": {**READ, "stdout": '{"format": 99, "hosts": []}'}}, "made by another release"),
        ({"ansible_check_mode": True}, "--check"),
        (CLUSTER, "is not one whole system"),
    ],
)
def test_what_cannot_be_restored_is_refused(values: dict[str, Any], says: str) -> None:
    found = problems(RESTORE, **{"restore_from": "x.tar", "__base_restore_read": READ, **values})
    assert [line for line in found if says in line], found


def test_what_can_be_restored_is_not_refused() -> None:
    assert problems(RESTORE, restore_from="x.tar", __base_restore_read=READ) == []


def test_what_the_other_hosts_need_is_not_removed() -> None:
    assert [("broker" in line, "Redis" in line) for line in problems(REMOVE, **CLUSTER)] == [
        (True, False),
        (False, True),
    ]
    assert problems(REMOVE, **CLUSTER | {"ansible_play_hosts_all": HOSTS}) == []
    assert problems(REMOVE, **CLUSTER | {"inventory_hostname": "other", "ansible_play_hosts_all": ["other"]}) == []
    assert problems(REMOVE) == []
