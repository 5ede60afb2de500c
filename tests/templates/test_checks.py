"""The checks of the preflights, asked directly: what they refuse, and that they name the variable."""

from pathlib import Path
from typing import Any

import pytest

from rendering import PROBE, ROLES, cluster, evaluate, everything_on, load, role_names

TOKEN = {"ngrok_authtoken": "2abc_DEF"}
RELAY = {"smtp_host": "relay.example.com", "mail_from": "service@example.com"}
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOfeDEiWTS0U6m/wB2gTGvV+0xw+DUOdrd8qGox2mLYU"
SSH = {
    "tunnel": "ssh",
    "sshtunnel_host": "edge.example.com",
    "sshtunnel_host_key": HOST_KEY,
    "sshtunnel_url": "https://messages.example.com",
}

ACME = {"nginx_tls": "letsencrypt", "nginx_server_name": "mail.example.com"}

AWS = {
    "aws_operator_cidr": "203.0.113.7/32",
    "__aws_region": "eu-central-1",
    "__aws_public_key": HOST_KEY,
}


def at_aws(**values: Any) -> dict[str, Any]:
    """What AWS has told of an account with nothing of ours, but for these."""
    image = {"image_id": "ami-1", "creation_date": "2026-01-01T00:00:00.000Z"}
    answers = {
        "__aws_vpcs": {"vpcs": []},
        "__aws_keys": {"keypairs": []},
        "__aws_instances": {"instances": []},
        "__aws_images": {"images": [image]},
        "__aws_interfaces": {"network_interfaces": []},
    }
    return AWS | answers | values


def aws_hosts(*names: str) -> dict[str, Any]:
    return {"instances": [{"instance_id": f"i-{name}", "vpc_id": "vpc-1", "tags": {"Name": name}} for name in names]}


OUR_VPC = {"vpc_id": "vpc-1", "cidr_block": "10.77.0.0/24"}

VMS = {"vm1": "10.0.0.1", "vm2": "10.0.0.2", "vm3": "10.0.0.3"}
CLUSTER = cluster(VMS)


def seen(**values: Any) -> dict[str, Any]:
    """The cluster's first host, where the probe has seen something else."""
    return {**CLUSTER, "messaging_probe": {**CLUSTER["messaging_probe"], **values}}


def tagged(run: list[str], skip: tuple[str, ...] = (), **values: Any) -> dict[str, Any]:
    """A run with these tags, where another release is live."""
    live = ["/opt/messaging-system/releases/0.0.0-0123456789ab", "/etc/messaging-system/releases/0/0"]
    probe = {**PROBE, "release_live": live, **values}
    return {"ansible_run_tags": run, "ansible_skip_tags": list(skip), "messaging_probe": probe}


RELEASE = evaluate("release", "__release_name")

# Everybody, half of the world, no network, host bits, IPv6
NO_OPERATOR = ["0.0.0.0/0", "0.0.0.0/1", "203.0.113.7", "203.0.113.7/24", "2001:db8::1/128", "me"]

