"""What became of every request, by its recipient."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from faulty import honest


@dataclass(frozen=True)
class Reckoning:
    """One row of the table. Every accepted mail is in one of the columns from `once` to `dead`, or it is lost."""

    fault: str
    requests: int
    accepted: int
    once: int
    twice: int
    failed: int
    dead: int
    lost: int
    # 503 with a problem document and Retry-After; 429 with both; the connection ended, or no answer; all else is wrong
    refused: int
    refused_but_delivered: int
    throttled: int
    no_answer: int
    no_answer_but_delivered: int
    wrong: int
    # delivered, and the service says otherwise
    misreported: int
    slowest: float
    seconds: float

    @classmethod
    def of(
        cls,
        fault: str,
        answers: Sequence[Mapping[str, Any]],
        taken: Counter[str],
        states: Mapping[str, str],
        dead: Collection[str],
        seconds: float,
    ) -> Self:
        """Count.

        Args:
            fault: what was done.
            answers: what traffic.py printed.
            taken: how often the SMTP end took a mail, by recipient.
            states: what the service says of each accepted task.
            dead: ids among the dead letters.
            seconds: from the first request to quiet.
        """
        accepted = {answer["address"]: answer["body"]["task_id"] for answer in answers if answer["status"] == 202}
        refused = [answer["address"] for answer in answers if honest(answer)]
        throttled = sum(honest(answer, 429) for answer in answers)
        silent = [answer["address"] for answer in answers if answer["status"] == 0]
        missing = {address: task_id for address, task_id in accepted.items() if not taken[address]}
        in_dead = {address for address, task_id in missing.items() if task_id in dead}
        failed = {
            address
            for address, task_id in accepted.items()
            if states.get(task_id, "").startswith("failed: ") and address not in in_dead
        }
        return cls(
            fault=fault,
            requests=len(answers),
            accepted=len(accepted),
            once=sum(taken[address] == 1 for address in accepted),
            twice=sum(times > 1 for times in taken.values()),
            failed=len(failed),
            dead=len(in_dead),
            lost=len(missing.keys() - in_dead - failed),
            refused=len(refused),
            refused_but_delivered=sum(taken[address] > 0 for address in refused),
            throttled=throttled,
            no_answer=len(silent),
            no_answer_but_delivered=sum(taken[address] > 0 for address in silent),
            wrong=len(answers) - len(accepted) - len(refused) - throttled - len(silent),
            misreported=sum(
                states.get(task_id) != "succeeded" for address, task_id in accepted.items() if taken[address]
            ),
            slowest=max((answer["seconds"] for answer in answers), default=0.0),
            seconds=seconds,
        )


def table(rows: Sequence[Reckoning]) -> str:
    """In Markdown, a line for each row."""
    names = [field.name for field in fields(Reckoning)]
    lines = [
        "| " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|" + "|".join("---" if name == "fault" else "---:" for name in names) + "|",
    ]
    for row in rows:
        values = [getattr(row, name) for name in names]
        lines.append(
            "| " + " | ".join(f"{value:.1f}" if isinstance(value, float) else str(value) for value in values) + " |"
        )
    return "\n".join(lines)
