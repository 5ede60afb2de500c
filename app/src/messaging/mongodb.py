"""Celery's MongoDB result backend, with what records need of it.

Celery deletes old results with `beat`, which does not run here: each document says when it expires, and the server
removes it. Values are stored as they are and not as text, so that an operator can read and search them.
"""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from celery import Celery
from celery.backends.mongodb import MongoBackend
from pymongo import MongoClient
from pymongo.errors import ConfigurationError, DuplicateKeyError, InvalidURI

# The database, when the URL names none.
DATABASE = "messaging"
COLLECTION = "tasks"
EXPIRES_AT = "expires_at"
# A server that is far away takes longer to connect to than a request may wait: connections are made in advance.
CONNECT_TIMEOUT = 5.0
CONNECTIONS = 2
# How soon a server that is back is noticed.
HEARTBEAT = 1.0


class UnusableUrlError(Exception):
    """MongoDB's client does not take the URL. It is not repeated here: any part of it may be the password."""


class AwayError(Exception):
    """No server answers, as is known without asking again."""


class MongoRecords(MongoBackend):
    """Where records are kept as documents `{_id: task id, status, result: {...}, expires_at}`."""

    database_name = DATABASE
    taskmeta_collection = COLLECTION

    def __init__(self, app: Celery, url: str, lifetime: Callable[[Any], float], timeout: float) -> None:
        # Celery would read the URL here already, and ask the DNS
        super().__init__(app=app)
        self.serializer = "bson"
        self._mongodb_url = url
        self._lifetime = lifetime
        self._timeout = timeout
        self._lock = threading.Lock()
        self._client: MongoClient[dict[str, Any]] | None = None
        self._records: Any = None
        # its debug lines hold whole records
        logging.getLogger("pymongo").setLevel(logging.INFO)

    @property
    def collection(self) -> Any:
        """The records, for the next operation.

        Raises:
            AwayError: no server can take it, and there was time to find out.
        """
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            client = self._client
        _refuse_if_away(client)
        if self._records is None:
            records = client.get_default_database(self.database_name)[self.taskmeta_collection]
            # the time itself is in the document: another retention needs no other index
            records.create_index(EXPIRES_AT, expireAfterSeconds=0)
            self._records = records
        return self._records

    def _connect(self) -> MongoClient[dict[str, Any]]:
        try:
            return MongoClient(
                self._mongodb_url,
                # not before the first use: that is after the fork
                connect=False,
                appname="messaging-system",
                # of one operation, the choice of a server and tries again included
                timeoutMS=int(self._timeout * 1000),
                serverSelectionTimeoutMS=int(self._timeout * 1000),
                heartbeatFrequencyMS=int(HEARTBEAT * 1000),
                connectTimeoutMS=int(CONNECT_TIMEOUT * 1000),
                minPoolSize=CONNECTIONS,
                # a record that is out of date would have a mail sent twice
                readPreference="primary",
                # and so would one that is lost with the server that had it
                w="majority",
                tz_aware=True,
            )
        except (ConfigurationError, InvalidURI, ValueError):
            raise UnusableUrlError("its client does not take the URL") from None

    def store_first(self, task_id: str, result: Any, state: str) -> bool:
        """Write unless something is there; whether it was written."""
        backend = cast("Any", self)
        meta = backend._get_result_meta(
            result=backend.encode(result), state=state, traceback=None, request=None, format_date=False
        )
        try:
            done = self.collection.update_one({"_id": task_id}, {"$setOnInsert": meta}, upsert=True)
        except DuplicateKeyError:
            # of two at the same instant
            return False
        return done.upserted_id is not None

    def _get_result_meta(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        meta = cast("Any", super())._get_result_meta(*args, **kwargs)
        return {**meta, EXPIRES_AT: datetime.now(UTC) + timedelta(seconds=self._lifetime(meta["result"]))}


def _refuse_if_away(client: MongoClient[dict[str, Any]]) -> None:
    """Fail at once: the client itself would wait half a second for a server, with each request.

    It goes on looking for one by itself, every `HEARTBEAT`.
    """
    known = client.topology_description
    if not known.has_writable_server():
        for server in known.server_descriptions().values():
            if server.error is not None:
                raise AwayError(str(server.error))
