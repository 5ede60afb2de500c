"""The worker: a Celery app that consumes the queues which the playbook declared.

    python -m messaging.worker --hostname email-1@host --queues email --pool threads --concurrency 16

takes the options of `celery worker`.
"""

import functools
import logging
import logging.config
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery, bootsteps, signals
from celery.app.control import Control
from celery.exceptions import InvalidTaskError
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu import Consumer, Queue
from kombu.message import Message
from kombu.pidbox import Mailbox

from messaging import brokers, metrics, presence, sdnotify, store, topology
from messaging.events import Dispatcher, Outbox
from messaging.job import SET_STATE, Job
from messaging.logs import setup_logging
from messaging.publisher import Publisher, PublishError
from messaging.results import WORKER_LOST, Record, Records, RecordsUnavailableError, State
from messaging.settings import Settings, load, or_exit
from messaging.tasks import WAIT_FOR_CLAIM, register, set_state_job

logger = logging.getLogger(__name__)

DEATHS_THAT_NOBODY_RECORDED = frozenset({"delivery_limit"})


class WorkerConsumer(CeleryConsumer):
    """Celery's consumer, without its 28 delay queues, since ours are declared by the playbook; and what nobody here
    can have published goes to the dead letters, where Celery would drop it, print it, or stop over it."""

    connection_errors: tuple[type[Exception], ...]
    strategies: dict[str, Callable[..., Any]]

    Blueprint = type(
        "Blueprint",
        (CeleryConsumer.Blueprint,),
        {
            "default_steps": [
                step for step in CeleryConsumer.Blueprint.default_steps if "delayed_delivery" not in str(step)
            ]
        },
    )

    def ensure_connected(self, conn: Any) -> Any:
        """Connect to a broker, however long there is none: at the end of a long absence too it is noticed soon."""
        pause = brokers.PAUSE_BETWEEN_ROUNDS
        conn.ensure_connection = functools.partial(
            conn.ensure_connection, interval_start=pause, interval_step=0, interval_max=pause
        )
        return super().ensure_connected(conn)

    def update_strategies(self) -> None:
        """Turn what Celery stops over into what it rejects."""
        super().update_strategies()
        self.strategies = {name: _rejecting(strategy) for name, strategy in self.strategies.items()}

    def on_unknown_message(self, body: Any, message: Message) -> None:
        """A message without the headers of a task."""
        self._refuse(message, "not a task")

    def on_unknown_task(self, body: Any, message: Message, exc: Exception) -> None:
        """A task that this release does not know."""
        self._refuse(message, "an unknown task")

    def on_invalid_task(self, body: Any, message: Message, exc: Exception) -> None:
        """A task whose message has another form."""
        self._refuse(message, "not in the form of a task")

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """A body that is not JSON."""
        self._refuse(message, "not JSON")

    def _refuse(self, message: Message, why: str) -> None:
        logger.error("a message is %s; it is among the dead letters now", why)
        message.reject_log_error(logger, self.connection_errors)


class OwnMailbox(Mailbox):
    """Where a worker hears `inspect`: a queue that belongs to its connection, under a name that nobody has had before.

    Celery's own has the same name each time. A lasting one is on a single broker, and while that is away no other has
    it (404), over which Celery stops; one of a connection may still be there when the next one comes (405).
    """

    def get_queue(self, hostname: str) -> Queue:
        """A queue that is bound as Celery's own is: what is said to all comes into each, whatever its name."""
        queue = super().get_queue(hostname)
        queue.name = f"{hostname}.{uuid.uuid4().hex[:8]}.{self.namespace}.pidbox"
        return queue


class WorkerControl(Control):
    """Celery's remote control, with such a queue."""

    Mailbox = OwnMailbox


def _rejecting(strategy: Callable[..., Any]) -> Callable[..., Any]:
    def receive(*args: Any, **kwargs: Any) -> Any:
        try:
            return strategy(*args, **kwargs)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidTaskError(repr(error)) from error

    return receive


