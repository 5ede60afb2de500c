"""The host, what is around it, and how to ask them."""

import json
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testinfra.host import Host

from faulty import PYTHON
from probe import ready, wait_until

HERE = Path(__file__).parent
MOOD = "/run/smtp_end/mood"
TAKEN = "/run/smtp_end/taken"
# What is on its way to the relay; the other queues are where it ends
WORK_QUEUES = ("email", "compute", "delay.")
# Seconds: more than RabbitMQ takes from one count of a queue to the next
SETTLED = 7


@dataclass(frozen=True)
class Stage:
    """`outside` has the SMTP end, and the requests come from there."""

    host: Host
    outside: Host
    target: str

    def mood(self, name: str) -> None:
        """Put the SMTP end into a mood (smtp_end.py), and wait until it is."""
        self.outside.check_output(f"echo {name} > {MOOD}")
        wait_until(lambda: self.outside.check_output("cat /run/smtp_end/in_mood") == name, f"the relay is {name}")

    def systemctl(self, *arguments: str) -> None:
        self.host.check_output("systemctl" + " %s" * len(arguments), *arguments)

    def ready(self, limit: float = 120) -> None:
        """Wait until the service says that it is well."""
        wait_until(lambda: ready(self.host), "ready", limit)

    def docker(self, verb: str, *arguments: str) -> None:
        """What only the engine can do to the host."""
        subprocess.run(["docker", verb, *arguments, self.host.backend.name], check=True, capture_output=True)

    def taken(self, prefix: str) -> Counter[str]:
        """How often the SMTP end took a mail, by recipient."""
        return Counter(self.outside.run(f"grep '^{prefix}-' {TAKEN}").stdout.split())

    def on_its_way(self) -> dict[str, int] | None:
        """Messages by queue, those that a worker holds included; None if the broker cannot be asked."""
        listed = self.host.run("rabbitmqctl --quiet --formatter json list_queues --vhost messaging name messages state")
        if listed.rc != 0:
            return None
        queues = json.loads(listed.stdout)
        if any(queue.get("state") != "running" or queue.get("messages") is None for queue in queues):
            return None
        return {
            row["name"]: int(row["messages"])
            for row in queues
            if row["name"].startswith(WORK_QUEUES) and row["messages"]
        }

    def quiet(self, limit: float) -> float:
        """Wait until nothing is on its way; the moment since when. RabbitMQ counts a queue every few seconds only, and
        one that has just started says 0, so it has to be so for a while."""
        since = time.monotonic()

        def settled() -> bool:
            nonlocal since
            if self.on_its_way() != {}:
                since = time.monotonic()
            return time.monotonic() - since > SETTLED

        wait_until(settled, "quiet", limit, every=1)
        return since

    def asked(self, task_ids: list[str]) -> dict[str, Any]:
        """What the service says of tasks: told.py."""
        program = (HERE / "told.py").read_text()
        command = [
            "docker",
            "exec",
            "-i",
            self.host.backend.name,
            "runuser",
            "-u",
            "messaging",
            "--",
            PYTHON,
            "-c",
            program,
        ]
        done = subprocess.run(command, input="\n".join(task_ids), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))
