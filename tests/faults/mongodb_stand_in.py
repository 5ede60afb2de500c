"""A stand-in for MongoDB: speaks its wire protocol, knows what Celery's backend asks for, and forgets all at its end.

    python mongodb_stand_in.py PORT

Needs `bson`, which comes with pymongo, and nothing else; there is no login. It is not MongoDB: what is tested with it
is our side and the protocol. Set MONGODB_URL to run the same tests against a real server.

Source: https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/
"""

import signal
import socketserver
import struct
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
from bson.codec_options import CodecOptions

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
DUPLICATE_KEY, COMMAND_NOT_FOUND, INDEX_CONFLICT = 11000, 59, 85
OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
HELLO = {
    "isWritablePrimary": True,
    "ismaster": True,
    "helloOk": True,
    "maxBsonObjectSize": 16 * 1024 * 1024,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "readOnly": False,
    "ok": 1.0,
}


class Refused(Exception):
    """The command is answered with an error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Store:
    """Documents by collection and `_id`. Expired ones are gone at once; MongoDB takes up to a minute."""

    def __init__(self) -> None:
        self.collections: dict[str, dict[Any, dict[str, Any]]] = defaultdict(dict)
        self.indexes: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.commands: list[str] = []
        # while somebody holds it, nothing is answered
        self.frozen = threading.Lock()

    def run(self, command: dict[str, Any]) -> dict[str, Any]:
        """The answer to one command."""
        name = next(iter(command))
        self.commands.append(name)
        handler = getattr(self, f"do_{name.lower()}", None)
        with self.frozen:
            try:
                if handler is None:
                    raise Refused(COMMAND_NOT_FOUND, f"the stand-in does not know {name}")
                return {"ok": 1.0, **handler(command)}
            except Refused as refused:
                return {"ok": 0.0, "code": refused.code, "errmsg": str(refused)}

    def do_hello(self, _command: dict[str, Any]) -> dict[str, Any]:
        return {**HELLO, "localTime": datetime.now(UTC)}

    do_ismaster = do_hello

    def do_ping(self, _command: dict[str, Any]) -> dict[str, Any]:
        return {}

    do_endsessions = do_ping

    def do_createindexes(self, command: dict[str, Any]) -> dict[str, Any]:
        known = self.indexes[_namespace(command, "createIndexes")]
        for index in command["indexes"]:
            same = [other for other in known if other["key"] == index["key"]]
            if same and same[0] != index:
                raise Refused(INDEX_CONFLICT, "an equivalent index exists with other options")
            if not same:
                known.append(index)
        return {}

    def do_listindexes(self, command: dict[str, Any]) -> dict[str, Any]:
        namespace = _namespace(command, "listIndexes")
        return {"cursor": {"id": 0, "ns": namespace, "firstBatch": self.indexes[namespace]}}

    def do_find(self, command: dict[str, Any]) -> dict[str, Any]:
        namespace = _namespace(command, "find")
        found = list(self._matching(namespace, command.get("filter", {})))[: command.get("limit") or None]
        return {"cursor": {"id": 0, "ns": namespace, "firstBatch": found}}

    def do_delete(self, command: dict[str, Any]) -> dict[str, Any]:
        namespace = _namespace(command, "delete")
        number = 0
        for delete in command["deletes"]:
            found = list(self._matching(namespace, delete["q"]))[: delete["limit"] or None]
            for document in found:
                del self.collections[namespace][document["_id"]]
            number += len(found)
        return {"n": number}

    def do_update(self, command: dict[str, Any]) -> dict[str, Any]:
        namespace = _namespace(command, "update")
        number, upserted, errors = 0, [], []
        for position, update in enumerate(command["updates"]):
            new = update["u"]
            found = list(self._matching(namespace, update["q"]))[:1]
            if list(new) == ["$setOnInsert"]:
                new = found[0] if found else {**update["q"], **new["$setOnInsert"]}
            assert not any(name.startswith("$") for name in new), "only whole documents are replaced"
            task_id = found[0]["_id"] if found else new["_id"]
            if not found and update.get("upsert"):
                if task_id in self.collections[namespace]:
                    errors.append({"index": position, "code": DUPLICATE_KEY, "errmsg": "duplicate key"})
                    continue
                upserted.append({"index": position, "_id": task_id})
            if found or update.get("upsert"):
                self.collections[namespace][task_id] = {"_id": task_id, **new}
                number += 1
        answer = {"n": number, "nModified": number - len(upserted)}
        return {**answer, **({"upserted": upserted} if upserted else {}), **({"writeErrors": errors} if errors else {})}

    def _matching(self, namespace: str, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
        now = datetime.now(UTC)
        for document in list(self.collections[namespace].values()):
            for index in self.indexes[namespace]:
                [field] = index["key"]
                at = document.get(field)
                lifetime = index.get("expireAfterSeconds")
                if lifetime is not None and isinstance(at, datetime) and at + timedelta(seconds=lifetime) <= now:
                    self.collections[namespace].pop(document["_id"], None)
            if document["_id"] in self.collections[namespace] and all(
                _matches(document.get(field), condition) for field, condition in query.items()
            ):
                yield document


def _matches(value: Any, condition: Any) -> bool:
    if isinstance(condition, dict):
        assert set(condition) == {"$ne"}, f"the stand-in does not know {condition}"
        return bool(value != condition["$ne"])
    return bool(value == condition)


def _namespace(command: dict[str, Any], name: str) -> str:
    return f"{command['$db']}.{command[name]}"


class Connection(socketserver.BaseRequestHandler):
    """One client."""

    server: "Server"

    def handle(self) -> None:
        while (head := self._read(16)) is not None:
            length, number, _, opcode = struct.unpack("<iiii", head)
            body = self._read(length - 16)
            if body is None:
                return
            if opcode == OP_MSG:
                answer = struct.pack("<IB", 0, 0) + bson.encode(self.server.store.run(_message(body)))
                self._answer(number, OP_MSG, answer)
            elif opcode == OP_QUERY:
                start = body.index(b"\0", 4) + 1 + 8
                command = bson.decode(body[start:], OPTIONS)
                self._answer(
                    number, OP_REPLY, struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(self.server.store.run(command))
                )
            else:
                return

    def _read(self, length: int) -> bytes | None:
        data = b""
        while len(data) < length:
            part = self.request.recv(length - len(data))
            if not part:
                return None
            data += part
        return data

    def _answer(self, to: int, opcode: int, body: bytes) -> None:
        self.request.sendall(struct.pack("<iiii", 16 + len(body), 0, to, opcode) + body)


def _message(body: bytes) -> dict[str, Any]:
    """The command of an OP_MSG; its lists may come as sections of their own."""
    command: dict[str, Any] = {}
    position = 4
    while position < len(body):
        kind = body[position]
        position += 1
        size = struct.unpack_from("<i", body, position)[0]
        section = body[position : position + size]
        position += size
        if kind == 0:
            command |= bson.decode(section, OPTIONS)
        else:
            end = section.index(b"\0", 4)
            command[section[4:end].decode()] = bson.decode_all(section[end + 1 :], OPTIONS)
    return command


class Server(socketserver.ThreadingTCPServer):
    """The stand-in itself; port 0 takes a free one. `cut()` also ends what clients have open."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int = 0, store: Store | None = None) -> None:
        super().__init__(("127.0.0.1", port), Connection)
        self.store = store or Store()
        self._open: list[Any] = []

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.server_address[1]}/messaging"

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def cut(self) -> None:
        self.shutdown()
        self.server_close()
        for request in self._open:
            self.shutdown_request(request)


def main() -> None:
    server = Server(int(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.start()
    print(f"stand-in for MongoDB: {server.url}", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
