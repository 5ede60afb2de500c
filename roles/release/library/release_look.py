#!/usr/bin/python
"""Ansible module: which releases a host has, and which of them its services run. Changes nothing."""

import glob
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
    empty where nothing was kept of how it ran; C(left) tells that it was rolled back from.
  type: list
  elements: dict
  returned: always
"""


def read(path):
    with open(path) as stream:
        return stream.read()


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
        "left": os.path.exists(os.path.join(etc, "releases", name, "left")),
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
    root, etc = module.params["root"], module.params["etc"]
    units = glob.glob(os.path.join(module.params["units"], "messaging-*.service"))
    running = {name for unit in units for name in re.findall(r"(?m)^ExecStart=\S+/releases/([^/\s]+)/", read(unit))}
    current = os.path.join(root, "current")
    found = [release(path, etc) for path in glob.glob(os.path.join(root, "releases", "*", ".complete"))]
    module.exit_json(
        changed=False,
        live=os.path.basename(os.path.realpath(current)) if os.path.exists(current) else "",
        running=sorted(running),
        releases=sorted(found, key=lambda each: each["live_at"], reverse=True),
    )


if __name__ == "__main__":
    main()
