"""Exchanges, queues, bindings and policies, as data.

The playbook renders `definitions()` into RabbitMQ's definitions file, the publisher and the workers use the
names. Standard library only: the controller loads this file without the application's dependencies.

    messaging.submit ──┐
                       ├──▶ email, compute ──(rejected, or given up)──▶ messaging.dead ─┬─▶ dead
    messaging ─────────┘                                                                └─▶ dead.notices
        ▲      └──(no queue for it)──▶ messaging.unrouted ──▶ unrouted
        └──(time is up)── delay.5, delay.15, ... ◀── messaging.delay

`messaging` has an alternate exchange, so that what comes back from a delay queue is never dropped. For RabbitMQ
an alternate exchange counts as "routed", so `mandatory` would mean nothing there: what we publish goes
to `messaging.submit`, which has none.

Source: https://www.rabbitmq.com/docs/quorum-queues, /docs/ae, /docs/dlx, /docs/definitions
"""

from collections.abc import Sequence
from typing import Any

SUBMIT_EXCHANGE = "messaging.submit"
EXCHANGE = "messaging"
DELAY_EXCHANGE = "messaging.delay"
DEAD_EXCHANGE = "messaging.dead"
UNROUTED_EXCHANGE = "messaging.unrouted"
# Celery's name for it: Flower listens there
EVENTS_EXCHANGE = "celeryev"

DEAD_QUEUE = "dead"
DEAD_NOTICES_QUEUE = "dead.notices"
UNROUTED_QUEUE = "unrouted"

QUEUE_ARGUMENTS = {"x-queue-type": "quorum"}

# RabbitMQ 4 gives every quorum queue a delivery limit of 20; reading the dead letters must never use them up.
NO_DELIVERY_LIMIT = 1_000_000_000
NOTICES_KEPT = 100_000
NOTICES_TTL_MS = 7 * 24 * 3600 * 1000

# At-least-once dead lettering needs reject-publish.
_SAFE_DEAD_LETTERING = {"dead-letter-strategy": "at-least-once", "overflow": "reject-publish"}


def delay_queue(seconds: int) -> str:
    """Name of the queue in which a message waits `seconds`."""
    return f"delay.{seconds}"


def delay_routing_key(seconds: int, queue: str) -> str:
    """Routing key for `DELAY_EXCHANGE` that brings a message to `queue` after at most `seconds`."""
    return f"{seconds}.{queue}"


def definitions(vhost: str, queues: Sequence[str], delays: Sequence[int], delivery_limit: int = 20) -> dict[str, Any]:
    """Exchanges, queues, bindings and policies of a RabbitMQ definitions document.

    `queues` are the work queues, `delays` the waiting times in seconds, `delivery_limit` how often the broker
    hands out one message before it gives up. Queue types are arguments; all that may change later is in policies.
    """
    delay_queues = [delay_queue(seconds) for seconds in delays]
    own_queues = [DEAD_QUEUE, DEAD_NOTICES_QUEUE, UNROUTED_QUEUE]
    exchanges = {
        SUBMIT_EXCHANGE: "topic",
        EXCHANGE: "topic",
        DELAY_EXCHANGE: "topic",
        DEAD_EXCHANGE: "fanout",
        UNROUTED_EXCHANGE: "fanout",
        EVENTS_EXCHANGE: "topic",
    }
    bindings = [
        *((SUBMIT_EXCHANGE, queue, queue) for queue in queues),
        # "email" itself, and "5.email" on the way back from a delay
        *((EXCHANGE, queue, f"#.{queue}") for queue in queues),
        *((DELAY_EXCHANGE, delay_queue(seconds), f"{seconds}.#") for seconds in delays),
        (DEAD_EXCHANGE, DEAD_QUEUE, ""),
        (DEAD_EXCHANGE, DEAD_NOTICES_QUEUE, ""),
        (UNROUTED_EXCHANGE, UNROUTED_QUEUE, ""),
    ]
    return {
        "exchanges": [
            {
                "name": name,
                "vhost": vhost,
                "type": kind,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for name, kind in exchanges.items()
        ],
        "queues": [
            {
                "name": name,
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                "arguments": dict(QUEUE_ARGUMENTS),
            }
            for name in [*queues, *delay_queues, *own_queues]
        ],
        "bindings": [
            {
                "source": source,
                "vhost": vhost,
                "destination": destination,
                "destination_type": "queue",
                "routing_key": routing_key,
                "arguments": {},
            }
            for source, destination, routing_key in bindings
        ],
        "policies": [
            _policy(vhost, "alternate", "exchanges", EXCHANGE, {"alternate-exchange": UNROUTED_EXCHANGE}),
            *(
                _policy(
                    vhost,
                    f"work.{queue}",
                    "queues",
                    queue,
                    {
                        "delivery-limit": delivery_limit,
                        "dead-letter-exchange": DEAD_EXCHANGE,
                        **_SAFE_DEAD_LETTERING,
                    },
                )
                for queue in queues
            ),
            *(
                _policy(
                    vhost,
                    delay_queue(seconds),
                    "queues",
                    delay_queue(seconds),
                    {
                        "message-ttl": seconds * 1000,
                        "dead-letter-exchange": EXCHANGE,
                        **_SAFE_DEAD_LETTERING,
                    },
                )
                for seconds in delays
            ),
            _policy(vhost, DEAD_QUEUE, "queues", DEAD_QUEUE, {"delivery-limit": NO_DELIVERY_LIMIT}),
            _policy(vhost, UNROUTED_QUEUE, "queues", UNROUTED_QUEUE, {"delivery-limit": NO_DELIVERY_LIMIT}),
            _policy(
                vhost,
                DEAD_NOTICES_QUEUE,
                "queues",
                DEAD_NOTICES_QUEUE,
                {"max-length": NOTICES_KEPT, "message-ttl": NOTICES_TTL_MS, "delivery-limit": NO_DELIVERY_LIMIT},
            ),
        ],
    }


def _policy(vhost: str, name: str, apply_to: str, target: str, definition: dict[str, Any]) -> dict[str, Any]:
    """A policy that matches exactly one name; names hold word characters, dashes and dots."""
    return {
        "vhost": vhost,
        "name": name,
        "pattern": "^" + target.replace(".", "[.]") + "$",
        "apply-to": apply_to,
        "priority": 1,
        "definition": definition,
    }