# role, what is set, the variable that the message has to name
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("app", {"app_workers": 0}, "app_workers"),
    ("app", {"app_threads": "many"}, "app_threads"),
    ("app", {**CLUSTER, "app_port": 80}, "app_port"),
    ("app", seen(listeners={"8000": ["caddy"]}), "app_port 8000 is taken by caddy"),
    ("aws", {}, "aws_operator_cidr is ''"),
    *(("aws", {**AWS, "aws_operator_cidr": cidr}, "203.0.113.7/32 for one") for cidr in NO_OPERATOR),
    ("aws", {**AWS, "__aws_region": ""}, "export AWS_REGION="),
    ("aws", {**AWS, "__aws_region": "Frankfurt"}, "AWS_REGION is 'Frankfurt'"),
    ("aws", {**AWS, "aws_name": "two words"}, "aws_name"),
    ("aws", {**AWS, "aws_hosts": []}, "aws_hosts"),
    ("aws", {**AWS, "aws_hosts": [{"name": "Edge_1"}]}, "'Edge_1' is no name"),
    ("aws", {**AWS, "aws_hosts": [{"groups": ["app"]}]}, "'' is no name"),
    ("aws", {**AWS, "aws_hosts": [{"name": "a"}, {"name": "a"}]}, "'a' is there twice"),
    ("aws", {**AWS, "aws_hosts": [{"name": "a"}, {"name": "b", "groups": ["web"]}]}, "'web' of 'b' is no group"),
    ("aws", {**AWS, "aws_hosts": [{"name": "a"}, {"name": "b", "groups": "nginx"}]}, "groups of 'b' are no list"),
    ("aws", {**AWS, "aws_hosts": [{"name": "a", "groups": ["app", "nginx"]}]}, "no host is in rabbitmq, redis, celery"),
    ("aws", {**AWS, "aws_instance_type": "small"}, "aws_instance_type"),
    ("aws", {**AWS, "aws_hosts": [{"name": "a", "type": "t4g.small"}]}, "ARM"),
    ("aws", {**AWS, "aws_disk_gb": 5}, "aws_disk_gb"),
    ("aws", {**AWS, "__aws_public_key": "", "aws_public_key_file": "/nonexistent"}, "ssh-keygen -t ed25519"),
    ("aws", {**AWS, "__aws_public_key": "ecdsa-sha2-nistp256 AAAA"}, "aws_public_key_file"),
    ("aws", {**AWS, "__aws_public_key": "-----BEGIN OPENSSH PRIVATE KEY-----"}, "aws_public_key_file"),
    ("aws", {**AWS, "aws_image": "ubuntu"}, "aws_image"),
    ("aws", {**AWS, "aws_zone": "eu-west-1a"}, "set a zone of eu-central-1"),
    ("aws", {**AWS, "aws_network": "10.0.0.0/8"}, "aws_network"),
    ("aws", {**AWS, "aws_network": "10.77.0.1/24"}, "aws_network"),
    ("base", {"ansible_facts": {"distribution": "Debian", "distribution_major_version": "11"}}, "Debian 11"),
    (
        "base",
        {
            "monitoring": True,
            "groups": {"all": ["messaging-test"], **everything_on("messaging-test"), "monitoring": []},
        },
        "under [monitoring]",
    ),
    ("base", {"ansible_facts": {"distribution": "Ubuntu", "distribution_version": "22.04"}}, "Ubuntu 22.04"),
    ("base", {"ansible_facts": {"distribution": "Fedora", "distribution_version": "43"}}, "Fedora 43"),
    ("base", {"messaging_probe": {**PROBE, "memory_mb": 400}}, "400 MB"),
    ("base", {"messaging_probe": {**PROBE, "secrets_differ": ["/etc/x"]}}, "make rotate-secrets"),
    ("base", {"base_ca_certificates": ["/nonexistent/ca.crt"]}, "base_ca_certificates"),
    ("base", {"base_firewall": "ufw"}, "base_firewall"),
    ("base", {"base_firewall_ssh_ports": ["ssh"]}, "base_firewall_ssh_ports"),
    ("base", {"base_firewall_allow": [{"from": "10.0.0.0/8"}]}, "base_firewall_allow"),
    ("base", {"base_firewall_allow": [{"port": 9100, "from": "10.0.0.1/8"}]}, "base_firewall_allow"),
    ("base", {"base_firewall_allow": [{"port": 9100, "from": []}]}, "base_firewall_allow"),
    ("base", {"base_firewall_allow": [{"port": "9100 accept; tcp dport 1"}]}, "base_firewall_allow"),
    ("base", {"base_firewall": "nftables", "messaging_probe": {**PROBE, "ssh_ports": []}}, "base_firewall_ssh_ports"),
    ("base", cluster({**VMS, "vm2": ""}), "cluster_address: vm2 has ''; give every host"),
    ("base", cluster({**VMS, "vm3": "vm3.example.com"}), "vm3 has 'vm3.example.com'; give"),
    ("base", cluster({**VMS, "vm3": "fd00::3"}), "vm3 has 'fd00::3'; give"),
    ("base", cluster({**VMS, "vm1": "127.0.0.1"}), "vm1 has '127.0.0.1'; give"),
    ("base", cluster({**VMS, "vm3": "10.0.0.1"}), "vm1 and vm3 have 10.0.0.1; give"),
    ("base", seen(ssh_ports=[22, 8000]), "SSH comes in to vm1 at 8000, and is shut out there"),
    ("base", {**CLUSTER, "base_firewall_ssh_ports": [2525]}, "mailbox_port has that port; set another"),
    ("base", {**CLUSTER, "nginx_port": 8000}, "app_port has that port; set another nginx_port"),
    ("base", {**CLUSTER, "nginx_tls": "provided", "nginx_tls_port": 25672}, "Erlang has that port"),
    ("base", seen(own_addresses=["10.0.9.9"]), "its own addresses (10.0.9.9)"),
    ("base", seen(peer_sources=["10.0.0.1", "10.0.9.9"]), "from 10.0.0.1 and 10.0.9.9 and not from 10.0.0.1,"),
    ("base", cluster(VMS, {"celery": [], "nginx": []}), "no host is in celery, nginx: list at least one"),
    ("base", cluster(VMS, {"redis": ["vm1", "vm2"]}), "vm1 and vm2 are in the group redis: leave one"),
    ("celery", {"celery_pools": []}, "celery_pools"),
    ("celery", {"celery_pools": [{"name": "email"}]}, "celery_pools"),
    ("release", {"flower_user": "two words"}, "flower_user"),
    ("flower", {"flower_max_tasks": 1}, "flower_max_tasks"),
    ("flower", {"flower_memory_mb": "much"}, "flower_memory_mb"),
    ("flower", {"group_names": ["flower"]}, "the group nginx"),
    ("mailbox", {"mailbox_port": 25}, "mailbox_port"),
    ("monitoring", CLUSTER, "monitoring is for one host, and here are 3"),
    ("monitoring", {"group_names": ["monitoring", "nginx"]}, "the groups app, celery, rabbitmq, redis too"),
    ("monitoring", {"monitoring_mail_to": "me"}, "monitoring_mail_to"),
    ("monitoring", {"monitoring_webhook_url": "hooks.example.com"}, "monitoring_webhook_url"),
    ("monitoring", RELAY | {"smtp_security": "tls", "smtp_port": 2465}, "smtp_port is 2465"),
    ("monitoring", {"monitoring_ports": {"prometheus": 0}}, "monitoring_ports"),
    ("monitoring", {"nginx_status_port": 8081}, "two services have the same port"),
    ("monitoring", {"messaging_probe": {**PROBE, "listeners": {"9100": ["caddy"]}}}, "caddy listens"),
    ("monitoring", {"monitoring_keep_days": 0}, "monitoring_keep_days is 0"),
    ("mailbox", CLUSTER, "vm1 and vm2 and vm3 are in the group mailbox: leave one"),
    ("mailbox", cluster(VMS, {"mailbox": ["vm1"], "app": ["vm2"]}), "put vm1 into the group app too"),
    ("mailbox", {"mailbox_port": 65536}, "mailbox_port"),
    ("mailbox", {"mailbox_keep": 0}, "mailbox_keep"),
    ("mailbox", {"mailbox_max_mb": "lots"}, "mailbox_max_mb"),
    ("mailbox", {"messaging_probe": {**PROBE, "listeners": {"2525": ["postfix"]}}}, "mailbox_port"),
    ("nginx", {"nginx_port": 0}, "nginx_port"),
    ("nginx", cluster(VMS, {"app": []}), "another host into the group app"),
    ("nginx", {"nginx_client_max_body_size": "huge"}, "nginx_client_max_body_size"),
    ("nginx", {"nginx_trusted_proxies": "10.0.0.1"}, "nginx_trusted_proxies"),
    ("nginx", {"messaging_probe": {**PROBE, "listeners": {"80": ["apache2"]}}}, "apache2"),
    ("nginx", {"nginx_rate": "10r/s"}, "nginx_rate"),
    ("nginx", {"nginx_connections": -1}, "nginx_connections"),
    ("nginx", {"nginx_connections": 65536}, "from 0 to 65535"),
    ("nginx", {"nginx_tls": "letsencrypt"}, "nginx_server_name"),
    ("nginx", {**ACME, "nginx_server_name": "mail"}, "nginx_server_name"),
    ("nginx", {**ACME, "nginx_tls_port": 80}, "nginx_tls_port"),
    ("nginx", {**ACME, "messaging_probe": {**PROBE, "listeners": {"443": ["caddy"]}}}, "caddy"),
    ("nginx", {**ACME, "nginx_acme_email": "me"}, "nginx_acme_email"),
    ("nginx", {**ACME, "nginx_acme_directory": "http://acme.example.com/"}, "nginx_acme_directory"),
    ("nginx", {"nginx_hsts_seconds": "a year"}, "nginx_hsts_seconds"),
    ("nginx", {**ACME, "nginx_tls": "provided"}, "nginx_tls_certificate"),
    ("nginx", {**ACME, "nginx_tls": "provided", "nginx_tls_certificate": "/nonexistent"}, "nginx_tls_certificate"),
    ("nginx", {"tunnel": "wireguard"}, "ngrok, ssh or none"),
    ("nginx", {"nginx_tls": "on"}, "provided or letsencrypt"),
    ("nginx", {"tunnel_port": 0}, "tunnel_port"),
    ("nginx", {"tunnel_port": 80, "messaging_tunnel": "ssh"}, "tunnel_port"),
    (
        "nginx",
        {"messaging_tunnel": "ssh", "messaging_probe": {**PROBE, "listeners": {"8081": ["caddy"]}}},
        "tunnel_port",
    ),
    ("ngrok", {"ngrok_authtoken": "two words"}, "ngrok_authtoken"),
    ("ngrok", {"ngrok_domain": "https://example.ngrok.app"}, "ngrok_domain"),
    ("ngrok", {"ngrok_domain": "example"}, "ngrok_domain"),
    ("ngrok", {"ngrok_apt_url": "packages.example.com"}, "ngrok_apt_url"),
    ("ngrok", {"ngrok_apt_suite": ""}, "ngrok_apt_suite"),
    ("ngrok", {"ngrok_apt_key_url": "http://packages.example.com/key.asc"}, "ngrok_apt_key_url"),
    ("ngrok", {"ngrok_apt_key_fingerprint": "1234ABCD"}, "ngrok_apt_key_fingerprint"),
    ("ngrok", {"ngrok_connect_url": "https://connect.example.com"}, "ngrok_connect_url"),
    ("ngrok", {"ngrok_connect_cas": "anybody"}, "ngrok_connect_cas"),
    ("ngrok", {"ngrok_web_port": 80}, "ngrok_web_port"),
    ("ngrok", {**TOKEN, "messaging_probe": {**PROBE, "listeners": {"4040": ["spark"]}}}, "spark"),
    ("ngrok", {**TOKEN, "group_names": ["ngrok"]}, "the group nginx"),
    ("rabbitmq", {"rabbitmq_port": -1}, "rabbitmq_port"),
    ("rabbitmq", {"rabbitmq_net_ticktime": 2}, "rabbitmq_net_ticktime"),
    ("rabbitmq", {"messaging_delays": [5, 5]}, "messaging_delays"),
    ("rabbitmq", {"messaging_delays": []}, "messaging_delays"),
    ("rabbitmq", {"messaging_queues": ["email", "compute", "dead"]}, "messaging_queues"),
    ("rabbitmq", {"email_queue": "mail", "messaging_queues": ["email", "compute"]}, "email_queue"),
    ("rabbitmq", {"messaging_probe": {**PROBE, "rabbitmq_nodename": "rabbit@old"}}, "rabbit@old"),
    ("redis", {"redis_port": 70000}, "redis_port"),
    ("redis", {"redis_maxmemory": 100}, "redis_maxmemory"),
    ("sshtunnel", SSH | {"sshtunnel_host": ""}, "sshtunnel_host"),
    ("sshtunnel", SSH | {"sshtunnel_host": "-oProxyCommand=x"}, "sshtunnel_host"),
    ("sshtunnel", SSH | {"sshtunnel_port": 0}, "sshtunnel_port"),
    ("sshtunnel", SSH | {"sshtunnel_user": "two words"}, "sshtunnel_user"),
    ("sshtunnel", SSH | {"sshtunnel_host_key": ""}, "ssh-keyscan -p 22 -t ed25519 edge.example.com"),
    ("sshtunnel", SSH | {"sshtunnel_host_key": "edge.example.com " + HOST_KEY}, "sshtunnel_host_key"),
    ("sshtunnel", SSH | {"sshtunnel_host_key": "SHA256:AAAA"}, "sshtunnel_host_key"),
    ("sshtunnel", SSH | {"sshtunnel_remote": "0.0.0.0:8080"}, "sshtunnel_remote"),
    ("sshtunnel", SSH | {"sshtunnel_remote": "127.0.0.1"}, "sshtunnel_remote"),
    ("sshtunnel", SSH | {"sshtunnel_remote": 70000}, "sshtunnel_remote"),
    ("sshtunnel", SSH | {"sshtunnel_url": "messages.example.com"}, "sshtunnel_url"),
    ("sshtunnel", SSH | {"sshtunnel_url": "https://example.com/messages/"}, "sshtunnel_url"),
    ("sshtunnel", SSH | {"group_names": ["sshtunnel"]}, "the group nginx"),
    ("release", cluster(VMS, {"mailbox": []}), "put a host into the group mailbox, or set smtp_host"),
    ("release", cluster(VMS, {"rabbitmq": []}), "list a host under rabbitmq"),
    ("release", tagged(["app"]), "Workers come first: --tags celery,app, or no tags"),
    ("release", tagged(["all"], ("celery",)), "Workers come first"),
    ("release", {"release_source": "/nonexistent"}, "release_source"),
    ("release", {"mail_from": "nobody"}, "mail_from"),
    ("release", {"mail_from": "a@b@example.com"}, "mail_from"),
    ("release", {"smtp_host": "relay.example.com"}, "mail_from"),
    ("release", {**RELAY, "smtp_security": "ssl"}, "smtp_security"),
    ("release", {**RELAY, "smtp_port": 99999}, "smtp_port"),
    ("release", {**RELAY, "smtp_port": 465, "smtp_security": "starttls"}, "465 goes with tls"),
    ("release", {**RELAY, "smtp_port": "587", "smtp_security": "tls"}, "587 with starttls"),
    ("release", {**RELAY, "smtp_username": "me"}, "smtp_password"),
    ("release", {**RELAY, "smtp_password": "not-a-real-one"}, "smtp_username"),
    ("release", {**RELAY, "smtp_username": "me", "smtp_password": "x", "smtp_security": "none"}, "smtp_security"),
    ("release", {"smtp_host": "smtps://relay.example.com"}, "smtp_host"),
    ("release", {"smtp_timeout": 0}, "smtp_timeout"),
    ("release", {"smtp_timeout": 36}, "smtp_timeout"),
    ("rabbitmq", {"messaging_delays": [60, 300]}, "begin with 10 or less"),
    ("release", {"messaging_timezone": "Mars/Olympus"}, "messaging_timezone"),
    ("release", {"messaging_log_level": "loud"}, "messaging_log_level"),
    ("release", {"sendmail_subject": "two\nlines"}, "sendmail_subject"),
    ("release", {"sendmail_subject": "gpj.\u202eexe"}, "sendmail_subject"),
    ("release", {"sendmail_subject": "red\x9b31m"}, "sendmail_subject"),
    ("release", {"release_keep": 0}, "release_keep"),
    ("release", {"result_backend": "sqlite"}, "result_backend"),
    ("release", {"result_backend": "mongodb"}, "vault_mongodb_url"),
    ("release", {"result_backend": "mongodb", "mongodb_url": "mongodb.example.com"}, "mongodb_url"),
    ("release", {"result_backend": "mongodb", "mongodb_url": "mongodb:///messaging"}, "mongodb_url"),
    ("release", {"result_backend": "mongodb", "mongodb_url": "mongodb://a b/"}, "mongodb_url"),
    ("release", {"result_expires": 59}, "result_expires"),
    ("release", {"result_expires": 90000, "mail_max_age": 90000}, "result_expires"),
    ("release", {"sendmail_subject": "=?utf-8?q?=0D=0A?="}, "sendmail_subject"),
    ("release", {"metrics_port": 70000}, "metrics_port"),
    ("release", {"budget_client": "many"}, "budget_client is many"),
    ("release", {"budget_recipient": ""}, "budget_recipient"),
    ("release", {"budget_day": 500}, "budget_day"),
    ("release", {"budget_client_tasks": "5/fortnight"}, "budget_client_tasks"),
    ("release", {"budget_tasks_day": "5/minute;"}, "budget_tasks_day"),
    ("release", {"budget_key": "-1/day"}, "budget_key is"),
    ("release", {"budget_key_alone": "9999999/day"}, "budget_key_alone"),
    ("release", {"recipients_allow": "example.com"}, "recipients_allow"),
    ("release", {"recipients_allow": ["example.com", "example"]}, "recipients_allow: 'example' is no"),
    ("release", {"recipients_deny": ["*", "*.example.com"]}, "recipients_deny: '*', '*.example.com' is no"),
    ("release", {"recipients_deny": ["a b@example.com"]}, "recipients_deny"),
    ("release", {"recipients_deny": ["a,b@example.com"]}, "recipients_deny"),
    ("release", {"metrics_port": 80}, "metrics_port"),
    ("release", {"messaging_probe": {**PROBE, "listeners": {"9180": ["caddy"]}}}, "metrics_port"),
]

