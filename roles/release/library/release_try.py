#!/usr/bin/python
"""Ansible module: run a release beside the live one, and tell whether it can take the place of it."""

import http.client
import json
import os
import shutil
import socket
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: release_try
short_description: Run a release beside the live one, on a socket of its own, and ask whether it is ready
description:
  - Starts the web application of a release as a transient service (user and sandbox are those of the others) with the
    settings it is going to have, and asks it for C(/readyz). Before that, its workers and everything else are imported.
    Nobody else reaches its socket, it takes no task, and afterwards nothing is left of it.
  - A release that is not ready is accepted all the same where the live one is not ready for the same reasons, since it
    makes nothing worse. Where nothing is live, it has to be ready. On a host whose live release has no web application
    there is nobody to compare with, and it only has to run: the hosts that have one compare.
options:
  code: {description: Directory of the release., type: path, required: true}
  settings: {description: Directory of its settings., type: path, required: true}
  sandbox: {description: "Text of a [Service] section, with the sandbox.", type: str, required: true}
  live: {description: Socket of the live one. Without it nothing is compared., type: path}
author:
  - messaging-system
"""

EXAMPLES = r"""
- name: Try the release
  release_try:
    code: /opt/messaging-system/releases/1.0.0-0123456789ab
    settings: /etc/messaging-system/releases/1.0.0-0123456789ab/0123456789abcdef
    sandbox: "{{ lookup('ansible.builtin.file', 'sandbox.conf') }}"
    live: /run/messaging-web.sock
  register: tried
"""

RETURN = r"""
accepted: {description: Whether it may take the place of the live one., type: bool, returned: always}
reason: {description: Why it was refused; or why it was accepted although it is not ready., type: str, returned: always}
"""

# No name that begins with messaging-: the sandbox of the live ones may be another
NAME = "try-messaging-web"
FOLDER = "/run/messaging-try"
SOCKET = FOLDER + "/web.sock"
UNITS = "/run/systemd/system"
SOCKET_UNIT = """[Socket]
ListenStream={socket}
SocketMode=0600
DirectoryMode=0700
RemoveOnStop=yes
"""
SERVICE_UNIT = """[Unit]
Description=messaging-system: a release that is tried
StartLimitIntervalSec=600
StartLimitBurst=1

{sandbox}
[Service]
Type=notify
NotifyAccess=main
Environment=MSG_CONFIG_DIR={settings} MSG_INSTANCE=try MSG_METRICS_PATH=/tmp
ExecStartPre={code}/venv/bin/python -c "import messaging.flower, messaging.mailbox, messaging.metrics"
# builds the worker and lists its options
ExecStartPre=/bin/sh -c "{code}/venv/bin/python -m messaging.worker --help > /dev/null"
ExecStart={code}/venv/bin/gunicorn --config python:messaging.serving --workers 1 --threads 2 \\
    --worker-tmp-dir /dev/shm "messaging.web:create_app()"
ReadWritePaths=/var/log
KillMode=mixed
TimeoutStartSec=120
TimeoutStopSec=15
# Should nobody be left to end it
RuntimeMaxSec=300
"""
# Seconds in which it has to be ready. On a busy host an answer of the broker may take longer than it may wait for one
PATIENCE = 30


class Connection(http.client.HTTPConnection):
    """HTTP by a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(path):
    """What /readyz says at a socket, as part to outcome without those that are ok; None where nobody answers."""
    try:
        connection = Connection(path)
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return None
    if answer.status == 200:
        return {}
    try:
        checks = json.loads(text)["checks"]
        # the relay is named there, and is not a reason
        return {part: outcome for part, outcome in checks.items() if outcome != "ok" and part != "smtp"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"/readyz": "{0}: {1}".format(answer.status, text[:200])}


def verdict(tried, live, said, compared=True):
    """(accepted, reason) from two answers of `ask` and the lines that the one which was tried has printed."""
    if tried == {}:
        return True, ""
    if tried is None:
        return False, "it does not run:\n" + "\n".join(said)
    parts = "\n".join("- {0}: {1}".format(part, outcome) for part, outcome in sorted(tried.items()))
    if not compared:
        return True, "it is not ready, and no web application is here that could be compared:\n" + parts
    if live is None:
        return False, "it is not ready, and nothing is live here that could be compared:\n" + parts
    if live and set(tried) <= set(live):
        return True, "it is not ready, and neither is the live one, for the same reason:\n" + parts
    return False, "it is not ready, and the live one is:\n" + parts if not live else (
        "it is not ready, for more reasons than the live one ({0}):\n".format(", ".join(sorted(live))) + parts
    )


class Trial:
    """The two transient units, while they are there."""

    def __init__(self, module):
        self.module = module

    def run(self, *command):
        return self.module.run_command(list(command))[1]

    def write(self, name, text):
        with open(os.path.join(UNITS, name), "w") as stream:
            stream.write(text)

    def __enter__(self):
        parameters = self.module.params
        self.clear()
        os.makedirs(UNITS, mode=0o755, exist_ok=True)
        self.write(NAME + ".socket", SOCKET_UNIT.format(socket=SOCKET))
        self.write(NAME + ".service", SERVICE_UNIT.format(**parameters))
        self.run("systemctl", "daemon-reload")
        self.begun = time.time()
        self.run("systemctl", "start", NAME + ".socket")
        self.run("systemctl", "start", NAME + ".service")
        return self

    def __exit__(self, *_):
        self.clear()
        self.run("systemctl", "daemon-reload")

    def clear(self):
        self.run("systemctl", "stop", NAME + ".socket", NAME + ".service")
        for name in (NAME + ".socket", NAME + ".service"):
            if os.path.exists(os.path.join(UNITS, name)):
                os.unlink(os.path.join(UNITS, name))
            self.run("systemctl", "reset-failed", name)
        shutil.rmtree(FOLDER, ignore_errors=True)

    def active(self):
        return self.run("systemctl", "is-active", NAME + ".service").strip() == "active"

    def answer(self):
        """Its last answer: the first one that says it is ready, or what it says in the end."""
        answer = None
        deadline = time.monotonic() + PATIENCE
        while self.active() and answer != {} and time.monotonic() < deadline:
            answer = ask(SOCKET)
            if answer != {}:
                time.sleep(0.5)
        return answer

    def said(self):
        self.run("journalctl", "--sync")
        since = "--since=@{0}".format(int(self.begun))
        lines = self.run("journalctl", "--no-pager", "--output=cat", since, "--unit=" + NAME + ".service")
        return lines.splitlines()[-30:]


def main():
    module = AnsibleModule(
        argument_spec={
            "code": {"type": "path", "required": True},
            "settings": {"type": "path", "required": True},
            "sandbox": {"type": "str", "required": True},
            "live": {"type": "path"},
        }
    )
    with Trial(module) as trial:
        tried = trial.answer()
        said = [] if tried is not None else trial.said()
    socket_of_live = module.params["live"]
    live = ask(socket_of_live) if tried and socket_of_live else None
    accepted, reason = verdict(tried, live, said, compared=bool(socket_of_live))
    module.exit_json(changed=False, accepted=accepted, reason=reason)


if __name__ == "__main__":
    main()
