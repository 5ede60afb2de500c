"""The templates, rendered as for a host and read by what reads them there, or by a parser of the same format."""

import base64
import configparser
import json
import os
import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import crossplane
import pytest

from messaging.settings import Settings, load
from rendering import ROLES, cluster, evaluate, render
from rendering import load as load_yaml

TEMPLATES = sorted(
    (role.name, str(path.relative_to(role / "templates")))
    for role in ROLES.iterdir()
    for path in (role / "templates").rglob("*.j2")
)
UNITS = [
    (role, name)
    for role, name in TEMPLATES
    if re.search(r"\.(service|socket|target|timer|conf)\.j2$", name) and "systemd" in name
]
# What Prometheus and Alertmanager fill in themselves
GO = re.compile(r"{{ ?(?:end|else|if [^{}]+|range [^{}]+|[.$][^{}]+|(?:humanize\w+|printf) [^{}]+) }}")
# Roles whose units run a program of the distribution
FOREIGN = {"base", "monitoring", "ngrok", "sshtunnel"}
SECRETS = (
    "rabbitmq-secret-value",
    "monitor-secret-value",
    "redis-secret-value",
    "relay-secret-value",
    "flower-secret-value",
    "mongodb-secret-value",
    "ngrok-secret-value",
)
# What only its service may read.
CLOSED = {
    "etc/messaging-monitoring/alertmanager.yml.j2",
    "etc/messaging-monitoring/redis.json.j2",
    "etc/ngrok/ngrok.yml.j2",
}


@pytest.mark.parametrize(("role", "name"), TEMPLATES)
def test_template_renders(role: str, name: str) -> None:
    text = render(role, name)
    assert text.strip()
    assert "{{" not in (GO.sub("", text) if role == "monitoring" else text)
    assert "{%" not in text
    assert not re.search(r"\b(None|Undefined|True|False)$", text, re.MULTILINE) or name.endswith(".py.j2"), text


@pytest.mark.parametrize(("role", "name"), [entry for entry in TEMPLATES if entry[1] not in CLOSED])
def test_no_secret_is_in_a_template_that_all_may_read(role: str, name: str) -> None:
    relay = {"smtp_host": "relay.example.com", "smtp_username": "me", "smtp_password": "relay-secret-value"}
    mongodb = {"result_backend": "mongodb", "mongodb_url": "mongodb://me:mongodb-secret-value@server"}
    text = render(role, name, **relay, **mongodb, ngrok_authtoken="ngrok-secret-value")
    assert not [secret for secret in SECRETS if secret in text]


def _unit(text: str) -> dict[str, dict[str, list[str]]]:
    """Sections of a unit file; a key may come more than once."""
    sections: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith(("#", ";")):
            continue
        if heading := re.fullmatch(r"\[([A-Z]\w+)\]", line):
            section = heading.group(1)
            continue
        key, equals, value = line.partition("=")
        assert section, f"before any section: {line}"
        assert equals, f"not key=value: {line}"
        assert re.fullmatch(r"(X-)?[A-Z]\w+", key), line
        sections[section][key].append(value.strip())
    return sections


@pytest.mark.parametrize(("role", "name"), UNITS)
def test_unit_file_is_well_formed(role: str, name: str) -> None:
    unit = _unit(render(role, name))
    assert set(unit) <= {"Unit", "Service", "Socket", "Timer", "Install"}
    for section in unit.values():
        for key, values in section.items():
            # An empty value takes back what another file has set
            emptied = {"CapabilityBoundingSet", "ListenStream", "OnCalendar", "ReadWritePaths", "RuntimeDirectory"}
            emptied |= {"User", "Group"}
            assert all(values) or key in emptied, f"{key} is empty"
    timed = (role, name.replace(".service.j2", ".timer.j2")) in UNITS
    if name.endswith(".service.j2") and role != "base" and not timed:
        assert unit["Install"]["WantedBy"] == ["messaging.target"]
    if name.endswith(".service.j2") and role not in FOREIGN and not timed:
        assert unit["Service"]["Type"] == ["notify"]
        for command in unit["Service"]["ExecStart"]:
            assert re.match(r"/opt/messaging-system/releases/[^/]+/venv/bin/", command), "no link that may move"
        settings = "/etc/messaging-system/releases/1.0.0-0123456789ab/0123456789abcdef"
        # alone in its line, for playbooks/rollback.yml
        assert f"MSG_CONFIG_DIR={settings}" in unit["Service"]["Environment"]


def test_worker_comes_back_and_finishes_its_work() -> None:
    service = _unit(render("celery", "etc/systemd/system/messaging-worker@.service.j2"))
    assert service["Unit"]["StartLimitIntervalSec"] == ["0"]
    assert service["Service"]["Restart"] == ["always"]
    assert service["Service"]["KillMode"] == ["mixed"]
    assert int(service["Service"]["TimeoutStopSec"][0]) >= 120


# --- nginx