RIGHT: list[tuple[str, dict[str, Any]]] = [
    *((role, AWS if role == "aws" else {}) for role in role_names()),
    ("aws", {**AWS, "aws_hosts": [{"name": "a", "groups": ["rabbitmq", "redis"]}, {"name": "b"}]}),
    ("aws", {**AWS, "aws_instance_type": "t4g.small", "aws_image": "ami-0123456789abcdef0"}),
    ("aws", {**AWS, "aws_hosts": [{"name": "a", "type": "m7i.large"}, {"name": "b", "type": "g4dn.xlarge"}]}),
    ("aws", {**AWS, "aws_operator_cidr": "198.51.100.0/24", "aws_disk_gb": "100", "aws_zone": "eu-central-1b"}),
    ("base", CLUSTER),
    ("base", cluster({"vm1": "10.0.0.1", "stranger": ""}, everything_on("vm1"))),
    ("base", cluster({"stranger": "", **VMS}, everything_on("vm2") | {"app": [*VMS]})),
    ("release", RELAY),
    *(("release", tagged(tags)) for tags in (["all"], ["app", "celery"], ["celery"], ["release"], ["nginx"])),
    ("release", tagged(["app"], release_live=["", ""])),
    ("release", tagged(["app"], release_live=[f"/opt/messaging-system/releases/{RELEASE}", "/etc/x"])),
    ("release", cluster(VMS, {"rabbitmq": ["vm2"], "redis": ["vm3"], "mailbox": ["vm2"]})),
    ("release", {**cluster(VMS, {"mailbox": []}), **RELAY}),
    ("mailbox", cluster(VMS, {"mailbox": ["vm1"]})),
    ("mailbox", {**CLUSTER, **RELAY}),
    ("app", seen(listeners={"8000": ["systemd", "gunicorn"]})),
    ("nginx", cluster(VMS, {"app": ["vm2"]})),
    (
        "monitoring",
        {"monitoring_webhook_url": "https://hooks.example.com/a/b?c=d", "monitoring_mail_to": "me@example.com"},
    ),
    ("monitoring", RELAY | {"smtp_security": "tls", "smtp_port": 465}),
    ("sshtunnel", SSH),
    ("sshtunnel", SSH | {"sshtunnel_remote": "8080", "sshtunnel_port": "2222", "sshtunnel_host": "2001:db8::1"}),
    ("sshtunnel", SSH | {"sshtunnel_remote": "[::1]:8080", "sshtunnel_url": "http://192.0.2.1:8000/"}),
    ("sshtunnel", SSH | {"sshtunnel_host_key": f"{HOST_KEY} root@edge\n{HOST_KEY}\n"}),
    ("release", {**RELAY, "smtp_security": "tls", "smtp_port": "465", "smtp_username": "me", "smtp_password": "p w"}),
    ("release", {"result_backend": "mongodb", "mongodb_url": "mongodb://me:p%40w@a:1,b/x?tls=true"}),
    ("release", {"result_backend": "mongodb", "mongodb_url": "mongodb+srv://me:pw@cluster.example.com"}),
    ("release", {"messaging_probe": {**PROBE, "listeners": {"9180": ["python"]}}}),
    ("release", {"sendmail_subject": "Grüße, שלום 🎉"}),
    ("release", {"budget_day": "0/day", "budget_client": "5 per 2 minutes, 100/hour;1000/Day"}),
    (
        "release",
        {"recipients_allow": ["bücher.example", ".example.com", "Me+tag@example.com"], "recipients_deny": [".ru"]},
    ),
    ("rabbitmq", {"messaging_queues": ["email", "compute", "celery_see"]}),
    ("rabbitmq", {"messaging_probe": {**PROBE, "listeners": {"5672": ["beam.smp"]}}}),
    ("nginx", {"nginx_trusted_proxies": ["10.0.0.0/8", "::1"], "nginx_client_max_body_size": "512k"}),
    ("nginx", {"messaging_tunnel": "ssh", "messaging_probe": {**PROBE, "listeners": {"8081": ["nginx"]}}}),
    ("nginx", ACME),
    ("nginx", {**ACME, "nginx_acme_email": "me@example.com", "nginx_tls_port": "8443", "nginx_hsts_seconds": 0}),
    ("nginx", {"messaging_probe": {**PROBE, "listeners": {"8081": ["caddy"]}}}),
    ("base", {"ansible_facts": {"distribution": "Ubuntu", "distribution_version": "24.04"}}),
    ("ngrok", {**TOKEN, "ngrok_domain": "messaging.example.com", "ngrok_apt_key_fingerprint": "0123 4567 " * 5}),
    ("ngrok", {**TOKEN, "messaging_probe": {**PROBE, "listeners": {"4040": ["ngrok"]}}}),
    ("ngrok", {"group_names": ["ngrok"]}),
]


