"""The public address through ngrok. Its cloud, agent and archive of packages are stand-ins: see ngrok_stand_in/."""

import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from faulty import converge, play, put, refused
from probe import request, unique_address, wait_for_mail, wait_until
from visitor import NAME, code, visit

UNIT = "ngrok.service"
CONFIG = "/etc/ngrok/ngrok.yml"
KEY = "/etc/apt/keyrings/ngrok.asc"
CLOUD = "ngrok-cloud-stand-in.service"
ACCOUNTS = "/opt/ngrok_stand_in/accounts.json"
LOG = "/var/log/nginx/access.log"
TAGS = ("--tags", "ngrok")


def _certificates(name: str) -> str:
    return Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "certificates", name).read_text().strip()


def _open(internet: Host) -> bool:
    try:
        answer = visit(internet)
    except AssertionError:  # the cloud itself is away
        return False
    return answer.status == 200 and not code(answer)


def _shown(output: str) -> str:
    """What the first task that failed says, in one line."""
    return " ".join(output[output.find("fatal: [") :].split())


@pytest.fixture(autouse=True)
def public(internet: Host) -> None:
    """Each test begins with an address that answers."""
    wait_until(lambda: _open(internet), f"https://{NAME} answers", 60)


def test_the_agent_is_installed_from_the_archive(host: Host) -> None:
    policy = host.check_output("apt-cache policy ngrok")
    assert re.search(r"Installed: 3\.99\.0$", policy, re.MULTILINE), policy
    assert "https://apt.ngrok.test buster/main" in policy
    assert "stand-in" in host.check_output("ngrok version")


def test_nothing_else_is_taken_from_the_archive(host: Host) -> None:
    policy = host.check_output("apt-cache policy").splitlines()
    [line] = [line for line in policy if "https://apt.ngrok.test" in line]
    assert line.split()[0] == "-1", line


def test_only_the_agent_reads_the_token(host: Host) -> None:
    token = _certificates("ngrok_token")
    file = host.file(CONFIG)
    assert (file.user, file.group, oct(file.mode)) == ("root", "ngrok", "0o640")
    assert token in file.content_string
    user = host.user("ngrok")
    assert (user.shell, user.groups) == ("/usr/sbin/nologin", ["ngrok"])
    # The value comes from the host's own file, so that it is on no command line here either.
    script = f"""
        umask 077; needle=$(mktemp)
        sed -n 's/^ *authtoken: "\\(.*\\)"$/\\1/p' {CONFIG} > $needle
        test -s $needle && grep -qFf $needle {CONFIG} && echo found
        find /etc /usr/local /var/log /tmp /run/systemd -xdev -type f -perm -004 -print0 | xargs -0 grep -lFf $needle
        for process in /proc/[0-9]*; do cat $process/cmdline $process/environ; done 2>/dev/null | grep -acFf $needle
        journalctl --no-pager | grep -cFf $needle
        rm $needle
    """
    assert host.run("sh -c %s", script).stdout.split() == ["found", "0", "0"]


def test_the_unit_is_closed_in_and_comes_back(host: Host) -> None:
    shown = host.check_output("systemctl show %s --property=User,Restart,UnitFileState,NoNewPrivileges", UNIT).split()
    assert set(shown) == {"User=ngrok", "Restart=always", "UnitFileState=enabled", "NoNewPrivileges=yes"}
    said = host.check_output("systemd-analyze --no-pager security %s", UNIT)
    exposure = re.search(r"Overall exposure level for \S+: (\d+\.\d)", said)
    assert exposure, said
    print(f"exposure {exposure.group(1)}")
    assert float(exposure.group(1)) <= 2.0
    assert {line.split()[0] for line in host.check_output("ps -o user= -C ngrok").splitlines()} == {"ngrok"}


def test_a_mail_from_the_internet(host: Host, internet: Host) -> None:
    address = unique_address()
    assert visit(internet, f"/?sendmail={address}").status == 202
    wait_for_mail(host, address)


@pytest.mark.parametrize("forged", ["", "203.0.113.9", "127.0.0.1", "203.0.113.9, 198.51.100.7"])
def test_the_client_is_who_he_is_whatever_he_says(host: Host, internet: Host, forged: str) -> None:
    agent = f"test/{uuid.uuid4().hex}"
    headers = {"X_Forwarded_For": forged, "X_Real_IP": forged, "Forwarded": f"for={forged}"} if forged else {}
    assert visit(internet, User_Agent=agent, **headers).status == 200
    own = internet.check_output("getent hosts %s", NAME).split()[0]
    [line] = [json.loads(line) for line in host.check_output("grep -F %s %s", agent, LOG).splitlines()]
    assert (line["client"], line["through"]) == (own, "tunnel")


