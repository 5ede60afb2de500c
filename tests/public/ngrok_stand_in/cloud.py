"""A stand-in for ngrok's cloud and its package archive. Not made by ngrok, and it speaks a protocol of its own.

    cloud.py ACCOUNTS CERTIFICATE KEY PACKAGES

Port 443 is what clients see: the files in PACKAGES under https://apt.ngrok.test/, and the endpoints of the agents.
Port 8443 is where agents connect. ACCOUNTS is read again for each agent: {token: {"domains": [...], "free": false}}; a
token that is not in it was revoked. As ngrok does, it appends the client to X-Forwarded-For, and names the reason of
its own pages in the header ngrok-error-code.
"""

import contextlib
import json
import queue
import select
import socket
import socketserver
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

PAGES = {
    "ERR_NGROK_3200": (404, "The endpoint is offline."),
    "ERR_NGROK_3004": (502, "The agent gave no answer."),
    "ERR_NGROK_8012": (502, "The agent was refused by the upstream service."),
    # A page that asks a browser whether it wants to go on.
    "ERR_NGROK_6024": (200, "You are about to visit a site that is served for free through ngrok."),
}


class Endpoint:
    """A public name, and the connections of its agent that wait for a request."""

    def __init__(self, account: dict[str, Any]) -> None:
        self.free = bool(account.get("free"))
        self.idle: queue.Queue[tuple[socket.socket, threading.Event]] = queue.Queue()


online: dict[str, Endpoint] = {}
accounts_file = Path()
packages = Path()


class Refusal(Exception):
    """What an agent is told before it is sent away."""


class Agent(socketserver.StreamRequestHandler):
    """One connection of an agent: its session, or one that waits for a request."""

    request: ssl.SSLSocket
    timeout = 30

    def handle(self) -> None:
        try:
            self.request.do_handshake()
            hello = json.loads(self.rfile.readline())
            if "session" in hello:
                self._wait_for_request(online[hello["session"]])
            else:
                self._session(hello["token"], hello["endpoints"])
        except (OSError, ValueError, KeyError):
            return

    def _wait_for_request(self, endpoint: Endpoint) -> None:
        done = threading.Event()
        endpoint.idle.put((self.request, done))
        while not done.wait(1):
            if endpoint not in online.values():
                return

    def _session(self, token: str, wanted: list[dict[str, str]]) -> None:
        try:
            names = self._open(token, wanted)
        except Refusal as refusal:
            self._say({"error": str(refusal)})
            return
        try:
            self._say({"urls": [f"https://{name}" for name in names]})
            while True:
                readable, _, _ = select.select([self.request], [], [], 1)
                if readable and not self.request.recv(1024):
                    return
                self._say({})
        finally:
            for name in names:
                online.pop(name, None)

    def _say(self, message: dict[str, Any]) -> None:
        self.request.sendall(json.dumps(message).encode() + b"\n")

    def _open(self, token: str, wanted: list[dict[str, str]]) -> list[str]:
        # ngrok's own complaint about a token has the token in it, and so have these.
        accounts = json.loads(accounts_file.read_text())
        if len(token) < 20:
            raise Refusal(
                "authentication failed: The authtoken you specified does not look like a proper ngrok authtoken.\n"
                f"Your authtoken: {token}\n\nERR_NGROK_105"
            )
        account = accounts.get(token)
        if account is None:
            raise Refusal(
                "authentication failed: The authtoken you specified is properly formed, but it is invalid.\n"
                f"Your authtoken: {token}\n\nERR_NGROK_107"
            )
        names = []
        for endpoint in wanted:
            name = endpoint.get("url", "").removeprefix("https://") or account["domains"][0]
            if name not in account["domains"]:
                raise Refusal(f"The domain '{name}' is reserved for another account.\n\nERR_NGROK_320")
            if name in online:
                raise Refusal(f"The endpoint 'https://{name}' is already online.\n\nERR_NGROK_334")
            names.append(name)
        online.update({name: Endpoint(account) for name in names})
        return names


class Client(BaseHTTPRequestHandler):
    """A request from the internet."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    request: ssl.SSLSocket

    def setup(self) -> None:
        self.request.settimeout(self.timeout)
        self.request.do_handshake()
        super().setup()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        self.close_connection = True
        name = self.headers.get("Host", "").partition(":")[0].lower()
        endpoint = online.get(name)
        if name == "apt.ngrok.test":
            self._package()
        elif endpoint is None:
            self._page("ERR_NGROK_3200")
        elif (
            endpoint.free
            and "Mozilla" in self.headers.get("User-Agent", "")
            and "ngrok-skip-browser-warning" not in self.headers
        ):
            self._page("ERR_NGROK_6024")
        else:
            self._forward(name, endpoint)

    def _package(self) -> None:
        file = (packages / self.path.lstrip("/")).resolve()
        found = file.is_relative_to(packages) and file.is_file()
        self._send(200 if found else 404, "application/octet-stream", file.read_bytes() if found else b"")

    def _page(self, code: str) -> None:
        status, text = PAGES[code]
        page = f"<!DOCTYPE html><title>ngrok</title><p>{text} {code}</p>\n"
        self._send(status, "text/html", page.encode(), {"ngrok-error-code": code})

    def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        more = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close", **(headers or {})}
        for header, value in more.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(body)

    def _forward(self, name: str, endpoint: Endpoint) -> None:
        target = self.requestline.split()[1]
        kept = [
            (header, value)
            for header, value in self.headers.items()
            if header.lower()
            not in {"connection", "expect", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}
        ]
        client = [*self.headers.get_all("X-Forwarded-For", []), str(self.client_address[0])]
        kept += [
            ("X-Forwarded-For", ", ".join(client)),
            ("X-Forwarded-Host", name),
            ("X-Forwarded-Proto", "https"),
            ("Connection", "close"),
        ]
        head = f"{self.command} {target} HTTP/1.1\r\n" + "".join(f"{header}: {value}\r\n" for header, value in kept)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            agent, done = endpoint.idle.get(timeout=5)
        except queue.Empty:
            self._page("ERR_NGROK_3004")
            return
        try:
            message = head.encode("latin-1") + b"\r\n" + body
            agent.sendall(b"%010d" % len(message) + message)
            self._relay(agent)
        except OSError:
            return
        finally:
            done.set()

    def _relay(self, agent: socket.socket) -> None:
        answer = agent.recv(65536)
        if answer.startswith(b"ERR_NGROK") or not answer:
            self._page("ERR_NGROK_8012" if answer else "ERR_NGROK_3004")
        while answer and not answer.startswith(b"ERR_NGROK"):
            self.wfile.write(answer)
            answer = agent.recv(65536)


class Server(socketserver.ThreadingTCPServer):
    """Speaks TLS; each handler makes its own handshake, so that nobody holds up the others."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, handler: type[socketserver.BaseRequestHandler], tls: ssl.SSLContext) -> None:
        super().__init__(("0.0.0.0", port), handler)
        self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def shutdown_request(self, request: Any) -> None:
        with contextlib.suppress(OSError):
            # Clients want to be told that this is the end.
            request.unwrap()
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        print(f"{client_address[0]}: {sys.exc_info()[1]!r}", flush=True)


def main(accounts: str, certificate: str, key: str, folder: str) -> None:
    """Serve until the end."""
    global accounts_file, packages
    accounts_file, packages = Path(accounts), Path(folder).resolve()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    for server in (Server(443, Client, tls), Server(8443, Agent, tls)):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])
