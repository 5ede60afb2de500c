"""Saving and bringing back, with stand-ins for Redis and RabbitMQ; tests/keep does it with the real ones."""

import contextlib
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import amqp
import pytest
from redis.exceptions import ResponseError

from fakes import FakeRecords
from messaging import backup, publisher, store
from messaging.backup import BackupError
from messaging.job import HEADER, SEND_EMAIL, Job
from messaging.publisher import Depth, UnroutableError
from messaging.results import Record, State
from messaging.settings import Settings
from messaging.store import INDEX_KEY

DIED = datetime(2026, 1, 2, 3, 4, 5)  # py-amqp's times have no zone


@dataclass
class Redis:
    """Keys with their bytes; the order of tasks is a set of ids."""

    keys: dict[str, bytes] = field(default_factory=dict)
    expires: dict[str, int] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)
    noted: set[str] = field(default_factory=set)

    def zcard(self, name: str) -> int:
        return len(self.keys.get(name, b"").split())

    def scan(self, cursor: int, count: int) -> tuple[int, list[str]]:
        # SCAN may return a key twice
        return (7, list(self.keys)) if cursor == 0 else (0, list(self.keys)[:1])

    @contextlib.contextmanager
    def pipeline(self, transaction: bool) -> Iterator["Redis"]:
        assert not transaction
        self.asked = []
        yield self

    def dump(self, name: str) -> None:
        self.asked.append(self.keys.get(name))

    def pexpiretime(self, name: str) -> None:
        self.asked.append(self.expires.get(name, -1))

    def execute(self) -> list[Any]:
        return self.asked

    def restore(self, name: str, expires: int, value: bytes, absttl: bool = False, replace: bool = False) -> None:
        if name in self.keys and not replace:
            raise ResponseError("BUSYKEY Target key name already exists.")
        self.keys[name] = value
        if absttl:
            self.expires[name] = expires

    def zunionstore(self, target: str, names: Sequence[str], aggregate: str) -> None:
        assert aggregate == "MAX"
        self.keys[target] = b" ".join(self.keys[name] for name in names)

    def delete(self, name: str) -> None:
        if name == backup._RESTORED_KEY:
            self.noted.clear()
        else:
            del self.keys[name]

    def sadd(self, _name: str, member: str) -> int:
        new = member not in self.noted
        self.noted.add(member)
        return int(new)

    def srem(self, _name: str, member: str) -> None:
        self.noted.discard(member)


@dataclass
class Broker:
    queues: dict[str, list[amqp.Message]] = field(default_factory=dict)
    held: list[amqp.Message] = field(default_factory=list)
    consumers: dict[str, int] = field(default_factory=dict)
    # its leaders do not say in time what they have
    slow: bool = False
    # more come as fast as they are taken
    endless: amqp.Message | None = None

    def depth(self, queue: str, timeout: float) -> Depth:
        return Depth(self.count(queue, timeout), self.consumers.get(queue, 0))

    def count(self, queue: str, _timeout: float) -> int:
        return (
            0
            if self.slow
            else len(self.queues.get(queue, [])) - sum(message in self.held for message in self.queues.get(queue, []))
        )

    def get(self, queue: str, _timeout: float) -> amqp.Message | None:
        for message in self.queues.get(queue, []):
            if message not in self.held:
                self.held.append(message)
                return message
        return self.endless if queue == "email" else None

    def publish(
        self, message: amqp.Message, exchange: str, routing_key: str, *, mandatory: bool, timeout: float
    ) -> None:
        assert exchange == ""
        assert mandatory
        self.queues.setdefault(routing_key, []).append(message)

    def close(self, _timeout: float) -> None:
        self.held.clear()


@dataclass
class Host:
    redis: Redis = field(default_factory=Redis)
    broker: Broker = field(default_factory=Broker)
    records: FakeRecords = field(default_factory=FakeRecords)
    settings: Settings = field(default_factory=Settings)

    def put(self, queue: str, task_id: str, routing_key: str = "", **headers: Any) -> None:
        job = Job(task=SEND_EMAIL, kwargs={"to": "me@example.com"}, task_id=task_id, queue="email")
        message = amqp.Message(
            job.body(),
            content_type="application/json",
            content_encoding="utf-8",
            message_id=task_id,
            timestamp=int(job.submitted_at),
            application_headers={**job.headers(), **headers},
        )
        if routing_key:
            message.properties["expiration"] = "2500"
        message.delivery_info = {"routing_key": routing_key or queue}
        self.broker.queues.setdefault(queue, []).append(message)

    def ids(self, queue: str) -> list[str]:
        return [message.properties["message_id"] for message in self.broker.queues.get(queue, [])]