def _problems(role: str, values: dict[str, Any]) -> list[str]:
    name = f"__{role}_checks"
    assert name in load(ROLES / role / "vars/main.yml")
    return list(evaluate(role, f"{name} | problems", **values))


@pytest.mark.parametrize(("role", "values", "says"), WRONG, ids=[f"{role}-{says}" for role, _, says in WRONG])
def test_wrong_value_is_refused_by_name(role: str, values: dict[str, Any], says: str) -> None:
    found = _problems(role, values)
    assert [line for line in found if says in line], found


@pytest.mark.parametrize(("role", "values"), RIGHT)
def test_right_value_is_accepted(role: str, values: dict[str, Any]) -> None:
    assert _problems(role, values) == []


# What AWS tells, what the message has to say; the second kind is asked before anything goes
THERE: list[tuple[str, dict[str, Any], str]] = [
    ("there", at_aws(__aws_vpcs={"vpcs": [OUR_VPC, {**OUR_VPC, "vpc_id": "vpc-2"}]}), "vpc-1 and vpc-2 both carry"),
    ("there", at_aws(__aws_vpcs={"vpcs": [{**OUR_VPC, "cidr_block": "10.9.0.0/24"}]}), "set aws_network to that"),
    ("there", at_aws(__aws_keys={"keypairs": [{"name": "messaging-system", "tags": {}}]}), "set another aws_name"),
    (
        "there",
        at_aws(__aws_keys={"keypairs": [{"name": "messaging-system", "tags": {"messaging-system": "x"}}]}),
        "set another aws_name",
    ),
    ("there", at_aws(__aws_instances=aws_hosts("messaging", "messaging")), "two hosts have the same tag Name"),
    ("there", at_aws(__aws_images={"images": []}), "set aws_image to one"),
    ("there", at_aws(__aws_images={"images": []}, aws_image="ami-1"), "there is no image ami-1 in eu-central-1"),
    ("remove", at_aws(__aws_vpcs={"vpcs": [OUR_VPC, {**OUR_VPC, "vpc_id": "vpc-2"}]}), "vpc-1 and vpc-2 both carry"),
    ("remove", at_aws(__aws_interfaces={"network_interfaces": [{"id": "eni-1"}]}), "eni-1, which does not belong"),
    ("remove", at_aws(__aws_instances=aws_hosts("copy")), "i-copy: not in our network"),
    (
        "remove",
        at_aws(__aws_interfaces={"network_interfaces": [{"id": "eni-2", "attachment": {"instance_id": "i-b"}}]}),
        "eni-2, which does not belong",
    ),
]


