"""The screen of playbooks/status.yml."""

import textwrap

WIDTH = 100
# A blank at which no line ends
KEEP = "\N{NO-BREAK SPACE}"
# Services by their group in the inventory; those of `celery` are in the host's own list
UNIT_OF = {
    "rabbitmq": "rabbitmq-server.service",
    "redis": "redis-server.service",
    "mailbox": "messaging-mailbox.service",
    "app": "messaging-web.service",
    "flower": "messaging-flower.service",
    "nginx": "nginx.service",
    "ngrok": "ngrok.service",
    "sshtunnel": "messaging-sshtunnel.service",
}
MONITORING = [
    f"messaging-monitoring-{name}.service" for name in ("prometheus", "alertmanager", "node", "nginx", "redis")
]
# The group alone does not say that it acts
TUNNELS = {"ngrok": "ngrok", "sshtunnel": "ssh"}
NAMES = {
    "rabbitmq-server": "RabbitMQ",
    "redis-server": "Redis",
    "nginx": "nginx",
    "python3": "Python",
    "ngrok": "ngrok",
}
APPLICATION = {"app", "celery", "flower", "mailbox"}
TARGET = "messaging.target"
# A certificate is made anew or renewed in its last 90 or 30 days
CERTIFICATE_DAYS = {"/etc/nginx/messaging-tls": 14, "/etc/letsencrypt": 14, "": 30}
# ngrok refuses agents that are too old
AGENT_DAYS = 365
DISK_FREE = 0.1
DISK_ENOUGH = 20 * 1024**3
HAND_QUEUES = {"dead": "messagingctl dead list", "unrouted": "run the playbook with --tags rabbitmq"}


def status_screen(hosts, checkout, when):
    """The screen, and what is wrong.

    Args:
        hosts: of each host its `name`, its `groups`, its `tunnel`, whether it has `monitoring`, and what host_status
            `said`.
        checkout: the release that this checkout would be; empty where that is not known.
        when: what time it is, as text.
    """
    wrong, notes, blocks = [], [], []
    for host in hosts:
        said = host["said"]
        if "units" not in said:
            wrong.append((host["name"], f"cannot be asked: {' '.join(str(said.get('msg', 'no answer')).split())}"))
            continue
        blocks.append(_block(host))
        wrong += [(host["name"], text) for text in _wrong(host)]
        notes += [(host["name"], text) for text in _notes(host)]
    answering = [host for host in hosts if "units" in host["said"]]
    wrong += [("queues", text) for text in _queues_wrong(answering)]
    wrong += [("releases", text) for text in _releases_wrong(answering)]
    live = {host["said"]["release"] for host in answering if APPLICATION & set(host["groups"])} - {""}
    if checkout and live and live != {checkout}:
        notes.append(("releases", f"this checkout is {checkout}: make deploy would bring it"))
    verdict = (
        "all is well" if not wrong else "1 thing is wrong" if len(wrong) == 1 else f"{len(wrong)} things are wrong"
    )
    parts = [f"messaging-system, {when}: {verdict}", *blocks, _queues(answering)]
    parts += [_listed("wrong", wrong), _listed("to know", notes)]
    text = "\n\n".join(part for part in parts if part) + "\n"
    return {"text": text, "wrong": [f"{where}: {what}" for where, what in wrong]}


def expected(host):
    """The units that have to run on a host, by what the inventory lists it under."""
    groups, workers = set(host["groups"]), host["said"].get("workers", [])
    found = [
        unit
        for group, unit in UNIT_OF.items()
        if group in groups and TUNNELS.get(group, host["tunnel"]) == host["tunnel"]
    ]
    if groups & APPLICATION:
        found.append("messaging-metrics.service")
    if host["monitoring"]:
        found += MONITORING
    return found + ([f"messaging-worker@{name}.service" for name in workers] if "celery" in groups else [])


