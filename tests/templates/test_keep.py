"""What make backup, restore and remove refuse, asked directly."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rendering import HOST, PROBE, ROLES, evaluate, load

HOSTS = [HOST, "other"]
# messaging-test has everything, other runs workers
CLUSTER: dict[str, Any] = {
    "groups": {"all": HOSTS, "rabbitmq": [HOST], "redis": [HOST], "app": [HOST], "celery": HOSTS},
    "cluster_address": "10.0.0.1",
}
BACKUP, RESTORE, REMOVE = (f"__base_{verb}_checks" for verb in ("backup", "restore", "remove"))
READ = {"rc": 0, "stdout": json.dumps({"format": 1, "hosts": [HOST]}), "stderr": ""}


def problems(checks: str, **values: Any) -> list[str]:
    defaults = {
        "ansible_play_hosts_all": [HOST],
        "base_probe": {"rabbitmq_vhosts": ["/", "messaging"]},
        "base_brought": ["rabbitmq-server"],
        "hostvars": {each: {"__base_remove_found": True, "base_probe": {"secrets_differ": []}} for each in HOSTS},
    }
    return list(evaluate("base", f"{checks} | problems", **{**defaults, **values}))


def secrets(folder: Path) -> Path:
    for name in load(ROLES / "base/vars/main.yml")["__base_secret_names"]:
        (folder / name).touch()
    return folder


def test_a_whole_system_is_backed_up(tmp_path: Path) -> None:
    values = {"messaging_secrets_dir": str(secrets(tmp_path))}
    assert problems(BACKUP, **values) == []
    [line] = problems(BACKUP, **values, **CLUSTER)
    assert f"is not one whole system ({HOST}, other)" in line
    assert problems(BACKUP, **values, **CLUSTER | {"ansible_play_hosts_all": HOSTS}) == []


def test_no_backup_while_passwords_change(tmp_path: Path) -> None:
    (tmp_path / ".next").mkdir()
    [line] = problems(BACKUP, messaging_secrets_dir=str(secrets(tmp_path)))
    assert "make rotate-secrets" in line


def test_no_backup_without_the_secrets_of_the_hosts(tmp_path: Path) -> None:
    [line] = problems(BACKUP, messaging_secrets_dir=str(tmp_path))
    assert "a backup without them is of no use" in line
    others = {"inventory_hostname": HOST, "base_probe": {"secrets_differ": ["/etc/messaging-system/secrets/x"]}}
    [line] = problems(BACKUP, messaging_secrets_dir=str(secrets(tmp_path)), hostvars={HOST: others})
    assert f"the passwords on {HOST} are not those" in line


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"restore_from": ""}, "make restore INVENTORY=... FROM="),
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


def test_a_host_without_anything_of_ours_is_refused() -> None:
    [line] = problems(REMOVE, hostvars={HOST: {"__base_remove_found": False}})
    assert "nothing of messaging-system" in line
    seen = {**PROBE, "fresh": True, "packages_before": None, "mailbox": False, "sshtunnel": False}
    assert evaluate("base", "__base_remove_ours", base_probe=seen) is False
    assert evaluate("base", "__base_remove_ours", base_probe={**seen, "packages_before": []}) is True
    assert evaluate("base", "__base_remove_ours", base_probe={**seen, "fresh": False}) is True


@pytest.mark.parametrize(
    ("values", "confirmed"),
    [
        ({"__base_remove_answer": {"user_input": "yes"}}, False),
        ({"__base_remove_answer": {"user_input": ""}}, False),
        ({"__base_remove_answer": {"user_input": "one"}}, False),
        ({"__base_remove_answer": {"user_input": " one  two "}}, True),
        ({"remove_confirm": "yes"}, True),
        ({"remove_confirm": "one two"}, True),
        ({"remove_confirm": "no"}, False),
    ],
)
def test_the_names_are_typed(values: dict[str, Any], confirmed: bool) -> None:
    assert evaluate("base", "__base_remove_confirmed", ansible_play_hosts=["one", "two"], **values) is confirmed


def test_mail_that_came_to_any_host_stops_a_removal() -> None:
    hosts = {HOST: {"release_queued": ""}, "other": {"release_queued": "1 messages in email"}, "third": {}}
    found = evaluate("release", "__release_waiting", ansible_play_hosts_all=list(hosts), hostvars=hosts)
    assert found == ["1 messages in email"]


def test_what_the_other_hosts_need_is_not_removed() -> None:
    assert [("broker" in line, "Redis" in line) for line in problems(REMOVE, **CLUSTER)] == [
        (True, False),
        (False, True),
    ]
    assert problems(REMOVE, **CLUSTER | {"ansible_play_hosts_all": HOSTS}) == []
    assert problems(REMOVE, **CLUSTER | {"inventory_hostname": "other", "ansible_play_hosts_all": ["other"]}) == []
    assert problems(REMOVE) == []


# What systemd says of workers, and of a backup that was cut off
SYSTEMCTL = """#!/bin/sh
case $1 in
list-units) echo 'messaging-worker@compute-1.service loaded active running Worker' ;;
show) [ ! -e "$PENDING" ] || echo '{ path=/usr/bin/systemctl ; argv[]=/usr/bin/systemctl start \
messaging-worker@compute-1.service messaging-worker@email-1.service ; ignore_errors=no ; pid=0 }' ;;
esac
"""


@pytest.mark.parametrize("pending", [False, True])
def test_what_a_backup_that_was_cut_off_has_stopped_comes_back_too(tmp_path: Path, pending: bool) -> None:
    program, note = tmp_path / "systemctl", tmp_path / "pending"
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)
    if pending:
        note.touch()
    look = load(ROLES / "celery/tasks/pause.yml")[0]["ansible.builtin.shell"]["cmd"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PENDING": str(note)}
    said = subprocess.run(["bash", "-c", look], env=environment, capture_output=True, text=True, check=True).stdout
    paused = evaluate("celery", "__celery_paused_units", __celery_paused={"stdout_lines": said.splitlines()})
    email = ["messaging-worker@email-1.service"] if pending else []
    assert paused == ["messaging-worker@compute-1.service", *email]


def test_a_broker_that_others_use_is_not_removed() -> None:
    used = {"base_probe": {"rabbitmq_vhosts": ["/", "messaging", "shop"]}}
    [line] = problems(REMOVE, **used)
    assert "somebody else has shop" in line
    assert problems(REMOVE, **used, base_brought=[]) == []


@pytest.mark.parametrize("path", sorted(ROLES.glob("*/tasks/install.yml")), ids=lambda path: path.parts[-3])
def test_what_a_role_installs_it_notes_before(path: Path) -> None:
    tasks = load(path)
    for before, task in zip([{}, *tasks], tasks, strict=False):
        names = task.get("ansible.builtin.apt", {}).get("name")
        if names:
            note = before["host_files"]["files"]
            assert before["when"] == task["when"]
            last = note if isinstance(note, str) else note[-1]["path"]
            assert last.endswith(f"brought/{names}") or names.strip("{} ") in last


APT = """#!/bin/sh
case "$*" in
*--dry-run*)
  echo x >> "$COUNT"
  [ "$(wc -l < "$COUNT")" != "$FAILS" ] || exit 100
  echo 'Remv was-needless-before'
  [ "$(wc -l < "$COUNT")" = 1 ] || printf 'Remv %s [1]\\n' ours ours-needs was-there-before
  ;;
