"""AMQP and Redis between hosts: TLS of this system's own authority, and nothing else."""

import json

import pytest
from testinfra.host import Host

from system import address, host, members, rabbitmq

CA = "/etc/messaging-system/cluster_ca.crt"
OTHER_CA = "/run/other-ca.crt"
PYTHON = "/opt/messaging-system/current/venv/bin/python"

_HANDSHAKE = """
import json, socket, ssl, sys
address, port, authority = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with socket.create_connection((address, port), 5) as link:
    try:
        with ssl.create_default_context(cafile=authority).wrap_socket(link, server_hostname=address) as tls:
            print(json.dumps({"version": tls.version(), "names": tls.getpeercert()["subjectAltName"]}))
    except ssl.SSLCertVerificationError as error:
        print(json.dumps({"refused": error.verify_message}))
"""

_PLAIN = """
import socket, sys
said = b""
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as link:
    try:
        link.sendall(bytes.fromhex(sys.argv[3]))
        said = link.recv(100)
    except (ConnectionResetError, BrokenPipeError):
        pass
print(said.hex())
"""

_APPLICATION = """
import os
from messaging import store
from messaging.publisher import Publisher, PublishError
from messaging.settings import load
from redis.exceptions import ConnectionError
settings = load()
try:
    Publisher(settings).probe()
    print("amqp: connected")
except PublishError as error:
    print("amqp:", error)
try:
    store.connect(settings, 5).ping()
    print("redis: connected")
except ConnectionError as error:
    print("redis:", error)
"""


def places() -> list[tuple[str, int]]:
    return [(address(name), 5671) for name in members("rabbitmq")] + [(address(members("redis")[0]), 6379)]


@pytest.fixture(scope="module")
def client() -> Host:
    """A host of the inventory, so that the firewall lets it through; it has another authority in a file too."""
    chosen = host(members("celery")[-1])
    chosen.check_output(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=somebody else' -keyout /dev/null -out %s",
        OTHER_CA,
    )
    return chosen


def handshake(client: Host, place: tuple[str, int], authority: str) -> dict[str, object]:
    return dict(
        json.loads(client.check_output("python3 -c %s %s %s %s", _HANDSHAKE, place[0], str(place[1]), authority))
    )


def test_each_service_has_a_certificate_for_its_address(client: Host) -> None:
    for place in places():
        seen = handshake(client, place, CA)
        assert ["IP Address", place[0]] in seen.get("names", []), (place, seen)
        assert seen["version"] in {"TLSv1.2", "TLSv1.3"}


def test_another_authority_is_not_believed(client: Host) -> None:
    for place in places():
        assert set(handshake(client, place, OTHER_CA)) == {"refused"}, place


def test_plain_gets_no_answer(client: Host) -> None:
    for place in places():
        words = "AMQP\x00\x00\x09\x01" if place[1] == 5671 else "PING\r\n"
        said = bytes.fromhex(
            client.check_output("python3 -c %s %s %s %s", _PLAIN, place[0], str(place[1]), words.encode().hex())
        )
        # a TLS alert at the most
        assert not said.startswith((b"AMQP", b"\x01", b"+", b"-")), (place, said)


def test_the_application_insists_on_the_authority(client: Host) -> None:
    run = "runuser -u messaging -- env MSG_AMQP_CA_FILE=%s MSG_REDIS_CA_FILE=%s %s -c %s"
    client.check_output("chmod 644 %s", OTHER_CA)
    good = client.check_output(run, CA, CA, PYTHON, _APPLICATION)
    assert good.splitlines() == ["amqp: connected", "redis: connected"]
    bad = client.check_output(run, OTHER_CA, OTHER_CA, PYTHON, _APPLICATION)
    assert "connected" not in bad
    assert bad.count("certificate verify failed") == 2, bad


def test_all_links_from_other_hosts_are_encrypted() -> None:
    links = rabbitmq(members("rabbitmq")[0], "list_connections peer_host ssl user")
    others = [link for link in links if link["peer_host"][0] != 127]
    seen = {".".join(map(str, link["peer_host"])) for link in others}
    assert seen & {address(name) for name in members("celery") + members("app")}, others
    assert [link for link in others if not link["ssl"]] == []


def test_keys_are_closed() -> None:
    """No private key of TLS can be read by others than the service that needs it."""
    for name in {*members("rabbitmq"), *members("redis")}:
        found = "find /etc /usr/local /var/lib /run -xdev -type f -perm /007 -print0"
        script = f"{found} | xargs -0 grep -lE 'BEGIN ([A-Z]+ )?PRIVATE KEY'"
        assert host(name).run("sh -c %s", script).stdout == "", name