def _directives(text: str, tmp_path: Path) -> list[dict[str, Any]]:
    """What crossplane makes of the file; an error in it fails the test."""
    file = tmp_path / "nginx.conf"
    file.write_text(text)
    parsed = crossplane.parse(str(file), single=True, strict=False)
    assert parsed["status"] == "ok", parsed["errors"]
    return list(parsed["config"][0]["parsed"])


def _find(block: list[dict[str, Any]], directive: str) -> list[list[str]]:
    """Arguments of a directive, wherever it is."""
    found = []
    for entry in block:
        if entry["directive"] == directive:
            found.append(entry["args"])
        found += _find(entry.get("block", []), directive)
    return found


NGINX = [
    {},
    {"nginx_port": 8080, "nginx_client_max_body_size": "512k"},
    {"nginx_trusted_proxies": ["192.0.2.1", "2001:db8::/32"]},
    {"messaging_tunnel": "ssh"},
    {"messaging_tunnel": "ngrok", "tunnel_port": 9000, "tunnel_opens_operators": True},
    {"nginx_tls": "letsencrypt", "nginx_server_name": "mail.example.com"},
]
RENEWAL = b"server = https://acme-v02.api.letsencrypt.org/directory\nmail.example.com = /var/www/messaging-acme\n"
TLS = {
    "nginx_tls": "letsencrypt",
    "nginx_server_name": "mail.example.com",
    "__nginx_acme_found": {"content": base64.b64encode(RENEWAL).decode()},
    "__nginx_asked": {"stderr": "nginx version: nginx/1.26.3"},
}


def _servers(tmp_path: Path, **values: Any) -> dict[str, list[dict[str, Any]]]:
    """The `server` blocks, by the first address that each listens on."""
    [http] = [
        entry["block"]
        for entry in _directives(render("nginx", "etc/nginx/nginx.conf.j2", **values), tmp_path)
        if entry["directive"] == "http"
    ]
    blocks = [entry["block"] for entry in http if entry["directive"] == "server"]
    return {_find(block, "listen")[0][0]: block for block in blocks}


@pytest.mark.parametrize("values", NGINX)
def test_nginx_configuration_is_well_formed(values: dict[str, Any], tmp_path: Path) -> None:
    config = _directives(render("nginx", "etc/nginx/nginx.conf.j2", **values), tmp_path)
    port = str(values.get("nginx_port", 80))
    listens = {listen[0] for listen in _find(config, "listen")}
    tunnel = {f"127.0.0.1:{values.get('tunnel_port', 8081)}"} if "messaging_tunnel" in values else set()
    assert listens == {port, f"[::]:{port}"} | tunnel
    assert _find(config, "server_tokens") == [["off"]]
    # Once more, whatever was asked: the application knows that it is the same request
    assert _find(config, "proxy_next_upstream") == [["error", "timeout", "non_idempotent"]]
    assert _find(config, "proxy_next_upstream_tries") == [["2"]]
    # The address is in the query.
    for variable in ("$request ", "$request_uri", "$args", "$query_string", "$http_referer"):
        assert not [log for log in _find(config, "log_format") if variable in " ".join(log) + " "]


HOSTS = {"vm1": "10.0.0.1", "vm2": "10.0.0.2", "vm3": "10.0.0.3"}
SOCKET = "unix:/run/messaging-web.sock"
AWAY = ["max_fails=1", "fail_timeout=10s"]


def _upstream(tmp_path: Path, **values: Any) -> list[list[str]]:
    config = _directives(render("nginx", "etc/nginx/nginx.conf.j2", **values), tmp_path)
    [http] = [entry["block"] for entry in config if entry["directive"] == "http"]
    [upstream] = [entry["block"] for entry in http if entry["directive"] == "upstream"]
    return [entry["args"] for entry in upstream if entry["directive"] == "server"]


def _locations(tmp_path: Path, **values: Any) -> dict[str, list[dict[str, Any]]]:
    block = _servers(tmp_path, **values)["80"]
    return {entry["args"][-1]: entry["block"] for entry in block if entry["directive"] == "location"}


def test_on_one_host_a_second_try_goes_to_the_same_socket(tmp_path: Path) -> None:
    assert _upstream(tmp_path) == [[SOCKET, "max_fails=0"], [SOCKET, "max_fails=0", "backup"]]


def test_nginx_asks_the_application_on_all_hosts_and_its_own_in_the_end(tmp_path: Path) -> None:
    assert _upstream(tmp_path, **cluster(HOSTS)) == [
        [SOCKET, *AWAY],
        ["10.0.0.2:8000", *AWAY],
        ["10.0.0.3:8000", *AWAY],
        [SOCKET, "max_fails=0", "backup"],
    ]


def test_static_files_of_the_release_before_do_not_stay_in_a_browser(tmp_path: Path) -> None:
    for values in ({}, cluster(HOSTS, {"app": ["vm2"], "mailbox": ["vm2"]})):
        assert _find(_locations(tmp_path, **values)["/static/"], "expires") == [["1m"]]