def test_the_application_sees_the_same_client(host: Host, internet: Host) -> None:
    """One key for one caller is one task; the same key of anybody else is another."""
    key, body = uuid.uuid4().hex, json.dumps({"text": "who am I"})
    target, more = "/api/v1/tasks/reverse-text", {"Idempotency_Key": key, "Content_Type": "application/json"}
    tasks = []
    for forged in ("203.0.113.9", "198.51.100.7"):
        answer = visit(internet, target, "POST", body, X_Forwarded_For=forged, **more)
        assert answer.status == 202, answer
        tasks.append(answer.json()["task_id"])
    assert tasks[0] == tasks[1]
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    assert request(host, target, "POST", headers, body).json()["task_id"] != tasks[0]


def kill_the_agent(host: Host, _: Host) -> None:
    host.check_output("pkill --signal KILL --exact ngrok")


def end_the_session(_: Host, internet: Host) -> None:
    internet.check_output("systemctl restart %s", CLOUD)


def stop_the_cloud(host: Host, internet: Host) -> None:
    """It is away for as long as the agent needs to find out that nobody listens."""
    internet.check_output("systemctl stop %s", CLOUD)
    wait_until(lambda: "Connection refused" in host.check_output("journalctl -u %s -n 3", UNIT), "it tries", 20)
    internet.check_output("systemctl start %s", CLOUD)


@pytest.mark.parametrize("fault", [kill_the_agent, end_the_session, stop_the_cloud])
def test_the_address_comes_back(fault: Callable[[Host, Host], None], host: Host, internet: Host) -> None:
    fault(host, internet)
    wait_until(lambda: _open(internet), f"https://{NAME} answers again", 30)
    assert f"https://{NAME}" in play("url")


def test_a_visitor_is_told_who_is_away(host: Host, internet: Host) -> None:
    host.check_output("systemctl stop nginx")
    try:
        assert code(visit(internet)) == "ERR_NGROK_8012"
        # and so is an operator
        said = _shown(refused("--tags", "ngrok_run"))
        assert "ERR_NGROK_8012" in said
        assert "does not reach nginx on 127.0.0.1:8081" in said
    finally:
        host.check_output("systemctl start nginx")
    wait_until(lambda: _open(internet), "nginx is back")
    host.check_output("systemctl stop %s", UNIT)
    try:
        wait_until(lambda: code(visit(internet)) == "ERR_NGROK_3200", "the endpoint is offline")
    finally:
        host.check_output("systemctl start %s", UNIT)


def test_another_key_than_expected_is_refused(host: Host) -> None:
    """The archive's own key is put aside, as on a host that never had it."""
    wanted = _certificates("fingerprint")
    host.check_output("mv %s %s.aside", KEY, KEY)
    try:
        said = _shown(refused(*TAGS, ngrok_apt_key_url="https://apt.ngrok.test/other.asc"))
        assert re.search(rf"has the fingerprint [0-9A-F]{{40}}, and ngrok_apt_key_fingerprint is {wanted}", said), said
        assert "set ngrok_apt_key_fingerprint" in said
        assert not host.file(KEY).exists
    finally:
        host.check_output("mv %s.aside %s", KEY, KEY)


@pytest.fixture(scope="module")
def free_account(internet: Host) -> Iterator[None]:
    """The account is one of those whose visitors see ngrok's page first."""
    before = internet.check_output("cat %s", ACCOUNTS)
    accounts = json.loads(before)
    put(internet, json.dumps({token: {**account, "free": True} for token, account in accounts.items()}), ACCOUNTS)
    internet.check_output("systemctl restart %s", CLOUD)
    yield
    put(internet, before, ACCOUNTS)


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "a token that is none": ({"ngrok_authtoken": "guessed-7c1f"}, "ERR_NGROK_105", "https://dashboard.ngrok.com"),
    "a token of before": ({"ngrok_authtoken": uuid.uuid4().hex}, "ERR_NGROK_107", "https://dashboard.ngrok.com"),
    "somebody else's domain": ({"ngrok_domain": "foreign.ngrok.test"}, "ERR_NGROK_320", "foreign.ngrok.test"),
}


@pytest.mark.usefixtures("free_account")
def test_what_ngrok_refuses_stops_the_play_and_is_put_right_by_the_next(host: Host, internet: Host) -> None:
    """In one test, since it is one story: after the last the address is the one of before."""
    for what, (values, reason, fix) in WRONG.items():
        output = refused(*TAGS, "-v", **values)
        said = _shown(output)
        print(what, said, sep="\n")
        assert f"ngrok gives no public address: {reason}" in said, what
        assert fix in said
        if token := values.get("ngrok_authtoken"):
            assert token not in output
            assert token not in host.check_output("journalctl --no-pager")

    output = converge(*TAGS, ngrok_authtoken="")
    assert "No public address: get a token at https://dashboard.ngrok.com" in output
    assert host.run("systemctl is-active %s", UNIT).stdout.strip() == "inactive"
    assert not host.file("/etc/ngrok").exists
    assert not host.file("/etc/systemd/system/ngrok.service").exists

    output = converge(*TAGS, "-vvv")
    assert f"https://{NAME} reaches this service" in output
    assert _certificates("ngrok_token") not in output
    assert code(visit(internet, User_Agent="Mozilla/5.0")) == "ERR_NGROK_6024"
    assert visit(internet, User_Agent="curl/8").status == 200
