"""A small broker in memory follows the definitions, so that routes are tested and not their spelling."""

import re
from typing import Any

import pytest

from messaging import topology

QUEUES = ["email", "compute", "celery_see"]
DELAYS = [5, 60]


@pytest.fixture
def definitions() -> dict[str, Any]:
    return topology.definitions("messaging", QUEUES, DELAYS)


def matches(pattern: str, routing_key: str) -> bool:
    """A topic binding, see https://www.rabbitmq.com/tutorials/tutorial-five-python."""
    words = "".join(
        {"#.": r"(?:[^.]+\.)*", ".#": r"(?:\.[^.]+)*"}.get(part, re.escape(part))
        for part in re.split(r"(#\.|\.#)", pattern)
    )
    return re.fullmatch(words, routing_key) is not None


def routed(definitions: dict[str, Any], exchange: str, routing_key: str) -> list[str]:
    kind = next(found["type"] for found in definitions["exchanges"] if found["name"] == exchange)
    queues = [
        binding["destination"]
        for binding in definitions["bindings"]
        if binding["source"] == exchange and (kind == "fanout" or matches(binding["routing_key"], routing_key))
    ]
    return sorted(queues)


def policy_of(definitions: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    found = [
        policy["definition"]
        for policy in definitions["policies"]
        if policy["apply-to"] == kind and re.search(policy["pattern"], name)
    ]
    assert len(found) == 1, f"{name} must have exactly one policy, has {found}"
    return dict(found[0])


@pytest.mark.parametrize("queue", QUEUES)
def test_a_published_message_reaches_its_queue_and_no_other(definitions: dict[str, Any], queue: str) -> None:
    assert routed(definitions, topology.SUBMIT_EXCHANGE, queue) == [queue]


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("seconds", DELAYS)
def test_a_delayed_message_waits_and_comes_back_to_its_queue(
    definitions: dict[str, Any], queue: str, seconds: int
) -> None:
    routing_key = topology.delay_routing_key(seconds, queue)
    waits_in = topology.delay_queue(seconds)
    assert routed(definitions, topology.DELAY_EXCHANGE, routing_key) == [waits_in]
    policy = policy_of(definitions, "queues", waits_in)
    assert policy["message-ttl"] == seconds * 1000
    assert "dead-letter-routing-key" not in policy, "the key must stay, it names the queue"
    assert routed(definitions, policy["dead-letter-exchange"], routing_key) == [queue]


def test_unknown_routing_keys_are_unroutable_where_we_publish_and_kept_where_delays_end(
    definitions: dict[str, Any],
) -> None:
    assert routed(definitions, topology.SUBMIT_EXCHANGE, "nobody") == []
    assert policy_of(definitions, "exchanges", topology.EXCHANGE) == {"alternate-exchange": topology.UNROUTED_EXCHANGE}
    assert not [p for p in definitions["policies"] if re.search(p["pattern"], topology.SUBMIT_EXCHANGE)]
    assert routed(definitions, topology.UNROUTED_EXCHANGE, "nobody") == [topology.UNROUTED_QUEUE]


@pytest.mark.parametrize("queue", QUEUES)
def test_what_is_given_up_on_is_kept_and_noticed(definitions: dict[str, Any], queue: str) -> None:
    policy = policy_of(definitions, "queues", queue)
    assert policy["delivery-limit"] == 20
    assert policy["dead-letter-strategy"] == "at-least-once"
    assert policy["overflow"] == "reject-publish", "at-least-once needs it"
    assert routed(definitions, policy["dead-letter-exchange"], queue) == ["dead", "dead.notices"]


def test_reading_the_dead_letters_never_uses_them_up(definitions: dict[str, Any]) -> None:
    assert policy_of(definitions, "queues", topology.DEAD_QUEUE)["delivery-limit"] >= 10**9


def test_every_queue_is_a_durable_quorum_queue(definitions: dict[str, Any]) -> None:
    assert {(queue["durable"], queue["arguments"]["x-queue-type"]) for queue in definitions["queues"]} == {
        (True, "quorum")
    }
