"""What the application says about exchanges and queues, for the playbook."""

import base64
import hashlib
import hmac
import importlib.util
from pathlib import Path

TOPOLOGY = Path(__file__).resolve().parents[3] / "app" / "src" / "messaging" / "topology.py"


def messaging_definitions(vhost, queues, delays, delivery_limit):
    """Exchanges, queues, bindings and policies in the format of a RabbitMQ definitions file."""
    spec = importlib.util.spec_from_file_location("messaging_topology", TOPOLOGY)
    topology = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(topology)
    plain = [str(queue) for queue in queues], [int(delay) for delay in delays]
    return topology.definitions(str(vhost), *plain, delivery_limit=delivery_limit)


def rabbitmq_password_hash(password):
    """RabbitMQ's salted SHA-256. The salt comes from the password, so that the same password gives the same file."""
    secret = str(password).encode()
    salt = hmac.digest(secret, b"messaging-system rabbitmq salt", "sha256")[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + secret).digest()).decode()


def rabbitmq_old_queues(seen, definitions):
    """The work queues that the definitions do not know any more."""
    known = {queue["name"] for queue in definitions["queues"]}
    # a delay queue empties itself: its policy stays
    ours = [
        queue for queue in seen if queue.get("type", "quorum") == "quorum" and not queue["name"].startswith("delay.")
    ]
    return [queue for queue in ours if queue["name"] not in known]


def rabbitmq_left_queues(seen, definitions):
    """[name, messages] of each of them that holds some."""
    old = rabbitmq_old_queues(seen, definitions)
    return [[queue["name"], queue["messages"]] for queue in old if queue.get("messages", 0) > 0]


class FilterModule:
    def filters(self):
        return {
            "messaging_definitions": messaging_definitions,
            "rabbitmq_password_hash": rabbitmq_password_hash,
            "rabbitmq_old_queues": rabbitmq_old_queues,
            "rabbitmq_left_queues": rabbitmq_left_queues,
        }
