"""What the playbook leaves on a host: packages, units, files, sockets."""

import json
import os
import re
from datetime import datetime
from pathlib import Path

import pytest
from testinfra.host import Host

from probe import SECRETS, TIME_LOG, request, secrets_on_controller, wait_until, workers

RUNNING = [
    "nginx.service",
    "rabbitmq-server.service",
    "redis-server.service",
    "messaging-web.socket",
    "messaging-web.service",
    "messaging-flower.socket",
    "messaging-flower.service",
    "messaging-mailbox.service",
    "messaging-metrics.service",
    "messaging.target",
    "rabbitmq-revive-queues.timer",
]
ENABLED = [unit for unit in RUNNING if unit != "messaging-web.service"]
LOOPBACK = re.compile(r"^(127\.\d+\.\d+\.\d+(%lo)?|\[::1\]|\[::ffff:127\.\d+\.\d+\.\d+\])$")
MAX_EXPOSURE = 2.0


@pytest.mark.parametrize("name", ["rabbitmq-server", "redis-server", "nginx"])
def test_package_is_installed(host: Host, name: str) -> None:
    assert host.package(name).is_installed


def test_nothing_has_failed(host: Host) -> None:
    wait_until(lambda: host.run("systemctl is-system-running").stdout.strip() == "running", "systemd has settled")
    assert host.check_output("systemctl --failed --no-legend --plain") == ""


@pytest.mark.parametrize("unit", RUNNING)
def test_unit_runs(host: Host, unit: str) -> None:
    assert host.check_output("systemctl show --property ActiveState --value %s", unit) == "active"


@pytest.mark.parametrize("unit", ENABLED)
def test_unit_starts_at_boot(host: Host, unit: str) -> None:
    assert host.run("systemctl is-enabled %s", unit).stdout.strip() == "enabled"


def test_workers_run_and_start_at_boot(host: Host) -> None:
    units = workers(host)
    assert any("@email-" in unit for unit in units), units
    for unit in units:
        assert host.run("systemctl is-active %s", unit).stdout.strip() == "active", unit
        assert host.run("systemctl is-enabled %s", unit).stdout.strip() == "enabled", unit


def _exposure(host: Host, *units: str) -> dict[str, float]:
    """What systemd says of each unit, from 0 (nothing is open to it) to 10."""
    said = host.check_output("systemd-analyze --no-pager security" + " %s" * len(units), *units)
    # "→ Overall exposure level for messaging-worker@email-1.service: 1.4 OK :-)"
    found = dict(re.findall(r"Overall exposure level for (\S+): (\d+\.\d)", said))
    assert set(found) == set(units), said
    return {unit: float(level) for unit, level in found.items()}


def test_units_are_sandboxed(host: Host) -> None:
    """Every service of ours that systemd knows, whichever roles the host has."""
    patterns = "'messaging-*.service' 'base-*firewall.service' ngrok.service"
    found = set(workers(host))
    for what in ("list-units --all", "list-unit-files"):
        listed = host.check_output(f"systemctl {what} --no-legend --plain {patterns}")
        found |= {line.split()[0] for line in listed.splitlines()}
    units = sorted(unit for unit in found if "@." not in unit)
    assert {f"messaging-{name}.service" for name in ("web", "flower", "mailbox", "metrics")} <= set(units), units
    exposure = _exposure(host, *units)
    print(exposure)
    assert {unit: level for unit, level in exposure.items() if level > MAX_EXPOSURE} == {}


def test_units_of_the_distribution_are_sandboxed_further(host: Host) -> None:
    """9.4, 9.2, 1.1 and 9.6 without our drop-ins; nginx keeps root's rights to files, ports and users."""
    most = {"rabbitmq-server.service": 1.8, "epmd.service": 1.5, "redis-server.service": 1.0, "nginx.service": 2.8}
    # root's, which may become rabbitmq and ask systemd for a restart
    most["rabbitmq-revive-queues.service"] = 4.0
    exposure = _exposure(host, *most)
    print(exposure)
    assert {unit: level for unit, level in exposure.items() if level > most[unit]} == {}


