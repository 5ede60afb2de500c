"""A host with all that can wait on it is backed up, removed without a trace, and restored from the archive alone."""

import json
import os
import re
import shutil
import subprocess
import tarfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from faulty import in_release
from probe import (
    TIME_LOG,
    mails,
    ready,
    request,
    secrets_on_controller,
    send_mail,
    task_state,
    wait_for_mail,
    wait_for_state,
    wait_until,
)

ROOT = Path(__file__).resolve().parents[2]
EPHEMERAL = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
BACKUPS = EPHEMERAL / "backups"
SECRETS = EPHEMERAL / "secrets"

# Jobs as a worker publishes them: argv is what, then addresses or a task's id
QUEUE = """
import sys, uuid
from messaging.job import SEND_EMAIL, Job
from messaging.publisher import Publisher
from messaging.results import Record, Records, State
from messaging.settings import load
settings = load()
publisher, records = Publisher(settings), Records(settings, 2)
kind, *names = sys.argv[1:]
for name in names:
    kwargs = {"to": name, "subject": "A subject", "text": "A text."}
    job = Job(task=SEND_EMAIL, kwargs=kwargs, task_id=str(uuid.uuid4()), queue="email", attempt=2)
    if kind == "delayed":
        records.put(Record.queued(job))
        records.put(Record.queued(job).to(State.RETRYING, reason="451 later"))
        publisher.retry_later(job, 1800)
    elif kind == "dead":
        job = Job(task=SEND_EMAIL, kwargs={**kwargs, "subject": 1}, task_id=job.task_id, queue="email")
        records.put(Record.queued(job))
        publisher.submit(job)
    else:
        address, task_id = name.split("=")
        publisher.submit(Job(task=SEND_EMAIL, kwargs={**kwargs, "to": address}, task_id=task_id, queue="email"))
    print(job.task_id)
"""

# Paths that differ afterwards, and why that is right
STAYS = {
    r"/var/lib/apt/|/var/cache/apt/|/var/log/apt/": "what apt knows of the archive, and its own log",
    r"/var/lib/(dpkg|ucf)/|/var/cache/debconf/|/var/log/(dpkg|alternatives)\.log": "the package manager's books",
    r"/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$|/etc/\.pwd\.lock": "compared line by line",
    r"/etc/ld\.so\.cache|/var/cache/ldconfig": "made anew after every package",
    r"/var/log/journal/|/run/log/journal/|/var/log/(wtmp|btmp|lastlog|faillog)": "the journal of what happened",
    r"/var/lib/systemd/|/var/tmp/systemd-private|/tmp/systemd-private|/run/systemd/": "systemd's state",
    r"/root/\.ansible|/tmp/ansible": "Ansible's own folder",
    r"/run/(utmp|lock|sudo|user|dbus|mount|ansible|adduser)": "of this boot",
    r".*/__pycache__": "Python's",
}


@dataclass
class Saved:
    """What was on the host when it was backed up."""

    archive: Path
    said: str
    done: dict[str, str]
    queued: dict[str, str]
    delayed: dict[str, str]
    dead: list[str]
    key: str
    line: str
    repeated: tuple[str, str]


def play(verb: str, *arguments: str, fails: bool = False, **variables: Any) -> str:
    """Run one of the playbooks as `make` does; what it printed."""
    file = EPHEMERAL / "variables.json"
    file.write_text(json.dumps(variables))
    playbook = ROOT / ("molecule/shared/restore.yml" if verb == "restore" else f"playbooks/{verb}.yml")
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    command = ["ansible-playbook", "-i", inventory, str(playbook), "-e", f"@{file}", *arguments]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    # nobody is at the terminal
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    output = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, output[-6000:]
    return output


def listing(host: Host) -> dict[str, Any]:
    """What is on the host now, as molecule/keep/prepare.yml has noted it before."""
    program = (Path(__file__).parent / "listing.py").read_text()
    return dict(json.loads(host.check_output("python3 -c %s", program)))


def address(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex[:8]}@example.com"


def ask_once(host: Host, key: str, to: str) -> Any:
    """Ask for a mail under an Idempotency-Key."""
    body = json.dumps({"to": to, "subject": "Once", "text": "Once."})
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    return request(host, "/api/v1/tasks/send-email", "POST", headers, body)


