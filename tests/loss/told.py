"""What the service itself says: `messaging-python told.py`, ids of tasks on standard input, one a line.

Prints JSON: `states`, by id, and `dead`, the ids among the dead letters. On a host, with the release's own Python.
"""

import json
import sys

from messaging.dead import DeadLetters
from messaging.results import Records
from messaging.settings import load


def main() -> None:
    settings = load()
    records = Records(settings, 10)
    states: dict[str, str] = {}
    for task_id in sys.stdin.read().split():
        record = records.get(task_id)
        states[task_id] = (
            f"{record.state}: {record.reason}" if record and record.reason else str(record and record.state)
        )
    print(json.dumps({"states": states, "dead": [letter.job.task_id for letter in DeadLetters(settings).all()]}))


if __name__ == "__main__":
    main()
