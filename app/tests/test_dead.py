"""The dead letters, with a stand-in for RabbitMQ."""

from dataclasses import dataclass, field

import amqp
import pytest

from fakes import FakeRecords
from messaging import dead, publisher
from messaging.dead import DeadLetters
from messaging.job import SEND_EMAIL, Job
from messaging.publisher import Depth
from messaging.settings import Settings


@dataclass
class Broker:
    """Its count of messages is always 0, as that of a queue whose leader is slow."""

    letters: list[amqp.Message] = field(default_factory=list)
    held: int = 0

    def depth(self, _queue: str, _timeout: float) -> Depth:
        return Depth(0, 0)

    def get(self, _queue: str, _timeout: float) -> amqp.Message | None:
        if self.held == len(self.letters):
            return None
        self.held += 1
        return self.letters[self.held - 1]

    def acknowledge(self, message: amqp.Message, _timeout: float) -> None:
        self.letters.remove(message)
        self.held -= 1

    def close(self, _timeout: float) -> None:
        self.held = 0


def letter(task_id: str) -> amqp.Message:
    job = Job(task=SEND_EMAIL, kwargs={"to": "me@example.com"}, task_id=task_id, queue="email")
    return amqp.Message(job.body(), application_headers=job.headers())


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker([letter("a"), letter("b")])
    monkeypatch.setattr(publisher, "connect", lambda *_: broker)
    return broker


def test_dead_letters_are_listed_and_purged_although_the_count_is_zero(broker: Broker) -> None:
    letters = DeadLetters(Settings())
    assert [each.job.task_id for each in letters.all()] == ["a", "b"]
    assert letters.purge({"b"}) == ["b"]
    assert [each.job.task_id for each in letters.all()] == ["a"]


def test_one_that_dies_again_at_once_is_replayed_once(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead, "accept", lambda *arguments: broker.letters.append(letter(arguments[-1].task_id)))
    replayed = DeadLetters(Settings()).replay(FakeRecords(), None, None, None)
    assert replayed == ["a", "b"]
    assert [each.job.task_id for each in DeadLetters(Settings()).all()] == ["a", "b"]
