"""What Flower says of tasks that do not simply succeed."""

import json
import uuid
from typing import Any

from testinfra.host import Host

from faulty import in_release
from probe import flower_task, wait_until

MAILBOX = "messaging-mailbox"
ADDRESS = "somebody-nobody-shall-see@example.com"

SUBMIT = """
import json, sys
from messaging.job import Job
from messaging.publisher import Publisher
from messaging.settings import load

publisher = Publisher(load())
for task_id, (task, queue, kwargs) in json.loads(sys.argv[1]).items():
    publisher.submit(Job(task=task, kwargs=kwargs, task_id=task_id, queue=queue))
"""


def test_every_end_has_its_own_state(host: Host) -> None:
    """One that waits and then succeeds, one that fails, one for the dead letters, and one from the other pool."""
    mail = {"to": ADDRESS, "subject": "Hello", "text": "How are you?"}
    waits, fails, dies, computes = (str(uuid.uuid4()) for _ in range(4))
    tasks: dict[str, tuple[str, str, dict[str, Any]]] = {
        waits: ("messaging.send_email", "email", mail),
        fails: ("messaging.send_email", "email", {**mail, "to": f"{ADDRESS}, {ADDRESS}"}),
        dies: ("messaging.send_email", "email", {**mail, "text": ["not", "a", "text"]}),
        computes: ("messaging.reverse_text", "compute", {"text": "olleh"}),
    }
    host.check_output(f"systemctl stop {MAILBOX}")
    in_release(host, SUBMIT, json.dumps(tasks))

    def ended_as(task_id: str, state: str, reason: str | None = None) -> None:
        seen = wait_until(
            lambda: (info := flower_task(host, task_id)).get("state") == state and info, f"{tasks[task_id][0]} {state}"
        )
        assert reason is None or reason in seen["exception"]
        assert not seen["traceback"]
        assert ADDRESS not in json.dumps(seen)

    ended_as(waits, "RETRY", "cannot connect")
    ended_as(fails, "FAILURE", "not sent")
    ended_as(dies, "FAILURE", "its parts are not text")
    ended_as(computes, "SUCCESS")
    host.check_output(f"systemctl start {MAILBOX}")
    ended_as(waits, "SUCCESS")
    host.check_output("messagingctl dead purge --yes %s", dies)
