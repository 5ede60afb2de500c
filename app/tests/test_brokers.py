"""The workers' connections to several brokers, and what they and Redis are told of TLS."""

import threading
from collections.abc import Callable

import pytest
import trustme
from celery import Celery
from kombu.exceptions import OperationalError
from redis import SSLConnection

from fake_broker import FakeBroker, certified
from messaging import store
from messaging.results import Records
from messaging.settings import Settings
from messaging.worker import WorkerConsumer, create_app

Brokers = Callable[..., FakeBroker]


@pytest.fixture
def worker() -> Callable[..., Celery]:
    def make(*hosts: str, **settings: str) -> Celery:
        app = create_app(Settings.model_validate({"amqp_hosts": list(hosts), **settings}), threading.Event())
        # in the order that the test wants
        app.conf.broker_url = Settings.model_validate({"amqp_hosts": list(hosts)}).amqp_urls
        return app

    return make


def test_a_worker_moves_over_to_a_broker_that_shows_its_own_certificate(
    worker: Callable[..., Celery], broker: Brokers, authority: trustme.CA, ca_file: str
) -> None:
    first = broker("127.0.0.1", certified(authority, "127.0.0.1"))
    second = broker("127.0.0.2", certified(authority, "127.0.0.2"))
    with worker(first.host, second.host, amqp_ca_file=ca_file).connection_for_read() as connection:
        connection.ensure_connection(max_retries=1)
        assert (first.greeted, second.greeted) == (1, 0)
        first.kill()
        connection.collect()
        connection.ensure_connection(max_retries=1, interval_start=0)
        assert second.greeted == 1


def test_a_worker_does_not_talk_to_a_broker_with_a_certificate_for_another_address(
    worker: Callable[..., Celery], broker: Brokers, authority: trustme.CA, ca_file: str
) -> None:
    first = broker("127.0.0.1", certified(authority, "127.0.0.2"))
    second = broker("127.0.0.2", certified(authority, "127.0.0.1"))
    connection = worker(first.host, second.host, amqp_ca_file=ca_file).connection_for_read()
    with pytest.raises(OperationalError, match="certificate verify failed"):
        connection.ensure_connection(max_retries=3, interval_start=0, interval_step=0)
    assert first.greeted == second.greeted == 0


def test_a_worker_hears_what_it_is_asked_in_a_queue_of_each_connection(worker: Callable[..., Celery]) -> None:
    mailbox = worker("127.0.0.1").control.mailbox
    first, second = mailbox.get_queue("email-1@vm1"), mailbox.get_queue("email-1@vm1")
    assert first.name != second.name
    for queue in (first, second):
        assert queue.name.startswith("email-1@vm1.")
        assert queue.name.endswith(".celery.pidbox")
        assert (queue.exclusive, queue.durable) == (True, False), "it may not stay behind on one broker"
        assert (queue.exchange.name, queue.exchange.type) == ("celery.pidbox", "fanout")


def test_a_worker_asks_again_every_second_however_long_there_is_no_broker(
    worker: Callable[..., Celery], closed_port: int
) -> None:
    slept: list[float] = []

    class Consumer(WorkerConsumer):
        def __init__(self, app: Celery) -> None:
            self.app = app
            self.first_connection_attempt = False
            self.broker_connection_retry_attempt = 0

    class Waited(Exception):
        pass

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > 20:
            raise Waited

    app = worker(f"127.0.0.1:{closed_port}", f"127.0.0.2:{closed_port}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kombu.utils.functional.sleep", sleep)
        with pytest.raises(Waited):
            Consumer(app).ensure_connected(app.connection_for_read())
    assert sum(slept) <= 21
    assert max(slept) <= 1


def test_several_brokers_are_given_up_sooner_than_one(worker: Callable[..., Celery]) -> None:
    one, several = worker("192.0.2.1:5671"), worker("192.0.2.1:5671", "192.0.2.2:5671")
    assert several.conf.broker_heartbeat < one.conf.broker_heartbeat
    assert several.conf.broker_connection_timeout <= 2


def test_redis_with_a_certificate_of_ours() -> None:
    settings = Settings.model_validate({"redis_host": "192.0.2.1", "redis_ca_file": "/etc/ca.crt"})
    pools = [store.connect(settings, 1).connection_pool, Records(settings, 1)._backend.client.connection_pool]
    for pool in pools:
        connection = pool.make_connection()
        assert isinstance(connection, SSLConnection)
        assert connection.ca_certs == "/etc/ca.crt"
        assert connection.check_hostname
        assert connection.host == "192.0.2.1"


def test_redis_without_one() -> None:
    settings = Settings.model_validate({})
    for pool in [store.connect(settings, 1).connection_pool, Records(settings, 1)._backend.client.connection_pool]:
        assert not isinstance(pool.make_connection(), SSLConnection)