def _runs(host, unit):
    return host["said"]["units"].get(unit, {}).get("ActiveState") == "active"


def _wrong(host):
    said, groups = host["said"], set(host["groups"])
    if groups & APPLICATION and TARGET in said["units"] and not _runs(host, TARGET):
        yield "is stopped: make start"
    else:
        for unit in expected(host):
            if unit not in said["units"]:
                yield f"{unit} is not there: make deploy"
            elif not _runs(host, unit):
                yield f"{unit} is {said['units'][unit]['ActiveState']}: journalctl --unit {unit}"
            elif said["units"][unit].get("UnitFileState") == "disabled":
                yield f"{unit} would not come back after a reboot: make deploy"
        if "celery" in groups and not said["workers"]:
            yield "has no worker: make deploy"
        if "app" in groups and _runs(host, UNIT_OF["app"]):
            if not said["ready"]:
                yield "the application does not answer: journalctl --unit messaging-web"
            for part, word in said["ready"].items():
                if word != "ok":
                    yield f"the application says of {part}: {word}"
        if "rabbitmq" in groups and _runs(host, UNIT_OF["rabbitmq"]) and said["queues"] is None:
            yield "RabbitMQ does not answer: systemctl status rabbitmq-server"
    for alarm in said["alarms"]:
        yield f"RabbitMQ has an alarm, and takes no mail: {alarm}"
    for disk in said["disks"]:
        if disk["free"] < min(DISK_FREE * disk["size"], DISK_ENOUGH):
            yield f"{disk['path']} has {_size(disk['free'])} of {_size(disk['size'])} left"
    for path, days in said["certificates"].items():
        least = next(days for start, days in CERTIFICATE_DAYS.items() if path.startswith(start))
        if days < least:
            ends = f"ends in {days:.0f} days" if days > 0 else "has ended"
            yield f"the certificate {path} {ends}: make deploy"
    if "ngrok" in groups and (said["ngrok_days"] or 0) > AGENT_DAYS:
        yield f"ngrok's agent is {said['ngrok_days']:.0f} days old: apt-get install --only-upgrade ngrok"


def _notes(host):
    said, groups = host["said"], set(host["groups"])
    for group, unit in UNIT_OF.items():
        if group not in groups and _runs(host, unit):
            yield f"{unit} runs, and the inventory does not list the host under {group}"
    if not host["monitoring"] and any(_runs(host, unit) for unit in MONITORING):
        yield "the monitoring runs, and the inventory does not want it: make deploy"
    if "celery" not in groups and any(
        _runs(host, unit) for unit in said["units"] if unit.startswith("messaging-worker@")
    ):
        yield "workers run, and the inventory does not list the host under celery"
    for name, unit in said["units"].items():
        if unit.get("NeedDaemonReload") == "yes":
            yield f"{name} has been changed and not read: make deploy"
        if int(unit.get("NRestarts") or 0) > 0:
            yield f"{name} has been started {unit['NRestarts']} times by itself since it was last started"


def _queues_wrong(hosts):
    queues = _all_queues(hosts)
    for name, fix in HAND_QUEUES.items():
        if queues.get(name, {}).get("waiting"):
            yield f"{queues[name]['waiting']} in {name}: {fix}"
    for name, queue in queues.items():
        if not _is_own(name) and queue.get("waiting") and not queue.get("consumers"):
            yield f"{queue['waiting']} in {name}, and nobody reads it: systemctl status 'messaging-worker@*'"


def _releases_wrong(hosts):
    live = {}
    for host in hosts:
        if APPLICATION & set(host["groups"]):
            live.setdefault(host["said"]["release"] or "none", []).append(host["name"])
    if len(live) > 1:
        yield "not the same on all hosts: " + "; ".join(
            f"{release} on {', '.join(names)}" for release, names in sorted(live.items())
        )


