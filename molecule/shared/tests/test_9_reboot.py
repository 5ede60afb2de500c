"""The host comes back by itself: last, because it ends every connection."""

import pytest
from testinfra.host import Host

from probe import ready, reboot, send_mail, unique_address, wait_for_mail, wait_for_state, wait_until, workers


@pytest.fixture(scope="module")
def rebooted(host: Host) -> str:
    """Reboots; the value is the address of a mail that was delivered before."""
    address = unique_address()
    wait_for_state(host, send_mail(host, address))
    reboot(host)
    return address


def test_everything_is_healthy_again(host: Host, rebooted: str) -> None:
    wait_until(lambda: ready(host), "/readyz answers 200 after the reboot", 90, every=0.5)
    wait_until(lambda: host.run("systemctl is-system-running").stdout.strip() == "running", "no unit has failed")
    assert {host.run("systemctl is-active %s", unit).stdout.strip() for unit in workers(host)} == {"active"}


def test_mail_from_before_is_still_there(host: Host, rebooted: str) -> None:
    wait_for_mail(host, rebooted)


def test_mail_is_delivered_again(host: Host, rebooted: str) -> None:
    address = unique_address()
    wait_for_state(host, send_mail(host, address), limit=60)
    wait_for_mail(host, address)
