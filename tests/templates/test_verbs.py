"""The verbs of the Makefile where nothing is to be had: each says so and fails."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from rendering import ROOT

# Those of the environment that runs the tests, as make has it
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": PATH}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("verb", ["deploy", "api_key", "url", "status", "backup", "restore", "remove"])
def test_an_inventory_that_is_not_there_is_an_error(verb: str) -> None:
    done = run("mk/hosts.sh", verb, "prodction.ini")
    assert done.returncode == 1
    assert "there is no inventory prodction.ini" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("verb", ["restore", "remove"])
def test_what_cannot_be_taken_back_is_for_hosts_that_are_named(verb: str) -> None:
    done = run("mk/hosts.sh", verb, "")
    assert done.returncode == 1
    assert f"make {verb} INVENTORY=inventory.ini" in done.stderr


@pytest.mark.parametrize(
    ("verb", "group"), [("deploy", "app"), ("api_key", "app"), ("url", "nginx"), ("stop", "redis")]
)
def test_an_inventory_without_the_group_is_an_error(verb: str, group: str, tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.ini"
    inventory.write_text("[web]\nvm.example.com\n[app]\n")
    done = run("mk/hosts.sh", verb, str(inventory))
    assert done.returncode == 1
    assert "has no host in" in done.stderr
    assert group in done.stderr


def test_the_addresses_are_all_that_is_on_stdout(tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.ini"
    settings = "ansible_connection=local ansible_become=false nginx_port=8000 tunnel=none"
    inventory.write_text(f"[nginx]\na.example.com {settings}\nb {settings} ansible_host=2001:db8::1\n")
    done = run("mk/hosts.sh", "url", str(inventory))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "http://a.example.com:8000\nhttp://[2001:db8::1]:8000\n"


class Redirect(BaseHTTPRequestHandler):
    """nginx with TLS on."""

    def do_GET(self) -> None:
        self.send_response(301)
        self.send_header("Location", f"https://messages.example.com{self.path}")
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, format: str, *args: object) -> None:
        """Not among the output of the tests."""


@pytest.fixture
def redirecting() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Redirect) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_redirect_to_tls_is_said(redirecting: str) -> None:
    done = run(sys.executable, "mk/client.py", redirecting, "talk")
    assert done.returncode == 1
    assert f"{redirecting} answers 301 to https://messages.example.com/?talktome" in done.stderr
    assert run(sys.executable, "mk/client.py", redirecting, "check").returncode == 0