@pytest.mark.parametrize(("number", "tries"), [(1, "2"), (2, "2"), (3, "3")])
def test_each_host_of_the_application_is_asked_once(number: int, tries: str, tmp_path: Path) -> None:
    values = cluster(HOSTS, {"app": [*HOSTS][:number], "mailbox": ["vm1"]})
    config = _directives(render("nginx", "etc/nginx/nginx.conf.j2", **values), tmp_path)
    assert _find(config, "proxy_next_upstream_tries") == [[tries]]


def test_a_host_of_nginx_alone_never_runs_out_of_hosts_to_ask(tmp_path: Path) -> None:
    values = cluster(HOSTS, {"app": ["vm2", "vm3"], "mailbox": ["vm2"]})
    assert _upstream(tmp_path, **values) == [
        ["10.0.0.2:8000", *AWAY],
        ["10.0.0.3:8000", *AWAY],
        ["10.0.0.2:8000", "max_fails=0", "backup"],
        ["10.0.0.3:8000", "max_fails=0", "backup"],
    ]
    assert _find(_locations(tmp_path, **values)["/static/"], "proxy_pass") == [["http://messaging_web"]]
    assert not _find(_locations(tmp_path)["/static/"], "proxy_pass")


@pytest.mark.parametrize(("host", "where"), [("vm2", "10.0.0.2:8000"), ("vm1", SOCKET)])
def test_mail_is_shown_by_the_host_that_has_it(host: str, where: str, tmp_path: Path) -> None:
    values = cluster(HOSTS, {"mailbox": [host]})
    assert _find(_locations(tmp_path, **values)["/mail/"], "proxy_pass") == [[f"http://{where}"]]
    assert "/mail/" not in _locations(tmp_path, **values, smtp_host="relay.example.com")
    assert "/mail/" not in _locations(tmp_path)


def test_the_application_listens_to_the_network_only_with_more_than_one_host() -> None:
    name = "etc/systemd/system/messaging-web.socket.j2"
    assert _unit(render("app", name))["Socket"]["ListenStream"] == ["/run/messaging-web.sock"]
    assert _unit(render("app", name, **cluster(HOSTS)))["Socket"]["ListenStream"] == [
        "/run/messaging-web.sock",
        "10.0.0.1:8000",
    ]


def test_the_mailbox_talks_to_our_hosts_only() -> None:
    name = "etc/systemd/system/messaging-mailbox.service.j2"
    assert _unit(render("mailbox", name))["Service"]["IPAddressAllow"] == ["localhost"]
    allowed = _unit(render("mailbox", name, **cluster(HOSTS)))["Service"]["IPAddressAllow"]
    assert allowed == ["localhost 10.0.0.1 10.0.0.2 10.0.0.3"]


def test_only_the_tunnel_believes_the_last_forwarded_address(tmp_path: Path) -> None:
    servers = _servers(tmp_path, messaging_tunnel="ssh")
    assert list(servers) == ["80", "127.0.0.1:8081"]
    assert not [entry for entry in servers["80"] if "real_ip" in entry["directive"]]
    tunnel = servers["127.0.0.1:8081"]
    assert _find(tunnel, "set_real_ip_from") == [["127.0.0.0/8"]]
    assert _find(tunnel, "real_ip_header") == [["X-Forwarded-For"]]
    assert _find(tunnel, "real_ip_recursive") == [["off"]]
    proxied = _servers(tmp_path, messaging_tunnel="ssh", nginx_trusted_proxies=["192.0.2.1"])
    assert _find(proxied["80"], "set_real_ip_from") == [["192.0.2.1"]]
    assert _find(proxied["127.0.0.1:8081"], "set_real_ip_from") == [["127.0.0.0/8"]]


def test_what_the_application_is_told_is_overwritten_everywhere(tmp_path: Path) -> None:
    for values in NGINX:
        config = _directives(render("nginx", "etc/nginx/nginx.conf.j2", **values), tmp_path)
        told = dict(_find(config, "proxy_set_header"))
        assert len(told) == len(_find(config, "proxy_set_header")), "in one place: a second one would hide the others"
        assert told["X-Forwarded-For"] == "$client"
        assert told["X-Messaging-Through"] == "$through"
        assert not [name for name, value in told.items() if value.startswith("$http_") and name != "Host"]
        assert {"Forwarded", "X-Real-IP", "X-Forwarded-Host"} <= {name for name, value in told.items() if not value}


def test_operators_do_not_come_through_the_tunnel_unless_it_is_opened(tmp_path: Path) -> None:
    def places(name: str, **values: Any) -> dict[str, list[str]]:
        block = _servers(tmp_path, messaging_tunnel="ssh", **values)[name]
        locations = [entry for entry in block if entry["directive"] == "location"]
        return {
            entry["args"][-1]: [inner["directive"] for inner in entry["block"]]
            for entry in locations
            if not entry["args"][-1].startswith("/.problem")
        }

    closed = {"/flower/", "/flower", "/operators/", "/operators", "/mail/", "/readyz", "/api/v1/tasks"}
    tunnel, direct = places("127.0.0.1:8081"), places("80")
    assert {place for place, what in tunnel.items() if what == ["deny"]} == closed
    assert set(tunnel) - closed == {"/static/", "/"}
    assert set(direct) == {"/static/", "/flower/", "/flower", "/"}
    assert places("127.0.0.1:8081", tunnel_opens_operators=True) == direct


