"""What the fault tests do to a host, and what they count there."""

import base64
import json
import os
import signal
import subprocess
import threading
import uuid
from collections import Counter
from email import message_from_string
from pathlib import Path
from typing import Any, Self

from testinfra.host import Host

from probe import mails, wait_until

HERE = Path(__file__).parent
PLAYBOOK = HERE.parent.parent / "molecule/shared/converge.yml"
RELAY = "/opt/relay-stand-in"
RELAY_CERTIFICATE = "/etc/ssl/certs/relay-stand-in.pem"
RELAY_USERNAME = "relay-user"
PYTHON = "/opt/messaging-system/current/venv/bin/python"


def put(host: Host, source: str, target: str) -> None:
    """Write a text file on the host, whatever the connection."""
    encoded = base64.b64encode(source.encode()).decode()
    host.check_output(
        "python3 -c %s %s %s",
        "import base64, sys; open(sys.argv[2], 'wb').write(base64.b64decode(sys.argv[1]))",
        encoded,
        target,
    )


def in_release(host: Host, program: str, *arguments: str) -> str:
    """Run a Python program on the host as the service's user, with the code and the settings of the live release."""
    settings = "MSG_CONFIG_DIR=/etc/messaging-system/current"
    quoted = f"runuser -u messaging -- env {settings} %s -c %s" + " %s" * len(arguments)
    return str(host.check_output(quoted, PYTHON, program, *arguments))


def signal_main(host: Host, unit: str, name: str) -> None:
    """Send a signal to the main process of a unit, which need not be one that systemd would send."""
    host.check_output("systemctl kill --kill-whom=main --signal=%s %s", name, unit)


def converge(*arguments: str, **variables: Any) -> str:
    """Run the playbook as an operator would, with these variables; what it printed."""
    return _run(_converge(*arguments, **variables))


def refused(*arguments: str, **variables: Any) -> str:
    """What the playbook says against it; empty if it ran to its end."""
    try:
        converge(*arguments, **variables)
    except AssertionError as error:
        return str(error)
    return ""


def converge_until(line: str, *arguments: str, **variables: Any) -> None:
    """Run the playbook as `converge` does, on a controller that is gone when it has printed a line that begins so."""
    _run_until(line, _converge(*arguments, **variables))


def play(verb: str, **variables: Any) -> str:
    """Run one of playbooks/ as `make` does; what it printed."""
    return _run(_play(verb, **variables))


def play_until(line: str, verb: str, **variables: Any) -> None:
    """Run one of playbooks/ as `play` does, on a controller that is gone when it has printed a line that begins so."""
    _run_until(line, _play(verb, **variables))


def _converge(*arguments: str, **variables: Any) -> list[str]:
    file = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "variables.json"
    file.write_text(json.dumps(variables))
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    return ["ansible-playbook", "--diff", "-i", inventory, str(PLAYBOOK), "-e", f"@{file}", *arguments]


def _play(verb: str, **variables: Any) -> list[str]:
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    values = [part for name, value in variables.items() for part in ("-e", f"{name}={value}")]
    return ["ansible-playbook", "-i", inventory, str(HERE.parent.parent / f"playbooks/{verb}.yml"), *values]


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-4000:]
    return output


def _run_until(last: str, command: list[str]) -> None:
    # what it has begun on a host by then ends there all the same
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        printed: list[str] = []
        for line in process.stdout or ():
            printed.append(line)
            if line.startswith(last):
                os.killpg(process.pid, signal.SIGKILL)
                return
    raise AssertionError(f"it never printed {last!r}: " + "".join(printed)[-4000:])


def start_relay(host: Host, password: str) -> None:
    """A provider with STARTTLS and a login, on port 2587 of the host itself."""
    host.check_output("install -d -o messaging -m 0700 %s", RELAY)
    host.check_output(
        f"runuser -u messaging -- openssl req -x509 "
        f"-newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost "
        f"-keyout {RELAY}/key.pem -out {RELAY}/certificate.pem"
    )
    host.check_output(f"install -m 0644 {RELAY}/certificate.pem {RELAY_CERTIFICATE}")
    put(host, (HERE / "relay.py").read_text(), f"{RELAY}/relay.py")
    host.check_output(
        f"systemd-run --collect --unit=relay-stand-in --uid=messaging {PYTHON} {RELAY}/relay.py 2587 "
        f"{RELAY}/certificate.pem {RELAY}/key.pem {RELAY_USERNAME} {password} {RELAY}/mail"
    )


