#!/usr/bin/python
"""Ansible module: what the preflight wants to know about a host, in one call that changes nothing."""

import glob
import os
import re
import socket
import subprocess
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_probe
short_description: What the preflight wants to know about a host
description:
  - Reads the installed packages, the memory, who listens on which TCP port, where SSH comes in, the node name of a
    RabbitMQ that is already there, and what earlier runs have made. Changes nothing and runs in check mode too.
options:
  secrets:
    description: What files with secrets should hold, by path. Only whether they do is told.
    type: dict
    default: {}
  peers:
    description: Addresses of the other hosts of the cluster.
    type: list
    elements: str
    default: []
  addresses:
    description: By unit, the host and the port at which those answer that have no socket in the file system.
    type: dict
    default: {}
author:
  - messaging-system
"""

EXAMPLES = r"""
- name: Look at the host
  host_probe:
  register: messaging_probe
"""

RETURN = r"""
ansible_facts: {description: Which distribution it is., type: dict, returned: always}
packages: {description: Names of the installed packages., type: list, elements: str, returned: always}
packages_before:
  description: Names of the packages that were there before the first run; none where that was not noted.
  type: list
  elements: str
  returned: always
packages_brought:
  description: Names of the packages that a run of the playbook has installed, also if they are gone by now.
  type: list
  elements: str
  returned: always
fresh: {description: Whether no run has set up anything here., type: bool, returned: always}
package_lists: {description: Whether apt knows any package., type: bool, returned: always}
memory_mb: {description: Memory of the host., type: int, returned: always}
listeners:
  description: Port (as text) to the names of the processes that listen on it; empty where they cannot be told.
  type: dict
  returned: always
rabbitmq_nodename: {description: NODENAME in rabbitmq-env.conf or empty., type: str, returned: always}
rabbitmq_vhosts:
  description: Virtual hosts that a RabbitMQ has data of, whether it runs or not.
  type: list
  elements: str
  returned: always
rabbitmq_cluster:
  description: Nodes of its cluster as it knows them, itself among them; empty if it never ran.
  type: list
  elements: str
  returned: always
releases: {description: Names of the releases that are complete., type: list, elements: str, returned: always}
release_live:
  description: The directories of the live release and of the settings that it runs with; empty where there are none.
  type: list
  elements: str
  returned: always
workers: {description: Names of the workers that an earlier run made., type: list, elements: str, returned: always}
systemd: {description: Whether systemd runs the host., type: bool, returned: always}
user: {description: Whether the user of the service exists., type: bool, returned: always}
ipv6: {description: Whether the host has an IPv6 address beyond loopback., type: bool, returned: always}
secrets_differ: {description: Those of O(secrets) that are not so., type: list, elements: str, returned: always}
secrets_over:
  description: Files with secrets that others have replaced more than a day ago.
  type: list
  elements: str
  returned: always
redis_in_cluster:
  description: Whether an earlier run let the hosts of a cluster reach Redis.
  type: bool
  returned: always
mailbox: {description: Whether an earlier run made the embedded mailbox., type: bool, returned: always}
sshtunnel: {description: Whether an earlier run made the tunnel with SSH., type: bool, returned: always}
monitoring: {description: Whether an earlier run made the monitoring., type: bool, returned: always}
ngrok: {description: Whether an earlier run made the unit of ngrok., type: bool, returned: always}
ssh_ports:
  description: >-
    Ports on which SSH comes in, ascending: of the connection that this module came through, of every running sshd, of
    its configuration and of ssh.socket.
  type: list
  elements: int
  returned: always