@pytest.fixture(scope="module")
def saved(host: Host) -> Saved:
    wait_until(lambda: ready(host), "ready", 60)
    done = {to: send_mail(host, to) for to in (address("done") for _ in range(3))}
    for to, task_id in done.items():
        wait_for_mail(host, to)
        wait_for_state(host, task_id)
    once = address("once")
    repeated = ask_once(host, "a-key", once).json()["task_id"]
    wait_for_state(host, repeated)
    request(host, "/?talktome")
    line = wait_until(lambda: host.check_output("cat %s", TIME_LOG).splitlines(), "a line in the log")[-1]
    key = host.check_output("messagingctl key add ci")
    dead = in_release(host, QUEUE, "dead", address("dead")).split()
    wait_for_state(host, dead[0], "failed")
    host.check_output("systemctl stop 'messaging-worker@email-*'")
    queued = {to: send_mail(host, to) for to in (address("queued") for _ in range(20))}
    late = [address("delayed") for _ in range(5)]
    delayed = dict(zip(late, in_release(host, QUEUE, "delayed", *late).split(), strict=True))
    # a copy of what was delivered
    [(to, task_id), *_] = done.items()
    in_release(host, QUEUE, "again", f"{to}={task_id}")
    said = play("backup", "--diff", "-v")
    [archive] = BACKUPS.iterdir()
    return Saved(archive, said, done, queued, delayed, dead, key, line, (once, repeated))


def test_only_its_owner_can_read_the_archive(saved: Saved) -> None:
    assert saved.archive.stat().st_mode & 0o777 == 0o600
    with tarfile.open(saved.archive) as archive:
        names = set(archive.getnames())
    parts = {"./tasks.jsonl.gz", "./mailbox.tar.gz", "./keys.json", "./secrets/redis_password", "./manifest.json"}
    assert parts < names
    # 20 queued, 5 that wait, one dead, one that was done
    assert re.search(r"holds \d+ keys of Redis, 27 messages", " ".join(saved.said.split())), saved.said[-2000:]


def journal(host: Host) -> str:
    """What is in the journal now, with Ansible's modules."""
    said = host.check_output("journalctl --no-pager --output=cat")
    assert "Invoked " in said, "Ansible's modules say there what they were called with"
    return said


def hidden(saved: Saved) -> list[str]:
    """What nobody shall read who looks on."""
    return [*saved.done, *saved.queued, *saved.delayed, *secrets_on_controller().values(), saved.key]


def test_a_backup_shows_no_address_and_no_secret(host: Host, saved: Saved) -> None:
    said = saved.said + journal(host)
    assert [each for each in hidden(saved) if each in said] == []


def test_the_workers_run_as_before(host: Host, saved: Saved) -> None:
    assert host.run("systemctl is-active messaging-worker@compute-1 messaging-worker@email-1").stdout.split() == [
        "active",
        "inactive",
    ]
    assert host.run("ls -d /var/tmp/messaging-backup-*").rc != 0, "copies are left on the host"


def test_a_backup_that_fails_leaves_everything_as_it_was(host: Host, saved: Saved) -> None:
    host.check_output("systemctl stop redis-server")
    try:
        assert "redis" in play("backup", fails=True)
    finally:
        host.check_output("systemctl start redis-server")
    assert host.run("systemctl is-active messaging-worker@compute-1").stdout.strip() == "active"
    assert list(BACKUPS.iterdir()) == [saved.archive]
    assert host.run("systemctl is-active messaging-workers-back.timer").stdout.strip() == "inactive"


def test_queued_mail_is_not_removed_by_accident(host: Host, saved: Saved) -> None:
    said = play("remove", fails=True, remove_confirm="yes")
    assert "20 messages in email" in " ".join(said.split()) or "21 messages in email" in " ".join(said.split())
    assert request(host, "/healthz").status == 200


def test_nothing_is_removed_without_an_answer(host: Host, saved: Saved) -> None:
    said = play("remove", fails=True, remove_queued=True)
    assert "Nothing was removed" in said
    assert request(host, "/healthz").status == 200


def lasting(found: dict[str, Any]) -> dict[str, Any]:
    """What does not change by itself while the services run."""
    files = {
        path: entry
        for path, entry in found["files"].items()
        if re.match(r"/(etc|opt|root|srv|home|usr)/|/var/(www|lib/messaging-system\.)", path)
        and not any(re.match(pattern, path) for pattern in STAYS)
    }
    return {**found, "files": files}


@pytest.fixture(scope="module")
def removed(host: Host, saved: Saved) -> dict[str, Any]:
    earlier = lasting(listing(host))
    assert {"1 messaging"} <= set(earlier["tables"]), earlier["tables"]
    play("remove", "--check", remove_queued=True)
    assert lasting(listing(host)) == earlier, "--check has changed something"
    assert request(host, "/healthz").status == 200
    play("remove", remove_queued=True, remove_confirm="yes")
    return listing(host)


@pytest.fixture(scope="module")
def before() -> dict[str, Any]:
    return dict(json.loads((EPHEMERAL / "before.json").read_text()))


@pytest.mark.parametrize("what", ["packages", "manual", "users", "groups", "units", "failed", "listening", "tables"])
def test_the_host_is_what_it_was(what: str, before: dict[str, Any], removed: dict[str, Any]) -> None:
    assert {
        "more": sorted(set(removed[what]) - set(before[what])),
        "less": sorted(set(before[what]) - set(removed[what])),
    } == {
        "more": [],
        "less": [],
    }


