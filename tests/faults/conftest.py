"""What every fault test has: a healthy host before and after it, traffic, and evidence when it fails."""

from collections.abc import Callable, Iterator

import pytest
from testinfra.host import Host

from faulty import Traffic
from probe import pytest_runtest_makereport, ready, wait_until

__all__ = ["pytest_runtest_makereport"]

UNITS = (
    "rabbitmq-server redis-server messaging-mailbox messaging-web.socket messaging-flower.socket "
    "messaging-worker@email-1"
)


@pytest.fixture(autouse=True)
def healthy(host: Host) -> Iterator[None]:
    """Each test starts on a host that works, and leaves one."""
    wait_until(lambda: ready(host), "ready before the test", 60)
    yield
    host.run(f"systemctl start {UNITS}")
    wait_until(lambda: ready(host), "ready after the test", 60)


@pytest.fixture
def traffic(host: Host) -> Callable[[int, float], Traffic]:
    """`with traffic(count, per_second) as requests: ...`"""
    return lambda count, per_second: Traffic(host, count, per_second)
