"""A stand-in for a mail provider: STARTTLS, a login, and answers that depend on the recipient.

    relay.py PORT CERTIFICATE KEY USERNAME PASSWORD MAILDIR

`refused-...@` is answered 550, `later-...@` 451 at the first attempt, and the link is dropped
after the data of the first mail to `dropped-...@`, which is kept all the same. Runs in the release's environment.
"""

import asyncio
import mailbox
import signal
import ssl
import sys
from types import SimpleNamespace
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


class Provider:
    """What a provider answers who lets one user in."""

    def __init__(self, certificate: str, key: str, username: str, password: str) -> None:
        self.tls = tls_context(certificate, key)
        self._login = LoginPassword(username.encode(), password.encode())

    def connection(self) -> SMTP:
        """For asyncio's `create_server`."""
        return SMTP(
            SimpleNamespace(handle_MAIL=self.sender, handle_RCPT=self.recipient, handle_DATA=self.data),
            tls_context=self.tls,
            require_starttls=True,
            auth_required=True,
            authenticator=self._authenticate,
        )

    async def sender(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        envelope.mail_from = address
        return "250 OK"

    async def recipient(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def data(self, server: SMTP, session: Any, envelope: Any) -> str:
        return "250 OK"

    def _authenticate(self, server: SMTP, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=data == self._login, handled=False)


class ByRecipient(Provider):
    """Keeps what it takes, and has an answer of its own for some recipients."""

    def __init__(self, certificate: str, key: str, username: str, password: str, maildir: str) -> None:
        super().__init__(certificate, key, username, password)
        self._maildir = mailbox.Maildir(maildir)
        self._seen: set[str] = set()

    async def recipient(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if address.startswith("refused-"):
            return "550 5.1.1 No such mailbox here"
        if address.startswith("later-") and address not in self._seen:
            self._seen.add(address)
            return "451 4.7.1 Greylisted, try again in 2 seconds"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def data(self, server: SMTP, session: Any, envelope: Any) -> str:
        [address] = envelope.rcpt_tos
        self._maildir.add(b"Delivered-To: " + address.encode() + b"\r\n" + envelope.content)
        if address.startswith("dropped-") and address not in self._seen:
            self._seen.add(address)
            server.transport.abort()
        return "250 OK"


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """A server's."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    return tls


async def serve(port: int, *arguments: str) -> None:
    provider = ByRecipient(*arguments)
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    server = await loop.create_server(provider.connection, "127.0.0.1", port)
    await stopped.wait()
    # without waiting for sessions that workers keep open
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), *sys.argv[2:]))
