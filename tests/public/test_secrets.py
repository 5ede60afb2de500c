"""Every secret is searched for wherever somebody might look who should not know it: plain, in base64, in hex."""

import base64
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest
from testinfra.host import Host

from faulty import converge
from probe import SECRETS, ready, secrets_on_controller, wait_until

ROOT = Path(__file__).resolve().parents[2]
MINE = "/root/secret-test"
WATCHER = "secret-test-watcher"
SHORTEST = 12

# All command lines, and the environments of who is not root, as long as it runs.
WATCH = """
import json, os, pathlib, signal, sys, time
seen = set()
def stop(*_):
    pathlib.Path(sys.argv[1]).write_text(json.dumps(sorted(seen)))
    sys.exit()
signal.signal(signal.SIGTERM, stop)
while True:
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            owner = os.stat("/proc/" + process).st_uid
            for name in ("cmdline",) if owner == 0 else ("cmdline", "environ"):
                with open(f"/proc/{process}/{name}", "rb") as stream:
                    seen.add(stream.read().decode("latin-1"))
        except OSError:
            pass
    time.sleep(0.03)
"""

# The secrets that the host has in its files, by file; of a private key the longest line.
HAVE = """
import json, pathlib, re, sys
found = {}
for file in [*pathlib.Path(sys.argv[1]).glob("*"), *pathlib.Path(sys.argv[2]).glob("key")]:
    text = file.read_text().strip()
    found[str(file)] = re.sub(r"^http://monitor:(.*)@.*$", r"\\1", text)
for file in pathlib.Path("/etc/ngrok").glob("*.yml"):
    for token in re.findall(r"^\\s*authtoken: *[\\"']?([^\\s\\"']+)", file.read_text(), re.M):
        found[str(file)] = token
for folder in ("/etc/messaging-tunnel", "/etc/messaging-system", "/etc/nginx", "/etc/letsencrypt"):
    for file in pathlib.Path(folder).rglob("*"):
        if file.is_file() and file.stat().st_size < 65536 and b"PRIVATE KEY-----" in (text := file.read_bytes()):
            found[str(file)] = max(text.decode().splitlines(), key=len)
print(json.dumps(found))
"""

# Files in which a line of another file is found: everything in some places, elsewhere what all may read.
SEARCH = r"""
cd {mine}
for place in /tmp /var/tmp /dev/shm /var/log /root/.ansible /home; do
  [ ! -d $place ] || find $place -xdev -type f ! -path '/var/log/journal/*' -print0
done | xargs -0 -r grep -lFf {patterns}
find / -xdev \( -path /proc -o -path /sys -o -path /usr/share -o -path /usr/lib -o -type d ! -perm -001 \) -prune -o \
  -type f -perm -004 -print0 | xargs -0 -r grep -lFf {patterns}
journalctl --no-pager --output=export | grep -aFf {patterns} | sed 's/^.*$/the journal/'
systemctl show --no-pager --all '*' | grep -aFf {patterns} | sed 's/^.*$/systemctl show/'
true
"""


def forms(secret: str) -> set[str]:
    """How a secret may look in a text: also as a part of something that was encoded as a whole."""
    raw = secret.encode()
    found = {secret, quote(secret, safe=""), raw.hex()}
    for before in range(3):
        # each three bytes are four letters: those that depend on what is beside the secret are left out
        encoded = base64.b64encode(bytes(before) + raw).decode()
        first = (before * 8 + 5) // 6
        last = (before + len(raw)) * 8 // 6
        found |= {encoded[first:last], encoded[first:last].translate(str.maketrans("+/", "-_"))}
    return {form for form in found if len(form) >= SHORTEST}


def leaks(text: str, secrets: dict[str, str]) -> list[str]:
    """Names of the secrets that are in a text, in any form; never their values."""
    return sorted(name for name, secret in secrets.items() if any(form in text for form in forms(secret)))