def _block(host):
    said = host["said"]
    free, size = (_size(megabytes * 1024**2) for megabytes in said["memory_mb"])
    head = f"{host['name']}  {said['system']}, up {_span(said['uptime'])}, memory {free} of {size} free"
    versions = [f"{name} {said['versions'][package]}" for package, name in NAMES.items() if package in said["versions"]]
    rows = [
        ("units", _units(host)),
        ("versions", ", ".join([*([f"release {said['release']}"] if said["release"] else []), *versions])),
        (
            "disk",
            ", ".join(f"{disk['path']} {_size(disk['free'])} of {_size(disk['size'])} free" for disk in said["disks"]),
        ),
        (
            "expiry",
            ", ".join([*(f"{path} {days:.0f} days" for path, days in said["certificates"].items()), *_agent(host)]),
        ),
        ("errors", _errors(said)),
    ]
    return "\n".join([head, *(_row(name, text) for name, text in rows if text)])


def _units(host):
    units = expected(host)
    if not units:
        return "none of ours"
    short = [unit.removesuffix(".service").removeprefix("messaging-") for unit in units]
    return ", ".join(
        name if _runs(host, unit) else f"{name} ({_state(host, unit)})" for name, unit in zip(short, units, strict=True)
    )


def _state(host, unit):
    return host["said"]["units"].get(unit, {}).get("ActiveState", "not there").upper()


def _agent(host):
    days = host["said"]["ngrok_days"]
    return [f"ngrok's agent is {days:.0f} days old"] if days is not None and "ngrok" in host["groups"] else []


def _errors(said):
    if not said["errors_count"]:
        return "none in the last hour"
    return "\n".join([f"{said['errors_count']} in the last hour, the last:", *said["errors"]])


def _queues(hosts):
    queues = _all_queues(hosts)
    delayed = sum(queue.get("waiting", 0) for name, queue in queues.items() if name.startswith("delay."))
    work = [name for name in sorted(queues) if not _is_own(name)]
    counts = [(name, queues[name].get("waiting", 0)) for name in [*work, *HAND_QUEUES] if name in queues]
    counts.insert(len(work), ("to be tried again", delayed))
    # what belongs together stays on one line
    words = [f"{name} {number}".replace(" ", KEEP) for name, number in counts] if queues else []
    return "queues\n" + _row("waiting", ", ".join(words)) if words else ""


def _is_own(name):
    """Whether it is one that no worker reads."""
    return name in HAND_QUEUES or name.startswith("delay.") or name == "dead.notices"


def _all_queues(hosts):
    """Each broker tells of those that it leads."""
    found = {}
    for host in hosts:
        for name, queue in (host["said"]["queues"] or {}).items():
            for word, number in queue.items():
                known = found.setdefault(name, {})
                known[word] = known.get(word, 0) + number
    return found


def _listed(title, lines):
    return "\n".join([title, *(_wrapped(f"  {where}: ", what) for where, what in lines)]) if lines else ""


def _row(name, text):
    return "\n".join(_wrapped(f"  {name:<10}" if first else " " * 12, line) for first, line in _numbered(text))


def _numbered(text):
    return ((number == 0, line) for number, line in enumerate(text.splitlines()))


def _wrapped(start, text):
    # what a stranger has a hand in must not move the cursor
    text = "".join(letter if letter.isprintable() or letter == KEEP else "?" for letter in text)
    filled = textwrap.fill(
        text[:400],
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * min(len(start), 12),
        break_on_hyphens=False,
        break_long_words=False,
    )
    return filled.replace(KEEP, " ")


def _size(size):
    return f"{size / 1024**3:.0f} GiB" if size >= 10 * 1024**3 else f"{size / 1024**3:.1f} GiB"


def _span(seconds):
    for size, name in ((86400, "days"), (3600, "hours"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


class FilterModule:
    """Makes the filters known to Ansible."""

    def filters(self):
        """Names in templates, and what they are."""
        return {"status_screen": status_screen}