own_addresses: {description: IPv4 addresses of the host but loopback's., type: list, elements: str, returned: always}
peer_sources:
  description: The host's own addresses from which its connections to O(peers) come.
  type: list
  elements: str
  returned: always
firewall_unit: {description: Whether an earlier run made the firewall., type: bool, returned: always}
firewall_live: {description: Whether our table is in the kernel., type: bool, returned: always}
firewall_rules: {description: The rules of the firewall that an earlier run made., type: str, returned: always}
cluster_firewall_unit: {description: Whether an earlier run shut the cluster's ports., type: bool, returned: always}
cluster_firewall_live: {description: Whether its table is in the kernel., type: bool, returned: always}
stale_units:
  description: Units that run with older files than those that are there, since an earlier run was cut short.
  type: list
  elements: str
  returned: always
running:
  description: >-
    Units of ours that run, answer, start with the host, and have no newer file that systemd has not read.
  type: list
  elements: str
  returned: always
unattended_upgrades: {description: Whether an earlier run has set them., type: bool, returned: always}
"""

# The first thing that a role makes
MADE = (
    "/etc/messaging-system",
    "/etc/messaging-tunnel",
    "/etc/rabbitmq/definitions.json",
    "/etc/redis/password.conf",
    "/opt/messaging-system",
    "/var/www/messaging-system",
)

MONITORING_SANDBOX = "/etc/systemd/system/messaging-monitoring-.service.d/20-monitoring.conf"

# What a service reads when it starts, and nothing that it takes on while it runs
READ_AT_START = {
    "rabbitmq-server.service": (
        "/etc/rabbitmq/rabbitmq.conf",
        "/etc/rabbitmq/rabbitmq-env.conf",
        "/etc/rabbitmq/enabled_plugins",
        "/etc/systemd/system/rabbitmq-server.service.d/messaging.conf",
    ),
    "rabbitmq-revive-queues.timer": (
        "/etc/systemd/system/rabbitmq-revive-queues.timer",
        "/etc/systemd/system/rabbitmq-revive-queues.service",
    ),
    "redis-server.service": (
        "/etc/redis/redis.conf",
        "/etc/redis/tls.crt",
        "/etc/redis/tls.key",
        "/etc/systemd/system/redis-server.service.d/messaging.conf",
    ),
    "messaging-metrics.service": ("/etc/systemd/system/messaging-metrics.service",),
    "messaging-mailbox.service": ("/etc/systemd/system/messaging-mailbox.service",),
    "messaging-web.socket": ("/etc/systemd/system/messaging-web.socket",),
    "messaging-web.service": ("/etc/systemd/system/messaging-web.service",),
    "messaging-flower.socket": ("/etc/systemd/system/messaging-flower.socket",),
    "messaging-flower.service": (
        "/etc/systemd/system/messaging-flower.service",
        "/etc/messaging-system/secrets/flower_broker_api",
    ),
    "messaging-sshtunnel.service": (
        "/etc/messaging-tunnel/known_hosts",
        "/etc/messaging-tunnel/ssh_config",
        "/etc/systemd/system/messaging-sshtunnel.service.d/20-user.conf",
        "/etc/systemd/system/messaging-sshtunnel.service",
    ),
    "messaging-monitoring-node.service": (
        MONITORING_SANDBOX,
        "/etc/systemd/system/messaging-monitoring-node.service.d/30-host.conf",
        "/etc/systemd/system/messaging-monitoring-node.service",
    ),
    "messaging-monitoring-nginx.service": (
        MONITORING_SANDBOX,
        "/etc/systemd/system/messaging-monitoring-nginx.service",
    ),
    "messaging-monitoring-redis.service": (
        MONITORING_SANDBOX,
        "/etc/systemd/system/messaging-monitoring-redis.service",
        "/etc/messaging-monitoring/redis.json",
    ),
    "messaging-monitoring-alertmanager.service": (
        MONITORING_SANDBOX,
        "/etc/systemd/system/messaging-monitoring-alertmanager.service",
        "/etc/messaging-monitoring/alertmanager.yml",
    ),
    "messaging-monitoring-prometheus.service": (
        MONITORING_SANDBOX,
        "/etc/systemd/system/messaging-monitoring-prometheus.service",
        "/etc/messaging-monitoring/prometheus.yml",
        "/etc/messaging-monitoring/rules.yml",
    ),
    "messaging-monitoring-facts.timer": (
        "/etc/systemd/system/messaging-monitoring-facts.timer",
        "/etc/systemd/system/messaging-monitoring-facts.service",
        "/usr/local/sbin/messaging-monitoring-facts",
    ),
    "ngrok.service": ("/etc/ngrok/ngrok.yml", "/usr/local/sbin/messaging-ngrok", "/etc/systemd/system/ngrok.service"),
}
WORKER_UNIT = "/etc/systemd/system/messaging-worker@.service"
WORKERS = "/etc/messaging-system/workers/*.env"
ALL_UNITS = (*READ_AT_START, "messaging-worker@*.service", "messaging.target", "nginx.service")
PROPERTIES = "Id,ActiveState,UnitFileState,NeedDaemonReload,ActiveEnterTimestamp,ExecMainStartTimestamp"


# Where a service answers, what it is asked, and what one that works answers. Of the others systemd knows whether
# they work
HTTP = "GET {0} HTTP/1.0\r\nHost: localhost\r\n\r\n"
QUESTIONS = {
    "redis-server.service": ("/run/redis/redis-server.sock", "AUTH {redis_password}\r\nPING\r\n", r"\+PONG"),
    "messaging-web.service": ("/run/messaging-web.sock", HTTP.format("/healthz"), r"HTTP/1.. 200 "),
    # that it wants a password is an answer
    "messaging-flower.service": ("/run/messaging-flower.sock", HTTP.format("/flower/"), r"HTTP/1.. (200|401) "),
    "messaging-metrics.service": (None, HTTP.format("/metrics"), r"HTTP/1.. 200 "),
    "messaging-mailbox.service": (None, "", r"220 "),
}


def read(path):
    try:
        with open(path, errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def packages():
    names = []
    for block in read("/var/lib/dpkg/status").split("\n\n"):
        if "\nStatus: install ok installed\n" in block or "\nStatus: hold ok installed\n" in block:
            names.append(block.split("\n", 1)[0].partition(": ")[2])
    return names


def packages_before():
    path = "/var/lib/messaging-system.packages-before"
    return read(path).split() if os.path.exists(path) else None


def listeners():
    """Ports in LISTEN, each with the ids of its processes, found by the inode of the socket."""
    port_of = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in read(table).splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                port_of[fields[9]] = str(int(fields[1].rpartition(":")[2], 16))
    found = {port: set() for port in port_of.values()}
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            inode = os.readlink(link)[8:-1]  # socket:[12345]
        except OSError:
            continue
        if inode in port_of:
            found[port_of[inode]].add(link.split("/")[2])
    return found


def name(process):
    return read("/proc/{0}/comm".format(process)).strip()


def parent(process):
    found = re.search(r"^PPid:\s+(\d+)", read("/proc/{0}/status".format(process)), re.M)
    return found.group(1) if found else "0"


def said(*command):
    """What a command prints; nothing where it does not exist or fails."""
    try:
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.decode("utf-8", "replace") if result.returncode == 0 else ""


def own_addresses():
    """Of the kernel's table of routes, those to the host itself."""
    found = re.findall(r"-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host LOCAL", read("/proc/net/fib_trie"))
    return sorted({address for address in found if not address.startswith("127.")})


def peer_sources(peers):
    """Asks the kernel alone: a datagram socket that is connected has sent nothing yet."""
    found = set()
    for peer in peers:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((peer, 9))
                found.add(probe.getsockname()[0])
        except OSError:
            continue  # no address, or no way there
    return sorted(found)


def table_is_live(name):
    return bool(said("/usr/sbin/nft", "--stateless", "list", "table", "inet", name))


def ssh_ports(listening):
    # a session listens too, for what it forwards; the daemon alone is a child of systemd
    found = {
        port
        for port, processes in listening.items()
        if any(name(process) in ("sshd", "dropbear") and parent(process) == "1" for process in processes)
    }
    found |= set(re.findall(r"^port (\d+)$", said("/usr/sbin/sshd", "-T"), re.M))
    if said("systemctl", "is-active", "ssh.socket"):
        found |= set(re.findall(r":(\d+) \(Stream\)$", said("systemctl", "show", "-p", "Listen", "ssh.socket"), re.M))
    # sudo drops the variable, so it is looked for in the processes that this one descends from
    process = str(os.getpid())
    while process not in ("0", "1"):
        environment = read("/proc/{0}/environ".format(process)).split("\0")
        connection = [entry.split() for entry in environment if entry.startswith("SSH_CONNECTION=")]
        if connection:  # client's address and port, our address and port
            found.add(connection[0][-1])
            break
        process = parent(process)
    return sorted(int(port) for port in found)


def units_shown():
    """What systemd says of those units that are active."""
    shown = said("systemctl", "show", "--timestamp=unix", "-p", PROPERTIES, *ALL_UNITS)
    blocks = (dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in shown.split("\n\n"))
    return [unit for unit in blocks if unit.get("ActiveState") == "active"]


def started(units):
    """Units that run, each with the second in which it was started; the host's clock has stamped its files too."""
    found = {}
    for unit in units:
        # a socket has no process
        since = unit.get("ExecMainStartTimestamp") or unit.get("ActiveEnterTimestamp", "")
        if re.match(r"@\d+$", since):
            found[unit["Id"]] = int(since[1:])
    return found


def answers(unit, addresses):
    """Whether a service that systemd calls active does answer."""
    if unit not in QUESTIONS:
        return True
    path, question, expected = QUESTIONS[unit]
    if path is None and unit not in addresses:
        return False
    password = "".join(re.findall(r"^requirepass (\S+)$", read("/etc/redis/password.conf"), re.M))
    try:
        with socket.socket(socket.AF_UNIX) if path else socket.socket() as link:
            link.settimeout(5)
            link.connect(path or (addresses[unit][0], int(addresses[unit][1])))
            link.sendall(question.replace("{redis_password}", password).encode())
            said = b""
            while not re.search(expected.encode(), said):
                part = link.recv(4096)
                if not part or len(said) > 65536:
                    return False
                said += part
            return True
    except (OSError, OverflowError, TypeError, ValueError):
        return False  # or no port: the checks say so


def running(units, addresses):
    return sorted(
        unit["Id"]
        for unit in units
        if unit["UnitFileState"] == "enabled" and unit["NeedDaemonReload"] == "no" and answers(unit["Id"], addresses)
    )


def stale_units(running, now):
    files = dict(READ_AT_START)
    for path in glob.glob(WORKERS):
        files["messaging-worker@{0}.service".format(os.path.basename(path)[:-4])] = (WORKER_UNIT, path)
    # one from the future would always be newer
    return sorted(
        unit
        for unit, since in running.items()
        if any(since < int(os.path.getmtime(path)) <= now for path in files.get(unit, ()) if os.path.exists(path))
    )


def led_to(link):
    """Where a link leads, as the units name it: /opt may itself be a link. Empty where there is nothing."""
    there = os.path.islink(link) and os.path.exists(link)
    return os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link))) if there else ""


