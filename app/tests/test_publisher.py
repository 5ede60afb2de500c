"""The publisher against brokers that misbehave. The real one is in tests/faults."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from messaging.job import LOG_TIME, Job
from messaging.publisher import FAILURES_BEFORE_PAUSE, PAUSE, BrokerUnavailableError, Publisher
from messaging.settings import Settings

JOB = Job(task=LOG_TIME, kwargs={}, task_id="1", queue="compute")
TIMEOUT = 0.3
MARGIN = 0.7  # what a busy machine may add; the promise to the client is 2 s


@pytest.fixture
def silent_broker() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    accepted.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=5)
        for connection in accepted:
            connection.close()


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def publisher(*ports: int) -> Publisher:
    hosts = [f"127.0.0.1:{port}" for port in ports]
    return Publisher(Settings.model_validate({"amqp_hosts": hosts, "publish_timeout": TIMEOUT}))


def test_a_silent_broker_is_given_up_on_in_time(silent_broker: int) -> None:
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailableError) as raised:
        publisher(silent_broker).submit(JOB)
    assert time.monotonic() - begun < TIMEOUT + MARGIN
    assert not raised.value.uncertain, "it never got as far as sending"


def test_depths_are_given_up_on_in_time(silent_broker: int) -> None:
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailableError):
        publisher(silent_broker).depths(["email", "compute"])
    assert time.monotonic() - begun < TIMEOUT + MARGIN


def test_a_closed_port_is_told_at_once(closed_port: int) -> None:
    with pytest.raises(BrokerUnavailableError, match="refused"):
        publisher(closed_port).submit(JOB)


def test_all_brokers_are_tried_within_one_time_limit(silent_broker: int, closed_port: int) -> None:
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailableError):
        publisher(closed_port, silent_broker, closed_port).submit(JOB)
    assert time.monotonic() - begun < TIMEOUT + MARGIN


def test_after_some_failures_it_does_not_ask_for_a_moment(silent_broker: int) -> None:
    broker = publisher(silent_broker)
    for _ in range(FAILURES_BEFORE_PAUSE):
        with pytest.raises(BrokerUnavailableError, match="no answer in time"):
            broker.submit(JOB)
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match="not asked again yet"):
        broker.submit(JOB)
    assert time.monotonic() - begun < TIMEOUT / 2
    deadline = time.monotonic() + PAUSE + 5
    while time.monotonic() < deadline:
        with pytest.raises(BrokerUnavailableError) as raised:
            broker.submit(JOB)
        if "no answer in time" in raised.value.reason:
            return
    pytest.fail("the broker was never asked again")
