"""Three brokers that are one, and every queue on all of them."""

import json

from probe import wait_until
from system import everybody, host, members, queues, rabbitmq, running

QUEUES = {"email", "compute", "dead", "dead.notices", "unrouted"}


def test_nothing_has_failed() -> None:
    for name in everybody():
        wait_until(lambda name=name: _state(name) == "running", f"systemd of {name} has settled")
        assert host(name).check_output("systemctl --failed --no-legend --plain") == "", name


def _state(name: str) -> str:
    return str(host(name).run("systemctl is-system-running").stdout).strip()


def test_each_broker_sees_all() -> None:
    brokers = sorted(members("rabbitmq"))
    assert len(brokers) == 3
    for name in brokers:
        assert running(name) == brokers, f"seen from {name}"
        assert rabbitmq(name, "cluster_status")["partitions"] == {}


def test_every_queue_that_keeps_something_is_on_all_brokers() -> None:
    brokers = sorted(members("rabbitmq"))
    found = queues(brokers[0])
    assert set(found) >= QUEUES
    assert {queue for queue in found if queue.startswith("delay.")}
    for queue, seen in found.items():
        assert seen["members"] == brokers, queue
        assert seen["online"] == brokers, queue


def test_what_is_on_one_broker_only_is_gossip() -> None:
    """What Celery's workers tell each other and Flower; it goes with whoever listens."""
    listed = rabbitmq(members("rabbitmq")[0], "list_queues --vhost messaging name type")
    others = [queue["name"] for queue in listed if queue["type"] != "quorum"]
    assert [name for name in others if "celery.pidbox" not in name and not name.startswith("celeryev.")] == []


def test_a_minority_stops_and_notices_soon() -> None:
    for name in members("rabbitmq"):
        settings = {
            what: host(name).check_output("rabbitmqctl --quiet eval %s", question)
            for what, question in (
                ("minority", "{ok, X} = application:get_env(rabbit, cluster_partition_handling), X."),
                ("tick", "net_kernel:get_net_ticktime()."),
            )
        }
        assert settings["minority"] == "pause_minority", name
        assert int(settings["tick"]) <= 12, f"{name}: {settings['tick']} s"


def test_all_have_one_cookie_that_nobody_else_can_read() -> None:
    seen = set()
    for name in members("rabbitmq"):
        file = host(name).file("/var/lib/rabbitmq/.erlang.cookie")
        assert (file.user, file.group, oct(file.mode)) == ("rabbitmq", "rabbitmq", "0o400")
        seen.add(file.content_string)
    assert len(seen) == 1
    assert len(seen.pop()) >= 20


def test_guest_is_gone() -> None:
    users = rabbitmq(members("rabbitmq")[0], "list_users")
    assert {user["user"]: user["tags"] for user in users} == {"messaging": [], "monitor": ["monitoring"]}, json.dumps(
        users
    )
