"""Several brokers: their files, in which order they are worked on, and which queue gets a member where."""

import re
from typing import Any

import pytest

from rendering import PROBE, evaluate, render

HOSTS = ["b1", "b_2.example.com", "b3"]
NODES = ["rabbit@b1", "rabbit@b2", "rabbit@b3", "rabbit@b4"]
TLS = {"ca": "CA\n", "certificate": "CERTIFICATE\n", "key": "key-of-the-host\n"}


def cluster(me: str = "b1", **overrides: Any) -> dict[str, Any]:
    """What one broker of three sees."""
    hostvars = {
        name: {
            "messaging_address": f"10.0.0.{number}",
            "messaging_probe": PROBE,
            "messaging_members": {"rabbitmq": HOSTS},
            "ansible_facts": {
                "distribution": "Debian",
                "distribution_major_version": "13",
                "distribution_version": "13.2",
            },
        }
        for number, name in enumerate(HOSTS, 1)
    }
    return {
        "inventory_hostname": me,
        "groups": {"all": HOSTS, "rabbitmq": HOSTS},
        "cluster_address": "10.0.0.1",
        "hostvars": hostvars,
        "base_tls": TLS,
        "base_secrets": {"rabbitmq_erlang_cookie": "cookie-secret-value"},
    } | overrides


def settings(**values: Any) -> dict[str, str]:
    text = render("rabbitmq", "etc/rabbitmq/rabbitmq.conf.j2", **values)
    return dict(line.split(" = ", 1) for line in text.splitlines() if line and line[0] != "#")


def test_only_tls_and_the_nodes_themselves_are_on_the_network() -> None:
    found = settings(**cluster(rabbitmq_tls_port=5999))
    assert found["listeners.tcp.local"] == "127.0.0.1:5672"
    assert found["listeners.ssl.cluster"] == "10.0.0.1:5999"
    assert found["distribution.listener.interface"] == "10.0.0.1"
    assert {key: value for key, value in found.items() if value.startswith("10.")}.keys() == {
        "listeners.ssl.cluster",
        "distribution.listener.interface",
    }
    assert "0.0.0.0" not in found.values()
    assert found["cluster_partition_handling"] == "pause_minority"


def test_a_new_node_of_a_cluster_has_nobody_who_could_declare_a_queue() -> None:
    found = settings(**cluster())
    assert found["definitions.import_backend"] == "local_filesystem"
    [empty] = evaluate(
        "rabbitmq",
        f"__rabbitmq_cluster_files | selectattr('path', '==', '{found['definitions.local.path']}')",
        **cluster(),
    )
    assert empty["content"] == "{}\n"


def test_one_host_has_nothing_of_a_cluster() -> None:
    assert not [key for key in settings() if key.startswith(("listeners.ssl", "ssl_options", "cluster_", "net_"))]
    socket = render("rabbitmq", "etc/systemd/system/epmd.socket.d/messaging.conf.j2")
    assert re.findall(r"^ListenStream=(.+)$", socket, re.M) == ["127.0.0.1:4369"]
    assert list(evaluate("rabbitmq", "__rabbitmq_secrets")) == ["/etc/rabbitmq/definitions.json"]


def test_the_nodes_find_each_other_by_the_names_of_the_inventory() -> None:
    text = render("rabbitmq", "etc/rabbitmq/erl_inetrc.j2", **cluster())
    assert set(re.findall(r"^{host, {([\d,]+)}, \[\"(.+)\"\]}\.$", text, re.M)) == {
        ("10,0,0,1", "b1"),
        ("10,0,0,2", "b-2-example-com"),
        ("10,0,0,3", "b3"),
    }
    socket = render("rabbitmq", "etc/systemd/system/epmd.socket.d/messaging.conf.j2", **cluster())
    assert re.findall(r"^ListenStream=(.+)$", socket, re.M) == ["127.0.0.1:4369", "10.0.0.1:4369"]


def test_the_key_is_not_for_everybody() -> None:
    [key] = evaluate("rabbitmq", "__rabbitmq_cluster_files | selectattr('path', 'search', 'key')", **cluster())
    assert (key["group"], key["mode"], "content" in key) == ("rabbitmq", "0640", False)
    assert evaluate("rabbitmq", "__rabbitmq_secrets", **cluster())[key["path"]] == "key-of-the-host\n"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"groups": {"all": HOSTS, "rabbitmq": HOSTS[:2]}}, "two hosts"),
        ({"groups": {"all": HOSTS, "rabbitmq": ["b_1", "b-1", "c"]}}, "same node"),
        ({"rabbitmq_tls_port": "many"}, "rabbitmq_tls_port"),
        ({"rabbitmq_tls_port": 5672}, "rabbitmq_tls_port"),
        ({"messaging_probe": {**PROBE, "listeners": {"5671": ["stunnel"]}}}, "stunnel"),
    ],
)
def test_brokers_that_cannot_work_together_are_refused(overrides: dict[str, Any], says: str) -> None:
    found = evaluate("rabbitmq", "__rabbitmq_checks | problems", **cluster(**overrides))
    assert [line for line in found if says in line], found