def stop_relay(host: Host) -> None:
    """What it had taken stays."""
    host.check_output("systemctl stop relay-stand-in")


def relayed(host: Host, address: str) -> list[str]:
    """The mails to an address that the provider has taken."""
    found = host.run(f"grep -l -r -F 'Delivered-To: {address}' {RELAY}/mail/new").stdout.split()
    return [host.check_output("cat %s", name) for name in found]


class Requests:
    """Requests for mail at a steady rate, while the test does something to a host.

    They come from `source`, and go to the hosts named by `targets`, separated by commas, as those are known there.
    """

    def __init__(self, source: Host, count: int, per_second: float, targets: str = "127.0.0.1", key: str = "") -> None:
        self.source = source
        self.count = count
        self.prefix = f"traffic-{uuid.uuid4().hex[:8]}"
        self.answers: list[dict[str, Any]] = []
        self._arguments = [self.prefix, str(count), str(per_second), targets, *([key] if key else [])]
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        put(self.source, (HERE / "traffic.py").read_text(), "/tmp/traffic.py")
        self._thread.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._thread.join()
        assert error or self.answers, "the requests did not run: the thread's traceback says why"

    def stop(self) -> None:
        """Send no more than what has been sent by now."""
        put(self.source, "", f"/tmp/{self.prefix}.stop")

    def _run(self) -> None:
        command = "python3 /tmp/traffic.py" + " %s" * len(self._arguments)
        self.answers = json.loads(self.source.check_output(command, *self._arguments))

    def answered(self, status: int) -> list[dict[str, Any]]:
        """The answers with a status; 0 is no answer."""
        return [answer for answer in self.answers if answer["status"] == status]


class Traffic(Requests):
    """Requests from the host itself, whose own mailbox takes the mail."""

    def check_answers(self) -> None:
        """Every request was accepted, or honestly refused and in time."""
        assert len(self.answers) == self.count
        for answer in self.answers:
            assert answer["status"] in (202, 503), answer
            if answer["status"] == 503:
                assert honest(answer), answer
                assert answer["body"]["task_id"], answer
                assert answer["seconds"] < 3, f"promised within 2 s: {answer}"

    def check_delivered(self, at_most: int = 1, limit: float = 90) -> None:
        """Every accepted mail arrives, and none more often than `at_most`."""
        accepted = {answer["address"] for answer in self.answered(202)}
        assert accepted, "nothing was accepted, so nothing is shown"

        def missing() -> list[str]:
            return sorted(accepted - set(self._delivered()))

        wait_until(lambda: not missing(), f"all of {len(accepted)} accepted mails delivered", limit)
        often = {address: times for address, times in self._delivered().items() if times > at_most}
        assert not often, f"delivered too often: {often}"

    def counts(self) -> dict[str, int]:
        """Requests, and what became of them."""
        delivered = self._delivered()
        accepted = {answer["address"] for answer in self.answered(202)}
        return {
            "requests": len(self.answers),
            "accepted": len(accepted),
            "delivered": sum(delivered.values()),
            "lost": len(accepted - set(delivered)),
            "doubled": sum(times > 1 for times in delivered.values()),
        }

    def _delivered(self) -> Counter[str]:
        found = mails(self.source, self.prefix)
        return Counter(str(message_from_string(mail)["Delivered-To"]) for mail in found)


def honest(answer: dict[str, Any], status: int = 503) -> bool:
    """Whether a refusal is a problem document (RFC 9457) that says when to come back."""
    return bool(
        answer["status"] == status
        and answer["body"].get("status") == status
        and answer["body"].get("detail")
        and int(answer["retry_after"] or 0) > 0
    )
