"""Publishing: `submit()` returns once RabbitMQ has confirmed the message, or raises within the time limit.

It talks AMQP with py-amqp directly. Celery's own publishing has no upper time limit when the broker
accepts and never confirms, and its clean-up waits for a goodbye that a silent broker never says.
Source: https://www.rabbitmq.com/docs/confirms
"""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import amqp
from amqp.exceptions import AMQPError, ChannelError, MessageNacked

from messaging import topology
from messaging.brokers import QuickConnection, tls
from messaging.job import Job
from messaging.settings import Settings

logger = logging.getLogger(__name__)

IDLE_LINKS = 32
CONNECT_TIMEOUT = 1.0
# How many times in a row nobody took a message, and for how long nobody is asked then, while all brokers are as bad
FAILURES_BEFORE_PAUSE = 3
PAUSE = 1.0
# For how long the others are asked before a broker that did not take a message
AVOIDED = 5.0
NO_ROUTE = frozenset({312, 404})  # no queue, no exchange

_random = random.SystemRandom()


class PublishError(Exception):
    """The message is not known to be kept.

    `uncertain` is true when the broker may have it all the same: it was sent, and no answer came.
    """

    def __init__(self, reason: str, *, uncertain: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.uncertain = uncertain


class BrokerUnavailableError(PublishError):
    """The broker is away, silent, or in alarm."""


class UnroutableError(PublishError):
    """No queue takes this message: the playbook has not declared it, or somebody removed it."""


@dataclass(frozen=True, slots=True)
class Depth:
    """What is in a queue: messages that nobody holds, and the consumers that ask for them."""

    messages: int
    consumers: int


class Connection(QuickConnection):
    """A connection whose handshake as a whole has a time limit; py-amqp's own counts anew for each frame."""

    def __init__(self, deadline: float, **kwargs: Any) -> None:
        self._deadline = deadline
        super().__init__(**kwargs)

    @property
    def connect_timeout(self) -> float:
        """Seconds that the handshake has left."""
        return _left(self._deadline)

    @connect_timeout.setter
    def connect_timeout(self, value: float | None) -> None:
        """py-amqp sets it once; the deadline is what counts."""


class Link:
    """One connection with one channel in confirm mode; used by one thread at a time."""

    def __init__(self, settings: Settings, host: str, timeout: float) -> None:
        self.host = host
        deadline = time.monotonic() + timeout
        self._connection = Connection(
            deadline,
            host=host,
            userid=settings.amqp_user,
            password=settings.amqp_password.get_secret_value(),
            login_method="PLAIN",
            virtual_host=settings.amqp_vhost,
            ssl=tls(settings, host) or False,
            write_timeout=timeout,
            read_timeout=timeout,
            client_properties={"connection_name": f"publisher {settings.instance}"},
        )
        try:
            self._connection.connect()
            self._limit(_left(deadline))
            self._channel = self._connection.channel()
            self._limit(_left(deadline))
            self._channel.confirm_select()
        except BaseException:
            self.drop()
            raise

    def publish(
        self, message: amqp.Message, exchange: str, routing_key: str, *, mandatory: bool, timeout: float
    ) -> None:
        """Publish and wait for the confirm; every read and write is bounded by `timeout` seconds."""
        self._limit(timeout)
        self._channel.basic_publish_confirm(message, exchange, routing_key, mandatory=mandatory)

    def depth(self, queue: str, timeout: float) -> Depth:
        """What is in `queue`."""
        self._limit(timeout)
        declared = self._channel.queue_declare(queue, passive=True)
        return Depth(int(declared[1]), int(declared[2])) if declared else Depth(0, 0)

    def get(self, queue: str, timeout: float) -> amqp.Message | None:
        """Take one message from `queue` without acknowledging it; None when there is none."""
        self._limit(timeout)
        return self._channel.basic_get(queue)

    def acknowledge(self, message: amqp.Message, timeout: float) -> None:
        """Remove a message that `get` took."""
        self._limit(timeout)
        self._channel.basic_ack(message.delivery_tag or 0)

    def close(self, timeout: float) -> None:
        """Close with a goodbye, so that the broker has read every acknowledgement."""
        try:
            self._limit(timeout)
            self._connection.close()
        except (OSError, AMQPError):
            self.drop()

    def drop(self) -> None:
        """Close the socket at once, without the goodbye that a silent broker would never answer."""
        self._connection.collect()

    def _limit(self, timeout: float) -> None:
        if not self._connection.connected:  # py-amqp would quietly connect again, without any limit
            raise ConnectionResetError("the connection is closed")
        self._connection.transport.sock.settimeout(timeout)


# On a connection, within so many seconds; the last says whether a broker may have got the same already
Work = Callable[[Link, float, bool], None]


@dataclass(frozen=True, slots=True)
class _Avoided:
    """A broker that did not take a message; the higher its rank, the later it is asked."""

    rank: int
    until: float


_GOOD = _Avoided(rank=0, until=0.0)


class Publisher:
    """Publishes jobs over a few warm connections. Safe to use from many threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._idle: list[Link] = []
        self._avoided: dict[str, _Avoided] = {}
        self._failures = 0
        self._paused_until = 0.0

    def submit(self, job: Job) -> None:
        """Publish `job` to its queue; on return RabbitMQ has it on a quorum queue.

        Raises:
            BrokerUnavailableError: no confirm within `publish_timeout` seconds.
            UnroutableError: the queue does not exist.
        """
        self._publish(job, topology.SUBMIT_EXCHANGE, job.queue)

    def retry_later(self, job: Job, at_least: float) -> float:
        """Publish `job` to a delay queue, from which it comes back to its own; the longest it can wait, in seconds.

        The delay queue is the first that is long enough for `at_least` seconds, or the longest. A message waits a
        random part of the queue's time, at least half of it and `at_least`. It does not overtake the one before it,
        so a crowd comes back with the spacing that it came with.

        Raises:
            BrokerUnavailableError, UnroutableError: as for `submit`.
        """
        seconds = next((delay for delay in self._settings.delays if delay >= at_least), self._settings.delays[-1])
        low = min(max(at_least, seconds / 2), seconds)
        expiration = round(_random.uniform(low, seconds) * 1000)
        self._publish(
            job, topology.DELAY_EXCHANGE, topology.delay_routing_key(seconds, job.queue), expiration=str(expiration)
        )
        return seconds

    def probe(self) -> None:
        """See whether a message would be confirmed now, by publishing one that no queue takes.

        Raises:
            BrokerUnavailableError: it would not.
        """
        message = amqp.Message("", delivery_mode=1)
        self._with_link(
            lambda link, timeout, _: link.publish(
                message, topology.SUBMIT_EXCHANGE, "probe", mandatory=False, timeout=timeout
            )
        )

    def depths(self, queues: Sequence[str]) -> dict[str, Depth]:
        """What is in each of `queues`.

        Raises:
            BrokerUnavailableError: no answer within `publish_timeout` seconds.
            UnroutableError: a queue does not exist.
        """
        found: dict[str, Depth] = {}

        def look(link: Link, timeout: float, _: bool) -> None:
            deadline = time.monotonic() + timeout
            for queue in queues:
                found[queue] = link.depth(queue, _left(deadline))

        self._with_link(look)
        return found

    def announce(self, body: str, exchange: str, routing_key: str) -> None:
        """Publish JSON that is not kept and that nobody need listen to.

        Raises:
            BrokerUnavailableError: no confirm within `publish_timeout` seconds.
            UnroutableError: the exchange does not exist.
        """
        message = amqp.Message(body, content_type="application/json", content_encoding="utf-8", delivery_mode=1)
        self._with_link(
            lambda link, timeout, _: link.publish(message, exchange, routing_key, mandatory=False, timeout=timeout)
        )

    def warm_up(self, count: int, patience: float) -> None:
        """Connect for those who wait already: when all of them do so at once, a busy broker is late for some.

        Args:
            count: how many connections to hold ready; fewer when a broker does not answer.
            patience: seconds, for all of them.
        """
        deadline = time.monotonic() + patience
        links: list[Link] = []
        with contextlib.suppress(OSError, AMQPError):
            while len(links) < count:
                links.append(connect(self._settings, deadline))
        with self._lock:
            self._idle += links

    def close(self) -> None:
        """Drop the idle connections."""
        with self._lock:
            links, self._idle = self._idle, []
        for link in links:
            link.drop()

    def _publish(self, job: Job, exchange: str, routing_key: str, **properties: Any) -> None:
        def publish(link: Link, timeout: float, again: bool) -> None:
            # while Redis is away, a worker does what it is surely given first
            message = _message(replace(job, suspect=True) if again else job, **properties)
            link.publish(message, exchange, routing_key, mandatory=True, timeout=timeout)

        self._with_link(publish)

    def _with_link(self, work: Work) -> None:
        """Run `work` on a connection to one broker and, where that fails, to another, as long as there is time.

        A connection from earlier may have ended with a broker that is back by now: that one is asked again, as the
        last. Running `work` twice is harmless: a second copy of a message collapses in the worker, by the task's id.
        """
        deadline = time.monotonic() + self._settings.publish_timeout
        self._refuse_while_paused()
        hosts = self._in_order()
        sent = False
        error: Exception = TimeoutError()
        while hosts and time.monotonic() < deadline:
            # half of the time is for the others
            until = deadline if len(hosts) == 1 else (time.monotonic() + deadline) / 2
            link, fresh = self._take(hosts), False
            host = hosts[0] if link is None else link.host
            before = sent
            try:
                if link is None:
                    fresh = True
                    link = Link(self._settings, host, min(CONNECT_TIMEOUT, _left(until)))
                sent = True
                self._run(work, link, until, before)
                return
            except (OSError, AMQPError, MessageNacked) as failure:
                _raise_if_unroutable(failure)
                error = failure
            if isinstance(error, MessageNacked):
                sent = before
            self._drop_idle(host)  # the others to it are as old, and as dead
            hosts.remove(host)
            if fresh or isinstance(error, TimeoutError | MessageNacked):
                self._avoid(host, reached=link is not None)
            else:
                hosts.append(host)
        reason = _reason(error)
        self._failed(reason)
        raise BrokerUnavailableError(f"RabbitMQ: {reason}", uncertain=sent) from error

    def _run(self, work: Work, link: Link, until: float, again: bool) -> None:
        try:
            work(link, _left(until), again)
        except BaseException:
            link.drop()
            raise
        with self._lock:
            self._failures = 0
            self._avoided.pop(link.host, None)
            if len(self._idle) < IDLE_LINKS:
                self._idle.append(link)
                return
        link.drop()

    def _take(self, hosts: Sequence[str]) -> Link | None:
        """A warm connection to one of `hosts`: the newest."""
        with self._lock:
            for position in reversed(range(len(self._idle))):
                if self._idle[position].host in hosts:
                    return self._idle.pop(position)
        return None

    def _drop_idle(self, host: str) -> None:
        with self._lock:
            links = [link for link in self._idle if link.host == host]
            self._idle = [link for link in self._idle if link.host != host]
        for link in links:
            link.drop()

    def _in_order(self) -> list[str]:
        """All brokers: first those of which nothing bad is known, last those that could not even be reached."""
        with self._lock:
            self._forget_old()
            hosts = self._settings.amqp_hosts
            return sorted(_random.sample(hosts, len(hosts)), key=lambda host: self._avoided.get(host, _GOOD).rank)

    def _avoid(self, host: str, *, reached: bool) -> None:
        with self._lock:
            self._avoided[host] = _Avoided(rank=1 if reached else 2, until=time.monotonic() + AVOIDED)

    def _forget_old(self) -> None:
        now = time.monotonic()
        self._avoided = {host: known for host, known in self._avoided.items() if known.until > now}

    def _refuse_while_paused(self) -> None:
        with self._lock:
            if time.monotonic() < self._paused_until:
                raise BrokerUnavailableError("RabbitMQ: away a moment ago, not asked again yet")

    def _failed(self, reason: str) -> None:
        with self._lock:
            self._failures += 1
            self._forget_old()
            if self._failures >= FAILURES_BEFORE_PAUSE and len(self._avoided) == len(self._settings.amqp_hosts):
                self._paused_until = time.monotonic() + PAUSE
        logger.warning("publish failed: %s", reason)


def _message(job: Job, **properties: Any) -> amqp.Message:
    return amqp.Message(
        job.body(),
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=2,
        correlation_id=job.task_id,
        message_id=job.task_id,
        timestamp=int(job.submitted_at),
        application_headers=job.headers(),
        **properties,
    )


def connect(settings: Settings, deadline: float) -> Link:
    """A fresh connection to the first broker that answers.

    Raises:
        OSError, AMQPError: the last broker's failure.
    """
    hosts: Sequence[str] = _random.sample(settings.amqp_hosts, len(settings.amqp_hosts))
    for position, host in enumerate(hosts, start=1):
        try:
            return Link(settings, host, min(CONNECT_TIMEOUT, _left(deadline)))
        except (OSError, AMQPError):
            if position == len(hosts):
                raise
    raise AssertionError("settings name at least one broker")


@contextlib.contextmanager
def linked(settings: Settings, patience: float) -> Iterator[Link]:
    """A connection for looking through queues; what it holds in the end goes back to its queue.

    Args:
        patience: seconds, for the connection and for the goodbye.

    Raises:
        BrokerUnavailableError: RabbitMQ does not answer, or stops answering.
    """
    try:
        link = connect(settings, time.monotonic() + patience)
        try:
            yield link
        finally:
            link.close(patience)
    except (OSError, AMQPError) as error:
        raise BrokerUnavailableError(f"RabbitMQ: {error or type(error).__name__}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, MessageNacked):
        return "refused the message (queue full, or no majority)"
    return "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _raise_if_unroutable(error: BaseException) -> None:
    if isinstance(error, ChannelError) and error.reply_code in NO_ROUTE:
        raise UnroutableError("RabbitMQ has no queue for this task; run the playbook with --tags rabbitmq") from None
