#!/usr/bin/python
"""Ansible module: how a host is, in one call that changes nothing."""

import datetime
import glob
import http.client
import json
import os
import re
import socket
import subprocess
import time
import urllib.request

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_status
short_description: How a host is
description:
  - Asks systemd for the units, the application whether it is ready, and RabbitMQ's own metrics for the queues; reads
    versions, disks, memory, certificates and the last errors. No password is needed. Changes nothing and runs in check
    mode too.
author:
  - messaging-system
"""

EXAMPLES = r"""
- name: Look at the host
  host_status:
  register: status
"""

RETURN = r"""
now: {description: The host's clock in seconds since the epoch., type: float, returned: always}
system: {description: Name and version of the distribution., type: str, returned: always}
uptime: {description: Seconds since it was started., type: float, returned: always}
memory_mb: {description: Free memory and all of it., type: list, elements: int, returned: always}
units:
  description: Properties of each unit that systemd knows, by its name; see systemctl show.
  type: dict
  returned: always
workers: {description: Names of the workers that the playbook made., type: list, elements: str, returned: always}
versions: {description: Versions of what is installed, by name., type: dict, returned: always}
release: {description: The live release; empty where there is none., type: str, returned: always}
ready:
  description: What /readyz says of each part; empty where the application does not answer.
  type: dict
  returned: always
queues:
  description: >-
    Waiting messages and consumers of each queue whose leader this host has; null where RabbitMQ does not answer.
  type: dict
  returned: always
alarms: {description: Names of RabbitMQ's alarms that are on., type: list, elements: str, returned: always}
disks:
  description: Path, free bytes and all bytes of each file system that holds something of ours.
  type: list
  elements: dict
  returned: always
certificates: {description: Days until each ends, by its path., type: dict, returned: always}
ngrok_days: {description: How old ngrok's agent is, in days; null where it is not there., type: float, returned: always}
errors: {description: The last errors of the last hour, the newest last., type: list, elements: str, returned: always}
errors_count: {description: How many there were., type: int, returned: always}
"""

SERVICES = (
    "rabbitmq-server",
    "redis-server",
    "nginx",
    "ngrok",
    "messaging-web",
    "messaging-flower",
    "messaging-mailbox",
    "messaging-metrics",
    "messaging-sshtunnel",
    "messaging-monitoring-prometheus",
    "messaging-monitoring-alertmanager",
    "messaging-monitoring-node",
    "messaging-monitoring-nginx",
    "messaging-monitoring-redis",
)
UNITS = (*(name + ".service" for name in SERVICES), "messaging-worker@*.service", "messaging.target")
PROPERTIES = "Id,LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,NRestarts"
PACKAGES = ("rabbitmq-server", "redis-server", "nginx", "ngrok", "python3")
CERTIFICATES = (
    "/etc/nginx/messaging-tls/fullchain.pem",
    "/etc/letsencrypt/live/messaging-system/fullchain.pem",
    "/etc/rabbitmq/host.crt",
    "/etc/redis/tls.crt",
)
DISKS = ("/", "/opt", "/var/log", "/var/lib/rabbitmq", "/var/lib/redis", "/var/lib/messaging-system")
AGENTS = ("/usr/local/bin/ngrok", "/usr/bin/ngrok")
METRICS = "http://127.0.0.1:15692"
DETAILS = METRICS + "/metrics/detailed?vhost=messaging&family=queue_coarse_metrics&family=queue_consumer_count"
DAY = 86400.0
ERRORS_KEPT = 3


def read(path):
    try:
        with open(path, errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def said(*command):
    """What a command prints; nothing where it does not exist or takes too long."""
    try:
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.decode("utf-8", "replace")


def units(workers):
    # by name too: one that is stopped may not be loaded
    own = ["messaging-worker@{0}.service".format(name) for name in workers]
    shown = said("systemctl", "show", "-p", PROPERTIES, *UNITS, *own)
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in shown.split("\n\n")]
    return {unit["Id"]: unit for unit in blocks if unit.get("LoadState", "not-found") != "not-found"}


def versions():
    found = {}
    for block in read("/var/lib/dpkg/status").split("\n\n"):
        name = block.split("\n", 1)[0].partition(": ")[2]
        if name in PACKAGES and "\nStatus: install ok installed\n" in block:
            version = re.search(r"^Version: (?:\d+:)?([0-9][0-9.]*[0-9])", block, re.M)
            found[name] = version.group(1) if version else "?"
    return found


class UnixConnection(http.client.HTTPConnection):
    """HTTP through a socket of the host."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host)


def ready():
    """The application's own answer, whether it is ready or not."""
    connection = UnixConnection("/run/messaging-web.sock", timeout=5)
    try:
        connection.request("GET", "/readyz", headers={"Host": "localhost"})
        return json.loads(connection.getresponse().read().decode("utf-8")).get("checks") or {}
    except (OSError, ValueError, http.client.HTTPException):
        return {}
    finally:
        connection.close()


def asked(url):
    # No proxy: it is on this host, whatever the environment says
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as answer:
        return answer.read().decode("utf-8", "replace")


def broker():
    """Queues and alarms, as RabbitMQ tells Prometheus; nothing and no alarms where it does not answer."""
    try:
        details, metrics = asked(DETAILS), asked(METRICS + "/metrics")
    except (OSError, ValueError, http.client.HTTPException):
        return None, []
    queues = {}
    pattern = r'^rabbitmq_detailed_queue_(messages_ready|consumers)\{[^}]*queue="([^"]+)"\} (\d+)'
    for name, queue, number in re.findall(pattern, details, re.M):
        # those of Celery itself have names of one time; a work queue may be called celery too
        if not re.match(r"celeryev\.|.*\.pidbox$", queue):
            queues.setdefault(queue, {})["waiting" if name == "messages_ready" else "consumers"] = int(number)
    alarms = re.findall(r"^rabbitmq_alarms_(\w+) [1-9]", metrics, re.M)
    return queues, sorted(alarm.replace("_", " ") for alarm in alarms)


def disks():
    found = {}
    for path in DISKS:
        try:
            device, space = os.stat(path).st_dev, os.statvfs(path)
        except OSError:
            continue
        found.setdefault(
            device, {"path": path, "free": space.f_bavail * space.f_frsize, "size": space.f_blocks * space.f_frsize}
        )
    return list(found.values())


def certificates(now):
    found = {}
    for path in filter(os.path.exists, CERTIFICATES):
        end = said("openssl", "x509", "-noout", "-enddate", "-in", path).strip().partition("=")[2]
        try:
            ends = datetime.datetime.strptime(end, "%b %d %H:%M:%S %Y %Z").replace(tzinfo=datetime.timezone.utc)
        except ValueError:
            continue
        found[path] = (ends.timestamp() - now) / DAY
    return found


def errors():
    """What the services said in the last hour: ours in JSON, with the addresses masked."""
    lines = said(
        "journalctl", "--no-pager", "--quiet", "--since=-1h", "--output=json", "--output-fields=MESSAGE,PRIORITY",
        "--unit=messaging*", "--unit=rabbitmq-server", "--unit=redis-server", "--unit=nginx", "--unit=ngrok",
        "--lines=20000", "--grep", r'"level": "(ERROR|CRITICAL)"|^(?!\{)',
    ).splitlines()  # fmt: skip
    found = []
    # of --lines with --grep, journalctl begins with the newest
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        message = entry.get("MESSAGE")
        if not isinstance(message, str):
            continue
        if message.startswith("{"):
            try:
                message = json.loads(message)["message"]
            except (ValueError, KeyError, TypeError):
                continue
        elif entry.get("PRIORITY", "6") > "3":
            continue
        at = time.strftime("%H:%M:%S", time.localtime(int(entry["__REALTIME_TIMESTAMP"]) / 1e6))
        found.append("{0} {1}".format(at, message.split("\n", 1)[0]))
    return found


def memory():
    values = dict(re.findall(r"^(MemAvailable|MemTotal):\s+(\d+) kB", read("/proc/meminfo"), re.M))
    return [int(values.get(name, 0)) // 1024 for name in ("MemAvailable", "MemTotal")]


def main():
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    now = time.time()
    system = dict(line.split("=", 1) for line in read("/etc/os-release").splitlines() if "=" in line)
    queues, alarms = broker()
    agents = [os.path.getmtime(path) for path in AGENTS if os.path.exists(path)]
    found = errors()
    workers = [os.path.basename(path)[:-4] for path in sorted(glob.glob("/etc/messaging-system/workers/*.env"))]
    live = "/opt/messaging-system/current"
    module.exit_json(
        changed=False,
        now=now,
        system="{0} {1}".format(system.get("ID", "?").strip('"'), system.get("VERSION_ID", "").strip('"')),
        uptime=float((read("/proc/uptime").split() or ["0"])[0]),
        memory_mb=memory(),
        units=units(workers),
        workers=workers,
        versions=versions(),
        release=os.path.basename(os.readlink(live)) if os.path.islink(live) else "",
        ready=ready(),
        queues=queues,
        alarms=alarms,
        disks=disks(),
        certificates=certificates(now),
        ngrok_days=(now - agents[0]) / DAY if agents else None,
        errors=found[-ERRORS_KEPT:],
        errors_count=len(found),
    )


if __name__ == "__main__":
    main()
