"""Renders the roles' templates with Ansible's own engine, and the variables that a host would have; no host needed."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader, init_plugin_loader, test_loader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "roles"
SERVICES = ("rabbitmq", "redis", "app", "celery", "flower", "nginx", "mailbox", "ngrok", "sshtunnel", "monitoring")

HOST = "messaging-test"

# What `setup` would say.
FACTS = {
    "distribution": "Debian",
    "distribution_major_version": "13",
    "distribution_version": "13",
    "os_family": "Debian",
    "hostname": "host",
    "default_ipv4": {"address": "192.0.2.10"},
    "processor_nproc": 2,
    "processor_vcpus": 2,
    "memtotal_mb": 4096,
}

# What the playbook's own probe of an untouched host would say.
PROBE = {
    "memory_mb": 4096,
    "listeners": {},
    "packages": [],
    "rabbitmq_nodename": "",
    "rabbitmq_cluster": [],
    "releases": [],
    "release_live": ["", ""],
    "workers": [],
    "ipv6": True,
    "ssh_ports": [22],
    "firewall_unit": False,
    "firewall_live": False,
    "firewall_rules": "",
    "cluster_firewall_unit": False,
    "cluster_firewall_live": False,
    "own_addresses": ["192.0.2.10"],
    "peer_sources": [],
    "monitoring": False,
    "ngrok": False,
    "ngrok_other": False,
    "running": [],
    "stale_units": [],
    "unattended_upgrades": False,
}

init_plugin_loader()
for plugins in sorted(ROLES.glob("*/filter_plugins")):
    filter_loader.add_directory(str(plugins))
for plugins in sorted(ROLES.glob("*/test_plugins")):
    test_loader.add_directory(str(plugins))


def load_module(path: str) -> Any:
    """An Ansible module of ours, from its path below roles/."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROLES / path)
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@functools.cache
def load(path: Path) -> Any:
    """A YAML file, its strings as templates; an empty dictionary if it is not there."""
    return DataLoader().load_from_file(str(path), trusted_as_template=True) or {} if path.exists() else {}


def role_names() -> list[str]:
    """All roles."""
    return sorted(path.name for path in ROLES.iterdir() if path.is_dir())


def shared_variables() -> dict[str, Any]:
    """What group_vars/all says."""
    return dict(load(ROOT / "group_vars/all/main.yml"))


def defaults(role: str) -> dict[str, Any]:
    """The role's public variables."""
    return dict(load(ROLES / role / "defaults/main.yml"))


def variables(role: str, **overrides: Any) -> dict[str, Any]:
    """What a template of the role sees on one host that has every service."""
    everything: dict[str, Any] = {}
    for each in role_names():
        everything |= defaults(each)
    everything |= shared_variables()
    everything |= load(ROLES / role / "vars/main.yml")
    everything |= {
        "ansible_facts": FACTS,
        "ansible_managed": "Ansible managed",
        "ansible_check_mode": False,
        "ansible_search_path": [str(ROLES / role)],
        "inventory_hostname": HOST,
        "groups": {"all": [HOST], "ungrouped": [], **{service: [HOST] for service in SERVICES}},
        "group_names": list(SERVICES),
        "hostvars": {HOST: {"inventory_file": str(ROOT / "inventory.ini"), "messaging_address": "127.0.0.1"}},
        "role_name": role,
        "role_path": str(ROLES / role),
        "messaging_probe": PROBE,
        "release_code": "/opt/messaging-system/releases/1.0.0-0123456789ab",
        "release_settings": "/etc/messaging-system/releases/1.0.0-0123456789ab/0123456789abcdef",
        "rabbitmq_password": "rabbitmq-secret-value",
        "rabbitmq_monitor_password": "monitor-secret-value",
        "redis_password": "redis-secret-value",
        "messaging_secret_key": "key-secret-value",
        "operator_key": "operator-secret-value",
        "flower_password": "flower-secret-value",
    }
    return everything | {key: trust(value) for key, value in overrides.items()}


def everything_on(*hosts: str) -> dict[str, list[str]]:
    """The groups, when these hosts have every service."""
    return {service: list(hosts) for service in SERVICES}


def cluster(addresses: dict[str, str], services: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """Overrides for the first host of a cluster; every host has every service that is not given."""
    inventory = {"inventory_file": str(ROOT / "inventory.ini")}
    first, address = next(iter(addresses.items()))
    groups = everything_on(*addresses) | {"redis": [first]} | (services or {})
    hosts = [host for host in addresses if any(host in members for members in groups.values())]
    return {
        "inventory_hostname": first,
        "cluster_address": address,
        "groups": {"all": list(addresses), "ungrouped": [], **groups},
        "group_names": [name for name, members in groups.items() if first in members],
        "hostvars": {
            host: inventory
            | {"inventory_hostname": host, "cluster_address": each, "messaging_address": each}
            | {"messaging_cluster": len(hosts) > 1, "messaging_hosts": hosts}
            for host, each in addresses.items()
        },
        "ansible_play_hosts": list(addresses),
        "messaging_probe": {**PROBE, "own_addresses": [address], "peer_sources": [address]},
    }


def trust(value: Any) -> Any:
    """Strings as an operator's group_vars would give them: templates."""
    return trust_as_template(value) if isinstance(value, str) else value


def render(role: str, template: str, **overrides: Any) -> str:
    """The text of roles/<role>/templates/<template>."""
    path = ROLES / role / "templates" / template
    templar = _templar(role, overrides).copy_with_new_env(searchpath=[str(path.parent)])
    return str(templar.template(trust_as_template(path.read_text(encoding="utf-8"))))


def evaluate(role: str, expression: str, **overrides: Any) -> Any:
    """The value of an expression, as a task of the role would see it."""
    return _templar(role, overrides).template(trust_as_template(f"{{{{ {expression} }}}}"))


def _templar(role: str, overrides: dict[str, Any]) -> Templar:
    return Templar(loader=DataLoader(), variables=variables(role, **overrides))