def distribution():
    """As `setup` calls it. Source: os-release(5)"""
    found = dict(re.findall(r"^(\w+)=\"?(.*?)\"?$", read("/etc/os-release"), re.M))
    version = found.get("VERSION_ID", "")
    return {
        "distribution": found.get("ID", "").capitalize(),
        "distribution_version": version,
        "distribution_major_version": version.partition(".")[0],
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "peers": {"type": "list", "elements": "str", "default": []},
            "addresses": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    memory = re.search(r"^MemTotal:\s+(\d+) kB", read("/proc/meminfo"), re.M)
    node = re.findall(r"^\s*(?:RABBITMQ_)?NODENAME=[\"']?([^\s\"']+)", read("/etc/rabbitmq/rabbitmq-env.conf"), re.M)
    if not node:  # one that its package named
        found = [os.path.basename(os.path.dirname(path)) for path in glob.glob("/var/lib/rabbitmq/mnesia/*@*/")]
        node = [name for name in found if not name.endswith("-plugins-expand")]
    cluster = read("/var/lib/rabbitmq/mnesia/{0}/cluster_nodes.config".format(node[-1])) if node else ""
    listening = listeners()
    units = units_shown()
    module.exit_json(
        changed=False,
        ansible_facts=distribution(),
        packages=packages(),
        packages_before=packages_before(),
        packages_brought=sorted(map(os.path.basename, glob.glob("/var/lib/messaging-system.brought/*"))),
        fresh=not any(os.path.lexists(path) for path in MADE),
        package_lists=bool(glob.glob("/var/lib/apt/lists/*_Packages*")),
        memory_mb=int(memory.group(1)) // 1024 if memory else 0,
        listeners={port: sorted({name(process) for process in processes}) for port, processes in listening.items()},
        rabbitmq_nodename=node[-1] if node else "",
        rabbitmq_vhosts=sorted(map(read, glob.glob("/var/lib/rabbitmq/mnesia/*/msg_stores/vhosts/*/.vhost"))),
        rabbitmq_cluster=sorted(set(re.findall(r"[\w-]+@[\w.-]+", cluster))),
        releases=[path.split("/")[-2] for path in sorted(glob.glob("/opt/messaging-system/releases/*/.complete"))],
        release_live=[led_to(path) for path in ("/opt/messaging-system/current", "/etc/messaging-system/current")],
        workers=[os.path.basename(path)[:-4] for path in sorted(glob.glob("/etc/messaging-system/workers/*.env"))],
        systemd=os.path.isdir("/run/systemd/system"),
        user=bool(re.search(r"^messaging:.*:/usr/sbin/nologin$", read("/etc/passwd"), re.M)),
        ipv6=any(line.split()[-1] != "lo" for line in read("/proc/net/if_inet6").splitlines()),
        secrets_differ=[path for path, value in module.params["secrets"].items() if read(path) not in ("", value)],
        secrets_over=[
            path
            for path in sorted(glob.glob("/etc/messaging-system/secrets/*_previous"))
            if time.time() - os.path.getmtime(path) > 24 * 3600
        ],
        redis_in_cluster=os.path.exists("/etc/systemd/system/redis-server.service.d/messaging-cluster.conf"),
        mailbox=os.path.exists("/etc/systemd/system/messaging-mailbox.service"),
        monitoring=os.path.exists("/etc/messaging-monitoring"),
        sshtunnel=os.path.exists("/etc/systemd/system/messaging-sshtunnel.service"),
        # an operator's own agent has a unit of the same name
        ngrok="messaging-ngrok" in read("/etc/systemd/system/ngrok.service"),
        ngrok_other="messaging-ngrok" not in (read("/etc/systemd/system/ngrok.service") or "messaging-ngrok"),
        ssh_ports=ssh_ports(listening),
        own_addresses=own_addresses(),
        peer_sources=peer_sources(module.params["peers"]),
        firewall_unit=os.path.exists("/etc/systemd/system/base-firewall.service"),
        firewall_live=table_is_live("messaging"),
        firewall_rules=read("/etc/nftables.d/messaging.nft"),
        cluster_firewall_unit=os.path.exists("/etc/systemd/system/base-cluster-firewall.service"),
        cluster_firewall_live=table_is_live("messaging_cluster"),
        stale_units=stale_units(started(units), time.time()),
        running=running(units, module.params["addresses"]),
        unattended_upgrades=os.path.exists("/etc/apt/apt.conf.d/90messaging-unattended-upgrades"),
    )


if __name__ == "__main__":
    main()
