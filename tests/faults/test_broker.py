"""RabbitMQ away, silent, or in alarm: an honest 503, and nothing that was accepted is lost."""

import time
from collections.abc import Callable

from testinfra.host import Host

from faulty import Traffic, signal_main
from probe import ready, request, wait_until

RABBITMQ = "rabbitmq-server"


def test_stopped(host: Host, traffic: Callable[..., Traffic]) -> None:
    with traffic(80, 5) as requests:
        time.sleep(2)
        host.check_output("systemctl stop %s", RABBITMQ)
        body = request(host, "/readyz")
        assert body.status == 503
        assert "RabbitMQ" in body.json()["checks"]["rabbitmq"]
        host.check_output("systemctl start %s", RABBITMQ)
        wait_until(lambda: ready(host), "ready again")
    requests.check_answers()
    assert requests.answered(503), "the broker was away, somebody must have seen it"
    requests.check_delivered()


def test_frozen(host: Host, traffic: Callable[..., Traffic]) -> None:
    with traffic(60, 5) as requests:
        time.sleep(2)
        signal_main(host, RABBITMQ, "SIGSTOP")
        time.sleep(6)
        signal_main(host, RABBITMQ, "SIGCONT")
        wait_until(lambda: ready(host), "ready again")
    requests.check_answers()
    assert requests.answered(503), "the broker was silent, somebody must have seen it"
    requests.check_delivered()


def test_memory_alarm(host: Host, traffic: Callable[..., Traffic]) -> None:
    before = host.check_output("rabbitmqctl eval 'vm_memory_monitor:get_vm_memory_high_watermark().'").split()[-1]
    with traffic(40, 5) as requests:
        time.sleep(1)
        host.check_output("rabbitmqctl set_vm_memory_high_watermark 0.0000001")
        time.sleep(4)
        host.check_output("rabbitmqctl set_vm_memory_high_watermark %s", before)
        wait_until(lambda: ready(host), "ready again")
    requests.check_answers()
    assert requests.answered(503), "the broker was in alarm, somebody must have seen it"
    requests.check_delivered()


def test_a_missing_queue_is_an_error_and_not_an_acceptance(host: Host) -> None:
    host.check_output("rabbitmqctl delete_queue --vhost messaging compute")
    try:
        response = request(host, "/?talktome=async")
        assert response.status == 503, response
    finally:
        host.check_output("rabbitmqctl import_definitions /etc/rabbitmq/definitions.json")
    wait_until(lambda: request(host, "/?talktome=async").status == 202, "the queue is back")
