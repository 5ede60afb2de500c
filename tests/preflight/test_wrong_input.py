"""Wrong input stops the run in its first play, before any host has changed, and the message names the variable.

Runs against a host of molecule's scenario `default`, which is converged: a slip would show as a change.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOST = "messaging-debian13"
RELAY = {"smtp_host": "relay.example.com"}

# What is set, and what the message has to name. All that is wrong for one role is told at once.
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "RabbitMQ": ({"rabbitmq_port": "amqp", "messaging_delays": [60, 5]}, ["rabbitmq_port", "messaging_delays"]),
    "Redis": ({"redis_port": 70000}, ["redis_port"]),
    "mailbox": ({"mailbox_port": -1, "mailbox_keep": -5}, ["mailbox_port", "mailbox_keep"]),
    "relay": (
        {**RELAY, "smtp_port": 0, "smtp_security": "ssl", "smtp_username": "me"},
        ["smtp_port", "smtp_security", "smtp_password"],
    ),
    "relay that is for something else": (
        {**RELAY, "smtp_port": 465, "smtp_security": "starttls", "smtp_password": "not-a-real-one"},
        ["smtp_port", "smtp_username"],
    ),
    "what is sent, to whom and how often": (
        {
            "mail_from": "nobody",
            "messaging_timezone": "Mars/Olympus",
            "messaging_log_level": "LOUD",
            "budget_client": "lots",
            "recipients_deny": ["*.example.com"],
        },
        ["mail_from", "messaging_timezone", "messaging_log_level", "budget_client", "recipients_deny"],
    ),
    "ngrok": (
        {
            "ngrok_authtoken": "not a real one",
            "ngrok_domain": "https://example.ngrok.app",
            "ngrok_apt_key_fingerprint": "1234ABCD",
        },
        ["ngrok_authtoken", "ngrok_domain", "ngrok_apt_key_fingerprint"],
    ),
    "tunnel with SSH to a host whose key nobody knows": (
        {"tunnel": "ssh", "sshtunnel_host": "x"},
        ["sshtunnel_host_key"],
    ),
    # No check of ours knows it, and the specification of the role does.
    "type": (
        {"base_unattended_upgrades": "perhaps", "base_cluster_firewall": "perhaps"},
        ["base_unattended_upgrades", "base_cluster_firewall"],
    ),
    # Lost or mixed up: with others made, RabbitMQ would have its new password before anything notices.
    "another folder of secrets": ({"messaging_secrets_dir": "/nonexistent/secrets"}, ["make rotate-secrets"]),
    # No host here has an unsupported distribution, so one that is here is taken from the list.
    "unsupported distribution": ({"__base_supported": {"Debian": ["12"]}}, ["Debian 13 is not supported"]),
}


def _play(values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    command = ["ansible-playbook", "molecule/shared/converge.yml", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"]]
    command += ["--limit", HOST, "--extra-vars", json.dumps(values)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, "Future[subprocess.CompletedProcess[str]]"]]:
    """All runs, some at a time: each waits for the host more than for a processor."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        yield {name: pool.submit(_play, values) for name, (values, _) in CASES.items()}


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_refused(case: str, runs: dict[str, "Future[subprocess.CompletedProcess[str]]"]) -> None:
    run = runs[case].result()
    output = run.stdout + run.stderr
    assert run.returncode != 0, output
    said = _messages(output)
    assert [name for name in CASES[case][1] if name not in said] == [], output
    assert len(re.findall(r"^PLAY \[", output, re.MULTILINE)) == 1, output
    recap = re.search(rf"^{HOST} .*changed=(\d+).*unreachable=(\d+).*failed=(\d+)", output, re.MULTILINE)
    assert recap, output
    assert recap.groups() == ("0", "0", "1"), output


def _messages(output: str) -> str:
    """What follows the first failure; before it the variable may appear in a task's name."""
    return output[output.find("[ERROR]") :] if "[ERROR]" in output else output[output.find("fatal:") :]