def dead_notices(settings: Settings) -> type[bootsteps.ConsumerStep]:
    """A worker's step that records `failed: worker lost` for the messages that the broker gave up on."""

    class DeadNotices(bootsteps.ConsumerStep):
        def __init__(self, parent: Any, **options: Any) -> None:
            self._records = Records(settings, store.WORKER_TIMEOUT)
            self._publisher = Publisher(settings)
            self._consumer = parent
            super().__init__(parent, **options)

        def get_consumers(self, channel: Any) -> list[Consumer]:
            queue = Queue(topology.DEAD_NOTICES_QUEUE, no_declare=True, queue_arguments=topology.QUEUE_ARGUMENTS)
            return [Consumer(channel, queues=[queue], on_message=self.on_message, prefetch_count=10)]

        def on_message(self, message: Message) -> None:
            headers = message.headers or {}
            if _last_death(headers) in DEATHS_THAT_NOBODY_RECORDED:
                try:
                    self._record(Job.from_headers(headers, {}))
                except (KeyError, ValueError, TypeError):
                    logger.warning("a dead letter that is not ours")
                except PublishError as error:
                    logger.warning("dead letter not recorded yet: %s", error)
                    message.requeue()
                    return
            metrics.dead(headers.get("task"))
            message.ack()

        def _record(self, job: Job) -> None:
            if job.task == SET_STATE:
                return
            lost = Record(
                task_id=job.task_id,
                task=job.task,
                state=State.FAILED,
                submitted_at=job.submitted_at,
                attempts=job.attempt,
                reason=WORKER_LOST,
            )
            try:
                if not self._records.put_unless_over(lost):
                    return
            except RecordsUnavailableError:
                self._publisher.retry_later(set_state_job(lost, settings), WAIT_FOR_CLAIM)
            metrics.ended(job.task, succeeded=False)
            if self._consumer.event_dispatcher:
                self._consumer.event_dispatcher.send(
                    "task-failed", uuid=job.task_id, exception=WORKER_LOST, traceback=""
                )

    return DeadNotices


def _last_death(headers: Mapping[str, Any]) -> str | None:
    """Why the message was dead-lettered most recently; an earlier time was its wait in a delay queue."""
    deaths = headers.get("x-death") or [{}]
    reason = deaths[0].get("reason")
    return None if reason is None else str(reason)


def create_app(settings: Settings, stopping: threading.Event) -> "Celery":
    """A Celery app for workers. It has no result backend: `results` keeps the records."""
    metrics.write_to(settings.metrics_path)
    app = Celery("messaging", set_as_current=True, control=WorkerControl)
    app.conf.update(
        **brokers.for_celery(settings),
        broker_connection_retry_on_startup=True,
        worker_consumer="messaging.worker:WorkerConsumer",
        # declared by the playbook; the arguments tell Celery that these are quorum queues
        task_queues=[
            Queue(name, no_declare=True, queue_arguments=topology.QUEUE_ARGUMENTS) for name in settings.queues
        ],
        task_create_missing_queues=False,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # what escapes a task lands among the dead letters, and is not lost
        task_acks_on_failure=False,
        task_acks_on_timeout=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        control_queue_exclusive=True,
        control_queue_durable=False,
    )
    outbox = Dispatcher.outbox = Outbox(Publisher(settings))
    app.events.dispatcher_cls = "messaging.events:Dispatcher"
    signals.worker_shutdown.connect(lambda **_: outbox.close(), weak=False)
    register(app, settings, stopping)
    for task in app.tasks.values():
        task.Request = "messaging.events:TaskRequest"
    app.steps["consumer"].add(dead_notices(settings))
    return app


def main() -> None:
    """Run a worker; returns when it was told to stop."""
    with or_exit():
        settings = load()

    def configure_logging(**_: Any) -> None:
        setup_logging(settings)
        # our own lines say all of it, without a traceback for what is foreseen
        for name in ("celery.worker.strategy", "celery.app.trace"):
            logging.getLogger(name).setLevel(logging.ERROR)

    stopping = threading.Event()
    redis = store.connect(settings, store.WORKER_TIMEOUT)

    def ready(**_: Any) -> None:
        presence.announce(redis, settings.instance, stopping)
        sdnotify.notify("READY=1")

    def stop(**_: Any) -> None:
        stopping.set()
        sdnotify.notify("STOPPING=1")

    signals.setup_logging.connect(configure_logging, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutting_down.connect(stop, weak=False)
    signals.worker_shutdown.connect(lambda **_: presence.leave(redis, settings.instance), weak=False)
    create_app(settings, stopping).worker_main(["--quiet", "worker", *sys.argv[1:]])


if __name__ == "__main__":
    main()
