"""Word to systemd, as sd_notify(3) sends it."""

import logging
import os
import socket

_log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Tell the service manager `state`, such as `READY=1`.

    Does nothing when `$NOTIFY_SOCKET` is unset (not started by systemd). A manager that cannot be reached is logged and
    not raised, as sd_notify(3) advises: a unit of Type=notify then fails on its own start time-out.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # abstract socket, unix(7)
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(address)
            channel.sendall(state.encode())
    except OSError as error:
        _log.warning("could not notify systemd of %s: %s", state, error)