def test_headers_of_every_answer_are_added_in_one_place(tmp_path: Path) -> None:
    for values in NGINX:
        config = _directives(render("nginx", "etc/nginx/nginx.conf.j2", **values), tmp_path)
        [http] = [entry["block"] for entry in config if entry["directive"] == "http"]
        here = [entry["args"] for entry in http if entry["directive"] == "add_header"]
        assert here == _find(config, "add_header"), "one in a server or a location hides all of these"
        assert len({name for name, *_ in here}) == len(here) > 8
        assert {args[-1] for args in here} == {"always"}


def test_a_flood_is_not_a_flood_of_lines(tmp_path: Path) -> None:
    def logs(**values: Any) -> list[list[str]]:
        return _find(_directives(render("nginx", "etc/nginx/nginx.conf.j2", **values), tmp_path), "access_log")

    everything = ["/var/log/nginx/access.log", "json"]
    assert logs() == [everything]
    assert logs(messaging_tunnel="ssh") == [[*everything, "if=$logged"]]
    rule = render("nginx", "etc/logrotate.d/nginx.j2")
    assert {"daily", "maxsize 50M", "rotate 14"} <= {line.strip() for line in rule.splitlines()}
    timer = _unit(render("nginx", "etc/systemd/system/logrotate.timer.d/messaging.conf.j2"))
    assert timer["Timer"]["OnCalendar"] == ["", "minutely"]


@pytest.mark.parametrize(
    ("version", "listens", "directive"),
    [
        ("nginx version: nginx/1.22.1", ["443", "ssl", "http2"], []),
        ("nginx version: nginx/1.24.0 (Ubuntu)", ["443", "ssl", "http2"], []),
        ("nginx version: nginx/1.26.3", ["443", "ssl"], [["on"]]),
        ("", ["443", "ssl"], [["on"]]),
    ],
)
def test_http2_is_written_as_the_version_wants_it(
    version: str, listens: list[str], directive: list[list[str]], tmp_path: Path
) -> None:
    server = _servers(tmp_path, **{**TLS, "__nginx_asked": {"stderr": version}})["443"]
    assert _find(server, "listen")[0] == [*listens, "default_server", "backlog=1024"]
    assert _find(server, "http2") == directive


def test_with_a_certificate_there_is_tls_and_the_way_to_it(tmp_path: Path) -> None:
    servers = _servers(tmp_path, **TLS, nginx_tls_port="8443", messaging_tunnel="ssh")
    assert list(servers) == ["8443", "80", "127.0.0.1:8081"]
    live = "/etc/letsencrypt/live/messaging-system"
    assert _find(servers["8443"], "ssl_certificate") == [[f"{live}/fullchain.pem"]]
    assert not _find(servers["80"], "proxy_pass")
    [redirect] = [args for args in _find(servers["80"], "return") if args[0] == "301"]
    assert redirect[1] == "https://mail.example.com:8443$request_uri"
    assert _find(servers["80"], "root") == [["/var/www/messaging-acme"]]
    assert not _find(servers["127.0.0.1:8081"], "ssl_certificate")
    config = _directives(render("nginx", "etc/nginx/nginx.conf.j2", **TLS), tmp_path)
    assert _find(config, "ssl_protocols") == [["TLSv1.2", "TLSv1.3"]]
    assert _find(config, "ssl_session_tickets") == [["off"]]
    assert ["Strict-Transport-Security", "$strict_transport_security", "always"] in _find(config, "add_header")
    silent = _directives(render("nginx", "etc/nginx/nginx.conf.j2", **TLS, nginx_hsts_seconds=0), tmp_path)
    assert not [args for args in _find(silent, "add_header") if args[0] == "Strict-Transport-Security"]


def test_before_the_first_certificate_the_service_answers_without_tls(tmp_path: Path) -> None:
    servers = _servers(tmp_path, nginx_tls="letsencrypt", nginx_server_name="mail.example.com")
    assert list(servers) == ["80"]
    assert ["http://messaging_web"] in _find(servers["80"], "proxy_pass")
    assert _find(servers["80"], "root") == [["/var/www/messaging-acme"]]
    assert not _find(_servers(tmp_path)["80"], "root")


def test_another_name_or_authority_needs_another_certificate() -> None:
    assert evaluate("nginx", "__nginx_acme_current", **TLS)
    assert "--force-renewal" not in evaluate("nginx", "__nginx_certbot", nginx_tls="letsencrypt")
    for changed in ({"nginx_server_name": "b.example.com"}, {"nginx_acme_directory": "https://acme.example.com/"}):
        assert not evaluate("nginx", "__nginx_acme_current", **{**TLS, **changed})
        assert "--force-renewal" in evaluate("nginx", "__nginx_certbot", **{**TLS, **changed})