def test_the_sandbox_holds(host: Host) -> None:
    """What is asked of a running broker it refuses: a file outside its own, and one that is not for it."""
    ask = "rabbitmqctl --quiet eval %s"
    assert host.check_output(ask, 'file:write_file("/etc/rabbitmq/x", <<"x">>).') == "{error,erofs}"
    assert host.check_output(ask, 'file:list_dir("/home").') == "{error,eacces}"


def test_stopped_queues_would_be_noticed(host: Host) -> None:
    """The page has a line for each queue, and RabbitMQ can be asked in the sandbox of the unit."""
    script = "/usr/local/sbin/rabbitmq-revive-queues"
    ask = "import runpy; script = runpy.run_path('{}'); print(sorted(script['{}']()))"
    assert host.check_output("python3 -c %s", ask.format(script, "suspects")) == "[]"
    unit = host.file("/etc/systemd/system/rabbitmq-revive-queues.service").content_string
    sandbox = re.findall(
        r"^((?!Type|ExecStart|Timeout|Syslog|Log)\w+=.*)$", unit.partition("[Service]")[2], re.MULTILINE
    )
    run = "systemd-run --quiet --pipe --wait" + " --property=%s" * len(sandbox) + " python3 -c %s"
    assert host.check_output(run, *sandbox, ask.format(script, "stopped")) == "[]"


def test_nginx_reloads_and_rotates_its_logs_in_its_sandbox(host: Host) -> None:
    main = host.file("/run/nginx.pid").content_string
    access = "stat -c %i /var/log/nginx/access.log"
    before = host.check_output(access)
    host.check_output("systemctl reload nginx")
    host.check_output("logrotate --force /etc/logrotate.d/nginx")
    assert host.check_output(access) != before
    assert host.file("/run/nginx.pid").content_string == main
    probe = f"/rotated-{before}"

    def logged() -> bool:
        request(host, probe)
        return probe in host.file("/var/log/nginx/access.log").content_string

    wait_until(logged, "requests are in the new log")


def test_release_is_complete_and_cannot_be_changed_by_the_service(host: Host) -> None:
    current = host.check_output("readlink -f /opt/messaging-system/current")
    assert re.fullmatch(r"/opt/messaging-system/releases/\d+\.\d+\.\d+-[0-9a-f]{12}", current)
    assert host.file(f"{current}/.complete").exists
    assert host.check_output("find %s ! -user root", current) == ""
    assert host.check_output("find %s ! -type l -perm /022", current) == ""


def test_log_belongs_to_the_service_and_its_readers(host: Host) -> None:
    log = host.file(TIME_LOG)
    assert (log.user, log.group, oct(log.mode)) == ("messaging", "adm", "0o640")


def test_user_cannot_log_in(host: Host) -> None:
    user = host.user("messaging")
    assert user.shell in {"/usr/sbin/nologin", "/bin/false"}
    assert host.check_output("getent shadow messaging").split(":")[1].startswith(("!", "*"))


@pytest.mark.parametrize(
    ("path", "owner", "group", "mode"),
    [
        ("/etc/messaging-system", "root", "messaging", "0o750"),
        ("/etc/messaging-system/releases", "root", "messaging", "0o750"),
        ("/etc/messaging-system/current/messaging.env", "root", "messaging", "0o640"),
        (SECRETS, "root", "messaging", "0o750"),
        (f"{SECRETS}/amqp_password", "root", "messaging", "0o640"),
        (f"{SECRETS}/redis_password", "root", "messaging", "0o640"),
        (f"{SECRETS}/flower_password", "root", "messaging", "0o640"),
        ("/etc/rabbitmq/definitions.json", "root", "rabbitmq", "0o640"),
    ],
)
def test_secret_files_are_closed(host: Host, path: str, owner: str, group: str, mode: str) -> None:
    file = host.file(path)
    assert (file.user, file.group, oct(file.mode)) == (owner, group, mode)


def test_every_secret_has_the_same_owner_and_mode(host: Host) -> None:
    listed = host.check_output("find %s -type f -printf '%%u:%%g %%m %%f\n'", SECRETS).splitlines()
    assert {line.rsplit(" ", 1)[0] for line in listed} == {"root:messaging 640"}, listed