@pytest.mark.parametrize(
    ("nodes", "refused"),
    [
        (["rabbit@b1", "rabbit@b-2-example-com", "rabbit@b3"], False),
        (["rabbit@b1", "rabbit@b-2-example-com"], False),
        (["rabbit@b1", "rabbit@b3"], True),
        (["rabbit@b1"], True),
        ([], True),
    ],
)
def test_two_that_are_left_of_a_cluster_go_on(nodes: list[str], refused: bool) -> None:
    values = cluster(groups={"all": HOSTS, "rabbitmq": HOSTS[:2]}, messaging_probe={**PROBE, "rabbitmq_cluster": nodes})
    found = evaluate("rabbitmq", "__rabbitmq_checks | problems", **values)
    assert bool([line for line in found if "two hosts" in line]) == refused, found


def test_brokers_of_two_distributions_are_refused() -> None:
    values = cluster()
    assert evaluate("rabbitmq", "__rabbitmq_checks | problems", **values) == []
    values["hostvars"]["b3"]["ansible_facts"] = {
        "distribution": "Debian",
        "distribution_major_version": "12",
        "distribution_version": "12.9",
    }
    [line] = evaluate("rabbitmq", "__rabbitmq_checks | problems", **values)
    assert "Debian 13, Debian 12" in line


def seen(**nodes: list[str] | None) -> dict[str, Any]:
    """Hostvars of brokers, from the nodes in the cluster of each; None: not looked at. Capitals: it does not run."""
    found: dict[str, Any] = {}
    for name, cluster_nodes in nodes.items():
        found[name.lower()] = {"messaging_members": {"rabbitmq": [each.lower() for each in nodes]}}
        if cluster_nodes is not None:
            listening = {"25672": ["beam.smp"]} if name.islower() and cluster_nodes else {}
            found[name.lower()]["messaging_probe"] = PROBE | {"rabbitmq_cluster": cluster_nodes, "listeners": listening}
    return found


@pytest.mark.parametrize(
    ("hostvars", "turn", "first"),
    [
        (seen(b1=[], b2=[], b3=[]), ["b1", "b2", "b3"], "b1"),
        # the one with the mail is not the first in the inventory
        (seen(b1=[], b2=["b2"], b3=[]), ["b2", "b1", "b3"], "b2"),
        (seen(b1=["b1"], b2=["b2", "b3"], b3=["b2", "b3"]), ["b2", "b3", "b1"], "b2"),
        # one that is down is started before the others are touched, and asked last
        (seen(b1=NODES, b2=NODES, B3=NODES), ["b3", "b1", "b2"], "b1"),
        # with --limit nothing is known of the others: none begins alone
        (seen(b1=None, b2=[]), ["b1", "b2"], "b1"),
    ],
)
def test_new_brokers_join_those_that_hold_something(hostvars: dict[str, Any], turn: list[str], first: str) -> None:
    brokers = list(hostvars)
    assert evaluate("rabbitmq", "brokers | rabbitmq_in_turn(seen)", brokers=brokers, seen=hostvars) == turn
    assert evaluate("rabbitmq", "brokers | rabbitmq_first(seen)", brokers=brokers, seen=hostvars) == first


def test_brokers_of_one_cluster_take_turns_and_others_do_not() -> None:
    together = seen(b1=[], b2=[], b3=[])
    apart = {name: {"messaging_members": {"rabbitmq": [name]}} for name in ("a", "b")}
    assert evaluate("rabbitmq", "['b1', 'b2', 'b3'] | rabbitmq_batch(seen)", seen=together) == 1
    assert evaluate("rabbitmq", "['a', 'b'] | rabbitmq_batch(seen)", seen=apart) == "100%"


def _growth(queues: dict[str, list[str]], nodes: list[str], running: list[str]) -> dict[str, list[str]]:
    listed = [{"name": name, "type": "quorum", "members": members} for name, members in queues.items()]
    listed.append({"name": "celeryev.1", "type": "classic", "members": None})
    plan = evaluate("rabbitmq", "queues | rabbitmq_growth(nodes, running)", queues=listed, nodes=nodes, running=running)
    return {each["node"]: each["queues"] for each in plan}