@pytest.mark.parametrize(
    ("values", "limited"),
    [
        ({}, set()),
        ({"messaging_tunnel": "ssh"}, {"127.0.0.1:8081"}),
        ({"smtp_host": "relay.example.com"}, {"80"}),
        ({"smtp_host": "relay.example.com", "messaging_tunnel": "ngrok"}, {"80", "127.0.0.1:8081"}),
        ({"messaging_tunnel": "ssh", "nginx_rate": 0, "nginx_connections": 0}, set()),
    ],
)
def test_clients_are_limited_where_strangers_come(values: dict[str, Any], limited: set[str], tmp_path: Path) -> None:
    servers = _servers(tmp_path, **values)
    for directive, arguments in (
        ("limit_req", [["zone=requests", "burst=40", "nodelay"]]),
        ("limit_conn", [["connections", "20"]]),
    ):
        found = {name: _find(block, directive) for name, block in servers.items()}
        assert {name: lines for name, lines in found.items() if lines} == dict.fromkeys(limited, arguments)


def test_every_error_of_nginx_is_a_problem_document(tmp_path: Path) -> None:
    config = _directives(render("nginx", "etc/nginx/nginx.conf.j2"), tmp_path)
    leaves_as = {code: args[-2].lstrip("=") for args in _find(config, "error_page") for code in args[:-2]}
    wanted = {
        "400": "400",
        "413": "413",
        "414": "414",
        "429": "429",
        "494": "431",
        "502": "503",
        "503": "503",
        "504": "503",
    }
    assert wanted.items() <= leaves_as.items()
    documents = [args for args in _find(config, "return") if len(args) == 2]
    for status, text in documents:
        document = json.loads(text.replace("\\n", ""))
        assert document["status"] == int(status)
        assert {"type", "title", "detail"} <= set(document)
    assert {status for status, _ in documents} >= {"400", "413", "414", "431", "503"}


def test_flower_is_where_its_group_is(tmp_path: Path) -> None:
    def sockets(**values: Any) -> list[str]:
        config = _directives(render("nginx", "etc/nginx/nginx.conf.j2", **values), tmp_path)
        return [args[0] for args in _find(config, "proxy_pass")]

    unit = "etc/systemd/system/messaging-worker@.service.j2"
    assert "http://unix:/run/messaging-flower.sock" in sockets()
    assert "--task-events" in render("celery", unit)
    assert sockets(group_names=["app", "nginx"]) == ["http://messaging_web"]
    # Without Flower there is nobody to tell
    alone = render("celery", unit, groups={"all": ["h"], "celery": ["h"]})
    assert "--task-events" not in alone
    assert "--without-heartbeat" in alone


# --- RabbitMQ


def test_rabbitmq_listens_on_loopback_only() -> None:
    lines = [
        line for line in render("rabbitmq", "etc/rabbitmq/rabbitmq.conf.j2").splitlines() if line and line[0] != "#"
    ]
    settings = dict(line.split(" = ", 1) for line in lines)
    assert all(re.fullmatch(r"[a-z][\w.]*", key) for key in settings)
    assert settings["listeners.tcp.local"] == "127.0.0.1:5672"
    for key in ("management.tcp.ip", "prometheus.tcp.ip", "distribution.listener.interface"):
        assert settings[key] == "127.0.0.1"
    assert settings["definitions.local.path"] == "/etc/rabbitmq/definitions.json"


def test_rabbitmq_keeps_the_name_of_the_inventory() -> None:
    name = "vm_1.example.com"
    text = render("rabbitmq", "etc/rabbitmq/rabbitmq-env.conf.j2", inventory_hostname=name)
    assert "NODENAME=rabbit@vm-1-example-com" in text.splitlines()
    groups = {"all": [name], "rabbitmq": [name]}
    names = render("rabbitmq", "etc/rabbitmq/erl_inetrc.j2", inventory_hostname=name, groups=groups)
    assert '{host, {127,0,0,1}, ["vm-1-example-com"]}.' in names.splitlines()


def test_rabbitmq_definitions_are_complete() -> None:
    document = evaluate("rabbitmq", "__rabbitmq_definitions | combine(__rabbitmq_topology)")
    document = json.loads(json.dumps(document))
    users = {user["name"]: user for user in document["users"]}
    assert set(users) == {"messaging", "monitor"}
    assert not [secret for secret in SECRETS if secret in json.dumps(document)]
    exchanges = {exchange["name"] for exchange in document["exchanges"]}
    queues = {queue["name"]: queue for queue in document["queues"]}
    assert {"messaging.submit", "messaging", "messaging.delay", "messaging.dead", "messaging.unrouted"} <= exchanges
    assert {"email", "compute", "dead", "unrouted"} <= set(queues)
    assert queues["email"]["arguments"]["x-queue-type"] == "quorum"
    for binding in document["bindings"]:
        assert binding["source"] in exchanges
        assert binding["destination"] in (queues if binding["destination_type"] == "queue" else exchanges)
    # Nothing refers to something that is not there.
    for entry in (*document["exchanges"], *document["queues"], *document["bindings"], *document["policies"]):
        assert entry["vhost"] == "messaging"