*purge*) echo "$*" ;;
esac
"""


@pytest.mark.parametrize(("fails", "code", "says"), [(0, 0, "-qy purge ours ours-needs\n"), (1, 100, ""), (2, 100, "")])
def test_only_what_becomes_needless_is_purged(tmp_path: Path, fails: int, code: int, says: str) -> None:
    for name in ("apt-get", "apt-mark"):
        (tmp_path / name).write_text(APT)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "before").write_text("base-files\nwas-there-before\n")
    [task] = [task for task in load(ROLES / "base/tasks/remove.yml") if task["name"] == "Remove the packages"]
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "COUNT": str(tmp_path / "count"),
        "FAILS": str(fails),
        "OURS": "ours",
        "BEFORE": str(tmp_path / "before"),
    }
    command = ["bash", "-c", task["ansible.builtin.shell"]["cmd"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, says), done.stderr


def run_with(folder: Path, script: str, programs: dict[str, str], **environment: str) -> tuple[int, str, list[str]]:
    """Run a task's script with stand-ins for programs; its exit code, its output, and the calls that were noted."""
    for name, text in programs.items():
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "$CALLS"\n{text}\n')
        (folder / name).chmod(0o755)
    calls = folder / "calls"
    calls.touch()
    environment |= {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(calls)}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, calls.read_text().splitlines()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("state", ["active", "inactive"])
def test_a_mailbox_runs_again_although_its_restore_fails(tmp_path: Path, state: str, fails: bool) -> None:
    [block] = load(ROLES / "mailbox/tasks/restore.yml")
    programs = {
        "systemctl": f'[ "$1" != is-active ] || echo {state}',
        "tar": "exit 2" if fails else "",
        "install": "",
        "chown": "",
    }
    code, _, calls = run_with(tmp_path, block["block"][1]["ansible.builtin.shell"]["cmd"], programs)
    assert code == (2 if fails else 0)
    assert calls.count("systemctl start messaging-mailbox.service") == (1 if state == "active" else 0)


@pytest.mark.parametrize(
    ("answers", "code", "deleted"),
    [
        (
            {
                "list_vhosts": "name\\n/\\nmessaging",
                "list_users": "user\\ttags\\nmessaging\\t[]\\nmonitor\\t[monitoring]",
            },
            0,
            3,
        ),
        (
            {
                "list_vhosts": "name\\n/\\nmessaging2",
                "list_users": "user\\ttags\\nmonitor\\t[monitoring]\\nmonitors\\t[]",
            },
            0,
            1,
        ),
        ({"list_vhosts": "name\\n/", "list_users": "user\\ttags\\nguest\\t[]"}, 0, 0),
        ({"list_vhosts": "", "list_users": ""}, 69, 0),
    ],
)
def test_a_broker_that_was_there_loses_what_is_ours(
    tmp_path: Path, answers: dict[str, str], code: int, deleted: int
) -> None:
    tasks = load(ROLES / "rabbitmq/tasks/remove.yml")[1]["block"]
    [task] = [task for task in tasks if task["name"] == "Remove the vhost and the users"]
    program = "\n".join(
        f"[ \"$2\" != {name} ] || printf '{text}\\n' {'' if text else '; [ $2 = delete_user ] || exit 69'}"
        for name, text in answers.items()
    )
    done, said, calls = run_with(
        tmp_path,
        task["ansible.builtin.shell"]["cmd"],
        {"rabbitmqctl": program},
        VHOST="messaging",
        USERS="messaging monitor",
    )
    assert done == code
    assert len([call for call in calls if " delete_" in call]) == deleted == len(said.splitlines())
