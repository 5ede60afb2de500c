"""Releases come and go under load: no request fails, no task is lost, and what cannot run costs nothing.

The tests are in the order of an operator's day: the first leaves the release that the last goes back from.
"""

import re
import uuid
from collections.abc import Callable, Iterator

import pytest
from testinfra.host import Host

from faulty import Traffic, converge, converge_until, in_release, play, play_until, put, refused
from probe import SECRETS, wait_for_state, wait_until

SERVICES = ("--tags", "mailbox,app,celery,flower")
WEB = "messaging-web"
WORKERS = ("messaging-worker@email-1", "messaging-worker@compute-1")
# Queues a task as the release that is live would, and so in its form
SUBMIT = """
import sys
from messaging.job import REVERSE_TEXT, Job
from messaging.publisher import Publisher
from messaging.settings import load

settings = load()
publisher = Publisher(settings)
for task_id in sys.argv[1:]:
    publisher.submit(Job(task=REVERSE_TEXT, kwargs={"text": "abc"}, task_id=task_id, queue=settings.compute_queue))
"""

Source = Callable[[str, str, str], str]


@pytest.fixture
def next_release(source: Source) -> str:
    return source("next", "__init__.py", "# another release\n")


@pytest.fixture
def no_index(host: Host) -> Iterator[None]:
    """A host from which no package index can be reached."""
    host.check_output("sh -c %s", "if [ -e /etc/pip.conf ]; then mv /etc/pip.conf /etc/pip.conf.kept; fi")
    put(host, "[global]\nindex-url = http://127.0.0.1:9/simple\nno-index = false\nretries = 0\n", "/etc/pip.conf")
    yield
    host.check_output(
        "sh -c %s", "rm /etc/pip.conf; [ ! -e /etc/pip.conf.kept ] || mv /etc/pip.conf.kept /etc/pip.conf"
    )


def live(host: Host) -> str:
    return str(host.check_output("basename $(readlink /opt/messaging-system/current)"))


def processes(host: Host) -> dict[str, str]:
    """The main process of each service and the release that it runs, by unit."""
    script = f"""
        for unit in {WEB} {" ".join(WORKERS)} messaging-flower messaging-mailbox messaging-metrics; do
            pid=$(systemctl show --property MainPID --value $unit)
            echo $unit $pid $(tr '\\0' '\\n' < /proc/$pid/cmdline | grep -o 'releases/[^/]*' | head -n 1)
        done
    """
    lines = host.check_output("sh -c %s", script).splitlines()
    return {line.split()[0]: line.partition(" ")[2] for line in lines}


def started(host: Host, unit: str) -> int:
    return int(host.check_output("systemctl show --property ExecMainStartTimestampMonotonic --value %s", unit))


def folders(host: Host) -> list[str]:
    settings = "/etc/messaging-system/releases"
    return str(host.check_output(f"ls -d /opt/messaging-system/releases/* {settings}/* {settings}/*/*")).splitlines()


def queued(host: Host) -> list[str]:
    """Tasks that lie in the queue of a worker which does not run."""
    host.check_output("systemctl stop %s", WORKERS[1])
    ids = [str(uuid.uuid4()) for _ in range(5)]
    in_release(host, SUBMIT, *ids)
    return ids


def check_nothing_failed(requests: Traffic) -> None:
    print(requests.counts())
    for answer in requests.answers:
        if answer["status"] != 202:
            print(answer)
    assert requests.answers
    assert requests.answered(202) == requests.answers
    requests.check_delivered()


def check_started_under_load(host: Host, requests: Traffic) -> None:
    boot = float(host.check_output("awk '/btime/ { print $2 }' /proc/stat"))
    begun = boot + started(host, WEB) / 1e6
    times = [answer["at"] for answer in requests.answers]
    # the time of boot is known to a second
    assert min(times) - 2 < begun < max(times) + 2, "the web application was not restarted under load"


def test_deploy_under_load(host: Host, next_release: str, traffic: Callable[[], Traffic]) -> None:
    before = live(host)
    converge("--tags", "release_install", release_source=next_release)
    assert live(host) == before
    ids = queued(host)
    with traffic() as requests:
        try:
            converge(*SERVICES, release_source=next_release)
        finally:
            requests.stop()
    assert live(host) != before
    assert {process.split()[1] for process in processes(host).values()} == {f"releases/{live(host)}"}
    check_started_under_load(host, requests)
    check_nothing_failed(requests)
    assert max(started(host, unit) for unit in WORKERS) < started(host, WEB), "workers know what the web sends them"
    for task_id in ids:
        wait_for_state(host, task_id)