def test_rabbitmq_password_is_hashed_the_same_way_every_time() -> None:
    first, second = (evaluate("rabbitmq", "'secret' | rabbitmq_password_hash") for _ in range(2))
    assert first == second


def test_a_queue_that_is_listed_no_more_is_missed_while_it_holds_something() -> None:
    seen = [
        {"name": "email", "type": "quorum", "messages": 5},
        {"name": "old", "type": "quorum", "messages": 3},
        {"name": "empty", "type": "quorum", "messages": 0},
        {"name": "new", "type": "quorum"},
        {"name": "delay.77", "type": "quorum", "messages": 1},
        {"name": "celeryev.1", "type": "classic", "messages": 1},
    ]
    assert evaluate("rabbitmq", "seen | rabbitmq_left_queues(__rabbitmq_topology)", seen=seen) == [["old", 3]]


# --- ngrok


def _ngrok(tmp_path: Path, **values: Any) -> dict[str, Any]:
    """What the agent reads."""
    file = tmp_path / "ngrok.yml"
    file.write_text(render("ngrok", "etc/ngrok/ngrok.yml.j2", ngrok_authtoken="ngrok-secret-value", **values))
    return dict(load_yaml(file))


def test_ngrok_leads_to_the_tunnel_and_keeps_nothing(tmp_path: Path) -> None:
    config = _ngrok(tmp_path, tunnel_port=8099, ngrok_web_port=4999)
    assert config["version"] == 3
    agent = config["agent"]
    assert agent["authtoken"] == "ngrok-secret-value"
    assert agent["web_addr"] == "127.0.0.1:4999"
    assert (agent["inspect_db_size"], agent["remote_management"], agent["update_check"]) == (-1, False, False)
    assert config["endpoints"] == [{"name": "messaging", "upstream": {"url": "http://127.0.0.1:8099"}}]
    assert not {"connect_url", "connect_cas"} & set(agent)


def test_ngrok_asks_for_the_domain_that_is_set(tmp_path: Path) -> None:
    values = {
        "ngrok_domain": "example.ngrok.app",
        "ngrok_connect_url": "a.example.com:443",
        "ngrok_connect_cas": "host",
    }
    config = _ngrok(tmp_path, **values)
    assert config["endpoints"][0]["url"] == "https://example.ngrok.app"
    assert (config["agent"]["connect_url"], config["agent"]["connect_cas"]) == ("a.example.com:443", "host")


def test_nothing_but_the_agent_is_taken_from_the_archive_of_ngrok() -> None:
    text = render("ngrok", "etc/apt/preferences.d/ngrok.pref.j2", ngrok_apt_url="https://packages.example.com/x")
    assert 'Package: *\nPin: origin "packages.example.com"\nPin-Priority: -1\n' in text
    assert 'Package: ngrok\nPin: origin "packages.example.com"\nPin-Priority: 500' in text


def test_ngrok_comes_back_with_the_host_and_after_each_end() -> None:
    unit = _unit(render("ngrok", "etc/systemd/system/ngrok.service.j2"))
    assert unit["Service"]["User"] == ["ngrok"]
    assert unit["Service"]["Restart"] == ["always"]
    assert unit["Unit"]["StartLimitIntervalSec"] == ["0"]


@pytest.mark.parametrize("token", ["ngrok-secret-value", "changed-meanwhile"])
def test_ngrok_does_not_print_the_token(tmp_path: Path, token: str) -> None:
    """Neither the one in the file nor one that was there a moment ago; and its exit code is kept."""
    _ngrok(tmp_path)
    agent = tmp_path / "ngrok"
    agent.write_text(f'#!/bin/sh\necho "$@"\necho \'lvl=eror err="bad\\nYour authtoken: {token}\\n"\' >&2\nexit 7\n')
    agent.chmod(0o755)
    script = render("ngrok", "usr/local/sbin/messaging-ngrok.j2").replace("/etc/ngrok", str(tmp_path))
    path = f"{tmp_path}:{os.environ['PATH']}"
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env={"PATH": path}, check=False)
    assert ran.returncode == 7
    assert f"start --all --config {tmp_path}/ngrok.yml" in ran.stdout
    assert "Your authtoken: (not shown)" in ran.stdout
    assert token not in ran.stdout + ran.stderr


@pytest.mark.parametrize("code", ["105", "107", "108", "120", "121", "314", "320", "334", "3200", "6024", "8012"])
def test_each_code_of_ngrok_has_a_fix(code: str) -> None:
    fix = evaluate("ngrok", f"__ngrok_fixes['ERR_NGROK_{code}']", ngrok_domain="foreign.ngrok.app")
    assert len(fix) > 40
    assert code != "320" or "foreign.ngrok.app" in fix