def test_every_queue_gets_three_members() -> None:
    one, two, three, four = NODES
    assert _growth({"a": [one], "b": [one]}, NODES[:3], NODES[:3]) == {two: ["a", "b"], three: ["a", "b"]}
    assert _growth({"a": NODES[:3]}, NODES, NODES) == {}
    # the fourth takes what the third has left behind, and the work is spread
    assert _growth({"a": NODES[:3]}, [one, two, four], [one, two, four]) == {four: ["a"]}
    spread = _growth({name: [one] for name in "abcdef"}, NODES, NODES)
    assert sorted(map(len, spread.values())) == [4, 4, 4]
    # one that is away for a while keeps its place
    assert _growth({"a": NODES[:3]}, NODES, [one, two, four]) == {}
    assert _growth({"a": [one]}, [one], [one]) == {}


def test_what_only_a_leaving_broker_has_is_seen() -> None:
    durable = {"type": "classic", "durable": True, "exclusive": False, "messages": 1}
    queues = [
        {"name": "moved", "type": "quorum", "members": [NODES[0], NODES[2]]},
        {"name": "alone", "type": "quorum", "members": [NODES[2]]},
        {"name": "classic", "pid": "<rabbit@b3.1732.12.0>", **durable},
        {"name": "empty", "pid": "<rabbit@b3.1732.12.0>", **durable, "messages": 0},
        {"name": "elsewhere", "pid": "<rabbit@b30.1732.12.0>", **durable},
        {"name": "of-a-connection", "pid": "<rabbit@b3.1732.12.0>", **durable, "exclusive": True},
        {"name": "email-1@vm1.celery.pidbox", "pid": "<rabbit@b3.1732.12.0>", **durable},
        {"name": "celeryev.1", "pid": "<rabbit@b3.1732.12.0>", **durable},
    ]
    found = evaluate("rabbitmq", "queues | rabbitmq_only_there(['rabbit@b3'])", queues=queues)
    assert found == ["alone", "classic"]


def test_a_queue_that_has_not_let_a_member_go_is_seen() -> None:
    queues = [
        {"name": "kept", "type": "quorum", "members": NODES[:3]},
        {"name": "let go", "type": "quorum", "members": NODES[:2]},
        {"name": "classic", "type": "classic", "members": None},
        {"name": "classic of RabbitMQ 4", "type": "classic", "members": NODES[2:3]},
        {"name": "down", "type": "rabbit_classic_queue", "members": ""},
    ]
    assert evaluate("rabbitmq", "queues | rabbitmq_with_member(['rabbit@b3'])", queues=queues) == ["kept"]


def test_a_queue_whose_only_broker_is_down_is_seen() -> None:
    down = {"type": "rabbit_classic_queue", "durable": True, "exclusive": "", "messages": "", "members": ""}
    queues = [
        {"name": "classic", "pid": "<rabbit@b3.1732.12.0>", **down},
        {"name": "elsewhere", "pid": "<rabbit@b1.1732.12.0>", **down},
        {"name": "classic of RabbitMQ 4", "pid": "#PID<14016.3989.0>", **down, "members": [NODES[2]]},
        {"name": "nobody knows where", "pid": "", **down},
        {"name": "elsewhere in RabbitMQ 4", "pid": "#PID<14016.3989.0>", **down, "members": [NODES[0]]},
        {"name": "transient", "pid": "<rabbit@b3.1732.12.0>", **down, "durable": False},
        {"name": "email-1@vm1.celery.pidbox", "pid": "<rabbit@b3.1732.12.0>", **down},
        {"name": "moved", "type": "quorum", "members": [NODES[0], NODES[2]]},
    ]
    assert evaluate("rabbitmq", "queues | rabbitmq_only_there(['rabbit@b3'])", queues=queues) == [
        "classic",
        "classic of RabbitMQ 4",
        "nobody knows where",
    ]


@pytest.mark.parametrize(
    ("me", "nodes", "play", "asked"),
    [
        # taken out of the group, and was in a cluster
        ("gone", NODES[:3], ["gone"], True),
        ("gone", ["rabbit@gone"], ["gone"], False),
        ("gone", [], ["gone"], False),
        # nobody stays who could be asked
        ("gone", NODES[:3], ["gone", *HOSTS], False),
        # one that is in the group is refused anyway
        ("b1", NODES[:3], ["b1"], False),
    ],
)
def test_those_that_stay_are_asked_before_a_broker_is_removed(
    me: str, nodes: list[str], play: list[str], asked: bool
) -> None:
    values = cluster(me, ansible_play_hosts_all=play, base_probe={**PROBE, "rabbitmq_cluster": nodes})
    assert evaluate("base", "__base_remove_leaver", **values) is asked