class Hosts:
    """The old one and the new one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.old, self.new = Host(), Host()
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(backup, "BETWEEN_PASSES", 0)
        monkeypatch.setattr(backup, "LEAVING", 0)

    def _on(self, host: Host) -> None:
        self._monkeypatch.setattr(store, "connect", lambda *_: host.redis)
        self._monkeypatch.setattr(publisher, "connect", lambda *_: host.broker)
        self._monkeypatch.setattr(backup, "Records", lambda *_: host.records)

    def save(self) -> str:
        self._on(self.old)
        stream = io.StringIO()
        backup.save(self.old.settings, stream)
        assert self.old.broker.held == [], "everything was given back"
        return stream.getvalue()

    def load(self, text: str, *, over: bool = False) -> None:
        self._on(self.new)
        backup.load(self.new.settings, text.splitlines(), over=over)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    return Hosts(monkeypatch)


def test_every_message_comes_back_to_where_it_is_worked_on(hosts: Hosts) -> None:
    hosts.old.put("email", "a")
    hosts.old.put("email", "b")
    hosts.old.put("compute", "c")
    hosts.old.put("delay.5", "d", routing_key="5.email")
    hosts.old.put("delay.60", "e", routing_key="60.compute")
    hosts.old.put("dead", "f")
    hosts.old.put("unrouted", "g")
    text = hosts.save()
    hosts.load(text)
    found = {queue: sorted(hosts.new.ids(queue)) for queue in hosts.new.broker.queues}
    assert found == {"email": ["a", "b", "d"], "compute": ["c", "e"], "dead": ["f"], "unrouted": ["g"]}
    assert hosts.old.ids("email") == ["a", "b"]
    message = hosts.new.broker.queues["email"][0]
    assert "expiration" not in message.properties, "it would end in the work queue"
    assert message.properties["delivery_mode"] == 2
    old = next(each for each in hosts.old.broker.queues["email"] if each.properties["message_id"] == "a")
    assert json.loads(old.body)[1] == {"to": "me@example.com"}
    assert sorted(str(each.body) for each in hosts.new.broker.queues["email"]) == [str(old.body)] * 3


def test_a_worker_asks_whether_a_restored_message_was_done(hosts: Hosts) -> None:
    hosts.old.put("email", "a", **{"x-delivery-count": 3, "x-death": [{"reason": "expired", "time": DIED}]})
    hosts.load(hosts.save())
    headers = hosts.new.broker.queues["email"][0].headers
    assert headers[HEADER]["suspect"] is True
    assert headers["id"] == "a"
    assert not [name for name in headers if name.startswith("x-")]


def test_a_dead_letter_keeps_the_reason_of_its_death(hosts: Hosts) -> None:
    hosts.old.put("dead", "a", **{"x-delivery-count": 3, "x-death": [{"reason": "rejected", "time": DIED}]})
    hosts.load(hosts.save())
    headers = hosts.new.broker.queues["dead"][0].headers
    assert headers["x-death"] == [{"reason": "rejected", "time": DIED}]
    assert "x-delivery-count" not in headers


def test_keys_come_back_with_their_time(hosts: Hosts) -> None:
    hosts.old.redis.keys = {"a": b"\x00\xff", "messaging:claim:x": b"mine", INDEX_KEY: b"1"}
    hosts.old.redis.expires = {"a": 123456}
    hosts.load(hosts.save())
    assert hosts.new.redis.keys == {"a": b"\x00\xff", INDEX_KEY: b"1"}
    assert hosts.new.redis.expires == {"a": 123456}


def test_what_is_there_stays_and_a_second_time_does_no_harm(hosts: Hosts) -> None:
    hosts.old.redis.keys = {"a": b"old", INDEX_KEY: b"1"}
    hosts.old.put("dead", "d")
    text = hosts.save()
    hosts.new.redis.keys = {"a": b"newer", INDEX_KEY: b"2"}
    with pytest.raises(BackupError, match="there are tasks already: 1 records"):
        hosts.load(text)
    hosts.load(text, over=True)
    hosts.load(text, over=True)
    assert hosts.new.redis.keys["a"] == b"newer"
    assert set(hosts.new.redis.keys[INDEX_KEY].split()) == {b"1", b"2"}
    assert hosts.new.ids("dead") == ["d"]


def test_messages_that_wait_are_tasks_too(hosts: Hosts) -> None:
    text = hosts.save()
    hosts.new.put("delay.5", "x", routing_key="5.email")
    with pytest.raises(BackupError, match=r"1 messages in delay\.5"):
        hosts.load(text)


def test_a_task_whose_message_is_missing_does_not_wait_for_ever(hosts: Hosts) -> None:
    hosts.old.put("email", "kept")
    hosts.old.put("compute", "ended.state")
    for task_id in ("kept", "ended", "late"):
        hosts.old.redis.keys[f"celery-task-meta-{task_id}"] = b"x"
        job = Job(task=SEND_EMAIL, kwargs={}, task_id=task_id, queue="email")
        hosts.new.records.stored[task_id] = Record.queued(job)
    done = Record.queued(job).to(State.SUCCEEDED)
    hosts.old.redis.keys["celery-task-meta-done"] = b"x"
    hosts.new.records.stored["done"] = done
    hosts.load(hosts.save())
    states = {task_id: record.state for task_id, record in hosts.new.records.stored.items()}
    assert states == {"kept": State.QUEUED, "ended": State.QUEUED, "late": State.FAILED, "done": State.SUCCEEDED}
    assert hosts.new.records.stored["late"].reason == backup.NOT_SAVED


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_a_copy_that_is_cut_short_is_no_copy(hosts: Hosts, cut: int) -> None:
    hosts.old.redis.keys = {"a": b"x"}
    hosts.old.put("email", "m")
    lines = hosts.save().splitlines()
    assert len(lines) == 4
    with pytest.raises(BackupError):
        hosts.load("\n".join(lines[:cut]))
    with pytest.raises(BackupError):
        hosts.load("\n".join([*lines[:cut], lines[cut][:-2]]))


def test_a_message_that_nobody_of_ours_made_comes_back_too(hosts: Hosts) -> None:
    hosts.old.broker.queues["unrouted"] = [amqp.Message(b"\xff\x00", delivery_info={"routing_key": "x"})]
    hosts.load(hosts.save())
    assert hosts.new.broker.queues["unrouted"][0].body == b"\xff\x00"


def test_a_count_of_zero_is_not_believed(hosts: Hosts) -> None:
    hosts.old.put("email", "a")
    hosts.old.put("dead", "b")
    hosts.old.broker.slow = True
    text = hosts.save()
    assert '"a"' in text
    assert '"b"' in text
    hosts.new.put("email", "x")
    hosts.new.broker.slow = True
    with pytest.raises(BackupError, match="1 messages in email"):
        hosts.load(text)


def test_a_backup_ends_although_mail_goes_on_coming(hosts: Hosts) -> None:
    hosts.old.put("email", "a")
    hosts.old.broker.endless = amqp.Message("{}", timestamp=int(time.time() + 2 * backup.SKEW))
    hosts.old.put("dead", "b")
    text = hosts.save()
    assert '"a"' in text
    assert '"b"' in text


@pytest.mark.parametrize("late", [False, True])
def test_no_backup_while_workers_run(hosts: Hosts, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    seen: list[str] = []

    def depth(broker: Broker, queue: str, _timeout: float) -> Depth:
        seen.append(queue)
        return Depth(0, int(not late or seen.count(queue) > 1))

    monkeypatch.setattr(Broker, "depth", depth)
    with pytest.raises(BackupError, match="workers take from"):
        hosts.save()


def test_a_second_call_after_an_interruption_leaves_no_task_waiting(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.old.redis.keys["celery-task-meta-late"] = b"x"
    hosts.old.put("email", "kept")
    text = hosts.save()
    waiting = Record.queued(Job(task=SEND_EMAIL, kwargs={}, task_id="late", queue="email"))
    hosts.new.records.stored["late"] = waiting
    with monkeypatch.context() as broken:
        broken.setattr(Broker, "publish", _refuse)
        with pytest.raises(UnroutableError):
            hosts.load(text)
    assert hosts.new.records.stored["late"].state is State.QUEUED
    hosts.load(text, over=True)
    assert hosts.new.records.stored["late"].state is State.FAILED
    assert hosts.new.redis.noted == set()


def test_a_record_that_was_there_before_is_not_judged(hosts: Hosts) -> None:
    hosts.old.redis.keys["celery-task-meta-late"] = b"x"
    text = hosts.save()
    hosts.new.redis.keys["celery-task-meta-late"] = b"x"
    hosts.new.records.stored["late"] = Record.queued(Job(task=SEND_EMAIL, kwargs={}, task_id="late", queue="email"))
    hosts.load(text, over=True)
    assert hosts.new.records.stored["late"].state is State.QUEUED


def _refuse(*_: Any, **__: Any) -> None:
    raise UnroutableError("no queue")