@pytest.mark.parametrize(("which", "answers", "says"), THERE)
def test_what_is_at_aws_already_can_stop_it(which: str, answers: dict[str, Any], says: str) -> None:
    found = list(evaluate("aws", f"__aws_{which}_checks | problems", **answers))
    assert [line for line in found if says in line], found


def test_what_is_ours_at_aws_does_not_stop_it() -> None:
    key = {"name": "messaging-system", "tags": {"messaging-system": "messaging-system"}}
    interface = {"id": "eni-1", "attachment": {"instance_id": "i-messaging"}}
    ours = at_aws(
        __aws_vpcs={"vpcs": [OUR_VPC]},
        __aws_keys={"keypairs": [key]},
        __aws_instances=aws_hosts("messaging"),
        # nothing is to be made, so no image was asked for
        __aws_images={"skipped": True},
        __aws_interfaces={"network_interfaces": [interface]},
    )
    assert evaluate("aws", "__aws_there_checks | problems + __aws_remove_checks | problems", **ours) == []
    assert evaluate("aws", "__aws_there_checks | problems", **at_aws()) == []


@pytest.mark.parametrize(
    ("given", "confirmed"),
    [
        ({"remove_confirm": "yes"}, True),
        ({"remove_confirm": "messaging-system"}, True),
        ({"remove_confirm": "no"}, False),
        ({"__aws_answer": {"user_input": "messaging-system "}}, True),
        ({"__aws_answer": {"user_input": "yes"}}, False),
        ({"__aws_answer": {"user_input": ""}}, False),
    ],
)
def test_hosts_at_aws_go_only_when_somebody_says_so(given: dict[str, Any], *, confirmed: bool) -> None:
    assert evaluate("aws", "__aws_confirmed", **given) is confirmed


