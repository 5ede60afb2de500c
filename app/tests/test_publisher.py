"""The publisher against brokers that misbehave. The real one is in tests/faults."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme

from fake_broker import SUSPECT, FakeBroker, Mood, certified
from messaging.job import LOG_TIME, Job
from messaging.publisher import FAILURES_BEFORE_PAUSE, PAUSE, BrokerUnavailableError, Link, Publisher
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


# --- several brokers


def publisher_for(*brokers: FakeBroker, timeout: float = 2.0, **settings: str) -> Publisher:
    hosts = [each.host for each in brokers]
    return Publisher(Settings.model_validate({"amqp_hosts": hosts, "publish_timeout": timeout, **settings}))


def warm_up(publishing: Publisher, *brokers: FakeBroker) -> None:
    """Have two connections to each of them."""
    for each in (*brokers, *brokers):
        publishing._idle.append(Link(publishing._settings, each.host, 5.0))


def seconds(publishing: Publisher) -> float:
    begun = time.monotonic()
    publishing.submit(JOB)
    return time.monotonic() - begun


def test_a_crowd_that_waits_needs_no_connection_of_its_own(broker: Callable[..., FakeBroker]) -> None:
    first, crowd = broker(), 5
    publishing = publisher_for(first)
    publishing.warm_up(crowd, 5.0)
    assert first.greeted == crowd
    with ThreadPoolExecutor(crowd) as threads:
        list(threads.map(publishing.submit, [JOB] * crowd))
    assert (len(first.messages), first.greeted) == (crowd, crowd)


def test_who_does_not_answer_is_not_waited_for_long(silent_broker: int) -> None:
    begun = time.monotonic()
    publisher(silent_broker).warm_up(5, TIMEOUT)
    assert time.monotonic() - begun < TIMEOUT + MARGIN


def test_who_is_away_is_not_waited_for(closed_port: int) -> None:
    begun = time.monotonic()
    publisher(closed_port).warm_up(5, 30.0)
    assert time.monotonic() - begun < MARGIN


def test_a_killed_broker_costs_no_message_and_no_time(broker: Callable[..., FakeBroker]) -> None:
    first, second, third = broker(), broker(), broker()
    publishing = publisher_for(first, second, third)
    warm_up(publishing, first, second, third)
    first.kill()
    slowest = max(seconds(publishing) for _ in range(20))
    assert slowest < 1
    assert len(second.messages) + len(third.messages) == 20


def test_a_silent_broker_costs_one_message_half_of_its_time_and_the_others_nothing(
    broker: Callable[..., FakeBroker],
) -> None:
    first, second = broker(), broker()
    publishing = publisher_for(first, second)
    warm_up(publishing, second, first)
    first.mood = Mood.SILENT
    times = [seconds(publishing) for _ in range(30)]
    assert max(times) < 2.0
    assert sum(each > 0.5 for each in times) == 1, times
    assert len(first.messages) == 1
    assert len(second.messages) == 30
    assert sum(SUSPECT in headers for headers in second.messages) == 1, "the first one may have it as well"


def test_a_broker_that_refuses_is_followed_by_another(broker: Callable[..., FakeBroker]) -> None:
    first, second = broker(), broker()
    first.mood = Mood.REFUSES
    publishing = publisher_for(first, second)
    warm_up(publishing, second, first)
    for _ in range(10):
        publishing.submit(JOB)
    assert first.messages
    assert len(second.messages) == 10
    assert not [headers for headers in second.messages if SUSPECT in headers], "the first one does not have it"


def test_refused_by_all_is_certain(broker: Callable[..., FakeBroker]) -> None:
    brokers = broker(), broker(), broker()
    for each in brokers:
        each.mood = Mood.REFUSES
    with pytest.raises(BrokerUnavailableError, match="no majority") as raised:
        publisher_for(*brokers).submit(JOB)
    assert not raised.value.uncertain
    assert [len(each.messages) for each in brokers] == [1, 1, 1]


def test_refused_by_one_after_the_silence_of_another_is_uncertain(broker: Callable[..., FakeBroker]) -> None:
    silent, refusing = broker(), broker()
    publishing = publisher_for(silent, refusing)
    # the newest connection is taken first
    warm_up(publishing, refusing, silent)
    silent.mood, refusing.mood = Mood.SILENT, Mood.REFUSES
    with pytest.raises(BrokerUnavailableError, match="no majority") as raised:
        publishing.submit(JOB)
    assert [len(silent.messages), len(refusing.messages)] == [1, 1]
    assert raised.value.uncertain


def test_one_of_three_is_enough(broker: Callable[..., FakeBroker], closed_port: int) -> None:
    silent, working = broker(), broker()
    silent.mood = Mood.SILENT
    settings = {"amqp_hosts": [silent.host, working.host, f"127.0.0.1:{closed_port}"], "publish_timeout": 2.0}
    publishing = Publisher(Settings.model_validate(settings))
    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(publishing.submit, JOB) for _ in range(100)]:
            done.result()
    assert len(working.messages) == 100


def test_with_all_of_them_silent_nobody_is_asked_for_a_moment(broker: Callable[..., FakeBroker]) -> None:
    brokers = broker(), broker()
    for each in brokers:
        each.mood = Mood.SILENT
    publishing = publisher_for(*brokers, timeout=TIMEOUT)
    for _ in range(FAILURES_BEFORE_PAUSE):
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match="no answer in time"):
            publishing.submit(JOB)
        assert time.monotonic() - begun < TIMEOUT + MARGIN
    with pytest.raises(BrokerUnavailableError, match="not asked again yet"):
        publishing.submit(JOB)


# --- TLS


def test_each_broker_has_to_show_a_certificate_for_its_address(
    broker: Callable[..., FakeBroker], authority: trustme.CA, ca_file: str
) -> None:
    first = broker("127.0.0.1", certified(authority, "127.0.0.1"))
    second = broker("127.0.0.2", certified(authority, "127.0.0.2"))
    warm_up(publisher_for(first, second, amqp_ca_file=ca_file), first, second)
    assert (first.greeted, second.greeted) == (2, 2)


@pytest.mark.parametrize("wrong", ["address", "authority"])
def test_a_broker_without_the_right_certificate_gets_nothing(
    broker: Callable[..., FakeBroker], authority: trustme.CA, ca_file: str, wrong: str
) -> None:
    context = certified(authority, "127.0.0.2") if wrong == "address" else certified(trustme.CA(), "127.0.0.1")
    impostor = broker("127.0.0.1", context)
    with pytest.raises(BrokerUnavailableError, match=r"(?i)certificate verify failed"):
        publisher_for(impostor, amqp_ca_file=ca_file).submit(JOB)
    assert impostor.greeted == 0


def test_a_broker_that_falls_silent_is_left_without_a_goodbye(
    broker: Callable[..., FakeBroker], authority: trustme.CA, ca_file: str
) -> None:
    only = broker("127.0.0.1", certified(authority, "127.0.0.1"))
    publishing = publisher_for(only, timeout=1.0, amqp_ca_file=ca_file)
    publishing.submit(JOB)
    only.mood = Mood.SILENT
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match="no answer in time"):
        publishing.submit(JOB)
    assert time.monotonic() - begun < 1.5
