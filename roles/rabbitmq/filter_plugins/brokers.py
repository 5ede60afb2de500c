"""Several brokers: their names, who begins, and which queue gets a member where."""

import re

# A queue of three outlives one broker; more members cost more and outlive more only from five on
MEMBERS = 3


def rabbitmq_host(name):
    """The part of the node's name behind rabbit@, from the name in the inventory."""
    return re.sub(r"[^A-Za-z0-9-]", "-", str(name))


def rabbitmq_node(name):
    """The name of the node on a host of the inventory."""
    return f"rabbit@{rabbitmq_host(name)}"


def rabbitmq_release(facts):
    """The distribution of a host, as far as the version of RabbitMQ goes: Debian 13, Ubuntu 24.04."""
    debian = facts["distribution"] == "Debian"
    return f"{facts['distribution']} {facts['distribution_major_version' if debian else 'distribution_version']}"


def _probe(host, hostvars):
    """What was seen of a host, or nothing if it is not part of this run."""
    return hostvars[host].get("messaging_probe") if host in hostvars else None


def _nodes(host, hostvars):
    """How many nodes it has in its cluster: 0 if it never ran. One that was not looked at may have many."""
    probe = _probe(host, hostvars)
    return 1000 if probe is None else len(probe["rabbitmq_cluster"])


def _runs(host, hostvars):
    probe = _probe(host, hostvars)
    # the port at which the nodes talk to each other
    return probe is None or "beam.smp" in probe["listeners"].get("25672", [])


def rabbitmq_in_turn(brokers, hostvars):
    """The order in which brokers are worked on: first those that do not run, last new ones, which join the others."""
    return sorted(brokers, key=lambda host: (-_nodes(host, hostvars), _runs(host, hostvars)))


def rabbitmq_first(brokers, hostvars):
    """The broker that the others join: one of the largest cluster, if possible one that runs."""
    return min(brokers, key=lambda host: (-_nodes(host, hostvars), not _runs(host, hostvars)))


def rabbitmq_batch(brokers, hostvars):
    """For `serial`: one broker at a time where they belong together, otherwise all at once."""
    together = any(len(hostvars[host]["messaging_members"]["rabbitmq"]) > 1 for host in brokers if host in hostvars)
    return 1 if together else "100%"


def rabbitmq_growth(queues, nodes, running):
    """Members that are missing, as [{node, queues}]: each quorum queue gets three, or as many as there are nodes.

    `queues` are of `rabbitmqctl list_queues name type members`, `nodes` those that count, `running` those that
    can get one.
    """
    quorum = [queue for queue in queues if queue["type"] == "quorum"]
    held = {node: sum(node in queue["members"] for queue in quorum) for node in running}
    new = {node: [] for node in running}
    for queue in sorted(quorum, key=lambda queue: queue["name"]):
        wanted = min(MEMBERS, len(nodes)) - len(set(nodes) & set(queue["members"]))
        free = [node for node in running if node not in queue["members"]]
        # those with the fewest
        for node in sorted(free, key=lambda node: held[node])[: max(wanted, 0)]:
            new[node].append(queue["name"])
            held[node] += 1
    return [{"node": node, "queues": names} for node, names in new.items() if names]


def _classic(queue):
    # one whose node is down is listed with the long name of its type
    return re.fullmatch("(rabbit_)?classic(_queue)?", queue["type"]) is not None


def rabbitmq_with_member(queues, nodes):
    """Names of the replicated queues that have a member on one of these nodes."""
    return [queue["name"] for queue in queues if not _classic(queue) and set(queue.get("members") or []) & set(nodes)]


def rabbitmq_only_there(queues, leaving):
    """Names of the queues that would be lost with the nodes that leave.

    For one whose node is down '' is listed for what only that node knows: messages that nobody can count may be some.
    """
    lost = []
    for queue in queues:
        name = queue["name"]
        if _classic(queue):
            # RabbitMQ 4 names its node as the only member, 3 in "<rabbit@host.1.2.3>". All that stay run, so what says
            # nothing is on one that leaves
            nodes = set(queue.get("members") or re.findall(r"^<(.+?)(?:\.\d+){3}>$", queue.get("pid") or ""))
            # what workers tell each other and Flower, or belongs to one connection, goes with it
            gossip = queue["exclusive"] is True or name.endswith(".pidbox") or name.startswith("celeryev.")
            if nodes <= set(leaving) and queue["durable"] and not gossip and queue.get("messages") != 0:
                lost.append(name)
        elif not set(queue.get("members") or []) - set(leaving):
            lost.append(name)
    return lost


class FilterModule:
    def filters(self):
        return {
            "rabbitmq_host": rabbitmq_host,
            "rabbitmq_node": rabbitmq_node,
            "rabbitmq_release": rabbitmq_release,
            "rabbitmq_in_turn": rabbitmq_in_turn,
            "rabbitmq_first": rabbitmq_first,
            "rabbitmq_batch": rabbitmq_batch,
            "rabbitmq_growth": rabbitmq_growth,
            "rabbitmq_with_member": rabbitmq_with_member,
            "rabbitmq_only_there": rabbitmq_only_there,
        }
