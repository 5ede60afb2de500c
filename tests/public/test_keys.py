"""API keys: made, used and revoked on a host that runs, and never seen anywhere else."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from probe import Response, request, secrets_on_controller, wait_for_state

ROOT = Path(__file__).resolve().parents[2]
FILE = "/etc/messaging-system/keys.json"
KEY = re.compile(r"msk_([0-9a-f]{10})_[0-9a-f]{64}")
# Several times as often as there are processes of the web application, so that each is asked
OFTEN = 8


def messagingctl(host: Host, *arguments: str) -> str:
    """What it prints; nothing of it may end in a process list or a journal but the names."""
    return str(host.check_output("messagingctl key" + " %s" * len(arguments), *arguments)).strip()


def play(action: str, **values: str) -> str:
    """The output of playbooks/api_key.yml."""
    command = ["ansible-playbook", "playbooks/api_key.yml", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"]]
    command += ["--extra-vars", json.dumps({"key_action": action, **values})]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def none_before(host: Host) -> Iterator[None]:
    """The tests begin without keys; those that were there come back afterwards."""
    before = host.check_output("cat %s", FILE)
    host.check_output("truncate --size 0 %s", FILE)
    yield
    host.check_output("printf %%s %s > %s", before, FILE)


def now(host: Host) -> str:
    """For journalctl --since."""
    return "@" + str(host.check_output("date %s", "+%s.%N"))


def ask(host: Host, key: str, target: str = "/api/v1/tasks?limit=1", body: Any = None) -> Response:
    headers = {"Authorization": f"Bearer {key}"}
    if body is None:
        return request(host, target, headers=headers)
    return request(host, target, "POST", {**headers, "Content-Type": "application/json"}, json.dumps(body))


def answers(host: Host, key: str) -> set[int]:
    """What all processes say to a key with the scope `read`."""
    with ThreadPoolExecutor(4) as pool:
        return set(pool.map(lambda _: ask(host, key).status, range(OFTEN)))


def test_a_key_works_until_it_is_revoked(host: Host) -> None:
    key = messagingctl(host, "add", "test", "--scope", "read")
    assert KEY.fullmatch(key)
    assert answers(host, key) == {200}
    assert "test  revoked" in messagingctl(host, "revoke", "test")
    assert answers(host, key) == {401}
    refused = ask(host, key)
    assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert refused.headers["content-type"] == "application/problem+json"


def test_a_key_does_what_its_scopes_say(host: Host) -> None:
    tasks = messagingctl(host, "add", "tasks", "--scope", "tasks")
    done = ask(host, tasks, "/api/v1/tasks/reverse-text", {"text": "abc"})
    assert done.status == 202, done
    wait_for_state(host, done.json()["task_id"])
    listing, mail = ask(host, tasks), ask(host, tasks, "/?sendmail=me@example.com")
    assert (listing.status, mail.status) == (403, 403)
    assert "`read`" in listing.json()["detail"]
    assert "`mail`" in mail.json()["detail"]


@pytest.mark.parametrize(
    ("target", "given"),
    [
        ("/", "Bearer"),
        ("/?sendmail=me@example.com", "Bearer wrong"),
        ("/action?talktome", "Token x"),
        ("/api/v1/tasks", f"Bearer msk_{'0' * 10}_{'0' * 64}"),
    ],
)
def test_whose_key_is_not_known_is_never_taken_for_a_stranger(host: Host, target: str, given: str) -> None:
    refused = request(host, target, headers={"Authorization": given})
    assert (refused.status, refused.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')


def test_the_key_of_the_operators_goes_on_working(host: Host) -> None:
    assert ask(host, secrets_on_controller()["operator_key"]).status == 200


def test_the_file_is_for_the_service_only_and_has_no_key(host: Host) -> None:
    key = messagingctl(host, "add", "file")
    file = host.file(FILE)
    assert (file.user, file.group, file.mode) == ("root", "messaging", 0o640)
    assert key.rpartition("_")[2] not in file.content_string
    assert host.run("runuser -u nobody -- cat %s", FILE).rc != 0
    refused = host.run("runuser -u messaging -- messagingctl key revoke file")
    assert refused.rc == 1
    assert "only root" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_of_keys_that_are_made_at_once_none_is_lost(host: Host) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda number: messagingctl(host, "add", f"k{number}", "--scope", "read"), range(6)))
    assert [ask(host, key).status for key in made] == [200] * 6
    listed = {line.split()[1] for line in messagingctl(host, "list").splitlines()[1:]}
    assert listed.issuperset(f"k{number}" for number in range(6))


def test_a_broken_file_does_no_harm_and_is_said_plainly(host: Host) -> None:
    key = messagingctl(host, "add", "broken", "--scope", "read")
    assert answers(host, key) == {200}
    since = now(host)
    good = host.check_output("cat %s", FILE)
    host.check_output("printf %%s %s > %s", good[: len(good) // 2], FILE)
    # the second: of a process that nobody had asked for anything since the key was made
    assert answers(host, key) <= {200, 401}
    refused = host.run("messagingctl key add other")
    assert refused.rc == 1
    assert "Invalid JSON" in refused.stderr
    host.check_output("printf %%s %s > %s", good, FILE)
    assert answers(host, key) == {200}
    journal = host.check_output("journalctl --unit messaging-web --output cat --since %s", since)
    said = [line for line in journal.splitlines() if FILE in line]
    assert said
    assert len(said) < OFTEN, "once a process, not once a request"
    assert "Traceback" not in journal
    print(said[0])


def test_the_playbook_makes_one_for_all_hosts_and_nothing_else_shows_it(host: Host) -> None:
    since = now(host)
    said = play("add", key_name="play", key_scopes="read,tasks", key_budget="60/minute; 1000/day")
    keys = KEY.finditer(said)
    key = next(keys).group()
    assert next(keys, None) is None, "it is shown once"
    assert answers(host, key) == {200}
    listed = play("list")
    assert "60/minute; 1000/day" in listed
    assert "changed=0" in listed
    assert KEY.search(listed) is None
    secret = key.rpartition("_")[2]
    # not as an argument: it would be in the process list that is searched
    shown = host.check_output(
        "journalctl --output verbose --since %s; grep --recursive '' /var/log/nginx || true", since
    )
    assert FILE in shown, "what was looked at is there"
    assert secret not in shown
    for known in json.loads(host.file(FILE).content_string)["keys"]:
        assert known["sha256"] not in shown
    assert "revoked" in play("revoke", key_name="play")
    assert answers(host, key) == {401}
