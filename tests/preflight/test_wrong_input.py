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

# What is set, and the variable that the message has to name.
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "port out of range": ({"redis_port": 70000}, "redis_port"),
    "port that is no number": ({"rabbitmq_port": "amqp"}, "rabbitmq_port"),
    "port of the relay": ({**RELAY, "smtp_port": 0}, "smtp_port"),
    "port that goes with another security": ({**RELAY, "smtp_port": 465, "smtp_security": "starttls"}, "smtp_port"),
    "port of the mailbox": ({"mailbox_port": -1}, "mailbox_port"),
    "security that is not one of the three": ({**RELAY, "smtp_security": "ssl"}, "smtp_security"),
    "user without a password": ({**RELAY, "smtp_username": "me"}, "smtp_password"),
    "password without a user": ({**RELAY, "smtp_password": "not-a-real-one"}, "smtp_username"),
    "sender that is no address": ({"mail_from": "nobody"}, "mail_from"),
    "token that is none": ({"ngrok_authtoken": "not a real one"}, "ngrok_authtoken"),
    "domain with a scheme": ({"ngrok_domain": "https://example.ngrok.app"}, "ngrok_domain"),
    "fingerprint that is cut off": ({"ngrok_apt_key_fingerprint": "1234ABCD"}, "ngrok_apt_key_fingerprint"),
    "unknown time zone": ({"messaging_timezone": "Mars/Olympus"}, "messaging_timezone"),
    "delays that do not grow": ({"messaging_delays": [60, 5]}, "messaging_delays"),
    "unknown log level": ({"messaging_log_level": "LOUD"}, "messaging_log_level"),
    "budget that is no limit": ({"budget_client": "lots"}, "budget_client"),
    "recipient that is none": ({"recipients_deny": ["*.example.com"]}, "recipients_deny"),
    "negative size of the mailbox": ({"mailbox_keep": -5}, "mailbox_keep"),
    # Lost or mixed up: with others made, RabbitMQ would have its new password before anything notices.
    "another folder of secrets": ({"messaging_secrets_dir": "/nonexistent/secrets"}, "make rotate-secrets"),
    "tunnel with SSH to a host whose key nobody knows": (
        {"tunnel": "ssh", "sshtunnel_host": "x"},
        "sshtunnel_host_key",
    ),
    # No host here has an unsupported distribution, so one that is here is taken from the list.
    "unsupported distribution": ({"__base_supported": {"Debian": ["12"]}}, "Debian 13 is not supported"),
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
    assert CASES[case][1] in _messages(output), output
    assert len(re.findall(r"^PLAY \[", output, re.MULTILINE)) == 1, output
    recap = re.search(rf"^{HOST} .*changed=(\d+).*unreachable=(\d+).*failed=(\d+)", output, re.MULTILINE)
    assert recap, output
    assert recap.groups() == ("0", "0", "1"), output


def _messages(output: str) -> str:
    """What follows the first failure; before it the variable may appear in a task's name."""
    return output[output.find("[ERROR]") :] if "[ERROR]" in output else output[output.find("fatal:") :]
