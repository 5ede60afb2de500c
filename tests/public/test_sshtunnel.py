"""The public address through a host of one's own: its stand-in, the edge, has a real sshd and a real nginx."""

import json
import os
import re
import socket
import ssl
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from faulty import converge, put, refused
from probe import (
    Response,
    base_url,
    flower_login,
    parse,
    request,
    secrets_on_controller,
    unique_address,
    wait_for_mail,
    wait_until,
)

UNIT = "messaging-sshtunnel.service"
NAME = "messaging.edge.test"
ETC = "/etc/messaging-tunnel"
TAGS = ("--tags", "nginx,ngrok,sshtunnel")
AUTHORIZED = "/home/tunnel/.ssh/authorized_keys"
OTHER_KEY = "/etc/ssh/other_key"


def settings(edge: Host) -> dict[str, Any]:
    """What an operator sets to get the tunnel."""
    kind, key = edge.check_output("cat /etc/ssh/ssh_host_ed25519_key.pub").split()[:2]
    return {
        "tunnel": "ssh",
        "sshtunnel_host": "edge.test",
        "sshtunnel_host_key": f"{kind} {key}",
        "sshtunnel_url": f"https://{NAME}",
    }


def ask(edge: Host, target: str, method: str = "GET", body: str = "", **headers: str) -> Response:
    """One request from here to the public address; here is neither the host nor the edge. `a_b` is the header a-b."""
    authority = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "certificates/ca.crt")
    lines = {"Host": NAME, "Connection": "close", "Content-Length": str(len(body.encode()))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    answer = b""
    with (
        socket.create_connection((edge.check_output("hostname -I").split()[0], 443), 15) as link,
        ssl.create_default_context(cafile=str(authority)).wrap_socket(link, server_hostname=NAME) as secure,
    ):
        secure.sendall(f"{method} {target} HTTP/1.1\r\n{head}\r\n{body}".encode())
        while part := secure.recv(65536):
            answer += part
    return parse(answer, method)


def reaches(edge: Host) -> bool:
    return bool(ask(edge, "/healthz").status == 200)


def journal(host: Host) -> Callable[[], str]:
    """A function that reads what the unit puts into the journal from now on."""
    cursor = host.check_output("journalctl --lines=0 --show-cursor").rpartition(": ")[2]
    command = "journalctl --no-pager --output=cat --unit=%s --after-cursor=%s"
    return lambda: str(host.check_output(command, UNIT, cursor))


@pytest.fixture(scope="module", autouse=True)
def runs(host: Host, edge: Host) -> tuple[str, str]:
    """What the first run says, with a key that the edge does not know, and the one after its line was added there."""
    host.run("systemctl stop %s", UNIT)
    host.check_output("rm -rf %s", ETC)
    edge.check_output("rm -f %s", AUTHORIZED)
    first = refused(*TAGS, **settings(edge))
    line = re.search(r"^ *(restrict,\S+ ssh-ed25519 \S+ \S+)$", first, re.MULTILINE)
    assert line, first
    put(edge, line.group(1) + "\n", AUTHORIZED)
    return first, converge(*TAGS, **settings(edge))


@pytest.fixture(autouse=True)
def standing(edge: Host, runs: tuple[str, str]) -> None:
    """Each test begins with a tunnel that stands."""
    assert runs
    wait_until(lambda: reaches(edge), "the public address answers", 60)


def test_the_first_run_says_what_the_edge_needs(runs: tuple[str, str]) -> None:
    first, second = runs
    assert "Permission denied (publickey" in first
    assert "Add this line to the file .ssh/authorized_keys of tunnel on edge.test" in first
    assert 'restrict,port-forwarding,permitlisten="127.0.0.1:8080" ssh-ed25519 ' in first
    assert f"https://{NAME} reaches this service" in second
    assert re.search(r"changed=0 .*failed=0", second), "the first run had done the rest"


def test_a_mail_from_outside(host: Host, edge: Host) -> None:
    address = unique_address()
    assert ask(edge, f"/?sendmail={address}").status == 202
    wait_for_mail(host, address)


def test_the_client_is_who_he_is_whatever_he_says(host: Host, edge: Host) -> None:
    """As nginx logs it, and as the application sees it: one key for one caller is one task, and no other caller's."""
    agent, key = f"test/{uuid.uuid4().hex}", uuid.uuid4().hex
    body = json.dumps({"text": agent})
    seen = []
    for forged in ("203.0.113.9", "127.0.0.1", "203.0.113.9, 198.51.100.7"):
        headers = {"X_Forwarded_For": forged, "X_Real_IP": forged, "Forwarded": f"for={forged}", "User_Agent": agent}
        headers |= {"Idempotency_Key": key, "Content_Type": "application/json"}
        answer = ask(edge, "/api/v1/tasks/reverse-text", "POST", body, **headers)
        assert answer.status == 202, answer
        seen.append(answer.json()["task_id"])
    directly = parse(_direct(host, body, key), "POST")
    own = request(
        host,
        "/api/v1/tasks/reverse-text",
        "POST",
        {"Idempotency-Key": key, "Content-Type": "application/json"},
        body,
    )
    assert set(seen) == {directly.json()["task_id"]}, "through the tunnel as directly"
    assert own.json()["task_id"] not in seen, "the host itself is somebody else"

    outside = {
        line.split()[0] for line in edge.check_output("grep -F %s /var/log/nginx/access.log", agent).splitlines()
    }
    logged = host.check_output("grep -F %s /var/log/nginx/access.log", agent).splitlines()
    assert {json.loads(line)["client"] for line in logged} == outside, logged
    assert len(logged) == 3


def _direct(host: Host, body: str, key: str) -> bytes:
    """The same request from here to the host's own nginx."""
    head = f"POST /api/v1/tasks/reverse-text HTTP/1.1\r\nHost: x\r\nConnection: close\r\nIdempotency-Key: {key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = b""
    with socket.create_connection((base_url(host).removeprefix("http://"), 80), 15) as link:
        link.sendall((head + body).encode())
        while part := link.recv(65536):
            answer += part
    return answer


def test_an_edge_that_lets_clients_lie_is_found_out(edge: Host) -> None:
    site = "/etc/nginx/sites-enabled/default"
    edge.check_output("cp %s /root/site", site)
    edge.check_output("sed -i /X-Forwarded-For/d %s", site)
    try:
        edge.check_output("systemctl reload nginx")
        refusal = refused("--tags", "sshtunnel_run", **settings(edge))
        assert "a client is taken for 192.0.2.1 because he says so" in refusal
    finally:
        edge.check_output("cp /root/site %s", site)
        edge.check_output("systemctl reload nginx")


def test_operators_addresses_are_not_there(host: Host, edge: Host) -> None:
    login = flower_login(secrets_on_controller()["flower_password"])
    key = f"Bearer {secrets_on_controller()['operator_key']}"
    for target in ("/flower/", "/operators/"):
        assert request(host, target, headers=login).status == 200, target
        assert ask(edge, target, **login).status == 404, target
    for target in ("/readyz", "/api/v1/tasks"):
        assert request(host, target, headers={"Authorization": key}).status == 200, target
        assert ask(edge, target, Authorization=key).status == 404, target
    assert ask(edge, "/metrics").status == 404


def test_the_unit_is_closed_in(host: Host) -> None:
    assert host.service(UNIT).is_running
    assert host.service(UNIT).is_enabled
    analysis = host.check_output("systemd-analyze --no-pager security %s", UNIT)
    exposure = re.search(r"Overall exposure level for \S+: (\d+\.\d)", analysis)
    assert exposure, analysis
    assert float(exposure.group(1)) <= 2.0, analysis
    pid = host.check_output("systemctl show --property=MainPID --value %s", UNIT)
    assert host.check_output("ps -o user:32= -p %s", pid).strip() == "messaging-tunnel"
    # One that took over the other units' counters would stop them
    assert host.check_output("stat -c %U /run/messaging-metrics") == "messaging"


def test_nobody_else_reads_the_key(host: Host) -> None:
    for user in ("messaging", "www-data", "nobody"):
        assert host.run("runuser -u %s -- cat %s/id_ed25519", user, ETC).rc != 0, user
    assert host.run("runuser -u messaging-tunnel -- cat %s/id_ed25519", ETC).rc == 0
    assert host.run("runuser -u messaging-tunnel -- sh -c %s", f"echo >> {ETC}/id_ed25519").rc != 0


def test_the_key_opens_nothing_else_on_the_edge(host: Host) -> None:
    ssh = f"timeout 20 ssh -F {ETC}/ssh_config -o ClearAllForwardings=%s"
    for options in ("yes -W 127.0.0.1:443 edge", "no -N -R 127.0.0.1:9999:127.0.0.1:80 edge", "yes edge id"):
        tried = host.run("runuser -u messaging-tunnel -- sh -c %s", f"{ssh % options} < /dev/null")
        assert tried.rc not in (0, 124), f"{options}: {tried.stdout}{tried.stderr}"


def kill_ssh(host: Host, _: Host) -> None:
    host.check_output("systemctl kill --signal=KILL %s", UNIT)


def end_the_session(_: Host, edge: Host) -> None:
    edge.check_output("pkill --signal KILL -u tunnel")


def restart_sshd(_: Host, edge: Host) -> None:
    edge.check_output("systemctl stop ssh")
    edge.check_output("pkill --signal KILL -u tunnel")
    time.sleep(2)  # it is away for a while, and an attempt or two fails
    edge.check_output("systemctl start ssh")


@pytest.mark.parametrize("harm", [kill_ssh, end_the_session, restart_sshd])
def test_the_tunnel_comes_back(
    host: Host,
    edge: Host,
    harm: Callable[[Host, Host], None],
    record_property: Callable[[str, Any], None],
) -> None:
    show = "systemctl show --property=MainPID --value %s"
    before = host.check_output(show, UNIT)
    began = time.monotonic()
    harm(host, edge)
    wait_until(lambda: host.check_output(show, UNIT) not in {before, "0"}, "another ssh", 30)
    wait_until(lambda: reaches(edge), "the public address answers again", 30)
    print(f"{harm.__name__}: {time.monotonic() - began:.1f} s")
    record_property("seconds", f"{time.monotonic() - began:.1f}")


def test_a_silent_link_is_given_up(host: Host, edge: Host) -> None:
    """No packet comes through in either direction. ssh asks every second here and not every 15: a short test."""
    folder = f"/run/systemd/system/{UNIT}.d"
    command = f"/usr/bin/ssh -N -T -F {ETC}/ssh_config -o ServerAliveInterval=1 edge"
    host.check_output("mkdir -p %s", folder)
    put(host, f"[Service]\nExecStart=\nExecStart={command}\n", f"{folder}/90-test.conf")
    address = host.check_output("hostname -I").split()[0]
    try:
        host.check_output("systemctl daemon-reload")
        host.check_output("systemctl restart %s", UNIT)
        wait_until(lambda: reaches(edge), "the public address answers", 30)
        said = journal(host)
        edge.check_output("ip route add blackhole %s/32", address)
        try:
            wait_until(lambda: "not responding" in said(), "ssh gives up", 30)
        finally:
            edge.check_output("ip route del blackhole %s/32", address)
        wait_until(lambda: reaches(edge), "the public address answers again", 60)
    finally:
        host.check_output("rm -r %s", folder)
        host.check_output("systemctl daemon-reload")
        host.check_output("systemctl restart %s", UNIT)


def test_an_edge_with_another_key_gets_nothing(host: Host, edge: Host) -> None:
    said = journal(host)
    edge.check_output("rm -f %s", OTHER_KEY)
    edge.check_output("ssh-keygen -q -t ed25519 -N '' -f %s", OTHER_KEY)
    put(edge, f"HostKey {OTHER_KEY}\n", "/etc/ssh/sshd_config.d/other.conf")
    try:
        edge.check_output("systemctl restart ssh")
        end_the_session(host, edge)
        wait_until(lambda: said().count("Host key verification failed") >= 2, "refused, and again", 30)
        assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in said()
        assert "remote forward success" not in said()
        assert "127.0.0.1:8080" not in edge.check_output("ss -ltnH")
        assert ask(edge, "/healthz").status == 502
    finally:
        edge.check_output("rm /etc/ssh/sshd_config.d/other.conf")
        edge.check_output("systemctl restart ssh")


def test_stop_and_start_take_the_tunnel_along(host: Host, edge: Host) -> None:
    host.check_output("systemctl stop messaging.target")
    assert not host.service(UNIT).is_running
    wait_until(lambda: "127.0.0.1:8080" not in edge.check_output("ss -ltnH"), "nothing is open on the edge", 15)
    host.check_output("systemctl start messaging.target")


def test_switched_off_it_is_gone(host: Host, edge: Host) -> None:
    """The last one here: it leaves a host without a tunnel."""
    output = converge(*TAGS, tunnel="none")
    assert "reaches this service" not in output
    assert host.run("systemctl cat %s", UNIT).rc != 0
    assert "127.0.0.1:8081" not in host.check_output("ss -ltnH")
    assert ask(edge, "/healthz").status == 502
