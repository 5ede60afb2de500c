"""The dead letters, with a stand-in for RabbitMQ."""

from dataclasses import dataclass, field

import amqp
import pytest

from fakes import FakeRecords
from messaging import dead, publisher
from messaging.dead import DeadLetters, Done
from messaging.job import SEND_EMAIL, Job
from messaging.publisher import Depth
from messaging.settings import Settings


@dataclass
class Broker:
    """Its count of messages is always 0, as that of a queue whose leader is slow."""

    letters: list[amqp.Message] = field(default_factory=list)
    held: int = 0
    gets: int = 0

    def depth(self, _queue: str, _timeout: float) -> Depth:
        return Depth(0, 0)

    def get(self, _queue: str, _timeout: float) -> amqp.Message | None:
        self.gets += 1
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
    assert letters.purge({"b"}) == Done(["b"], more=False)
    assert [each.job.task_id for each in letters.all()] == ["a"]


def test_one_that_dies_again_at_once_is_replayed_once(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead, "accept", lambda *arguments: broker.letters.append(letter(arguments[-1].task_id)))
    replayed = DeadLetters(Settings()).replay(FakeRecords(), None, None, None)
    assert replayed == Done(["a", "b"], more=False)
    assert [each.job.task_id for each in DeadLetters(Settings()).all()] == ["a", "b"]


def test_a_letter_that_is_named_ends_the_look(broker: Broker) -> None:
    broker.letters = [letter(each) for each in "abcde"]
    assert DeadLetters(Settings(), most=3).purge({"b"}) == Done(["b"], more=False)
    assert broker.gets == 2
    assert DeadLetters(Settings(), most=3).purge({"e"}) == Done([], more=True), "nobody can say that it is gone"


def test_who_cannot_wait_for_all_decides_on_some_and_is_told(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.letters = [letter(each) for each in "abcde"]
    assert DeadLetters(Settings(), most=2).purge(None) == Done(["a", "b"], more=True)
    assert broker.gets == 3, "the rest is not read"
    assert DeadLetters(Settings(), most=3).purge(None) == Done(["c", "d", "e"], more=False)
    broker.letters = [letter(each) for each in "abcde"]
    ticks = iter(range(100))
    monkeypatch.setattr(dead.time, "monotonic", lambda: next(ticks))
    assert DeadLetters(Settings(), within=4).purge(None).more
    assert 0 < len(broker.letters) < 5
    assert 0 < len(list(DeadLetters(Settings(), within=1).oldest(5))) < len(broker.letters)