# --- Redis, gunicorn, workers, logrotate


def test_redis_keeps_what_it_has() -> None:
    text = render("redis", "etc/redis/redis.conf.j2")
    settings = dict(line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert settings["bind"] == "127.0.0.1"
    assert settings["include"] == "/etc/redis/password.conf"
    assert settings["appendonly"] == "yes"
    assert settings["maxmemory-policy"] == "noeviction"


def test_gunicorn_reads_its_configuration_from_the_release() -> None:
    unit = _unit(render("app", "etc/systemd/system/messaging-web.service.j2", app_workers=3, app_threads=5))
    service = unit["Service"]
    for command in service["ExecStartPre"] + service["ExecStart"]:
        assert "--config python:messaging.serving " in command
    assert "--workers 3 --threads 5" in service["ExecStart"][0]


def test_a_pool_is_read_back_as_it_was_written() -> None:
    pool = {"name": "see", "queues": ["celery_see"], "pool": "solo", "concurrency": 4, "instances": 2, "prefetch": 1}
    files = "__celery_instances | map('celery_env_file', __celery_workers)"
    lines = [
        f"{file['path']}:{line}"
        for file in evaluate("celery", f"{files} | list", celery_pools=[pool])
        for line in file["content"].splitlines()
        if line.startswith("WORKER_")
    ]
    found = evaluate("celery", "lines | celery_found_pool('see')", lines=lines)
    assert found["workers"] == ["see-1", "see-2"]
    again = {**found, "instances": 2}
    assert evaluate("celery", f"{files} | list", celery_pools=[again]) == evaluate(
        "celery", f"{files} | list", celery_pools=[pool]
    )


def test_workers_are_numbered_and_pools_scale() -> None:
    pool = {"name": "email", "queues": ["email"], "pool": "threads", "concurrency": 4, "instances": 3, "prefetch": 2}
    assert evaluate("celery", "__celery_names", celery_pools=[pool]) == ["email-1", "email-2", "email-3"]
    file = evaluate(
        "celery", "__celery_instances | map('celery_env_file', __celery_workers) | first", celery_pools=[pool]
    )
    parser = configparser.ConfigParser()
    parser.read_string("[unit]\n" + file["content"])
    assert dict(parser["unit"]) == {
        "worker_queues": "email",
        "worker_pool": "threads",
        "worker_concurrency": "4",
        "worker_prefetch": "2",
    }


def test_log_is_rotated_by_renaming() -> None:
    text = render("release", "etc/logrotate.d/messaging-system.j2")
    assert "copytruncate" not in text
    assert "create 0640 messaging adm" in text
    assert text.count("{") == text.count("}") == 1


# --- Settings: the playbook's side against the application's


def _settings(tmp_path: Path, **overrides: Any) -> Settings:
    """What the application makes of the file that the playbook writes."""
    (tmp_path / "messaging.env").write_text(render("release", "etc/messaging-system/messaging.env.j2", **overrides))
    return load({"MSG_CONFIG_DIR": str(tmp_path)})


def test_application_reads_the_settings_file(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    assert settings.mail_embedded
    assert (settings.smtp_host, settings.smtp_port, settings.smtp_security) == ("127.0.0.1", 2525, "none")
    assert settings.delays == [5, 15, 60, 300, 1800]


def test_application_finds_the_other_services(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    assert (settings.amqp_hosts, settings.amqp_ca_file) == (["127.0.0.1:5672"], "")
    assert (settings.redis_host, settings.redis_ca_file, settings.proxies) == ("127.0.0.1", "", [])
    services = {"rabbitmq": ["vm1", "vm2"], "redis": ["vm3"], "mailbox": ["vm2"], "nginx": ["vm1", "vm3"]}
    settings = _settings(tmp_path, **cluster(HOSTS, services))
    assert settings.amqp_hosts == ["10.0.0.1:5671", "10.0.0.2:5671"]
    assert settings.redis_host == "10.0.0.3"
    assert settings.amqp_ca_file == settings.redis_ca_file == "/etc/messaging-system/cluster_ca.crt"
    assert (settings.smtp_host, settings.mailbox_host) == ("10.0.0.2", "10.0.0.1")
    assert settings.proxies == ["10.0.0.1", "10.0.0.3"]


def test_flower_asks_only_a_broker_on_its_own_host() -> None:
    assert "127.0.0.1:15672" in evaluate("flower", "__flower_broker_api")
    assert evaluate("flower", "__flower_broker_api", **cluster(HOSTS, {"rabbitmq": ["vm2"]})) == ""


def test_application_reads_a_relay(tmp_path: Path) -> None:
    settings = _settings(
        tmp_path, smtp_host="relay.example.com", smtp_port=465, smtp_security="tls", mail_from="a@example.com"
    )
    assert not settings.mail_embedded
    assert (settings.smtp_host, settings.smtp_port, settings.smtp_security) == ("relay.example.com", 465, "tls")


def test_application_reads_budgets_and_recipients(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    assert (settings.budget_client, settings.recipients_deny) == ("5/minute; 20/hour; 50/day", [])
    settings = _settings(
        tmp_path,
        budget_client="1 per 2 hours, 5/day",
        recipients_allow=[".example.com", "Me@bücher.example"],
        recipients_deny=["victim+1@example.com"],
    )
    assert settings.budget_client == "1 per 2 hours, 5/day"
    assert settings.recipients_allow == [".example.com", "me@xn--bcher-kva.example"]
    assert settings.recipients_deny == ["victim+1@example.com"]


@pytest.mark.parametrize(
    "text", ["costs $5 ${HOME}", "a # b", "\"quoted\" \\ and 'single'", "two\nlines", "ünïcode €", "  kept  ", "%i {x}"]
)
def test_text_arrives_as_it_was_written(text: str, tmp_path: Path) -> None:
    assert _settings(tmp_path, sendmail_text=text).sendmail_text == text


def test_application_reads_where_records_are_kept(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/mongodb_url").write_text("mongodb://me:pw@server/tasks")
    settings = _settings(tmp_path, result_backend="mongodb", result_expires="90000", metrics_port="9999")
    assert (settings.result_backend, settings.result_expires, settings.metrics_port) == ("mongodb", 90000, 9999)
    assert settings.mongodb_url.get_secret_value() == "mongodb://me:pw@server/tasks"


def test_settings_lead_to_the_secrets_that_go_with_them() -> None:
    """And not to what another release or other settings have left there."""

    def links(**values: Any) -> dict[str, str]:
        files = evaluate("release", "__release_settings_files", **values)
        return {Path(each["path"]).name: each["target"] for each in files if each.get("state") == "link"}

    assert links()["amqp_password"] == "../../../../secrets/amqp_password"
    # which is there for a day, after a change of the other
    assert {"secret_key", "secret_key_previous"} <= set(links())
    assert "smtp_password" not in links()
    relay = {"smtp_host": "relay.example.com", "smtp_username": "me", "smtp_password": "relay-secret-value"}
    assert "smtp_password" in links(**relay)
    # what the live release may still need goes when nobody reads it any more
    assert "/etc/messaging-system/secrets/smtp_password" in evaluate("release", "__release_unused_secrets")
    assert "/etc/messaging-system/secrets/smtp_password" not in evaluate("release", "__release_unused_secrets", **relay)


def test_url_of_mongodb_is_a_secret_file_while_it_is_used() -> None:
    path = "/etc/messaging-system/secrets/mongodb_url"
    url = "mongodb://me:pw@server"
    assert evaluate("release", "__release_secrets", mongodb_url=url)[path] == ""
    assert evaluate("release", "__release_secrets", mongodb_url=url, result_backend="mongodb")[path] == url
    digests = [
        evaluate("release", "__release_secrets_digest", mongodb_url=u, result_backend="mongodb")
        for u in (url, url + "x")
    ]
    assert digests[0] != digests[1], "workers are restarted for another URL"


def test_metrics_are_served_to_the_host_only() -> None:
    unit = _unit(render("release", "etc/systemd/system/messaging-metrics.service.j2"))
    assert unit["Service"]["IPAddressDeny"] == ["any"]
    assert unit["Service"]["IPAddressAllow"] == ["localhost"]
    assert "metrics" not in render("nginx", "etc/nginx/nginx.conf.j2") + render("nginx", "etc/nginx/site.conf.j2")


# --- The tunnel with SSH


def test_the_tunnel_pins_the_edge_and_offers_one_key() -> None:
    edge = {
        "sshtunnel_host": "edge.example.com",
        "sshtunnel_host_key": "ssh-ed25519 A\nssh-rsa B",
        "sshtunnel_remote": 80,
    }
    text = render("sshtunnel", "etc/messaging-tunnel/ssh_config.j2", **edge)
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    settings = {name: value for name, value in lines if not name.startswith("#")}
    assert settings["RemoteForward"] == "127.0.0.1:80 127.0.0.1:8081", "an address that permitlisten can name"
    wanted = {
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "ExitOnForwardFailure": "yes",
    }
    assert wanted.items() <= settings.items()
    known = render("sshtunnel", "etc/messaging-tunnel/known_hosts.j2", **edge).splitlines()
    assert known[-2:] == ["edge.example.com ssh-ed25519 A", "edge.example.com ssh-rsa B"]
    assert settings["HostKeyAlias"] == "edge.example.com"


def test_the_tunnel_has_a_user_of_its_own() -> None:
    service = _unit(render("sshtunnel", "etc/systemd/system/messaging-sshtunnel.service.d/20-user.conf.j2"))["Service"]
    assert service["User"] == ["messaging-tunnel"]
    assert service["RuntimeDirectory"] == [""], "the directory of the counters would change its owner"
