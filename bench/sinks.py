"""Where the mail goes: stand-ins for a relay, near or far.

Both speak TLS from the first byte and want a login. `fast` is Postfix's smtp-sink, which knows neither, behind nginx's
mail proxy, which does both; `python` is one process of python_sink.py.
"""

import contextlib
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from sides import wait_until

FAST = "fast"
PYTHON = "python"

HERE = Path(__file__).parent
NAME = "relay.test"
CERTIFICATE = HERE / f"{NAME}.crt"
KEY = HERE / f"{NAME}.key"
# Where the services go; with a distance, the sink is behind it
PORT = 2465
BEHIND = 2466
SMTP_SINK = 2467
LOGIN = 2468
TAKEN = Path("/run/bench-taken")
CONFIG = Path("/run/bench-relay.conf")
_NGINX = """
load_module modules/ngx_mail_module.so;
user www-data;
worker_processes 1;
daemon off;
pid /run/bench-relay.pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    # Everybody who knows the password may pass, and that is where to
    map "$http_auth_user $http_auth_pass" $verdict {{
        default "Invalid login";
        "{username} {password}" OK;
    }}
    server {{
        listen 127.0.0.1:{login};
        location / {{
            add_header Auth-Status $verdict;
            add_header Auth-Server 127.0.0.1;
            add_header Auth-Port {behind};
            return 200;
        }}
    }}
}}
mail {{
    auth_http 127.0.0.1:{login}/;
    server {{
        listen 127.0.0.1:{port} ssl backlog=1024;
        protocol smtp;
        server_name {name};
        smtp_auth plain;
        smtp_capabilities PIPELINING 8BITMIME "SIZE 10485760";
        xclient off;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
    }}
}}
"""


def taken_by_smtp_sink() -> int:
    """Its own count, which it writes after each mail."""
    with TAKEN.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 200))
        found = re.findall(rb"mesg=(\d+)\s", stream.read())
    return int(found[-1]) if found else 0


class Lines:
    """Counts the lines of a growing file, each once."""

    def __init__(self, file: Path) -> None:
        self._stream = file.open("rb")
        self._count = 0

    def __call__(self) -> int:
        while part := self._stream.read(1 << 20):
            self._count += part.count(b"\n")
        return self._count


@contextlib.contextmanager
def relay(kind: str, round_trip: float, username: str, password: str) -> Iterator[Callable[[], int]]:
    """A relay on PORT, a round trip of so many milliseconds away; gives what says how many mails it has taken."""
    TAKEN.unlink(missing_ok=True)
    TAKEN.touch()
    port = BEHIND if round_trip else PORT
    python = [sys.executable, "-B"]
    with contextlib.ExitStack() as running:
        if kind == FAST:
            text = _NGINX.format(
                username=username,
                password=password,
                login=LOGIN,
                behind=SMTP_SINK,
                port=port,
                name=NAME,
                certificate=CERTIFICATE,
                key=KEY,
            )
            CONFIG.touch(0o600)
            CONFIG.write_text(text)
            sink = ["/usr/sbin/smtp-sink", "-c", "-u", "nobody", f"127.0.0.1:{SMTP_SINK}", "1024"]
            running.enter_context(_program(sink, SMTP_SINK, TAKEN))
            running.enter_context(_program(["nginx", "-p", "/usr/share/nginx", "-c", str(CONFIG)], port))
        else:
            files = [str(CERTIFICATE), str(KEY)]
            sink = [*python, str(HERE / "python_sink.py"), str(port), *files, username, password, str(TAKEN)]
            running.enter_context(_program(sink, port))
        if round_trip:
            proxy = [*python, str(HERE / "delay_proxy.py"), str(PORT), str(port), str(round_trip)]
            running.enter_context(_program(proxy, PORT))
        yield taken_by_smtp_sink if kind == FAST else Lines(TAKEN)


@contextlib.contextmanager
def _program(arguments: list[str], port: int, output: Path = Path("/dev/null")) -> Iterator[None]:
    """Runs, and listens, until the end."""
    with output.open("ab") as stream, subprocess.Popen(arguments, stdout=stream) as process:
        try:
            wait_until(lambda: listens(port), f"{arguments[0]} listens on {port}")
            yield
        finally:
            process.terminate()


def listens(port: int) -> bool:
    """Whether somebody takes connections on it."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
