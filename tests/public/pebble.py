"""Debian's pebble, an ACME server for tests, on a host: an authority for names that lead to that host itself."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testinfra.host import Host

from probe import wait_until

PORT = 14000
DIRECTORY = f"https://localhost:{PORT}/dir"
HOME = "/opt/pebble"
# What the address of the authority is trusted by; what it issues is signed by a root that it makes anew at each start
CA_FILE = f"{HOME}/ca.crt"
_CONFIG = {
    "pebble": {
        "listenAddress": f"127.0.0.1:{PORT}",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": f"{HOME}/localhost.crt",
        "privateKey": f"{HOME}/localhost.key",
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
}

_ROOT = """
import ssl, urllib.request
there = "https://127.0.0.1:15000/roots/0"
print(urllib.request.urlopen(there, context=ssl._create_unverified_context()).read().decode())
"""


def install(host: Host, folder: Path, names: list[str]) -> None:
    """Install it, with certificates made in `folder`, and let these names lead to the host itself."""
    host.check_output("DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends pebble")
    subprocess.run([sys.executable, Path(__file__).with_name("certificates.py"), folder, "localhost"], check=True)
    files = {file.name: file.read_text() for file in folder.iterdir()}
    files["config.json"] = json.dumps(_CONFIG)
    host.check_output("install --directory --mode 0700 %s", HOME)
    for name, text in files.items():
        host.check_output("printf %%s %s > %s", text, f"{HOME}/{name}")
    for name in names:
        # not by renaming: Docker has mounted the file
        host.check_output("grep -q %s /etc/hosts || echo %s >> /etc/hosts", name, f"127.0.0.1 {name}")


@contextmanager
def running(host: Host) -> Iterator[None]:
    """While it runs, it issues certificates without delay. What it knew of an earlier account it has forgotten."""
    host.check_output("rm --recursive --force %s", f"/etc/letsencrypt/accounts/localhost:{PORT}")
    host.check_output(
        "systemd-run --quiet --collect --unit pebble --setenv PEBBLE_VA_NOSLEEP=1 --setenv PEBBLE_WFE_NONCEREJECT=0 "
        "pebble -config %s",
        f"{HOME}/config.json",
    )
    try:
        wait_until(lambda: host.run("ss -ltnH sport = :%s", str(PORT)).stdout, "pebble listens")
        yield
    finally:
        host.run("systemctl stop pebble")


def root(host: Host) -> str:
    """The certificate, PEM, that what it issues goes back to."""
    return str(host.check_output("python3 -c %s", _ROOT))
