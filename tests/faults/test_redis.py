"""Redis away: mail is accepted and sent, only its state cannot be asked for."""

from collections.abc import Callable

from testinfra.host import Host

from faulty import Traffic, signal_main
from probe import request, send_mail, unique_address, wait_for_mail, wait_for_state, wait_until

REDIS = "redis-server"


def test_stopped(host: Host) -> None:
    host.check_output("systemctl stop %s", REDIS)
    address = unique_address()
    response = request(host, f"/?sendmail={address}")
    assert response.status == 202, response
    assert response.json()["tracked"] is False
    wait_for_mail(host, address)
    status = request(host, response.json()["status_url"])
    assert status.status == 503, "the state is not known, which is not the same as an unknown task"
    assert "retry-after" in status.headers
    host.check_output("systemctl start %s", REDIS)
    wait_for_state(host, response.json()["task_id"], limit=60)


def test_frozen(host: Host, traffic: Callable[..., Traffic]) -> None:
    with traffic(40, 5) as requests:
        signal_main(host, REDIS, "SIGSTOP")
        wait_until(lambda: request(host, "/readyz").status == 503, "not ready")
        signal_main(host, REDIS, "SIGCONT")
    requests.check_answers()
    assert not requests.answered(503), "mail is accepted without Redis"
    requests.check_delivered()


def test_states_survive_a_restart(host: Host) -> None:
    task_id = send_mail(host, unique_address())
    wait_for_state(host, task_id)
    host.check_output("systemctl restart %s", REDIS)
    wait_for_state(host, task_id)
