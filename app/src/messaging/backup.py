"""A copy of what the service keeps in Redis and in RabbitMQ, and the way back.

One JSON document a line: the keys of Redis (records, the order of tasks, repeated requests, budgets), then the messages
of our queues, then how many there were. The records come first on the way back too: a worker that gets a message then
knows whether the mail went out.

Messages are read without removing them, and given back. For RabbitMQ that is one of the deliveries that a message has
(`rabbitmq_delivery_limit`), and a reader of the queue meanwhile would take some away: the workers are stopped before.
"""

import base64
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

import amqp
from amqp.exceptions import ChannelError
from kombu.utils.json import dumps, loads
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from messaging import claims, history, presence, store, topology
from messaging.job import HEADER
from messaging.publisher import NO_ROUTE, Link, UnroutableError, linked
from messaging.results import CHECK_KEY, Records, RecordsUnavailableError, State
from messaging.settings import Settings
from messaging.store import INDEX_KEY

FORMAT = 1
NOT_SAVED = "not in the backup"
RECORD_PREFIX = "celery-task-meta-"

PATIENCE = 10.0  # seconds for one answer of the broker
PASSES = 5
BETWEEN_PASSES = 0.2  # seconds: longer than a message needs from a delay queue to its own
LEAVING = 5.0  # seconds until RabbitMQ has noticed that a worker is gone
BATCH = 500
SKEW = 30.0  # seconds: as far may the clocks of the hosts be apart

# Leases of workers that are gone, and what is only true now
_RESTORING_KEY = "messaging:restoring"
_NOT_KEPT = (claims.PREFIX, store.SMTP_PROBLEM_KEY, CHECK_KEY, _RESTORING_KEY, history.PREFIX, presence.KEY)
# The records that a call of `load` has made, until it is complete
_RESTORED_KEY = f"{_RESTORING_KEY}:records"
# What they hold is looked at by people: with the reason of its death, and each only once
_KEPT_QUEUES = (topology.DEAD_QUEUE, topology.UNROUTED_QUEUE)
_COUNTED_BY_BROKER = frozenset({"x-delivery-count", "x-acquired-count"})


class BackupError(Exception):
    """The copy cannot be used. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much was saved or brought back."""

    keys: int
    messages: int


def save(settings: Settings, stream: IO[str]) -> Counts:
    """Write everything to `stream`. What was accepted before the call is in it; what comes during it may be.

    Raises:
        BackupError: workers run.
        RecordsUnavailableError, BrokerUnavailableError: Redis or RabbitMQ does not answer; what was written is no use.
    """
    started = time.time()
    keys = messages = 0
    _check_workers(settings)
    _write(stream, {"kind": "begin", "format": FORMAT, "saved_at": started, "backend": settings.result_backend})
    for entry in _keys(settings):
        _write(stream, entry)
        keys += 1
    for entry in _messages(settings, _queues(settings), started):
        _write(stream, entry)
        messages += 1
    _check_workers(settings)
    _write(stream, {"kind": "end", "keys": keys, "messages": messages})
    return Counts(keys, messages)


def load(settings: Settings, stream: Iterable[str], *, over: bool = False) -> Counts:
    """Bring back what `save` wrote: first what Redis has not, then every message to its queue.

    What waited in a delay queue goes to its work queue at once. What Redis has stays: it is newer. So a second call
    does no harm, and neither does a message that was done meanwhile.

    Args:
        over: also where there are tasks already.

    Raises:
        BackupError: this is no copy, it is cut short, or there are tasks already.
        RecordsUnavailableError, BrokerUnavailableError, UnroutableError: call again when it works.
    """
    lines = (_entry(line) for line in stream)
    begin = next(lines, {})
    if begin.get("kind") != "begin" or begin.get("format") != FORMAT:
        raise BackupError("this is not a copy that this release can read")
    if not over and (found := present(settings)):
        raise BackupError(f"there are tasks already: {found}")
    records: list[str] = []
    published: set[str] = set()
    counted = {"key": 0, "message": 0}
    expected: Mapping[str, Any] = {}
    redis = store.connect(settings, store.WORKER_TIMEOUT)
    known = {(entry["queue"], _message_id(entry)) for entry in _messages(settings, _KEPT_QUEUES, time.time())}
    with linked(settings, PATIENCE) as link:
        for entry in lines:
            if entry["kind"] == "key":
                if _restore(redis, entry) and entry["name"].startswith(RECORD_PREFIX):
                    records.append(entry["name"].removeprefix(RECORD_PREFIX))
            elif entry["kind"] == "message":
                if (entry["queue"], _message_id(entry)) not in known:
                    _publish(link, entry)
                published.add(_message_id(entry))
            else:
                expected = entry
                break
            counted[entry["kind"]] += 1
    if (expected.get("keys"), expected.get("messages")) != (counted["key"], counted["message"]):
        raise BackupError("the copy is cut short; what was in it is there now")
    _settle(Records(settings, store.WORKER_TIMEOUT), records, published)
    try:
        redis.delete(_RESTORED_KEY)
    except RedisError as error:
        raise RecordsUnavailableError(f"redis: {error}") from error
    return Counts(counted["key"], counted["message"])


