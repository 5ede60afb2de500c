"""What is counted arrives with the one who scrapes, whatever becomes of the processes that count."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from messaging import metrics
from messaging.job import SEND_EMAIL, SET_STATE
from messaging.oldest import OldestMail
from messaging.results import RecordsUnavailableError
from messaging.settings import Settings

FORK = multiprocessing.get_context("fork")
ACCEPTED = 'messaging_tasks_accepted_total{task="send_email"}'


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    yield
    metrics._slot.use(Path("/nonexistent"))
    with metrics._slot.lock:
        metrics._slot._directory = None


@pytest.fixture
def scrape(tmp_path: Path) -> Iterator[Callable[[], dict[str, float]]]:
    """The numbers by name and labels, through HTTP."""
    with metrics.serve(tmp_path, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        port = server.server_address[1]

        def get() -> dict[str, float]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                families = text_string_to_metric_families(answer.read().decode())
                return {
                    sample.name
                    + "{"
                    + ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
                    + "}": sample.value
                    for family in families
                    for sample in family.samples
                }

        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
        yield get
        server.shutdown()


def in_a_child(directory: Path, work: Callable[[], None], end: Callable[[], None] | None = None) -> None:
    """Run in a new process that writes to the directory; `end` ends it in its own way."""

    def run() -> None:
        metrics.write_to(directory)
        work()
        if end is not None:
            end()

    child = FORK.Process(target=run)
    child.start()
    child.join(20)
    assert child.exitcode is not None


def accept_some(number: int = 3) -> None:
    for _ in range(number):
        metrics.accepted(SEND_EMAIL)


def test_nothing_yet(scrape: Callable[[], dict[str, float]]) -> None:
    assert scrape() == {}


def test_every_kind_of_number_arrives(tmp_path: Path, scrape: Callable[[], dict[str, float]]) -> None:
    metrics.write_to(tmp_path)
    metrics.request("api.task", "GET", 200)
    metrics.request(None, "HACK", 404)
    metrics.accepted(SEND_EMAIL)
    metrics.begun(SEND_EMAIL, 0)
    metrics.ended(SEND_EMAIL, succeeded=True)
    metrics.ended(SEND_EMAIL, succeeded=False)
    metrics.retried(SEND_EMAIL)
    for task in (SET_STATE, "x" * 5000, ["unhashable"], None):
        metrics.dead(task)
    with metrics.delivery():
        pass
    found = scrape()
    assert {
        name: number for name, number in found.items() if number and "bucket" not in name and "sum" not in name
    } == {
        'messaging_http_requests_total{endpoint="api.task",method="GET",status="200"}': 1,
        'messaging_http_requests_total{endpoint="unknown",method="unknown",status="404"}': 1,
        ACCEPTED: 1,
        'messaging_tasks_succeeded_total{task="send_email"}': 1,
        'messaging_tasks_failed_total{task="send_email"}': 1,
        'messaging_tasks_retried_total{task="send_email"}': 1,
        'messaging_tasks_dead_total{task="unknown"}': 4,
        'messaging_queue_wait_seconds_count{task="send_email"}': 1,
        "messaging_delivery_seconds_count{}": 1,
    }
    assert found['messaging_queue_wait_seconds_bucket{le="86400.0",task="send_email"}'] == 0
    assert found['messaging_queue_wait_seconds_bucket{le="+Inf",task="send_email"}'] == 1
    assert found['messaging_delivery_seconds_bucket{le="0.002"}'] == 1
    assert found['messaging_tasks_accepted_total{task="log_time"}'] == 0, "what has not happened is 0, not unknown"


def test_numbers_go_on_when_processes_come_and_go(tmp_path: Path, scrape: Callable[[], dict[str, float]]) -> None:
    for _ in range(3):
        in_a_child(tmp_path, accept_some, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert scrape()[ACCEPTED] == 9
    assert len(list(tmp_path.glob("*.db"))) == 2, "one after the other took the same slot"


def test_processes_at_the_same_time_do_not_share_a_slot(tmp_path: Path, scrape: Callable[[], dict[str, float]]) -> None:
    metrics.write_to(tmp_path)
    accept_some(100)

    def count(pipe: Connection) -> None:
        accept_some(100)
        pipe.send("counted")
        pipe.recv()
        accept_some(100)

    pipes = [FORK.Pipe() for _ in range(3)]
    children = [FORK.Process(target=count, args=(theirs,), daemon=True) for _, theirs in pipes]
    for child, (ours, _) in zip(children, pipes, strict=True):
        child.start()
        assert ours.poll(20), "the child does not come back from its first number"
        assert ours.recv() == "counted"
    accept_some(100)
    assert len(list(tmp_path.glob("counter_*.db"))) == 4
    assert scrape()[ACCEPTED] == 500
    for child, (ours, _) in zip(children, pipes, strict=True):
        ours.send("go on")
        child.join(20)
    assert scrape()[ACCEPTED] == 800


def test_a_child_does_not_keep_the_slot_of_a_parent_that_died(tmp_path: Path) -> None:
    def parent(pipe: Connection) -> None:
        metrics.write_to(tmp_path)
        accept_some()
        FORK.Process(target=pipe.recv).start()  # holds what it inherits
        os._exit(0)

    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=parent, args=(theirs,))
    child.start()
    assert child.pid is not None
    os.waitpid(child.pid, 0)
    in_a_child(tmp_path, accept_some)
    assert len(list(tmp_path.glob("counter_*.db"))) == 1
    ours.send("end")


def test_many_threads_lose_nothing(tmp_path: Path, scrape: Callable[[], dict[str, float]]) -> None:
    metrics.write_to(tmp_path)
    threads = [threading.Thread(target=accept_some, args=(2000,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    seen = [scrape().get(ACCEPTED, 0) for _ in range(5)]
    for thread in threads:
        thread.join()
    assert seen == sorted(seen), "a scrape in between sees no number go back"
    assert scrape()[ACCEPTED] == 16000


def test_a_file_grows_with_what_is_in_it(tmp_path: Path, scrape: Callable[[], dict[str, float]]) -> None:
    metrics.write_to(tmp_path)
    for number in range(1000):
        metrics.request(f"some.endpoint_{number}", "GET", 200)
    [file] = tmp_path.glob("counter_*.db")
    assert file.stat().st_size > metrics.FILE_SIZE
    assert sum(number for name, number in scrape().items() if "some.endpoint" in name) == 1000
    metrics.write_to(tmp_path)
    metrics.request("some.endpoint_999", "GET", 200)
    assert scrape()['messaging_http_requests_total{endpoint="some.endpoint_999",method="GET",status="200"}'] == 2


@pytest.mark.parametrize(
    "rubbish", [b"", b"\xff" * 100, b"\xff\xff\xff\x7f" + b"x" * 65532, b"\0" * 65536, b"\x20\0\0\0"]
)
def test_rubbish_in_a_file_breaks_neither_the_scrape_nor_the_next(
    rubbish: bytes, tmp_path: Path, scrape: Callable[[], dict[str, float]]
) -> None:
    in_a_child(tmp_path, accept_some)
    (tmp_path / "counter_slot-7.db").write_bytes(rubbish)
    assert scrape()[ACCEPTED] == 3, "the others are served"
    (tmp_path / "counter_slot-0.db").write_bytes(rubbish)
    in_a_child(tmp_path, accept_some)
    assert scrape()[ACCEPTED] == 3


def test_without_a_directory_nothing_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics.write_to(tmp_path / "missing")
    accept_some(5)
    metrics.request("x", "GET", 200)
    assert len([record for record in caplog.records if "metrics are not kept" in record.message]) == 1


def test_in_a_full_directory_nothing_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    metrics.write_to(tmp_path)
    accept_some(5)
    assert [record.message for record in caplog.records] == ["metrics are not kept: [Errno 28] No space left on device"]


def test_the_age_of_the_oldest_mail_is_told_while_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", metrics.__name__)
    answers: list[float | Exception | None] = [12.5, RecordsUnavailableError("away"), None, 0.0]

    def age(_self: OldestMail) -> float | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(OldestMail, "age", age)
    collector = metrics.OldestMailCollector(Settings())
    seen = [[sample.value for metric in collector.collect() for sample in metric.samples] for _ in range(4)]
    assert seen == [[12.5], [], [], [0.0]]
    assert [record.getMessage().split(": ")[1][:19] for record in caplog.records] == ["away", "there is more to lo"]
    # registered with the others
    with metrics.serve(tmp_path, 0, collector):
        pass


def test_who_counts_does_not_load_what_reads_records() -> None:
    """Until somebody scrapes, the memory is not needed."""
    code = "import sys, messaging.metrics; print('celery' in sys.modules, 'redis' in sys.modules)"
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=paths).stdout
    assert printed.split() == ["False", "False"]