def test_no_file_is_left_and_none_is_missing(before: dict[str, Any], removed: dict[str, Any]) -> None:
    old, new = before["files"], removed["files"]
    differ = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
    unexplained = [
        f"{path}: {old.get(path)} -> {new.get(path)}"
        for path in differ
        # a folder too, without the slash at its end
        if not any(re.match(pattern, f"{path}/") or re.match(pattern, path) for pattern in STAYS)
    ]
    assert unexplained == [], "\n".join(unexplained)


def test_a_host_that_has_nothing_of_ours_is_refused(host: Host, removed: dict[str, Any]) -> None:
    said = play("remove", fails=True, remove_confirm="yes")
    assert "nothing of messaging-system" in " ".join(said.split())
    assert "changed=0" in said


@pytest.fixture(scope="module")
def restored(host: Host, saved: Saved, removed: dict[str, Any]) -> str:
    shutil.rmtree(SECRETS)
    said = play("restore", "--diff", "-v", restore_from=str(saved.archive))
    wait_until(lambda: ready(host), "ready", 60)
    return said


def wait_for_quiet(host: Host) -> None:
    """Wait until there has been no message but dead letters for 7 seconds: no second copy can come after that."""
    busy = [time.monotonic()]

    def quiet() -> bool:
        lines = host.check_output("rabbitmqctl --quiet list_queues --vhost messaging name messages").splitlines()
        waiting = [line for line in lines if re.match(r"(?!dead)\S+\s+[1-9]\d*$", line)]
        if waiting:
            busy.append(time.monotonic())
        return time.monotonic() - busy[-1] >= 7

    wait_until(quiet, "7 seconds without a message", 90)


def test_a_restore_shows_no_address_and_no_secret(host: Host, saved: Saved, restored: str) -> None:
    said = restored + journal(host)
    assert [each for each in hidden(saved) if each in said] == []


def test_every_mail_is_there_exactly_once(host: Host, saved: Saved, restored: str) -> None:
    everybody = [*saved.done, *saved.queued, *saved.delayed, saved.repeated[0]]
    for to in everybody:
        wait_until(lambda to=to: mails(host, f"To: {to}"), f"mail to {to}", 60)
    for task_id in (*saved.queued.values(), *saved.delayed.values()):
        wait_for_state(host, task_id)
    wait_for_quiet(host)
    assert {to: len(mails(host, f"\nTo: {to}")) for to in everybody} == dict.fromkeys(everybody, 1)


def test_records_can_be_asked_for(host: Host, saved: Saved, restored: str) -> None:
    assert {task_state(host, task_id) for task_id in saved.done.values()} == {"succeeded"}
    assert [task_state(host, task_id) for task_id in saved.dead] == ["failed"]


def test_dead_letters_are_still_there_with_their_reason(host: Host, saved: Saved, restored: str) -> None:
    lines = host.check_output("messagingctl dead list").splitlines()
    assert [(line.split()[0], line.split()[2]) for line in lines] == [(saved.dead[0], "rejected")]


def test_keys_and_repeated_requests_are_known(host: Host, saved: Saved, restored: str) -> None:
    assert "ci" in host.check_output("messagingctl key list")
    asked = request(host, "/api/v1/tasks/no-such-task", headers={"Authorization": f"Bearer {saved.key}"})
    assert asked.status != 401
    once, task_id = saved.repeated
    assert ask_once(host, "a-key", once).json()["task_id"] == task_id
    assert len(mails(host, f"\nTo: {once}")) == 1


def test_the_log_and_the_secrets_are_the_old_ones(host: Host, saved: Saved, restored: str) -> None:
    assert saved.line in host.check_output("cat %s", TIME_LOG).splitlines()
    with tarfile.open(saved.archive) as archive:
        file = archive.extractfile("./secrets/operator_key")
        assert file is not None
        assert file.read().decode() == secrets_on_controller()["operator_key"]


def test_a_host_in_use_is_left_alone(host: Host, saved: Saved, restored: str) -> None:
    said = play("restore", fails=True, restore_from=str(saved.archive))
    assert "has tasks already" in " ".join(said.split())


def test_a_second_restore_sends_nothing_again(host: Host, saved: Saved, restored: str) -> None:
    to = address("newer")
    task_id = send_mail(host, to)
    wait_for_state(host, task_id)
    play("restore", restore_from=str(saved.archive), restore_over=True)
    wait_for_quiet(host)
    everybody = [*saved.done, *saved.queued, *saved.delayed, to]
    assert {each: len(mails(host, f"\nTo: {each}")) for each in everybody} == dict.fromkeys(everybody, 1)
    assert len(host.check_output("messagingctl dead list").splitlines()) == 1
    assert task_state(host, task_id) == "succeeded"


def test_other_secrets_stop_a_restore(saved: Saved, restored: str) -> None:
    (SECRETS / "operator_key").write_text("somebody-elses-secret-1234")
    said = play("restore", fails=True, restore_from=str(saved.archive), restore_over=True)
    assert "are not those of" in " ".join(said.split())