def present(settings: Settings) -> str:
    """What there is already, in words; empty if there is nothing.

    Raises:
        RecordsUnavailableError, BrokerUnavailableError: Redis or RabbitMQ does not answer.
    """
    try:
        known = int(store.connect(settings, store.WORKER_TIMEOUT).zcard(INDEX_KEY))
    except RedisError as error:
        raise RecordsUnavailableError(f"redis: {error}") from error
    with linked(settings, PATIENCE) as link:
        waiting = {queue: _count(link, queue) for queue in _queues(settings)}
    words = [f"{known} records"] if known else []
    return ", ".join(words + [f"{count} messages in {queue}" for queue, count in waiting.items() if count])


def _count(link: Link, queue: str) -> int:
    """Messages in `queue`. RabbitMQ says 0 too where its leader is slow, so one is asked for; it is given back."""
    return link.depth(queue, PATIENCE).messages or int(link.get(queue, PATIENCE) is not None)


def _check_workers(settings: Settings) -> None:
    """Refuse while workers run: what they hold is in no queue that can be read."""
    until = time.monotonic() + LEAVING
    with linked(settings, PATIENCE) as link:
        while busy := [queue for queue in settings.queues if link.depth(queue, PATIENCE).consumers]:
            if time.monotonic() >= until:
                break
            time.sleep(BETWEEN_PASSES)
    if busy:
        raise BackupError(f"workers take from {', '.join(busy)}: stop them first, as make backup does")


def _queues(settings: Settings) -> list[str]:
    """All that may hold a task, those first from which messages go on by themselves."""
    delays = [topology.delay_queue(seconds) for seconds in settings.delays]
    return [*delays, *settings.queues, topology.DEAD_QUEUE, topology.DEAD_NOTICES_QUEUE, topology.UNROUTED_QUEUE]


def _write(stream: IO[str], entry: Mapping[str, Any]) -> None:
    stream.write(f"{dumps(entry)}\n")


def _entry(line: str) -> Mapping[str, Any]:
    try:
        entry = loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or entry.get("kind") not in {"begin", "key", "message", "end"}:
        raise BackupError("this is not a copy, or it is cut short")
    return entry


def _keys(settings: Settings) -> Iterator[dict[str, Any]]:
    """All keys of Redis. SCAN returns at least those that are there all the time."""
    redis = store.connect(settings, store.WORKER_TIMEOUT)
    seen: set[str] = set()
    try:
        cursor = -1
        while cursor != 0:
            cursor, found = redis.scan(max(cursor, 0), count=BATCH)
            names = [name for name in cast("list[str]", found) if name not in seen and not name.startswith(_NOT_KEPT)]
            seen.update(names)
            with redis.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.dump(name)
                    pipe.pexpiretime(name)
                answers = pipe.execute()
            for name, value, expires in zip(names, answers[::2], answers[1::2], strict=True):
                if value is not None:
                    yield {
                        "kind": "key",
                        "name": name,
                        "value": base64.b64encode(value).decode(),
                        "expires_ms": max(int(expires), 0),
                    }
    except RedisError as error:
        raise RecordsUnavailableError(f"redis: {error}") from error