def test_aws_opens_the_ports_that_the_hosts_need() -> None:
    assert evaluate("aws", "__aws_ports") == evaluate("base", "__base_cluster_ports")


ENV_FILES = [
    "/etc/x/email-1.env:WORKER_QUEUES=email",
    "/etc/x/email-1.env:WORKER_POOL=threads",
    "/etc/x/email-2.env:WORKER_QUEUES=email",
    "/etc/x/email-2.env:WORKER_POOL=threads",
    "/etc/x/see-1.env:WORKER_QUEUES=celery_see,compute",
    "/etc/x/compute-1.env:WORKER_QUEUES=compute",
]


@pytest.mark.parametrize(
    ("pool", "number", "says"),
    [
        ("mail", "2", "POOL=compute or POOL=email or POOL=see"),
        ("", "", "POOL=compute"),
        ("email", "", "from 1 to 100"),
        ("email", "many", "N is many"),
        ("email", "-1", "N is -1"),
        ("email", "101", "from 1 to 100"),
        ("email", "0", "from 1 to 100"),
    ],
)
def test_what_cannot_be_scaled_is_refused(pool: str, number: str, says: str) -> None:
    [line] = evaluate("celery", f"lines | celery_scale_problems('{pool}', '{number}')", lines=ENV_FILES)
    assert says in line


