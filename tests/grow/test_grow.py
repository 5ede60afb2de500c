"""One host becomes three brokers, four, and three again, and a worker host comes and goes: no mail is lost on the way.

The tests build on each other; each changes some lines of the inventory and runs the playbook once.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from testinfra.host import Host

from faulty import Traffic, converge
from probe import wait_until
from system import host, members, queues, running

FIRST = "messaging-grow1"
SECOND, THIRD, FOURTH, WORKER = (f"messaging-grow{number}" for number in range(2, 6))
WORKERS = "messaging-worker@email-1.service"


def inventory(name: str, brokers: list[str], workers: list[str]) -> str:
    """A file as an operator would have it: one host has everything, some have one thing."""
    folder = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
    groups = {group: [FIRST] for group in ("redis", "mailbox", "app", "flower", "nginx")}
    groups |= {"rabbitmq": brokers, "celery": workers}
    everybody = sorted({one for hosts in groups.values() for one in hosts})
    # of each host: what a file says of a group, the group_vars of the playbook override
    variables = (
        f"ansible_connection=community.docker.docker messaging_secrets_dir={folder / 'secrets'} mailbox_keep=10000"
    )
    lines = ["[molecule]", *(f"{one} cluster_address=10.77.201.1{one[-1]} {variables}" for one in everybody)]
    for group, hosts in groups.items():
        lines += [f"[{group}]", *hosts]
    file = folder / f"{name}.ini"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


@contextmanager
def queued(count: int) -> Iterator[Traffic]:
    """Mail that waits in the queue while something happens, and is delivered once, each, when it has happened."""
    for name in members("celery"):
        host(name).check_output("systemctl stop %s", WORKERS)
    with Traffic(host(FIRST), count, 50) as requests:
        pass
    assert len(requests.answered(202)) == count
    yield requests
    requests.check_delivered()


def playbook(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """Run it once, with requests coming in meanwhile, none of which may be lost either."""
    monkeypatch.setenv("MOLECULE_INVENTORY_FILE", file)
    with Traffic(host(FIRST), 300, 3) as requests:
        converge()
    requests.check_delivered(at_most=2)
    print(requests.counts())


def settled(*brokers: str) -> None:
    """The brokers are these, know each other, and every queue is on three of them or on all there are."""
    for name in brokers:
        assert running(name) == sorted(brokers), name
    most = min(3, len(brokers))
    found = queues(brokers[0])
    assert {name: queue for name, queue in found.items() if not set(queue["members"]) <= set(brokers)} == {}
    assert {name: queue for name, queue in found.items() if len(queue["members"]) < most} == {}
    assert {name: queue for name, queue in found.items() if queue["online"] != queue["members"]} == {}


def test_one_host_with_queued_mail_grows_to_three_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    with queued(300):
        playbook(monkeypatch, inventory("three", [FIRST, SECOND, THIRD], [FIRST]))
    settled(FIRST, SECOND, THIRD)


def test_a_fourth_broker_is_one_line_and_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLECULE_INVENTORY_FILE", inventory("three", [FIRST, SECOND, THIRD], [FIRST]))
    with queued(100):
        playbook(monkeypatch, inventory("four", [FIRST, SECOND, THIRD, FOURTH], [FIRST]))
    settled(FIRST, SECOND, THIRD, FOURTH)


def test_a_worker_host_is_one_line_and_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    playbook(monkeypatch, inventory("worker", [FIRST, SECOND, THIRD, FOURTH], [FIRST, WORKER]))
    worker: Host = host(WORKER)
    host(FIRST).check_output("systemctl stop %s", WORKERS)
    try:
        with Traffic(host(FIRST), 20, 10) as requests:
            pass
        requests.check_delivered()
    finally:
        host(FIRST).check_output("systemctl start %s", WORKERS)
    assert worker.service(WORKERS).is_running


def test_a_broker_and_a_worker_host_are_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker had members of queues, among them leaders; what the hosts still do is nobody's business any more."""
    with queued(100):
        playbook(monkeypatch, inventory("less", [FIRST, THIRD, FOURTH], [FIRST]))
    settled(FIRST, THIRD, FOURTH)
    wait_until(lambda: consumers() == 1, "only the worker that is left takes mail", 60)


def consumers() -> int:
    listed = host(FIRST).check_output("rabbitmqctl --quiet list_consumers -p messaging queue_name")
    return listed.split().count("email")
