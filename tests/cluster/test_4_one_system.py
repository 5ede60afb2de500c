"""Several hosts, one service: what one took, another knows and a third does."""

import json
from urllib.parse import urlencode

from probe import Response, flower_login, secrets_on_controller, unique_address, wait_until
from system import ask, host, members, queues


def submit(name: str, key: str, kind: str, values: dict[str, str], **headers: str) -> Response:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    return ask(name, f"/api/v1/tasks/{kind}", "POST", headers, json.dumps(values))


def ended(name: str, task_id: str) -> str:
    """The state of a task as another host tells it, once it is over."""

    def state() -> str:
        said = ask(name, f"/api/v1/tasks/{task_id}")
        assert said.status == 200, said
        return str(said.json()["state"]) if said.json()["state"] in {"succeeded", "failed"} else ""

    return wait_until(state, f"task {task_id} has ended")


def test_a_task_taken_here_is_known_there(key: str) -> None:
    for here, there in (members("nginx"), members("nginx")[::-1]):
        accepted = submit(here, key, "reverse-text", {"text": "abc"})
        assert accepted.status == 202, accepted
        assert ended(there, accepted.json()["task_id"]) == "succeeded"
        assert ask(there, f"/api/v1/tasks/{accepted.json()['task_id']}").json()["result"] == {"text": "cba"}


def test_a_visitor_sees_his_tasks_on_both_pages() -> None:
    here, there = members("nginx")
    form = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
    accepted = ask(here, "/reverse-text", "POST", form, urlencode({"text": "a page"}))
    assert accepted.status == 303, accepted
    cookie = accepted.headers["set-cookie"].partition(";")[0]

    def page() -> str:
        said = ask(there, "/", headers={"Accept": "text/html", "Cookie": cookie})
        assert said.status == 200
        return said.body if "egap a" in said.body else ""

    assert "succeeded" in wait_until(page, "the other page shows the result").lower()


def test_mail_is_delivered_from_each_app_host(key: str) -> None:
    for name in members("nginx"):
        accepted = ask(name, f"/?sendmail={unique_address()}", headers={"Authorization": f"Bearer {key}"})
        assert accepted.status == 202, accepted
        assert ended(members("nginx")[0], accepted.json()["task_id"]) == "succeeded"


def test_a_repeated_request_is_one_task_whichever_host_has_it(key: str) -> None:
    address = unique_address()
    mail = {"to": address, "subject": "Once", "text": "Once"}
    here, there = members("nginx")
    once = {"Idempotency-Key": f"cluster-{address}"}
    first, second = submit(here, key, "send-email", mail, **once), submit(there, key, "send-email", mail, **once)
    assert (first.status, second.status) == (202, 202), (first, second)
    assert first.json()["task_id"] == second.json()["task_id"]


def test_nginx_goes_to_the_other_host_when_its_own_application_is_gone() -> None:
    for name in members("nginx"):
        host(name).check_output("systemctl stop messaging-web.socket messaging-web.service")
        try:
            said = [ask(name, "/healthz").status for _ in range(20)]
        finally:
            host(name).check_output("systemctl start messaging-web.socket messaging-web.service")
        assert said == [200] * 20, name


def test_both_worker_hosts_work(key: str) -> None:
    done = {name: _done(name) for name in members("celery")}

    def both() -> bool:
        for name in members("nginx"):
            submit(name, key, "reverse-text", {"text": "x"})
        return all(_done(name) > before for name, before in done.items())

    wait_until(both, "both have worked")


def _done(name: str) -> int:
    """How many tasks a host has ended, as its metrics say."""
    lines = host(name).check_output("python3 -c %s", _METRICS).splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("messaging_tasks_succeeded_total{"))


_METRICS = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9180/metrics', timeout=5).read().decode())"


def test_flower_sees_the_workers_of_all_hosts() -> None:
    login = flower_login(secrets_on_controller()["flower_password"])
    [name] = members("flower")

    def seen() -> bool:
        said = ask(name, "/flower/api/workers", headers=login)
        return said.status == 200 and all(any(worker in shown for shown in said.json()) for worker in members("celery"))

    wait_until(seen, "both worker hosts are in Flower", 60)


def test_the_work_queue_has_consumers_on_both_hosts() -> None:
    name = members("rabbitmq")[0]
    assert "email" in queues(name)
    listed = json.loads(
        host(name).check_output("rabbitmqctl --quiet list_queues -p messaging name consumers --formatter json")
    )
    assert {queue["name"]: queue["consumers"] for queue in listed}["email"] >= len(members("celery"))
