"""A stranger in the internet, who has nothing but the public address."""

import base64
from typing import Any

from testinfra.host import Host

from probe import Response, parse

NAME = "messaging.ngrok.test"

# As probe.exchange, with TLS
_EXCHANGE = """
import base64, socket, ssl, sys
name, request = sys.argv[1], base64.b64decode(sys.argv[2])
tls = ssl.create_default_context(cafile="/etc/ssl/ca.crt")
answer = b""
with tls.wrap_socket(socket.create_connection((name, 443), 15), server_hostname=name) as link:
    link.sendall(request)
    while part := link.recv(65536):
        answer += part
print(base64.b64encode(answer).decode())
"""


def visit(internet: Host, target: str = "/healthz", method: str = "GET", body: str = "", **headers: Any) -> Response:
    """One request from the internet to the public address, with just these headers. `a_b` is the header a-b."""
    lines = {"Host": NAME, "Connection": "close"}
    lines |= {name.replace("_", "-"): str(value) for name, value in headers.items()}
    if body:
        lines["Content-Length"] = str(len(body.encode()))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    encoded = base64.b64encode(f"{method} {target} HTTP/1.1\r\n{head}\r\n{body}".encode()).decode()
    return parse(base64.b64decode(internet.check_output("python3 -c %s %s %s", _EXCHANGE, NAME, encoded)), method)


def code(answer: Response) -> str:
    """Why ngrok itself has answered; empty where it was the service."""
    return answer.headers.get("ngrok-error-code", "")