def test_a_release_that_cannot_run_costs_nothing(host: Host, source: Source, traffic: Callable[[], Traffic]) -> None:
    broken = source("broken", "web/api.py", 'raise ImportError("broken on purpose")\n')
    before, running, there = live(host), processes(host), folders(host)
    with traffic() as requests:
        try:
            said = refused(*SERVICES, release_source=broken)
        finally:
            requests.stop()
    assert "it does not run" in said
    assert "ImportError: broken on purpose" in said
    assert (live(host), processes(host), folders(host)) == (before, running, there)
    assert host.run("systemctl list-units --all --no-legend 'try-*'; ls -d /run/messaging-try").stdout == ""
    check_nothing_failed(requests)


def test_settings_that_cannot_be_used_cost_nothing(host: Host, next_release: str) -> None:
    """The playbook knows most of them; this one only the application does."""
    before, running, there = live(host), processes(host), folders(host)
    said = refused(*SERVICES, release_source=next_release, sendmail_text="x" * 50_001)
    assert "MSG_SENDMAIL_TEXT: String should have at most 50000 characters" in said
    assert (live(host), processes(host), folders(host)) == (before, running, there)


def test_without_a_package_index_the_live_release_goes_on(
    host: Host, source: Source, next_release: str, no_index: None
) -> None:
    before, running, there = live(host), processes(host), folders(host)
    said = refused(*SERVICES, release_source=source("later", "__init__.py", "# one more release\n"))
    assert "could not be built, and the one before goes on" in said
    assert "/etc/pip.conf on the host which index to use" in said
    assert (live(host), processes(host), folders(host)) == (before, running, there)
    assert re.search(r"changed=0 ", converge("--tags", "release", release_source=next_release)), "and nobody is asked"


def test_rollback_under_load(host: Host, traffic: Callable[[], Traffic]) -> None:
    before = live(host)
    ids = queued(host)
    # As if the release that is left had brought a secret that the other does not know
    host.check_output("touch %s", f"{SECRETS}/later_secret")
    try:
        with traffic() as requests:
            try:
                said = " ".join(play("rollback").split())
            finally:
                requests.stop()
    finally:
        host.check_output("rm %s", f"{SECRETS}/later_secret")
    after = live(host)
    assert after != before
    assert f"runs {after} again" in said
    assert "The next run of the playbook deploys what is in the checkout" in said
    assert {process.split()[1] for process in processes(host).values()} == {f"releases/{after}"}
    check_started_under_load(host, requests)
    check_nothing_failed(requests)
    assert started(host, WEB) < min(started(host, unit) for unit in WORKERS), "workers know what the web sends them"
    for task_id in ids:
        wait_for_state(host, task_id)
    assert before in host.check_output("ls /opt/messaging-system/releases"), "it can be gone back to by its name"


def test_a_deploy_that_is_cut_short_is_finished_by_the_next(
    host: Host, source: Source, traffic: Callable[[], Traffic]
) -> None:
    """The units of the web application are new, and it runs with the old ones."""
    again = {"release_source": source("again", "__init__.py", "# and another release\n")}
    before = live(host)
    with traffic() as requests:
        try:
            converge_until("TASK [app : Start the web application]", *SERVICES, **again)
            assert live(host) == before
            assert processes(host)[WEB].split()[1] == f"releases/{before}"
            converge(*SERVICES, **again)
        finally:
            requests.stop()
    assert live(host) != before
    assert {process.split()[1] for process in processes(host).values()} == {f"releases/{live(host)}"}
    check_nothing_failed(requests)


def test_a_rollback_that_is_cut_short_goes_on_where_it_was_going(host: Host, traffic: Callable[[], Traffic]) -> None:
    """The web application is back, and the workers are not yet: what they run is not what to go back to."""
    before = live(host)
    with traffic() as requests:
        try:
            play_until("PLAY [Workers]", "rollback")
            back = processes(host)[WEB].split()[1]
            assert back != f"releases/{before}"
            assert processes(host)[WORKERS[0]].split()[1] == f"releases/{before}"
            play("rollback")
        finally:
            requests.stop()
    assert f"releases/{live(host)}" == back
    assert {process.split()[1] for process in processes(host).values()} == {back}
    check_nothing_failed(requests)


def test_a_rollback_to_nothing_changes_nothing(host: Host) -> None:
    running = processes(host)
    with pytest.raises(
        AssertionError, match=r"has no release 9[.]9[.]9-none; there are: .*[(]make rollback TO="
    ) as problem:
        play("rollback", release_to="9.9.9-none")
    assert re.search(r"changed=0 ", str(problem.value))
    with pytest.raises(AssertionError, match=f"{live(host)} is live already"):
        play("rollback", release_to=live(host))
    wait_until(lambda: processes(host) == running, "the same processes")
