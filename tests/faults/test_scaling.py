"""Workers come and go by changing a number, and nothing else is touched."""

from typing import Any

from testinfra.host import Host

from faulty import converge
from probe import send_mail, unique_address, wait_for_mail, workers

WORKERS = "messaging-worker@email-1 messaging-worker@compute-1"
OTHERS = f"messaging-web messaging-mailbox {WORKERS} rabbitmq-server redis-server nginx"


def pools(email: int) -> list[dict[str, Any]]:
    """The default pools, with a number of instances for mail."""
    return [
        {"name": "email", "queues": ["email"], "pool": "threads", "concurrency": 16, "instances": email, "prefetch": 2},
        {"name": "compute", "queues": ["compute"], "pool": "prefork", "concurrency": 2, "instances": 1, "prefetch": 4},
    ]


def main_processes(host: Host) -> str:
    return str(host.check_output(f"systemctl show --property Id,MainPID {OTHERS}"))


def email_workers(host: Host) -> set[str]:
    return {unit for unit in workers(host) if "@email-" in unit and host.service(unit).is_running}


def test_up_and_down(host: Host) -> None:
    before = main_processes(host)

    converge("--tags", "celery", celery_pools=pools(3))
    names = {f"messaging-worker@email-{number}.service" for number in (1, 2, 3)}
    assert email_workers(host) == names
    assert all(host.service(unit).is_enabled for unit in names)
    assert main_processes(host) == before, "nothing else was restarted"

    converge("--tags", "celery", celery_pools=pools(1))
    assert email_workers(host) == {"messaging-worker@email-1.service"}
    for gone in (2, 3):
        assert not host.service(f"messaging-worker@email-{gone}").is_enabled
        assert not host.file(f"/etc/messaging-system/workers/email-{gone}.env").exists
    assert main_processes(host) == before, "nothing else was restarted"

    address = unique_address()
    send_mail(host, address)
    wait_for_mail(host, address)
