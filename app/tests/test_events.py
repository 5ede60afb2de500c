"""What Flower is told: how a task ended, and nothing that is not its business."""

import json
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery.app.trace import setup_worker_optimizations, trace_task_ret
from celery.worker.request import create_request_cls
from kombu.utils.imports import symbol_by_name

from fakes import toolbox
from messaging.events import KEPT, Outbox
from messaging.job import SEND_EMAIL, Job
from messaging.mail.smtp import PermanentFailure, TransientFailure
from messaging.publisher import BrokerUnavailableError
from messaging.results import Record, State
from messaging.settings import Settings
from messaging.tasks import Toolbox
from messaging.worker import create_app

MAIL = {"to": "somebody@example.com", "subject": "Hello", "text": "How are you?"}


class Delivery:
    """One message through Celery's own request and trace: what became of it, and what was told of the task."""

    def __init__(self, tools: Any, monkeypatch: pytest.MonkeyPatch, *, stopping: bool = False, **kwargs: Any) -> None:
        told_to_stop = threading.Event()
        if stopping:
            told_to_stop.set()
        monkeypatch.setattr(Toolbox, "open", lambda *_: tools)
        app = create_app(Settings(), told_to_stop)
        setup_worker_optimizations(app)
        task = app.tasks[SEND_EMAIL]
        job = Job(task=SEND_EMAIL, kwargs={**MAIL, **kwargs}, task_id="t1", queue="email")
        sent: list[tuple[str, dict[str, Any]]] = []
        eventer = SimpleNamespace(enabled=True, send=lambda type, **fields: sent.append((type, fields)))

        def apply_async(target: Any, args: Any, callback: Any, **_: Any) -> None:
            callback(target(*args, app=app))

        self.became: list[str] = []
        pool = SimpleNamespace(apply_async=apply_async)
        request_class = create_request_cls(symbol_by_name(task.Request), task, pool, "w", eventer, trace=trace_task_ret)
        request = request_class(
            SimpleNamespace(
                body=job.body(),
                payload=json.loads(job.body()),
                content_type="application/json",
                content_encoding="utf-8",
                headers=job.headers(),
                properties={},
                delivery_info={},
            ),
            on_ack=lambda *_: self.became.append("acknowledged"),
            on_reject=lambda _logger, _errors, requeue: self.became.append("requeued" if requeue else "dead"),
            app=app,
            task=task,
            eventer=eventer,
            hostname="w",
        )
        self.info = json.dumps(request.info(), default=str)
        request.execute_using_pool(pool)
        self.told = [(type, fields.get("exception")) for type, fields in sent if type != "task-rejected"]
        self.everything = json.dumps(sent, default=str)


def test_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = Delivery(toolbox(), monkeypatch)
    assert delivery.told == [("task-succeeded", None)]
    assert delivery.became == ["acknowledged"]


def test_a_failure_is_told_with_its_reason_and_without_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = toolbox()
    tools.smtp.error = PermanentFailure("550 5.1.1 <somebody@example.com> it's unknown")
    delivery = Delivery(tools, monkeypatch)
    assert delivery.told == [("task-failed", "550 5.1.1 <s***@example.com> it's unknown")]
    assert delivery.became == ["acknowledged"]


def test_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = toolbox()
    tools.smtp.error = TransientFailure("451 later")
    delivery = Delivery(tools, monkeypatch)
    assert delivery.told == [("task-retried", "451 later")]
    assert delivery.became == ["acknowledged"]
    assert len(tools.publisher.delayed) == 1


def test_what_goes_to_the_dead_letters_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = Delivery(toolbox(), monkeypatch, text=["not", "a", "text"])
    assert delivery.told == [("task-failed", "not a message: its parts are not text")]
    assert delivery.became == ["dead"]


def test_what_a_stopping_worker_gives_back_has_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = toolbox()
    tools.smtp.error = TransientFailure("451 later")
    tools.publisher.error = BrokerUnavailableError("away")
    delivery = Delivery(tools, monkeypatch, stopping=True)
    assert delivery.told == []
    assert delivery.became == ["requeued"]


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.SUCCEEDED, ("task-succeeded", None)),
        (State.FAILED, ("task-failed", "550 no")),
        (State.CANCELLED, ("task-revoked", None)),
    ],
)
def test_what_was_over_before_is_told_as_it_ended(
    state: State, event: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = toolbox()
    reason = "550 no" if state is State.FAILED else None
    tools.records.stored["t1"] = Record(
        task_id="t1", task=SEND_EMAIL, state=state, submitted_at=time.time(), reason=reason
    )
    delivery = Delivery(tools, monkeypatch)
    assert delivery.told == [event]
    assert delivery.became == ["acknowledged"]


def test_neither_events_nor_inspect_show_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = Delivery(toolbox(), monkeypatch)
    for text in ("somebody", "Hello", "How are you?"):
        assert text not in delivery.everything + delivery.info


# --- the outbox


class Broker:
    """Takes nothing until it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.taken: list[dict[str, Any]] = []

    def announce(self, body: str, _exchange: str, _routing_key: str) -> None:
        if not self.may.wait(10):
            raise BrokerUnavailableError("away")
        self.taken += json.loads(body)


def test_a_broker_that_takes_nothing_holds_nobody_up_and_fills_no_memory() -> None:
    broker = Broker()
    outbox = Outbox(cast("Any", broker))
    begun = time.monotonic()
    for number in range(3 * KEPT):
        outbox.put([{"number": number}])
    assert time.monotonic() - begun < 5
    broker.may.set()
    outbox.close()
    assert len(broker.taken) <= 2 * KEPT
    assert broker.taken[-1] == {"number": 3 * KEPT - 1}


def test_an_outbox_that_is_closed_has_sent_what_was_in_it() -> None:
    broker = Broker()
    broker.may.set()
    outbox = Outbox(cast("Any", broker))
    outbox.put([{"number": 1}, {"number": 2}])
    outbox.close()
    assert broker.taken == [{"number": 1}, {"number": 2}]
