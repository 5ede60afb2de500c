"""Records in MongoDB: on the stand-in, and also on a real server when MONGODB_URL names one."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from fakes import FakeIndex
from messaging import store
from messaging.results import Record, Records, RecordsUnavailableError, State
from messaging.settings import Settings
from mongodb_stand_in import Server
from probe import wait_until
from record_rules import RULES, Bench

SERVERS = ["stand-in", *(["MONGODB_URL"] if os.environ.get("MONGODB_URL") else [])]
RECORD = Record("t1", "messaging.send_email", State.QUEUED, submitted_at=1.5)


@pytest.fixture
def server() -> Iterator[Server]:
    stand_in = Server()
    stand_in.start()
    yield stand_in
    stand_in.cut()


def records_on(url: str, timeout: float = store.WEB_TIMEOUT, **settings: Any) -> Records:
    chosen = Settings.model_validate({"result_backend": "mongodb", "mongodb_url": url, **settings})
    records = Records(chosen, timeout)
    records._redis = cast("Any", FakeIndex())
    return records


@pytest.mark.parametrize("where", SERVERS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Callable[[Bench], None], where: str, server: Server) -> None:
    url = server.url if where == "stand-in" else os.environ["MONGODB_URL"]
    bench = Bench(records_on(url, timeout=2.0))
    try:
        rule(bench)
    finally:
        bench.clean()


def test_the_server_removes_what_has_expired(server: Server) -> None:
    records = records_on(server.url, result_expires=90000)
    records.put(RECORD)
    [index] = server.store.indexes["messaging.tasks"]
    assert (index["key"], index["expireAfterSeconds"]) == ({"expires_at": 1}, 0)
    stored = server.store.collections["messaging.tasks"]["t1"]
    left = stored["expires_at"] - datetime.now(UTC)
    assert timedelta(seconds=89990) < left <= timedelta(seconds=90000)
    stored["expires_at"] = datetime.now(UTC)
    assert records.get("t1") is None


def test_what_is_no_mail_stays_a_day_after_its_end(server: Server) -> None:
    records_on(server.url).put(Record("t2", "messaging.log_time", State.SUCCEEDED, submitted_at=1.5))
    left = server.store.collections["messaging.tasks"]["t2"]["expires_at"] - datetime.now(UTC)
    assert timedelta(seconds=86390) < left <= timedelta(seconds=86400)


def test_another_retention_needs_no_other_index(server: Server) -> None:
    records_on(server.url, result_expires=200000).put(RECORD)
    records_on(server.url, result_expires=90000).put(RECORD)


def test_an_operator_can_read_what_is_stored(server: Server) -> None:
    records_on(server.url + "_of_ours").put(RECORD.to(State.SUCCEEDED, result={"reply": "250 ok"}))
    stored = server.store.collections["messaging_of_ours.tasks"]["t1"]
    assert stored["status"] == "succeeded"
    assert stored["result"]["result"] == {"reply": "250 ok"}
    assert stored["result"]["submitted_at"] == 1.5


def seconds_to_fail(ask: Callable[[], object]) -> float:
    begun = time.monotonic()
    with pytest.raises(RecordsUnavailableError, match=r"^mongodb: ") as raised:
        ask()
    assert "\n" not in str(raised.value)
    assert "opology" not in str(raised.value), "only the reason"
    return time.monotonic() - begun


def test_a_dead_server_holds_nobody_and_is_noticed_when_it_is_back(server: Server) -> None:
    records = records_on(server.url)
    records.put(RECORD)
    server.cut()
    assert seconds_to_fail(lambda: records.get("t1")) < 1
    for ask in (lambda: records.get("t1"), lambda: records.put(RECORD), records.check):
        assert seconds_to_fail(ask) < store.WEB_TIMEOUT
    again = Server(server.server_address[1], server.store)
    again.start()
    try:
        wait_until(lambda: _readable(records), "records can be read again", limit=5)
    finally:
        again.cut()


def _readable(records: Records) -> bool:
    try:
        return records.get("t1") is not None
    except RecordsUnavailableError:
        return False


def test_a_frozen_server_holds_a_request_for_no_longer_than_redis_may(server: Server) -> None:
    records = records_on(server.url)
    records.put(RECORD)
    with server.store.frozen:
        for ask in (lambda: records.get("t1"), lambda: records.put(RECORD)):
            assert seconds_to_fail(ask) < store.WEB_TIMEOUT + 0.15
    wait_until(lambda: _readable(records), "records can be read again", limit=10)


def test_a_server_that_was_never_there() -> None:
    records = records_on("mongodb://127.0.0.1:1/")
    assert seconds_to_fail(lambda: records.get("t1")) < 1
    assert seconds_to_fail(lambda: records.get("t1")) < store.WEB_TIMEOUT


@pytest.mark.parametrize(
    "url", ["mongodb://me:pass:w@rd@server/x", "mongodb://me:pass@word@server", "mongodb://me:word/x@server"]
)
def test_a_url_that_cannot_be_used_is_not_repeated(url: str) -> None:
    with pytest.raises(RecordsUnavailableError) as raised:
        records_on(url).get("t1")
    assert "word" not in str(raised.value)
    assert "rd@" not in str(raised.value)


def test_a_task_is_known_although_it_cannot_be_listed(server: Server) -> None:
    records = records_on(server.url)
    cast("Any", records._redis).away = True
    records.put(RECORD)
    assert records.get("t1") == RECORD
    with pytest.raises(RecordsUnavailableError, match=r"^redis: "):
        records.page(None, None, None, 1, None)
    with pytest.raises(RecordsUnavailableError, match=r"^redis: "):
        records.checks()["redis"]()
    records.checks()["mongodb"]()
