"""What watches the host: it reaches everything, its alerts arrive both ways, and nobody else can read or ask it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from testinfra.host import Host

from probe import exchange, mails, parse, secrets_on_controller, send_mail, unique_address, wait_for_state, wait_until

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "docs/monitoring-dashboard.json"
RULES_TEST = Path(__file__).with_name("rules.yml")
SERVICES = [f"messaging-monitoring-{name}.service" for name in ("prometheus", "alertmanager", "node", "nginx", "redis")]
UNITS = [*SERVICES, "messaging-monitoring-facts.timer"]
PORTS = ["9090", "9093", "9100", "9113", "9121", "8082"]
FACTS = "/var/lib/messaging-monitoring/facts.prom"
# A series that a rule asks for, with what narrows it
SERIES = re.compile(r"\b(?:up\b|(?:messaging|rabbitmq|redis|nginx|node|alertmanager)_\w+)(?:{[^}]*})?|{__name__[^}]*}")
WEBHOOK = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open(sys.argv[1], "ab") as file:
            file.write(body + b"\\n")
        self.send_response(200)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", 9199), Handler).serve_forever()
"""


# What no host of the tests has: a certificate of its own, and ngrok's agent
MAKE_FACTS = f"""
    folder=$(mktemp -d); cd "$folder"; : > ngrok; chmod +x ngrok
    openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out certificate -days 30 -subj /CN=x 2> errors
    PATH=$folder:$PATH messaging-monitoring-facts certificate=certificate agent > {FACTS}
    rm -r "$folder"
"""


@pytest.fixture(scope="module", autouse=True)
def alert(host: Host) -> Iterator[str]:
    """The name of an alert that was raised, on a host that has something to show: it is seen some seconds later."""
    wait_for_state(host, send_mail(host, unique_address()))
    host.check_output("sh -ec %s", MAKE_FACTS)
    name = f"Test{unique_address()[5:17]}"
    host.check_output("systemd-run --quiet --collect --unit=%s python3 -c %s /run/%s", name, WEBHOOK, name)
    try:
        wait_until(lambda: host.run("ss -ltnH | grep -q :9199").rc == 0, "the webhook listens")
        annotations = {"summary": "only a test", "description": "nothing to do"}
        ask(host, 9093, "/api/v2/alerts", [{"labels": {"alertname": name}, "annotations": annotations}])
        yield name
    finally:
        host.run("systemctl stop %s; rm -f /run/%s; systemctl start messaging-monitoring-facts.service", name, name)
    assert host.file(FACTS).content_string == ""


def ask(host: Host, port: int, target: str, body: Any = None) -> Any:
    method, content = ("GET", b"") if body is None else ("POST", json.dumps(body).encode())
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    answer = parse(exchange(host, head.encode() + content, port))
    assert answer.status == 200, answer
    return json.loads(answer.body or "null")


def found(host: Host, query: str) -> list[Any]:
    return list(ask(host, 9090, f"/api/v1/query?query={quote(query)}")["data"]["result"])


def without(host: Host, queries: list[str]) -> list[str]:
    return [query for query in queries if not found(host, query)]


def test_it_runs_and_starts_at_boot(host: Host) -> None:
    shown = host.check_output("systemctl show --property=Id,ActiveState,UnitFileState" + " %s" * len(UNITS), *UNITS)
    states = [dict(line.split("=") for line in block.splitlines()) for block in shown.split("\n\n")]
    assert {state["Id"]: (state["ActiveState"], state["UnitFileState"]) for state in states} == dict.fromkeys(
        UNITS, ("active", "enabled")
    )


def test_the_units_of_the_packages_never_run(host: Host) -> None:
    listed = host.check_output("systemctl list-unit-files --plain --no-legend 'prometheus*.service'").splitlines()
    assert len(listed) == 5
    assert {line.split()[1] for line in listed} == {"masked"}


def test_it_listens_to_the_host_alone(host: Host) -> None:
    listeners = [line.split()[3] for line in host.check_output("ss -ltnH").splitlines()]
    assert {address for address in listeners if address.rpartition(":")[2] in PORTS} == {
        f"127.0.0.1:{port}" for port in PORTS
    }


def test_its_secrets_are_closed(host: Host) -> None:
    """Files, command lines and settings that its pages show; and each daemon has a user of its own."""
    for name in ("alertmanager.yml", "redis.json"):
        file = host.file(f"/etc/messaging-monitoring/{name}")
        assert (file.user, oct(file.mode)) == ("root", "0o600")
    shown = host.check_output("ps -eo args") + host.check_output("systemctl show" + " %s" * len(SERVICES), *SERVICES)
    pages = json.dumps([ask(host, 9090, "/api/v1/status/config"), ask(host, 9093, "/api/v2/status")])
    secrets = secrets_on_controller()
    assert not [name for name, secret in secrets.items() if secret in shown + pages]
    users = host.check_output(
        f"ps -o user= -p $(systemctl show --property=MainPID --value {' '.join(SERVICES)} | xargs | tr ' ' ,)"
    )
    assert len(set(users.split())) == len(SERVICES)
    assert not {"root", "messaging", "prometheus"} & set(users.split())


def test_prometheus_reaches_everything(host: Host) -> None:
    targets = ask(host, 9090, "/api/v1/targets?state=active")["data"]["activeTargets"]
    health = {target["labels"]["job"]: (target["health"], target["lastError"]) for target in targets}
    jobs = ["messaging", "rabbitmq", "queues", "redis", "nginx", "node", "alertmanager", "prometheus"]
    assert health == dict.fromkeys(jobs, ("up", ""))


def test_rules_do_what_they_say(host: Host) -> None:
    content = RULES_TEST.read_text()
    tested = set(re.findall(r"alertname: (\w+)", content))
    groups = ask(host, 9090, "/api/v1/rules")["data"]["groups"]
    assert {rule["name"] for group in groups for rule in group["rules"]} == tested
    result = host.run("printf %%s %s > /run/rules.yml; promtool test rules /run/rules.yml; rm /run/rules.yml", content)
    assert "SUCCESS" in result.stdout, result.stdout + result.stderr


def test_rules_and_dashboard_ask_for_what_there_is(host: Host) -> None:
    asked = [panel["targets"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    queries = [target["expr"] for targets in asked for target in targets]
    groups = ask(host, 9090, "/api/v1/rules")["data"]["groups"]
    rules = [rule["query"] for group in groups for rule in group["rules"]]
    series = [part for rule in rules for part in SERIES.findall(rule)]
    assert len(queries) > 20
    assert len(series) > len(rules)
    # a rate needs two looks at a series, ten seconds apart
    missing = list(dict.fromkeys([*queries, *series]))

    def all_answered() -> bool:
        missing[:] = without(host, missing)
        print(missing)
        return not missing

    wait_until(all_answered, "every query has an answer", 45, 1)
    [certificate] = found(host, "messaging_certificate_expires_timestamp_seconds - time()")
    assert 29 * 86400 < float(certificate["value"][1]) <= 30 * 86400


def test_an_alert_arrives_as_a_mail_and_at_the_webhook(host: Host, alert: str) -> None:
    mail = wait_until(lambda: mails(host, alert), "the mail about it")[0]
    assert f"Subject: alert: {alert} ({host.check_output('hostname')})" in mail
    assert f"{alert}: only a test\nnothing to do\nsince " in mail.replace("\r\n", "\n")

    def told() -> list[str]:
        lines = host.run("cat /run/%s", alert).stdout.splitlines()
        return [each["labels"]["alertname"] for line in lines if line for each in json.loads(line)["alerts"]]

    wait_until(lambda: alert in told(), "the alert at the webhook")
