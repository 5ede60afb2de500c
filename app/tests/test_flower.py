"""Flower's door: everything asks for the password."""

import asyncio
import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from messaging.flower import GuardedFlower, create
from messaging.settings import Settings

PASSWORD = "the-password-of-flower"

PATHS = [
    "/",
    "/flower",
    "/flower/",
    "/flower/tasks",
    "/flower/api/tasks",
    "/flower/api/workers",
    "/flower/metrics",
    "/flower/healthcheck",
    "/flower/static/css/flower.css",
    "/flower/login",
    "/flower/nothing",
    "//flower/api/tasks",
    "/flower/../flower/api/tasks",
    "/%66lower/metrics",
]


@pytest.fixture(scope="module")
def flower() -> GuardedFlower:
    """Flower itself, without a broker."""

    async def make() -> GuardedFlower:
        return create(Settings.model_validate({"flower_password": PASSWORD, "secret_key": "key"}))

    return asyncio.run(make())


def ask(flower: GuardedFlower, path: str, method: str = "GET", **options: object) -> HTTPResponse:
    """One request, over a socket."""

    async def exchange() -> HTTPResponse:
        listener, port = bind_unused_port()
        server = HTTPServer(flower)
        server.add_socket(listener)
        try:
            body = b"" if method == "POST" else None
            return await AsyncHTTPClient().fetch(
                f"http://127.0.0.1:{port}{path}",
                method=method,
                body=body,
                raise_error=False,
                allow_nonstandard_methods=True,
                **options,
            )
        finally:
            server.stop()

    return asyncio.run(exchange())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "BREW"])
def test_without_the_password_there_is_nothing(flower: GuardedFlower, path: str, method: str) -> None:
    answer = ask(flower, path, method)
    assert answer.code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert json.loads(answer.body)["status"] == 401


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic !", "Basic b3BlcmF0b3I6", f"Bearer {PASSWORD}", "Basic b3BlcmF0b3I6d3Jvbmc=", "Basic \u00fc"],
)
def test_another_password_is_refused(flower: GuardedFlower, header: str) -> None:
    assert ask(flower, "/flower/metrics", headers={"Authorization": header}).code == 401


@pytest.mark.parametrize("path", ["/flower/api/tasks", "/flower/metrics", "/flower/healthcheck", "/flower/tasks"])
def test_operators_are_let_in(flower: GuardedFlower, path: str) -> None:
    assert ask(flower, path, auth_username="operator", auth_password=PASSWORD).code == 200


def test_operators_can_only_look(flower: GuardedFlower) -> None:
    for path in ("/flower/api/worker/shutdown/w", "/flower/api/task/revoke/t1", "/flower/api/task/async-apply/x"):
        assert ask(flower, path, "POST", auth_username="operator", auth_password=PASSWORD).code == 403


def test_the_page_loads_nothing_from_elsewhere(flower: GuardedFlower) -> None:
    page = ask(flower, "/flower/tasks", auth_username="operator", auth_password=PASSWORD).body.decode()
    loaded = [part.split('"')[1] for part in page.replace("href=", "src=").split("src=")[1:] if '"' in part]
    scripts = [url for url in loaded if url.partition("?")[0].endswith((".js", ".css", ".ico"))]
    assert len(scripts) > 5
    assert all(url.startswith("/flower/static/") for url in scripts), scripts


def test_its_content_security_policy_knows_every_script_that_is_inside_the_page(flower: GuardedFlower) -> None:
    policy = (Path(__file__).resolve().parents[2] / "roles/nginx/vars/main.yml").read_text()
    inside = set()
    for path in ("/flower/", "/flower/tasks", "/flower/broker", "/flower/no/such/page"):
        page = ask(flower, path, auth_username="operator", auth_password=PASSWORD).body.decode()
        assert " onclick=" not in page
        inside |= set(re.findall(r"<script(?![^>]*src=)[^>]*>(.*?)</script>", page, re.DOTALL))
    assert inside
    for script in inside:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy, script