def test_no_secret_can_be_read_by_everybody(host: Host) -> None:
    """Neither from a file that all may read, nor from a process list."""
    secrets = secrets_on_controller()
    assert {"rabbitmq_password", "redis_password", "flower_password"} <= set(secrets)
    # The values come from the host's own files, so that they are on no command line here either.
    script = f"""
        umask 077; values=$(mktemp)
        for file in {SECRETS}/*; do cat "$file"; echo; done > $values
        find /etc /opt/messaging-system /usr/local /var/log /run/systemd -xdev -type f -perm -004 -print0 |
          xargs -0 grep -lFf $values
        for process in /proc/[0-9]*; do tr '\\0' ' ' < $process/cmdline; echo; done 2>/dev/null | grep -cFf $values
        rm $values
    """
    assert host.run("sh -c %s", script).stdout.strip() == "0"


def test_secrets_on_the_controller_are_closed() -> None:
    folder = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "secrets")
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o600"}


def _listeners(host: Host) -> list[tuple[str, str, str]]:
    """(address, port, program) of every TCP listener."""
    found = []
    for line in host.check_output("ss -ltnpH").splitlines():
        address, _, port = line.split()[3].rpartition(":")
        program = re.search(r'users:\(\("([^"]+)"', line)
        found.append((address, port, program.group(1) if program else "?"))
    return found


def test_only_nginx_listens_to_the_network(host: Host) -> None:
    listeners = _listeners(host)
    outside = {(program, port) for address, port, program in listeners if not LOOPBACK.match(address)}
    # sshd is what the scenario `ssh` comes in through; the playbook does not install it.
    assert {entry for entry in outside if entry != ("sshd", "22")} == {("nginx", "80")}, listeners


def test_no_datagram_socket_is_open_to_the_network(host: Host) -> None:
    def none_is_open() -> bool:
        listed = host.check_output("ss -lunpH").splitlines()
        found = [line for line in listed if not LOOPBACK.match(line.split()[3].rpartition(":")[0])]
        print(found)
        return not found

    # one that asks a name server is there for a moment
    wait_until(none_is_open, "no datagram socket is open to the network", 10)


@pytest.mark.parametrize("port", ["4369", "5672", "6379", "15672", "15692", "25672", "2525", "9180"])
def test_service_listens_on_loopback(host: Host, port: str) -> None:
    addresses = {address for address, its_port, _ in _listeners(host) if its_port == port}
    assert addresses
    assert all(LOOPBACK.match(address) for address in addresses), addresses


def test_guest_is_gone(host: Host) -> None:
    users = json.loads(host.check_output("rabbitmqctl --quiet list_users --formatter json"))
    assert {user["user"]: user["tags"] for user in users} == {"messaging": [], "monitor": ["monitoring"]}


def test_queues_are_replicated_and_dead_letters_kept(host: Host) -> None:
    listed = host.check_output("rabbitmqctl --quiet list_queues -p messaging --formatter json name type")
    queues = {queue["name"]: queue["type"] for queue in json.loads(listed)}
    assert {"email", "compute", "dead", "unrouted"} <= set(queues)
    assert {queues[name] for name in ("email", "compute", "dead")} == {"quorum"}


def test_redis_wants_a_password_and_keeps_what_it_has(host: Host) -> None:
    assert "NOAUTH" in host.run("redis-cli ping").stdout
    ask = f"REDISCLI_AUTH=$(cat {SECRETS}/redis_password) redis-cli --no-auth-warning config get %s"
    for name, value in (("appendonly", "yes"), ("maxmemory-policy", "noeviction")):
        assert host.check_output("sh -c %s", ask % name).split() == [name, value]


def test_messagingctl_is_on_the_path(host: Host) -> None:
    configuration = host.check_output("messagingctl config")
    assert "MSG_AMQP_PASSWORD" in configuration
    assert not [name for name, secret in secrets_on_controller().items() if secret in configuration]


def test_the_times_in_the_log_are_iso_8601(host: Host) -> None:
    for line in host.file(TIME_LOG).content_string.splitlines():
        assert datetime.fromisoformat(line.split()[0]).tzinfo is not None, line
