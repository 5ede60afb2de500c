#!/usr/bin/python
"""Ansible module: waits until ngrok's agent has its public address, or says why it has none."""

import json
import re
import time
import urllib.error
import urllib.request

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: ngrok_address
short_description: Waits until ngrok's agent has its public address, or says why it has none
description:
  - Asks the agent's local API. Where there is no address, the reason is in what its unit printed since it was started.
  - Stops waiting as soon as the agent has printed one of ngrok's codes and ended. Changes nothing.
options:
  port: {description: Port of the local API., type: int, required: true}
  endpoint: {description: Name of the endpoint in the agent's configuration., type: str, required: true}
  unit: {description: The agent's unit., type: str, required: true}
  wait: {description: For how many seconds., type: int, default: 30}
author:
  - messaging-system
"""

EXAMPLES = r"""
- name: Wait for the address
  ngrok_address:
    port: 4040
    endpoint: messaging
    unit: ngrok.service
  register: address
"""

RETURN = r"""
url: {description: The public address; empty when there is none., type: str, returned: always}
code: {description: "ngrok's code, such as ERR_NGROK_107; or empty.", type: str, returned: always}
log: {description: The last lines of the unit, when there is no address., type: list, elements: str, returned: always}
"""

# In this order: the second one is for agents before 3.30. List in the answer, address in its elements
LISTS = (("/api/endpoints", "endpoints", "url"), ("/api/tunnels", "tunnels", "public_url"))
LINES = 15


def address(port, name):
    """The address of the endpoint, or nothing."""
    # No proxy: it is on this host, whatever the environment says
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for path, key, field in LISTS:
        try:
            with opener.open("http://127.0.0.1:{0}{1}".format(port, path), timeout=5) as answer:
                listed = json.loads(answer.read().decode("utf-8")).get(key) or []
        except urllib.error.HTTPError:
            continue
        except (OSError, ValueError):
            return ""
        found = [entry.get(field) for entry in listed if entry.get("name") == name]
        return (found and found[0]) or ""
    return ""


def printed(module, unit):
    """Whether the unit runs, and what it has printed since it was last started."""
    shown = module.run_command(["systemctl", "show", "--property=ActiveState,InvocationID", unit])[1]
    state = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    if not state.get("InvocationID"):
        return False, []
    match = "_SYSTEMD_INVOCATION_ID=" + state["InvocationID"]
    lines = module.run_command(["journalctl", "--no-pager", "--output=cat", match])[1].splitlines()
    return state.get("ActiveState") == "active", lines


def main():
    module = AnsibleModule(
        argument_spec={
            "port": {"type": "int", "required": True},
            "endpoint": {"type": "str", "required": True},
            "unit": {"type": "str", "required": True},
            "wait": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    deadline = time.time() + module.params["wait"]
    while True:
        url = address(module.params["port"], module.params["endpoint"])
        if url:
            module.exit_json(changed=False, url=url, code="", log=[])
        runs, lines = printed(module, module.params["unit"])
        codes = re.findall(r"ERR_NGROK_\d+", "\n".join(lines))
        if (codes and not runs) or time.time() >= deadline:
            module.exit_json(changed=False, url="", code=codes[-1] if codes else "", log=lines[-LINES:])
        time.sleep(0.5)


if __name__ == "__main__":
    main()
