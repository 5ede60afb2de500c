"""A minute of an attacker who knows the public address (attack.py), on a host with a relay and the usual budgets."""

import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

from attack import CLIENTS, VICTIM
from faulty import RELAY, RELAY_CERTIFICATE, RELAY_USERNAME, converge, put, start_relay, stop_relay
from probe import TIME_LOG, ready, wait_until

SECONDS = 60
URL = "https://messaging.ngrok.test"
ATTACK = Path(__file__).parent / "attack.py"
CA_FILE = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "certificates/ca.crt")
BEGAN = "/tmp/attack-began"
ACCESS_LOG = "/var/log/nginx/access.log"
TAGS = ("--tags", "release,app,celery,nginx")
PASSWORD = "right-" + uuid.uuid4().hex
# What comes through is taken by one budget or another; these are the defaults
MAILS_OF_A_CLIENT_IN_TWO_MINUTES = 10
MAILS_TO_A_RECIPIENT = 2
LINES_OF_A_CLIENT_A_SECOND = 10


@pytest.fixture(scope="module")
def relay(host: Host, internet: Host) -> Iterator[None]:
    """Mail leaves the host, as after a run of the playbook with a relay."""
    start_relay(host, PASSWORD)
    converge(
        *TAGS,
        smtp_host="localhost",
        smtp_port=2587,
        smtp_username=RELAY_USERNAME,
        smtp_password=PASSWORD,
        smtp_ca_file=RELAY_CERTIFICATE,
        mail_from="service@example.com",
    )
    yield
    stop_relay(host)
    converge(*TAGS)
    # the stand-in for ngrok is no match for an attack
    internet.check_output("systemctl restart ngrok-cloud-stand-in")
    host.check_output("systemctl restart ngrok")


def lines(host: Host) -> dict[str, int]:
    """How many lines there are in what could be flooded."""
    return {
        "access log": int(host.check_output("cat %s* | wc -l", ACCESS_LOG)),
        "error log": int(host.check_output("cat /var/log/nginx/error.log | wc -l")),
        "journal": int(host.check_output("journalctl --quiet --output=cat | wc -l")),
        "log of times": int(host.check_output("cat %s* | wc -l", TIME_LOG)),
    }


def delivered(host: Host, header: str) -> list[str]:
    """One header of each mail that the provider has taken since the attack began."""
    found = host.check_output(f"find {RELAY}/mail/new -type f -newer {BEGAN} -exec grep -h -m 1 '^{header}: ' {{}} +")
    return [line.removeprefix(f"{header}: ").strip() for line in found.splitlines()]


def idle(host: Host) -> bool:
    tasks = [host.check_output("messagingctl tasks --state %s --since 1h", state) for state in ("queued", "started")]
    return not any(task.strip() for task in tasks)


def test_an_attack_of_a_minute(host: Host, internet: Host, relay: None, capsys: pytest.CaptureFixture[str]) -> None:
    put(internet, ATTACK.read_text(), "/tmp/attack.py")
    put(internet, CA_FILE.read_text(), "/tmp/ca.crt")
    host.check_output("touch %s", BEGAN)
    lines_before = lines(host)
    said = json.loads(internet.check_output(f"python3 /tmp/attack.py {URL} {SECONDS} /tmp/ca.crt"))
    wait_until(lambda: idle(host), "all that was let through is done", 90)
    answers = {trick: Counter(counts) for trick, counts in said["answers"].items()}
    total = sum(answers.values(), Counter())
    written = {name: count - lines_before[name] for name, count in lines(host).items()}
    report = {
        "tried": total.total(),
        "let through": total["202"] + total["200"],
        "mail accepted": sum(answers[trick]["202"] for trick in ("bomb_one", "bomb_many", "free_mail", "forge")),
        "mail delivered": len(delivered(host, "Delivered-To")),
        "lines written": written,
        "five hundreds": {status: count for status, count in total.items() if status.startswith("5")},
        "by trick": answers,
    }
    with capsys.disabled():
        print(f"\nattack of {SECONDS} s by {CLIENTS} clients: {json.dumps(report)}")

    assert said["leaks"] == []
    assert total["500"] == 0, report
    assert report["mail delivered"] <= report["mail accepted"] <= CLIENTS * MAILS_OF_A_CLIENT_IN_TWO_MINUTES, report
    victims = [name for name in delivered(host, "Delivered-To") if re.sub(r"\+.*@", "@", name.lower()) == VICTIM]
    assert len(victims) <= MAILS_TO_A_RECIPIENT, victims
    assert set(delivered(host, "Subject")) == {"A message for you"}
    assert written["access log"] <= CLIENTS * LINES_OF_A_CLIENT_A_SECOND * (SECONDS + 10), report
    assert written["error log"] == 0, report
    assert ready(host)
