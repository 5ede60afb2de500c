"""What the monitoring would be told, and tell, where no host of the tests comes."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from rendering import render

RELAY = {
    "smtp_host": "relay.example.com",
    "smtp_username": "me",
    "smtp_password": 'a "secret"',
    "mail_from": "service@example.com",
}


def alertmanager(**values: Any) -> dict[str, Any]:
    return dict(yaml.safe_load(render("monitoring", "etc/messaging-monitoring/alertmanager.yml.j2", **values)))


def test_alerts_go_into_the_mailbox_and_to_no_webhook_by_default() -> None:
    said = alertmanager()
    assert said["global"]["smtp_smarthost"] == "127.0.0.1:2525"
    assert said["global"]["smtp_require_tls"] is False
    assert [list(receiver) for receiver in said["receivers"]] == [["name", "email_configs"]]
    assert said["receivers"][0]["email_configs"][0]["to"] == "messaging@localhost.localdomain"


@pytest.mark.parametrize(
    ("security", "port", "starttls"), [("starttls", 587, True), ("tls", 465, False), ("none", 25, False)]
)
def test_alerts_go_through_the_relay(security: str, port: int, starttls: bool) -> None:
    said = alertmanager(
        **RELAY, smtp_security=security, smtp_port=port, smtp_ca_file="/etc/ca.pem", monitoring_mail_to="me@example.com"
    )
    assert said["global"]["smtp_smarthost"] == f"relay.example.com:{port}"
    assert said["global"]["smtp_require_tls"] is starttls
    assert (said["global"]["smtp_auth_username"], said["global"]["smtp_auth_password"]) == ("me", 'a "secret"')
    mail = said["receivers"][0]["email_configs"][0]
    assert (mail["to"], mail["tls_config"]) == ("me@example.com", {"ca_file": "/etc/ca.pem"})


def test_the_webhook_is_told_too() -> None:
    said = alertmanager(monitoring_webhook_url="https://hooks.example.com/x")
    assert said["receivers"][0]["webhook_configs"][0]["url"] == "https://hooks.example.com/x"


def test_the_password_of_redis_is_taken_whatever_is_in_it() -> None:
    text = render("monitoring", "etc/messaging-monitoring/redis.json.j2", redis_password='a"b\\c')
    assert json.loads(text) == {"redis://127.0.0.1:6379": 'a"b\\c'}


def test_only_the_queues_that_have_workers_need_one() -> None:
    text = render("monitoring", "etc/messaging-monitoring/rules.yml.j2", messaging_queues=["email", "celery.see"])
    assert 'queue=~"email|celery[.]see"' in text


def test_nginx_counts_only_where_somebody_asks() -> None:
    assert "stub_status" not in render("nginx", "etc/nginx/site.conf.j2")
    text = render("nginx", "etc/nginx/site.conf.j2", monitoring=True)
    assert "listen 127.0.0.1:8082 default_server;" in text
    assert "stub_status" in text


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ({}, ""),
        ({"nginx_tls": "provided"}, " certificate=%d/certificate"),
        ({"nginx_tls": "letsencrypt", "ngrok_authtoken": "token"}, " certificate=%d/certificate agent"),
    ],
)
def test_what_there_is_is_looked_at(values: dict[str, Any], ends: str) -> None:
    text = render("monitoring", "etc/systemd/system/messaging-monitoring-facts.service.j2", **values)
    assert f"ExecStart=/usr/local/sbin/messaging-monitoring-facts{ends}\n" in text
    assert ("LoadCredential" in text) is ("certificate" in ends)


def test_the_end_of_a_certificate_and_the_age_of_the_agent_are_told(tmp_path: Path) -> None:
    script = tmp_path / "facts"
    script.write_text(render("monitoring", "usr/local/sbin/messaging-monitoring-facts.j2"))
    make = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out certificate -days 10 -subj /CN=x"
    subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    command = ["sh", str(script), f"certificate={tmp_path}/certificate", "agent"]

    def told() -> dict[str, float]:
        path = f"{tmp_path}:{os.environ['PATH']}"
        printed = subprocess.run(command, check=True, capture_output=True, text=True, env={"PATH": path}).stdout
        lines = [line.split() for line in printed.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    [(name, ends)] = told().items()
    assert name == "messaging_certificate_expires_timestamp_seconds"
    assert ends == pytest.approx(time.time() + 10 * 86400, abs=60)
    agent = tmp_path / "ngrok"
    agent.touch(mode=0o755)
    os.utime(agent, (1_700_000_000, 1_700_000_000))
    assert told()["messaging_ngrok_agent_built_timestamp_seconds"] == 1_700_000_000
