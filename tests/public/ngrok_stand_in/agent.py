#!/usr/bin/python3
"""A stand-in for ngrok's agent: the same commands, configuration file and local API. Not made by ngrok.

    ngrok version | ngrok config check --config FILE | ngrok start --all --config FILE

It speaks to cloud.py in a protocol of its own: a session, which says which endpoints are wanted and then hears from the
cloud every second, and connections that wait for one request each (ten digits with its length, and the request).
"""

import argparse
import json
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

VERSION = "3.99.0-stand-in"
AT_ONCE = 32
SILENCE = 5

# Version 3 of the configuration file, as documented; what is not in it is refused.
KNOWN = {
    "": {"version", "agent", "endpoints", "tunnels"},
    "agent": {
        *("api_key", "authtoken", "connect_cas", "connect_timeout", "connect_url", "console_ui", "console_ui_color"),
        *("crl_noverify", "dns_resolver_ips", "heartbeat_interval", "heartbeat_tolerance", "inspect_db_size", "log"),
        *("log_format", "log_level", "metadata", "proxy_url", "remote_management", "update_channel", "update_check"),
        *("web_addr", "web_allow_hosts"),
    },
    "endpoint": {"name", "url", "upstream", "description", "metadata", "bindings", "pooling_enabled", "traffic_policy"},
    "upstream": {"url", "protocol", "proxy_protocol"},
}


def load(path: str) -> dict[str, Any]:
    """The configuration file; ValueError says what is wrong with it."""
    try:
        config = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(str(error)) from error
    parts = [("", config), ("agent", config.get("agent") or {})]
    for endpoint in config.get("endpoints") or []:
        parts += [("endpoint", endpoint), ("upstream", endpoint.get("upstream") or {})]
    for kind, part in parts:
        for key in set(part) - KNOWN[kind]:
            raise ValueError(f"field {key} not found in {kind or 'the configuration'}")
    if config.get("version") != 3:
        raise ValueError("version: must be 3")
    return dict(config)


def log(level: str, message: str, **fields: str) -> None:
    """A line of logfmt."""
    pairs = {"t": time.strftime("%Y-%m-%dT%H:%M:%S+0000", time.gmtime()), "lvl": level, "msg": message, **fields}
    print(" ".join(f"{key}={json.dumps(value) if ' ' in value else value}" for key, value in pairs.items()), flush=True)


class Session:
    """The link to the cloud, made anew whenever it is lost."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.agent = config["agent"]
        self.endpoints = config["endpoints"]
        self.urls: list[str] = []
        host, _, port = self.agent.get("connect_url", "connect.ngrok-agent.com:443").rpartition(":")
        self._cloud = (host, int(port))
        # ngrok's own authority signs its cloud; ours is among those that the host trusts.
        if self.agent.get("connect_cas", "trusted") != "host":
            raise SystemExit("the stand-in has no authority of ngrok's: connect_cas must be host")
        self._tls = ssl.create_default_context()

    def _connect(self, hello: dict[str, Any]) -> ssl.SSLSocket:
        link = self._tls.wrap_socket(socket.create_connection(self._cloud, 5), server_hostname=self._cloud[0])
        link.sendall(json.dumps(hello).encode() + b"\n")
        return link

    def run(self) -> None:
        """Keep the session; SystemExit when the cloud sends us away."""
        while True:
            try:
                self._hold()
            except (OSError, ValueError) as error:
                log("warn", "session is lost, reconnecting", err=str(error) or type(error).__name__)
            self.urls = []
            time.sleep(1)

    def _hold(self) -> None:
        with self._connect({"token": self.agent.get("authtoken", ""), "endpoints": self.endpoints}) as link:
            link.settimeout(SILENCE)
            lines = link.makefile("r")
            answer = json.loads(lines.readline())
            if "error" in answer:
                log("eror", "session closing", obj="tunnels.session", err=answer["error"])
                raise SystemExit("".join(f"ERROR:  {line}\n" for line in answer["error"].splitlines()))
            self.urls = answer["urls"]
            for endpoint, url in zip(self.endpoints, self.urls, strict=True):
                log("info", "started tunnel", name=endpoint["name"], addr=endpoint["upstream"]["url"], url=url)
                for _ in range(AT_ONCE):
                    threading.Thread(target=self._serve, args=(endpoint, url), daemon=True).start()
            while lines.readline():
                pass
            raise OSError("the cloud has closed the session")

    def _serve(self, endpoint: dict[str, Any], url: str) -> None:
        """One request after the other, as long as this session is the one that lasts."""
        urls = self.urls
        while self.urls is urls:
            try:
                with self._connect({"session": url.removeprefix("https://")}) as link:
                    link.settimeout(None)
                    stream = link.makefile("rb")
                    self._forward(link, stream.read(int(stream.read(10))), endpoint["upstream"]["url"])
            except (OSError, ValueError):
                time.sleep(0.5)

    def _forward(self, link: ssl.SSLSocket, request: bytes, url: str) -> None:
        target = urlsplit(url)
        try:
            upstream = socket.create_connection((target.hostname or "", target.port or 80), 5)
        except OSError:
            link.sendall(b"ERR_NGROK_8012")
            return
        with upstream:
            upstream.settimeout(60)
            upstream.sendall(request)
            while part := upstream.recv(65536):
                link.sendall(part)


def serve_api(session: Session) -> None:
    """The local API, as far as it is used."""

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name is http.server's
            pairs = list(zip(session.endpoints, session.urls, strict=False))
            documents: dict[str, dict[str, Any]] = {
                "/api/endpoints": {
                    "endpoints": [{"name": e["name"], "url": url, "upstream": e["upstream"]} for e, url in pairs]
                },
                "/api/tunnels": {
                    "tunnels": [
                        {"name": e["name"], "public_url": url, "config": {"addr": e["upstream"]["url"]}}
                        for e, url in pairs
                    ]
                },
            }
            document = documents.get(self.path)
            body = json.dumps(document or {}).encode()
            self.send_response(200 if document else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            return

    host, _, port = session.agent.get("web_addr", "127.0.0.1:4040").rpartition(":")
    server = ThreadingHTTPServer((host, int(port)), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    """As the first words of the command say."""
    parser = argparse.ArgumentParser(prog="ngrok")
    parser.add_argument("words", nargs="+")
    parser.add_argument("--config")
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    words = " ".join(arguments.words)
    if words == "version":
        print(f"ngrok version {VERSION}")
        return
    try:
        config = load(arguments.config)
    except ValueError as error:
        raise SystemExit(f"ERROR:  Error reading configuration file '{arguments.config}': {error}") from error
    if words == "config check":
        print(f"Valid configuration file at {arguments.config}")
    elif words == "start" and arguments.all:
        session = Session(config)
        serve_api(session)
        session.run()
    else:
        parser.error(f"the stand-in does not know: {words}")


if __name__ == "__main__":
    main()