def _messages(settings: Settings, queues: Sequence[str], started: float) -> Iterator[dict[str, Any]]:
    """Each message that is in `queues`, held until the end: then the broker has them all again, in their order.

    Args:
        started: seconds since the epoch. The web goes on accepting: a queue is left at the first message after it.
    """
    with linked(settings, PATIENCE) as link:
        for number in range(PASSES):
            found = 0
            for queue in queues:
                # not as many as the broker counts: where a queue's leader is slow that is 0
                while (message := link.get(queue, PATIENCE)) is not None:
                    yield {
                        "kind": "message",
                        "queue": queue,
                        "routing_key": (message.delivery_info or {}).get("routing_key", ""),
                        "body": message.body,
                        "properties": message.properties,
                    }
                    if _accepted_at(message) > started + SKEW:
                        break
                    found += 1
            # one may have been on its way from a delay queue to its own
            if number > 0 and not found:
                return
            time.sleep(BETWEEN_PASSES)


def _accepted_at(message: amqp.Message) -> float:
    """Seconds since the epoch; 0 where nobody says."""
    stamp = message.properties.get("timestamp")
    return stamp if isinstance(stamp, int) else 0


def _restore(redis: Redis, entry: Mapping[str, Any]) -> bool:
    """Make one key, unless it is there. The order of tasks is united with what is there.

    Returns:
        Whether it was made, now or by an earlier call that was interrupted.
    """
    name, expires = entry["name"], entry["expires_ms"]
    value = base64.b64decode(entry["value"])
    try:
        noted = name.startswith(RECORD_PREFIX) and not redis.sadd(_RESTORED_KEY, name)
        try:
            redis.restore(name, expires, value, absttl=expires > 0)
        except ResponseError as error:
            if "BUSYKEY" not in str(error):
                raise
            if name == INDEX_KEY:
                redis.restore(_RESTORING_KEY, 0, value, replace=True)
                redis.zunionstore(INDEX_KEY, [INDEX_KEY, _RESTORING_KEY], aggregate="MAX")
                redis.delete(_RESTORING_KEY)
            if not noted:
                redis.srem(_RESTORED_KEY, name)
            return noted
    except RedisError as error:
        raise RecordsUnavailableError(f"redis: {error}") from error
    return True


def _publish(link: Link, entry: Mapping[str, Any]) -> None:
    """Publish one message to the queue that it was in, or waited for."""
    queue, properties = entry["queue"], dict(entry["properties"])
    headers = dict(properties.pop("application_headers", None) or {})
    # in a work queue it would end there
    properties.pop("expiration", None)
    if queue in _KEPT_QUEUES or queue == topology.DEAD_NOTICES_QUEUE:
        headers = {name: value for name, value in headers.items() if name not in _COUNTED_BY_BROKER}
    else:
        if queue.startswith(topology.delay_queue(0)[:-1]):
            queue = entry["routing_key"].partition(".")[2]
        headers = {name: value for name, value in headers.items() if not name.startswith("x-")}
        if isinstance(headers.get(HEADER), dict):
            # a worker that cannot ask whether it was done waits until it can
            headers[HEADER] = {**headers[HEADER], "suspect": True}
    message = amqp.Message(entry["body"], application_headers=headers, **{**properties, "delivery_mode": 2})
    try:
        link.publish(message, "", queue, mandatory=True, timeout=PATIENCE)
    except ChannelError as error:
        if error.reply_code not in NO_ROUTE:
            raise
        raise UnroutableError(
            f"RabbitMQ has no queue {queue}: name it in messaging_queues, run the playbook and restore again"
        ) from None


def _message_id(entry: Mapping[str, Any]) -> str:
    return str(entry["properties"].get("message_id") or "")


def _settle(records: Records, restored: Iterable[str], published: set[str]) -> None:
    """Say of each task that waits and has no message that it will not be done: it came while the copy was made."""
    # a message <id>.state brings the last state of a task
    known = published | {task_id.removesuffix(".state") for task_id in published}
    for task_id in restored:
        if task_id not in known:
            record = records.get(task_id)
            if record is not None and not record.over:
                records.put(record.to(State.FAILED, reason=NOT_SAVED))
