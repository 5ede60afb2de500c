"""Filters for playbooks/api_key.yml, and for a host that joins others which have keys."""

import re

ACTIONS = ("add", "list", "revoke")


def _scopes(text):
    """mail,read or "mail, read" as a list; two commas have an empty one between them."""
    return re.split(r"\s*,\s*|\s+", text.strip()) if text.strip() else []


def app_key_problems(action, name, play_hosts, all_hosts, scopes=""):
    """What is wrong with what is asked for, one line each; every line says what to do."""
    if action not in ACTIONS:
        return [f"key_action is {action}: use make key-add, make key-list or make key-revoke"]
    lines = []
    if action == "add" and not name:
        lines.append("the key needs a name: make key-add NAME=ci")
    if action == "revoke" and not name:
        lines.append("it is not said which key: make key-revoke KEY=<id or name>; make key-list shows them")
    if action == "add" and "" in _scopes(str(scopes)):
        lines.append(f"SCOPES={scopes} has an empty one: write it as SCOPES=mail,read")
    missing = sorted(set(all_hosts) - set(play_hosts))
    if missing:
        lines.append(f"{', '.join(missing)} would keep other keys: run it on all hosts, without --limit")
    return lines


def app_key_command(action, name, scopes, budget):
    """The command that does it on one host."""
    command = ["/usr/local/bin/messagingctl", "key", action]
    if action == "list":
        return command
    if action == "add":
        for scope in _scopes(str(scopes)):
            command += ["--scope", scope]
        command += ["--budget", str(budget)] if budget else []
    return [*command, "--", str(name)]


def app_keys_source(hosts, stats):
    """The host whose keys are the ones that count: they were changed last. Empty if no host has any.

    An empty file is what the playbook makes on a host that never had keys, however new it is.
    """
    found = [
        (stat["mtime"], host)
        for host, stat in zip(hosts, stats, strict=True)
        if stat and stat.get("exists") and stat["size"] > 0
    ]
    return max(found, key=lambda each: each[0])[1] if found else ""


class FilterModule:
    """What Ansible asks for."""

    def filters(self):
        return {
            "app_key_problems": app_key_problems,
            "app_key_command": app_key_command,
            "app_keys_source": app_keys_source,
        }