@pytest.mark.parametrize(("pool", "number"), [("email", "4"), ("email", "1"), ("see", 100)])
def test_what_can_be_scaled_is_not_refused(pool: str, number: str) -> None:
    assert evaluate("celery", f"lines | celery_scale_problems('{pool}', '{number}')", lines=ENV_FILES) == []


def test_before_the_first_run_there_is_nothing_to_scale() -> None:
    [line] = evaluate("celery", "[] | celery_scale_problems('email', '2')")
    assert "make deploy" in line


def test_a_change_of_passwords_has_to_be_ended_first(tmp_path: Path) -> None:
    (tmp_path / ".next").mkdir()
    [line] = _problems("base", {"messaging_secrets_dir": str(tmp_path)})
    assert "make rotate-secrets" in line
    assert _problems("base", {"messaging_secrets_dir": str(tmp_path), "base_rotation": True}) == []


def test_a_host_is_only_compared_in_what_the_controller_made(tmp_path: Path) -> None:
    (tmp_path / "operator_key").write_text("made-by-the-controller\n")
    names = ["operator_key", "redis_password", "flower_password"]
    found = evaluate("base", f"names | read_secrets('{tmp_path}', '')", names=names)
    assert found == {"operator_key": "made-by-the-controller", "redis_password": "", "flower_password": ""}
    values = dict(zip(names, ["made-by-the-controller", "set-in-the-vault", ""], strict=True))
    made = evaluate("base", "found | made_here(values)", found=found, values=values)
    assert made == {"operator_key": "made-by-the-controller", "flower_password": ""}, "one that was lost is compared"
    paths = {"operator_key": "/etc/a", "redis_password": "/etc/b", "flower_password": "/etc/c"}
    assert evaluate("base", "made | by_path(paths)", made=made, paths=paths) == {
        "/etc/a": "made-by-the-controller",
        "/etc/c": "",
    }


