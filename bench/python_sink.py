"""A stand-in for a relay, one Python process: TLS from the first byte, a login, and a line for each mail that it took.

    python_sink.py PORT CERTIFICATE KEY USERNAME PASSWORD FILE

Each line of FILE is the moment of the last 250 (time.monotonic(), which all processes of a host share), and the
recipient. Not aiosmtpd: that takes longer over a mail than what is measured here does.
"""

import asyncio
import base64
import ssl
import sys
import time
from pathlib import Path
from typing import cast

EHLO = b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 10485760\r\n250 AUTH PLAIN\r\n"
END = b"\r\n.\r\n"


class Session(asyncio.Protocol):
    """One client's. Commands may come several at once (RFC 2920); arguments are not checked."""

    def __init__(self, login: bytes, file: Path) -> None:
        self._login = login
        self._taken = file.open("a", buffering=1)
        self._received = b""
        self._in_data = False
        self._known = False
        self._recipient = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(b"220 sink\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        self._taken.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        answers = []
        while (answer := self._next()) is not None:
            answers.append(answer)
        if answers:
            self._transport.write(b"".join(answers))
        if b"221 bye\r\n" in answers:
            self._transport.close()

    def _next(self) -> bytes | None:
        """The answer to the next command or message, if all of it is there."""
        if self._in_data:
            # the first line may be the dot already
            end = (b"\r\n" + self._received).find(END)
            if end < 0:
                return None
            self._received = self._received[end + len(END) - 2 :]
            self._in_data = False
            self._taken.write(f"{time.monotonic():.6f} {self._recipient}\n")
            return b"250 taken\r\n"
        line, found, rest = self._received.partition(b"\r\n")
        if not found:
            return None
        self._received = rest
        return self._answer(line)

    def _answer(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb == b"EHLO":
            return EHLO
        if verb == b"AUTH":
            self._known = line[4:].strip() == b"PLAIN " + self._login
            return b"235 welcome\r\n" if self._known else b"535 who are you\r\n"
        if verb == b"QUIT":
            return b"221 bye\r\n"
        if not self._known:
            return b"530 log in first\r\n"
        if verb == b"RCPT":
            self._recipient = line.partition(b"<")[2].partition(b">")[0].decode()
        if verb == b"DATA":
            self._in_data = True
            return b"354 go on\r\n"
        return b"250 ok\r\n" if verb in {b"MAIL", b"RCPT", b"RSET", b"NOOP", b"HELO"} else b"500 what\r\n"


async def serve(port: int, certificate: str, key: str, username: str, password: str, file: Path) -> None:
    """Until it is killed."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    login = base64.b64encode(f"\0{username}\0{password}".encode())
    server = await asyncio.get_running_loop().create_server(
        lambda: Session(login, file), "127.0.0.1", port, ssl=context, backlog=1024
    )
    await server.serve_forever()


def main(port: str, certificate: str, key: str, username: str, password: str, file: str) -> None:
    asyncio.run(serve(int(port), certificate, key, username, password, Path(file)))


if __name__ == "__main__":
    main(*sys.argv[1:])