@contextmanager
def watched(host: Host) -> Iterator[set[str]]:
    """What the process lists of the host and of this controller show meanwhile; there when the block is over."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(file.read_text(errors="replace"))
                except OSError:
                    continue
            time.sleep(0.1)

    host.check_output("systemd-run --quiet --collect --unit %s python3 -c %s %s", WATCHER, WATCH, f"{MINE}/watched")
    here = threading.Thread(target=look)
    here.start()
    try:
        yield seen
    finally:
        over.set()
        here.join()
        host.check_output("systemctl stop %s", WATCHER)
        seen |= set(json.loads(host.file(f"{MINE}/watched").content_string))


def write_patterns(host: Host) -> str:
    """All forms of all secrets in a file of the host, made there from its own files; its path."""
    program = HAVE.replace("print(json.dumps(found))", "")
    program += "import base64\nfrom urllib.parse import quote\nSHORTEST = 12\n" + _source_of_forms()
    program += "print('\\n'.join(form for secret in found.values() for form in forms(secret)))\n"
    host.check_output("umask 077; python3 -c %s %s %s > " + f"{MINE}/patterns", program, SECRETS, MINE)
    return f"{MINE}/patterns"


def _source_of_forms() -> str:
    lines = Path(__file__).read_text().split("\ndef forms")[1].split("\n\n\n")[0]
    return f"def forms{lines}\n\n"


@pytest.fixture
def relay() -> dict[str, str | int]:
    """A relay that is not there, with a password that nobody has seen; from a file, as from the vault."""
    password = f"relay {uuid4()} ü+/="
    return {
        "smtp_host": "127.0.0.1",
        "smtp_port": 2599,
        "smtp_security": "none",
        "smtp_username": "me",
        "smtp_password": password,
        "mail_from": "service@example.com",
    }


@pytest.fixture
def mine(host: Host) -> Iterator[None]:
    """A place on the host for what the test keeps."""
    wait_until(lambda: ready(host), "ready before the test", 60)
    host.check_output(f"umask 077; rm -rf {MINE}; mkdir {MINE}")
    yield
    host.run(f"systemctl stop {WATCHER}; rm -rf {MINE}")
    wait_until(lambda: ready(host), "ready after the test", 60)


@pytest.mark.usefixtures("mine")
def test_no_secret_is_anywhere(host: Host, relay: dict[str, str | int]) -> None:
    if "key" in host.check_output("messagingctl --help"):
        host.check_output(
            f"umask 077; messagingctl key add secret-test --scope read | grep -o 'msk_[^ ]*' > {MINE}/key"
        )
    before = time.time()
    with watched(host) as processes:
        outputs = {
            "the output of --check": converge("--check", "-vvv", **relay, flower_max_tasks=4000),
            "the output of a run": converge("-vvv", **relay, flower_max_tasks=4000),
        }
        secrets = json.loads(host.check_output("python3 -c %s %s %s", HAVE, SECRETS, MINE))
        patterns = write_patterns(host)
        outputs["the output of the next run"] = converge("-vvv")
    secrets |= secrets_on_controller()
    print(f"{len(secrets)} secrets: {', '.join(sorted(secrets))}")
    print(f"{len(processes)} command lines and environments, {sum(map(len, outputs.values()))} letters of output")
    assert secrets[f"{SECRETS}/smtp_password"] == relay["smtp_password"]
    assert all(len(secret) >= SHORTEST for secret in secrets.values())
    assert any("systemctl" in seen for seen in processes)

    found = {place: leaks(text, secrets) for place, text in outputs.items()}
    found["process lists"] = leaks("\n".join(processes), secrets)
    found["files of the controller"] = leaks(_temporary_files(before), secrets)
    found["git"] = leaks(_git(), secrets)
    host.check_output("cp %s %s", patterns, "/tmp/secret-test-patterns")
    search = SEARCH.format(mine=MINE, patterns=patterns)
    assert "/tmp/secret-test-patterns" in host.check_output(search), "the search finds what is there"
    host.check_output("rm /tmp/secret-test-patterns")
    found["the host"] = sorted(set(host.check_output(search).splitlines()))
    if (f"{MINE}/key") in secrets:
        host.check_output("messagingctl key revoke secret-test")
    assert {place: names for place, names in found.items() if names} == {}


def _temporary_files(since: float) -> str:
    """What Ansible left on the controller; molecule's own folder is where the secrets belong."""
    ours = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]).resolve()
    folders = [*Path.home().glob(".ansible/tmp/ansible-local-*"), *Path("/tmp").glob("ansible*")]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    recent = [file for file in files if file.stat().st_mtime >= since and ours not in file.resolve().parents]
    return "\n".join(file.read_text(errors="replace") for file in recent)


def _git() -> str:
    """All that git knows or might be given: every version of every file, and what is not ignored."""
    log = subprocess.run(["git", "log", "-p", "--all"], cwd=ROOT, capture_output=True, check=True).stdout
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    files = [ROOT / name for name in listed if (ROOT / name).is_file()]
    return log.decode(errors="replace") + "".join(file.read_text(errors="replace") for file in files)


@pytest.mark.parametrize("around", [("", ""), ("user:", ""), ("a", "b"), ("ab", "cd"), ("http://me:", "@host/")])
def test_a_secret_is_known_in_every_form(around: tuple[str, str]) -> None:
    secret = "S3cret/of+somebody~"
    text = around[0] + secret + around[1]
    for shown in (
        text,
        quote(text, safe=""),
        base64.b64encode(text.encode()).decode(),
        base64.urlsafe_b64encode(text.encode()).decode(),
        text.encode().hex(),
    ):
        assert leaks(f"before {shown} after", {"it": secret}) == ["it"], shown
    assert leaks(base64.b64encode(b"something else entirely").decode(), {"it": secret}) == []