@pytest.mark.parametrize(
    ("journal", "says"),
    [
        (
            ["tunnel@edge: Permission denied (publickey)."],
            'restrict,port-forwarding,permitlisten="127.0.0.1:8080" ssh-ed25519 K',
        ),
        (
            ["Permission denied", "Host key verification failed.", "Main process exited"],
            "another key than sshtunnel_host_key",
        ),
        (["Error: remote port forwarding failed for listen port 8080"], "does not let us listen on 127.0.0.1:8080"),
        (["ssh: Could not resolve hostname edge: Name or service not known"], "Correct sshtunnel_host"),
        (["ssh: connect to host edge port 22: Connection refused"], "No sshd listens on port 22"),
        (["ssh: connect to host edge port 22: No route to host"], "no way to port 22 of edge.example.com"),
        (["kex_exchange_identification: read: Connection reset by peer"], "wait a minute"),
        (["Permission denied", "remote forward success for: listen 127.0.0.1:8080"], "The tunnel stands"),
        (["something new"], "ssh has not said why"),
        ([], "ssh has not said why"),
    ],
)
def test_what_ssh_says_is_told_with_its_fix(journal: list[str], says: str) -> None:
    heard = {"__sshtunnel_status": {"stdout_lines": journal}, "__sshtunnel_public_key": {"stdout": "ssh-ed25519 K"}}
    assert says in evaluate("sshtunnel", "__sshtunnel_fix", **SSH, **heard)


def test_no_message_shows_the_token_of_ngrok() -> None:
    found = _problems("ngrok", {"ngrok_authtoken": "not-a-real-one\n"})
    assert found
    assert "not-a-real-one" not in "".join(found)


def test_no_message_shows_the_password_of_the_relay() -> None:
    found = _problems("release", {**RELAY, "smtp_password": "line one\nline two"})
    assert found
    assert "line one" not in "".join(found)


def test_the_hosts_of_a_service_keep_their_order() -> None:
    """In any other order the files made from them would change at every run."""
    hosts = {f"vm{number}": f"10.0.0.{number}" for number in range(9, 0, -1)}
    assert evaluate("base", "messaging_members.app", **cluster(hosts)) == list(hosts)
