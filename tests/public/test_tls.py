"""TLS on the host: a certificate from an authority that speaks ACME, to its renewal, and one of the operator's.

Each step is a run of the playbook, and they build on each other; the last one leaves the host as it was.
"""

import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from socket import create_connection
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from testinfra.host import Host

import pebble
from probe import base_url, exchange, parse, ready, request, wait_until

ROOT = Path(__file__).resolve().parents[2]
NAME = "mail.messaging.test"
OTHER = "other.messaging.test"
RENEWAL = "/etc/letsencrypt/renewal/messaging-system.conf"
LIVE = "/etc/letsencrypt/live/messaging-system"
ACME = {
    "nginx_tls": "letsencrypt",
    "nginx_server_name": NAME,
    "nginx_acme_directory": pebble.DIRECTORY,
    "nginx_acme_ca_file": pebble.CA_FILE,
}


def play(**values: Any) -> subprocess.CompletedProcess[str]:
    """A run of the playbook for nginx alone, with these variables on top of those of the scenario."""
    command = ["ansible-playbook", "molecule/shared/converge.yml", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"]]
    command += ["--limit", "nginx", "--tags", "nginx", "--diff", "-v", "--extra-vars", json.dumps(values)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def converge(**values: Any) -> int:
    """The same where it has to succeed; how many tasks changed something."""
    run = play(**values)
    assert run.returncode == 0, run.stdout + run.stderr
    [changed] = re.findall(r"ok=\d+ +changed=(\d+)", run.stdout)
    return int(changed)


def certificate(host: Host) -> x509.Certificate:
    """What nginx serves just now."""
    address = str(urlsplit(base_url(host)).hostname)
    return x509.load_pem_x509_certificate(ssl.get_server_certificate((address, 443)).encode())


def ask(host: Host, authority: str, path: str = "/healthz", **limits: Any) -> tuple[str, str, str]:
    """A request as a careful client makes it, who trusts this authority alone: its answer, and what was agreed on."""
    context = ssl.create_default_context(cadata=authority)
    context.set_alpn_protocols(["http/1.1"])
    for name, value in limits.items():
        setattr(context, name, value)
    address = str(urlsplit(base_url(host)).hostname)
    with create_connection((address, 443), 10) as link, context.wrap_socket(link, server_hostname=NAME) as tls:
        tls.sendall(f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := tls.recv(65536):
            answer += part
        cipher = tls.cipher()
        assert cipher is not None
        return answer.decode(), str(tls.version()), cipher[0]


@pytest.fixture(scope="module", autouse=True)
def _as_before(host: Host) -> Iterator[None]:
    wait_until(lambda: ready(host), "/readyz answers 200", 60)
    yield
    converge(nginx_tls="none")
    assert not host.file(LIVE).exists
    assert not host.file("/etc/nginx/messaging-tls").exists
    assert request(host, "/healthz").status == 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of an authority of this run."""
    made = tmp_path_factory.mktemp("tls") / "made"
    script = Path(__file__).with_name("certificates.py")
    subprocess.run([sys.executable, script, made, NAME, OTHER], check=True)
    return made


@pytest.fixture(scope="module")
def authority(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """pebble's root certificate, while pebble runs."""
    pebble.install(host, tmp_path_factory.mktemp("pebble") / "made", [NAME])
    refused = play(**ACME)
    output = refused.stdout + refused.stderr
    assert refused.returncode != 0, output
    assert f"There is no certificate for {NAME}" in output, output
    assert "Connection refused" in output
    assert "nginx_acme_directory" in output
    assert request(host, "/healthz").status == 200, "the service goes on over HTTP"
    with pebble.running(host):
        yield pebble.root(host)


def test_a_certificate_is_issued_and_served(host: Host, authority: str) -> None:
    assert converge(**ACME) > 0
    answer, version, _ = ask(host, authority)
    assert answer.startswith("HTTP/1.1 200")
    assert version == "TLSv1.3"
    assert converge(**ACME) == 0
    assert host.file(f"{LIVE}/privkey.pem").mode & 0o077 == 0
    assert host.check_output("systemctl is-enabled certbot.timer") == "enabled"


def test_it_is_renewed_and_nginx_takes_the_new_one(host: Host, authority: str) -> None:
    before = certificate(host).serial_number
    # what the timer starts, as if the end were near
    host.check_output("sed -i 's/.*renew_before_expiry.*/renew_before_expiry = 9999 days/' %s", RENEWAL)
    host.check_output("systemctl start certbot.service")
    wait_until(lambda: certificate(host).serial_number != before, "nginx serves another certificate")
    assert ask(host, authority)[0].startswith("HTTP/1.1 200")
    print(f"serial {before:x} -> {certificate(host).serial_number:x}")


def test_only_modern_protocols_are_spoken(host: Host, authority: str) -> None:
    twelve = {"maximum_version": ssl.TLSVersion.TLSv1_2}
    _, version, cipher = ask(host, authority, **twelve)
    assert version == "TLSv1.2"
    assert re.match(r"ECDHE-.*(GCM|CHACHA20)", cipher)
    # its output has bytes of what it was sent
    client = (
        "openssl s_client -connect 127.0.0.1:443 -cipher ALL:@SECLEVEL=0 -alpn h2 %s < /dev/null 2>&1 | tr -cd '\\n -~'"
    )
    for old in ("-tls1", "-tls1_1"):
        assert "alert protocol version" in host.check_output(client, old)
    modern = host.check_output(client, "-tls1_2")
    assert "ALPN protocol: h2" in modern
    assert "TLS session ticket:" not in modern


def test_browsers_are_told_to_stay(host: Host, authority: str) -> None:
    for path in ("/", "/static/style.css", "/no/such/page", "/flower/"):
        head = ask(host, authority, path)[0].partition("\r\n\r\n")[0].lower() + "\r\n"
        assert head.count("\r\nstrict-transport-security: max-age=31536000\r\n") == 1, head
        assert head.count("\r\ncontent-security-policy: ") == 1, head


@pytest.mark.parametrize("target", ["/", "/?sendmail=a@example.com", "/no/such/page"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_in_clear_there_is_only_the_way_to_tls(host: Host, authority: str, method: str, target: str) -> None:
    answer = request(host, target, method)
    assert (answer.status, answer.headers["location"]) == (301, f"https://{NAME}{target}")
    assert "strict-transport-security" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "headers"),
    [("POST", {"Content-Length": "0"}), ("DELETE", {}), ("GET", {"Authorization": "Bearer secret"})],
)
def test_a_secret_sent_in_clear_is_not_led_on(host: Host, authority: str, method: str, headers: dict[str, str]) -> None:
    answer = request(host, "/api/v1/tasks/send-email", method, headers)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert f"https://{NAME}" in answer.json()["detail"]
    in_clear = parse(exchange(host, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 443))
    assert (in_clear.status, in_clear.headers["content-type"]) == (400, "application/problem+json")


def test_a_certificate_of_ones_own(host: Host, folder: Path) -> None:
    own = {
        "nginx_tls": "provided",
        "nginx_server_name": NAME,
        "nginx_tls_certificate": str(folder / f"{NAME}.crt"),
        "nginx_tls_key": str(folder / f"{NAME}.key"),
    }
    wrong = play(**{**own, "nginx_tls_key": str(folder / f"{OTHER}.key")})
    assert wrong.returncode != 0
    assert "nginx_tls_key is not the key of nginx_tls_certificate" in wrong.stdout + wrong.stderr
    run = play(**own)
    assert run.returncode == 0, run.stdout + run.stderr
    secret = (folder / f"{NAME}.key").read_text().splitlines()[1]
    assert secret not in run.stdout + run.stderr
    assert ask(host, (folder / "ca.crt").read_text())[0].startswith("HTTP/1.1 200")
    key = host.file("/etc/nginx/messaging-tls/privkey.pem")
    assert (key.user, oct(key.mode)) == ("root", "0o600")
    assert converge(**own) == 0
    assert not host.file(RENEWAL).exists, "nobody renews what is not used"
