"""The SMTP end of the loss matrix: a stand-in for a relay, with moods.

    smtp_end.py PORT FOLDER CERTIFICATE-FOLDER USERNAME PASSWORD

Reads FOLDER/mood, and writes it into FOLDER/in_mood when it has changed; FOLDER/taken has a line for each mail that was
taken: its recipient. The certificates are relay.test.crt and expired.crt, with their keys. Needs aiosmtpd.
"""

import asyncio
import sys
import weakref
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP

from relay import Provider, tls_context

WELL = "well"
# The port is closed; 451 to RCPT; 421 to MAIL, to RCPT or to the message, and the link is dropped; no word after the
# message, every other one of which was taken; a certificate that has ended
REFUSING = "refusing"
LATER = "later"
DROPPING = "dropping"
SILENT = "silent"
EXPIRED = "expired"
# Seconds: what a relay takes to say 250, so that something is in flight when a worker is killed; and between two looks
VERDICT = 0.05
LOOK_AGAIN = 0.1


class Moody(Provider):
    """Takes everything when it is well."""

    def __init__(self, folder: Path, certificates: Path, username: str, password: str) -> None:
        self._certificates = certificates
        super().__init__(*self._files("relay.test"), username, password)
        self._taken = (folder / "taken").open("a", buffering=1)
        self._sessions: weakref.WeakSet[SMTP] = weakref.WeakSet()
        self._turn = 0
        self.mood = WELL

    def _files(self, name: str) -> tuple[str, str]:
        return str(self._certificates / f"{name}.crt"), str(self._certificates / f"{name}.key")

    def change(self, mood: str) -> None:
        """Be in another mood from now on. Sessions that were begun before end, where new ones would go another way."""
        if {mood, self.mood} & {REFUSING, EXPIRED}:
            for session in self._sessions:
                if session.transport is not None:
                    session.transport.abort()
        self.tls = tls_context(*self._files("expired" if mood == EXPIRED else "relay.test"))
        self.mood = mood

    def connection(self) -> SMTP:
        session = super().connection()
        self._sessions.add(session)
        return session

    async def sender(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        self._turn += 1
        if self.mood == DROPPING and self._turn % 3 == 0:
            return self._drop(server)
        return await super().sender(server, session, envelope, address, options)

    async def recipient(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if self.mood == LATER:
            return "451 4.3.0 Not now"
        if self.mood == DROPPING and self._turn % 3 == 1:
            return self._drop(server)
        return await super().recipient(server, session, envelope, address, options)

    async def data(self, server: SMTP, session: Any, envelope: Any) -> str:
        if self.mood == DROPPING:
            return self._drop(server)
        silent = self.mood == SILENT
        self._turn += 1
        if not silent or self._turn % 2:
            # before it has said so: whoever dies meanwhile will ask again
            self._taken.write(f"{envelope.rcpt_tos[0]}\n")
        if silent:
            await asyncio.Event().wait()
        await asyncio.sleep(VERDICT)
        return "250 OK"

    def _drop(self, server: SMTP) -> str:
        if server.transport is not None:
            # after the answer
            asyncio.get_running_loop().call_later(VERDICT, server.transport.close)
        return "421 4.3.2 Going away"


async def serve(port: int, folder: Path, provider: Moody) -> None:
    server = await _listen(provider, port)
    while True:
        mood = (folder / "mood").read_text().strip()
        if mood and mood != provider.mood:
            if mood == REFUSING:
                server.close()
            elif provider.mood == REFUSING:
                server = await _listen(provider, port)
            provider.change(mood)
            (folder / "in_mood").write_text(mood)
        await asyncio.sleep(LOOK_AGAIN)


async def _listen(provider: Moody, port: int) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(provider.connection, "0.0.0.0", port, backlog=1024)


def main(port: str, folder: str, certificates: str, username: str, password: str) -> None:
    where = Path(folder)
    for name in ("mood", "in_mood"):
        (where / name).write_text(WELL)
    asyncio.run(serve(int(port), where, Moody(where, Path(certificates), username, password)))


if __name__ == "__main__":
    main(*sys.argv[1:])
