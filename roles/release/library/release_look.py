#!/usr/bin/python
"""Ansible module: which releases a host has, and which of them its services run. Changes nothing."""

import glob
import json
import os
import re

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: release_look
short_description: Which releases a host has, and which of them its services run
options:
  root: {description: Directory of the application., type: path, default: /opt/messaging-system}
  etc: {description: Directory of the settings., type: path, default: /etc/messaging-system}
  units: {description: Directory of the units., type: path, default: /etc/systemd/system}
author:
  - messaging-system
"""

EXAMPLES = r"""
- name: Look at the releases
  release_look:
  register: look
"""

RETURN = r"""
live: {description: Name of the release that is live on the whole host., type: str, returned: always}
running: {description: Names of the releases in the units., type: list, elements: str, returned: always}
releases:
  description: >-
    The complete ones, what was live last first. C(settings) is the directory of the settings it was last live with,
    empty where nothing was kept of how it ran, and C(reads) what they say of mail and queues; C(left) tells that it was
    rolled back from.
  type: list
  elements: dict
  returned: always
reads: {description: What the settings say that are live or in a unit., type: list, elements: dict, returned: always}
mailbox: {description: Whether the host has the embedded mailbox., type: bool, returned: always}
queues: {description: Queues that the workers of the host work on., type: list, elements: str, returned: always}
"""

# What a rollback can bring back only where other things are as they were
READS = ("SMTP_HOST", "SMTP_USERNAME", "MAIL_EMBEDDED", "QUEUES")


def read(path):
    with open(path) as stream:
        return stream.read()


def reads(settings):
    """What a directory of settings says of mail and queues; None where it cannot be read."""
    try:
        lines = re.findall(r"(?m)^MSG_(\w+)=(.*)$", read(os.path.join(settings, "messaging.env")))
        return {name: json.loads(value) for name, value in lines if name in READS}
    except (OSError, ValueError):
        return None


def release(path, etc):
    """One release, from the path of its .complete."""
    directory = os.path.dirname(path)
    name = os.path.basename(directory)
    settings = os.path.realpath(os.path.join(etc, "releases", name, "live"))
    kept = glob.glob(os.path.join(settings, "units", "*.service"))
    return {
        "name": name,
        "live_at": int(os.stat(directory).st_mtime),
        "settings": settings if kept else "",
        "reads": reads(settings),
        "left": os.path.exists(os.path.join(etc, "releases", name, "left")),
    }


def look(root, etc, units):
    """What the module returns."""
    texts = [read(path) for path in glob.glob(os.path.join(units, "messaging-*.service"))]
    running = {name for text in texts for name in re.findall(r"(?m)^ExecStart=\S+/releases/([^/\s]+)/", text)}
    current = os.path.join(root, "current")
    found = [release(path, etc) for path in glob.glob(os.path.join(root, "releases", "*", ".complete"))]
    settings = {path for text in texts for path in re.findall(r"(?m)^Environment=MSG_CONFIG_DIR=(\S+)", text)}
    workers = [read(path) for path in glob.glob(os.path.join(etc, "workers", "*.env"))]
    return {
        "live": os.path.basename(os.path.realpath(current)) if os.path.exists(current) else "",
        "running": sorted(running),
        "releases": sorted(found, key=lambda each: each["live_at"], reverse=True),
        "reads": [each for each in map(reads, sorted(settings | {os.path.join(etc, "current")})) if each is not None],
        "mailbox": os.path.exists(os.path.join(units, "messaging-mailbox.service")),
        "queues": sorted(
            {
                queue
                for text in workers
                for line in re.findall(r"(?m)^WORKER_QUEUES=(.+)$", text)
                for queue in line.split(",")
            }
        ),
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/messaging-system"},
            "etc": {"type": "path", "default": "/etc/messaging-system"},
            "units": {"type": "path", "default": "/etc/systemd/system"},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, **look(**module.params))


if __name__ == "__main__":
    main()
