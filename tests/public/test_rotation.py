"""All passwords are changed while mail comes in: none is lost, none comes twice, and the old ones are of no use."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from faulty import Traffic, converge, refused
from probe import MAILBOX, SECRETS, ready, request, secrets_on_controller, unique_address, wait_for_mail, wait_until

PLAYBOOK = Path(__file__).resolve().parents[2] / "molecule/shared/rotate_secrets.yml"
OLD = "/root/old-secrets"
# What is no password: all brokers need the same one at the same time
LASTING = ["rabbitmq_erlang_cookie"]

# Who gets in with the passwords in a directory of the host. They are on no command line: not even here.
LOGINS = """
import base64, http.client, json, os, pathlib, subprocess, sys
def secret(name):
    return pathlib.Path(sys.argv[1], name).read_text()
def status(target, authorization):
    connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=10)
    connection.request("GET", target, headers={"Authorization": authorization})
    return connection.getresponse().status
def rabbitmq(user, password):
    command = ["rabbitmqctl", "authenticate_user", user]
    return subprocess.run(command, input=password + "\\n", text=True, capture_output=True).returncode == 0
def redis(password):
    environment = {**os.environ, "REDISCLI_AUTH": password}
    said = subprocess.run(["redis-cli", "ping"], env=environment, text=True, capture_output=True)
    return said.stdout.strip() == "PONG"
monitor = secret("flower_broker_api").split("monitor:")[1].split("@")[0]
flower = base64.b64encode(("operator:" + secret("flower_password")).encode()).decode()
print(json.dumps({
    "rabbitmq": rabbitmq("messaging", secret("amqp_password")),
    "monitor": rabbitmq("monitor", monitor),
    "redis": redis(secret("redis_password")),
    "operator": status("/api/v1/tasks", "Bearer " + secret("operator_key")),
    "flower": status("/flower/", "Basic " + flower),
    "page": status("/operators/", "Basic " + flower),
}))
"""
EVERYBODY = {"rabbitmq": True, "monitor": True, "redis": True, "operator": 200, "flower": 200, "page": 200}
NOBODY = {"rabbitmq": False, "monitor": False, "redis": False, "operator": 401, "flower": 401, "page": 401}


def logins(host: Host, directory: str) -> dict[str, Any]:
    return dict(json.loads(host.check_output("python3 -c %s %s", LOGINS, directory)))


def rotation() -> "subprocess.Popen[str]":
    """The playbook, begun."""
    command = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], str(PLAYBOOK)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def rotate() -> str:
    """Change all passwords; what the playbook said."""
    run = rotation()
    output, _ = run.communicate()
    assert run.returncode == 0, output[-4000:]
    return output


def mail_once(host: Host, address: str, key: str) -> str:
    """Ask for a mail under an Idempotency-Key, from another port of the same client each time; the task's id."""
    body = json.dumps({"to": address, "subject": "Once", "text": "Once."})
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    response = request(host, "/api/v1/tasks/send-email", "POST", headers, body)
    assert response.status == 202, response
    return str(response.json()["task_id"])


@pytest.fixture(autouse=True)
def old_secrets(host: Host) -> Iterator[None]:
    """The passwords of before, for root."""
    wait_until(lambda: ready(host), "ready before the test", 60)
    host.check_output(f"find {MAILBOX}/new {MAILBOX}/cur -type f -delete")
    host.check_output(f"rm -rf {OLD}; umask 077; cp -a {SECRETS} {OLD}; chmod 700 {OLD}")
    yield
    host.check_output(f"rm -rf {OLD}")
    wait_until(lambda: ready(host), "ready after the test", 60)


class Meanwhile:
    """Mail at a steady rate for as long as the block lasts."""

    def __init__(self, host: Host, per_second: float) -> None:
        self._host = host
        self._per_second = per_second
        self._over = threading.Event()
        self._parts: list[Traffic] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Meanwhile":
        self._thread.start()
        time.sleep(1)  # so that some of it comes before
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            with Traffic(self._host, int(5 * self._per_second), self._per_second) as part:
                self._parts.append(part)

    def check(self) -> Counter[str]:
        """Nothing is lost and nothing is doubled; the counts."""
        counts: Counter[str] = Counter()
        assert sum(len(part.answered(202)) for part in self._parts) < 1000, "the mailbox keeps no more"
        for part in self._parts:
            part.check_answers()
            part.check_delivered()
            counts.update(part.counts())
        assert counts["lost"] == counts["doubled"] == 0, counts
        return counts


def test_no_mail_is_lost_while_the_passwords_change(host: Host, record_property: Any) -> None:
    before = secrets_on_controller()
    assert logins(host, OLD) == EVERYBODY, "the test can tell"
    address, key = unique_address(), unique_address()
    task_id = mail_once(host, address, key)
    pids = "systemctl show --property MainPID --value rabbitmq-server redis-server nginx"
    running = host.check_output(pids)
    with Meanwhile(host, 6) as requests:
        began = time.monotonic()
        said = rotate()
        lasted = time.monotonic() - began
    counts = requests.check()
    print(f"changed in {lasted:.0f} s:", dict(counts))
    record_property("counts", str(dict(counts)))
    assert not [name for name, value in {**before, **secrets_on_controller()}.items() if value in said]

    after = secrets_on_controller()
    assert set(after) == set(before)
    assert [name for name in before if after[name] == before[name]] == LASTING, "all others are new"
    assert logins(host, OLD) == NOBODY
    assert logins(host, SECRETS) == EVERYBODY
    assert host.check_output(pids) == running, "neither RabbitMQ nor Redis nor nginx was restarted"
    assert mail_once(host, address, key) == task_id, "a repeated request is still known"
    wait_for_mail(host, address)


def test_a_lost_folder_and_a_killed_run_are_answered_by_running_it(host: Host) -> None:
    folder = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "secrets").resolve()
    kept = folder.with_name("kept-secrets")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept)
    with Meanwhile(host, 3) as requests:
        for file in folder.iterdir():
            file.unlink()
        said = refused()
        assert "make rotate-secrets" in said
        assert re.search(r"changed=0 ", said)
        assert list(folder.iterdir()) == [], "none were made that no host knows"

        run = rotation()
        changed = f"cmp -s {SECRETS}/amqp_password {OLD}/amqp_password"
        wait_until(lambda: host.run(changed).rc == 1, "it is half-way", 120, every=0.1)
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        new = {file.name: file.read_text() for file in (folder / ".next").iterdir()}
        assert "make rotate-secrets" in refused(), "a plain run would mix them"

        rotate()
    print("lost, killed, and run again:", dict(requests.check()))
    found = {file.name: file.read_text() for file in folder.iterdir() if file.name not in LASTING}
    assert found == new, "the run that was killed is ended"
    assert logins(host, OLD) == NOBODY
    assert logins(host, SECRETS) == EVERYBODY
    assert re.search(r"changed=0 ", converge()), "and nothing is left to do"
    shutil.rmtree(kept)
