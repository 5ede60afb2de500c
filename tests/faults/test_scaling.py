"""Workers come and go, and queues too, and nothing else is touched."""

import re
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

from faulty import Traffic, converge, in_release, play, refused, signal_main
from probe import ready, send_mail, unique_address, wait_for_mail, wait_for_state, wait_until, workers

MAILBOX = "messaging-mailbox"
OTHERS = (
    f"messaging-web messaging-flower {MAILBOX} messaging-worker@email-1 messaging-worker@compute-1 "
    "rabbitmq-server redis-server nginx"
)
POOLS = [
    {"name": "email", "queues": ["email"], "pool": "threads", "concurrency": 16, "instances": 1, "prefetch": 2},
    {"name": "compute", "queues": ["compute"], "pool": "prefork", "concurrency": 2, "instances": 1, "prefetch": 4},
    {"name": "see", "queues": ["celery_see"], "pool": "threads", "concurrency": 4, "instances": 1, "prefetch": 1},
]

SUBMIT = """
import sys
from messaging.job import REVERSE_TEXT, Job
from messaging.publisher import Publisher
from messaging.settings import load

settings = load()
job = Job(task=REVERSE_TEXT, kwargs={"text": "abc"}, task_id=sys.argv[1], queue="celery_see")
Publisher(settings).submit(job)
"""


def main_processes(host: Host) -> str:
    return str(host.check_output(f"systemctl show --property Id,MainPID {OTHERS}"))


def email_workers(host: Host) -> set[str]:
    return {unit for unit in workers(host) if "@email-" in unit and host.service(unit).is_running}


def unit(number: int) -> str:
    return f"messaging-worker@email-{number}.service"


def test_up_and_down_under_load(
    host: Host, traffic: Callable[[int, float], Traffic], record_property: Callable[[str, Any], None]
) -> None:
    """Down while the mailbox does not answer: every worker that goes has mail in its hands."""
    before = main_processes(host)
    with traffic(300, 20) as requests:
        said = play("scale", scale_pool="email", scale_to=4)
        assert "instances: 4" in said
        assert email_workers(host) == {unit(number) for number in (1, 2, 3, 4)}
        assert all(host.service(unit(number)).is_enabled for number in (1, 2, 3, 4))
        assert main_processes(host) == before, "nothing else was restarted"

        signal_main(host, MAILBOX, "SIGSTOP")
        down = threading.Thread(target=play, args=("scale",), kwargs={"scale_pool": "email", "scale_to": 1})
        down.start()
        try:
            state = "systemctl show --property ActiveState --value %s"
            wait_until(lambda: host.check_output(state, unit(4)) == "deactivating", "a worker finishes what it has")
        finally:
            signal_main(host, MAILBOX, "SIGCONT")
            down.join()
    assert email_workers(host) == {unit(1)}
    for gone in (2, 3, 4):
        assert not host.service(unit(gone)).is_enabled
        assert not host.file(f"/etc/messaging-system/workers/email-{gone}.env").exists
    assert main_processes(host) == before, "nothing else was restarted"
    requests.check_answers()
    requests.check_delivered()
    print("scaled up and down under load:", requests.counts())
    record_property("counts", str(requests.counts()))


@pytest.mark.parametrize(
    ("pool", "number", "says"), [("mail", "2", "POOL=compute or POOL=email"), ("email", "0", "from 1 to 100")]
)
def test_what_cannot_be_is_refused_before_anything_changes(host: Host, pool: str, number: str, says: str) -> None:
    with pytest.raises(AssertionError, match=says) as refused:
        play("scale", scale_pool=pool, scale_to=number)
    assert re.search(r"changed=0 ", str(refused.value))
    assert email_workers(host) == {unit(1)}


def test_stop_and_start(host: Host) -> None:
    units = "systemctl list-unit-files --no-legend 'messaging*' 'rabbitmq*' 'redis*' nginx.service 'epmd*'"
    enabled = host.check_output(units)
    addresses = [unique_address() for _ in range(5)]
    for address in addresses:
        send_mail(host, address)

    play("stop")
    listening = [line for line in host.check_output("ss -ltnpH").splitlines() if '"sshd"' not in line]
    assert listening == []
    assert host.check_output("systemctl list-units --no-legend 'messaging*' --state active") == ""
    assert host.check_output("systemctl --failed --no-legend --plain") == ""

    assert "/readyz answers 200" in play("start")
    host.check_output("systemctl stop messaging-worker@compute-1")
    assert "/readyz answers 200" in play("start"), "what else was stopped is started too"
    assert host.service("messaging-worker@compute-1").is_running
    assert ready(host)
    assert host.check_output(units) == enabled, "what starts at boot is as it was"
    for address in addresses:
        wait_for_mail(host, address)


def test_a_queue_of_another_name(host: Host) -> None:
    """From variables alone; and it cannot be taken away while something is in it."""
    tags = ("--tags", "rabbitmq,app,celery")
    converge(*tags, messaging_queues=["email", "compute", "celery_see"], email_queue="celery_see", celery_pools=POOLS)
    assert host.service("messaging-worker@see-1").is_running
    address = unique_address()
    task_id = send_mail(host, address)
    wait_for_state(host, task_id)
    wait_for_mail(host, address)
    listed = host.check_output(f"journalctl --no-pager -o cat -u messaging-worker@see-1 | grep -c {task_id}")
    assert int(listed) > 0, "the mail came through the other queue"

    host.check_output("systemctl stop messaging-worker@see-1")
    left = str(uuid.uuid4())
    in_release(host, SUBMIT, left)
    # RabbitMQ's count of messages may be five seconds old
    wait_until(lambda: "celery_see: 1" in refused("--tags", "rabbitmq"), "the playbook sees the message", 30)
    host.check_output("systemctl start messaging-worker@see-1")
    wait_for_state(host, left)

    wait_until(lambda: not refused(*tags), "the playbook runs once the queue is empty", 60)
    assert not host.service("messaging-worker@see-1").is_running
    assert ready(host)
    wait_for_state(host, send_mail(host, unique_address()))
