"""Records in MongoDB: a whole host with a stand-in for the server, which goes away and comes back."""

import os
import uuid
from collections.abc import Iterator

import pytest
from testinfra.host import Host

from faulty import HERE, PYTHON, converge, put
from probe import SECRETS, request, send_mail, unique_address, wait_for_mail, wait_for_state, wait_until

STAND_IN = "mongodb-stand-in"
FOLDER = "/opt/mongodb-stand-in"
PORT = 27017
# The name of the database stands for the password that a real server's URL would have.
SECRET = uuid.uuid4().hex
URL = f"mongodb://127.0.0.1:{PORT}/{SECRET}"


def start_stand_in(host: Host) -> None:
    if not host.service(STAND_IN).is_running:
        program = f"{PYTHON} {FOLDER}/mongodb_stand_in.py {PORT}"
        host.check_output(f"systemd-run --unit={STAND_IN} --uid=messaging {program}")


@pytest.fixture(scope="module")
def converged(host: Host) -> Iterator[str]:
    """The host with its records in the stand-in; what the playbook printed. Afterwards they are in Redis again."""
    host.check_output("install -d %s", FOLDER)
    put(host, (HERE / "mongodb_stand_in.py").read_text(), f"{FOLDER}/mongodb_stand_in.py")
    start_stand_in(host)
    yield converge(result_backend="mongodb", mongodb_url=URL)
    converge()
    host.run("systemctl stop %s", STAND_IN)
    wait_for_state(host, send_mail(host, unique_address()))
    assert not host.file(f"{SECRETS}/mongodb_url").exists


@pytest.fixture
def mongodb(host: Host, converged: str) -> Iterator[str]:
    """The same for each test, which may have stopped the stand-in."""
    yield converged
    start_stand_in(host)


def test_mongodb(host: Host, mongodb: str) -> None:
    """It works, it goes away, it comes back. One converge serves several cases."""
    assert SECRET not in mongodb, "the URL is in the play's output"
    assert SECRET not in host.file("/etc/messaging-system/messaging.env").content_string
    secret = host.file(f"{SECRETS}/mongodb_url")
    assert (secret.user, secret.group, oct(secret.mode)) == ("root", "messaging", "0o640")

    task_id = send_mail(host, unique_address())
    wait_for_state(host, task_id)
    assert "succeeded" in host.check_output("messagingctl task %s", task_id)
    assert task_id in host.check_output("messagingctl tasks")
    assert request(host, f"/api/v1/tasks/{uuid.uuid4()}").status == 404
    checks = request(host, "/readyz").json()["checks"]
    assert (checks["redis"], checks["mongodb"]) == ("ok", "ok")

    host.check_output("systemctl stop %s", STAND_IN)
    wait_until(lambda: request(host, "/readyz").status == 503, "not ready")
    checks = request(host, "/readyz").json()["checks"]
    assert checks["redis"] == "ok"
    assert checks["mongodb"].startswith("mongodb: 127.0.0.1"), "the one that is away is named"
    assert request(host, f"/api/v1/tasks/{task_id}").status == 503
    address = unique_address()
    response = request(host, f"/?sendmail={address}")
    assert response.status == 202, response
    assert response.json()["tracked"] is False
    wait_for_mail(host, address)
    assert request(host, response.json()["status_url"]).status == 503

    start_stand_in(host)
    wait_until(lambda: request(host, "/readyz").status == 200, "ready again")
    wait_for_state(host, response.json()["task_id"], limit=90)
    wait_for_mail(host, address)

    journal = host.check_output("journalctl --no-pager -u 'messaging*'")
    assert SECRET not in journal
    assert SECRET not in host.check_output("ps -eo args")


def test_the_same_rules_hold_on_every_backend(host: Host, mongodb: str) -> None:
    urls = [URL, *filter(None, [os.environ.get("MONGODB_URL")])]
    host.check_output("install -m 0640 -g messaging /dev/null %s", f"{FOLDER}/urls")
    put(host, "\n".join(urls), f"{FOLDER}/urls")
    put(host, (HERE / "record_rules.py").read_text(), f"{FOLDER}/record_rules.py")
    command = f"runuser -u messaging -- {PYTHON} {FOLDER}/record_rules.py < {FOLDER}/urls"
    said = host.check_output("sh -c %s", command).splitlines()
    host.check_output("rm %s", f"{FOLDER}/urls")
    rules = {backend: [line for line in said if line.startswith(f"{backend}: ")] for backend in ("redis", "mongodb 0")}
    print(f"\nMongoDB: {'stand-in and MONGODB_URL' if len(urls) > 1 else 'stand-in only, MONGODB_URL is not set'}")
    assert len(rules["redis"]) == len(rules["mongodb 0"]) >= 10
    assert len(said) == len(rules["redis"]) * (1 + len(urls)), said
