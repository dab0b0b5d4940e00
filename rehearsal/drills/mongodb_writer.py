"""Inside the sandbox: a client that writes documents while something is broken."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError, PyMongoError

from components.datalake.mongodb_config import PORT, VERIFY_DATABASE, VERIFY_USER
from rehearsal import paths
from rehearsal.access import Access
from rehearsal.drills.record import Record

Client = MongoClient[dict[str, Any]]
_TIMEOUT_MS, _PATIENT_MS = 2000, 40_000
_SETTLE_S = 60.0


class MongodbWriter(threading.Thread):
    """Inserts a document every 10 ms by pymongo, each again until it is acknowledged.

    FerretDB knows no retryable writes, so this does what an application must: it writes under a key
    of its own, and a duplicate of that key says that the first attempt had come through.
    """

    def __init__(self, access: Access, folder: Path, run: str) -> None:
        super().__init__(name="mongodb-writer", daemon=True)
        self.record = Record("mongodb")
        self._access, self._authority = access, folder / "ca.crt"
        self._name = f"drill_{run}"
        self._asked = threading.Event()
        self.trust(access.ca)

    def trust(self, pem: str) -> None:
        """Clients made from now on read it."""
        paths.replace(self._authority, pem)

    def _client(self, timeout_ms: int = _PATIENT_MS) -> Client:
        return Client(
            self._access.mongodb_host,
            PORT,
            username=VERIFY_USER,
            password=self._access.mongodb_password,
            tls=True,
            tlsCAFile=str(self._authority),
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            socketTimeoutMS=timeout_ms,
        )

    def start(self) -> None:
        """Make the collection, then write. Raises PyMongoError when the service is away."""
        with self._client() as client:
            client[VERIFY_DATABASE].create_collection(self._name)
        super().start()

    def run(self) -> None:
        """Write until asked to stop."""
        with self._client(_TIMEOUT_MS) as client:
            documents = client[VERIFY_DATABASE][self._name]
            while not self._asked.wait(0.01):
                number = self.record.attempts
                try:
                    documents.insert_one({"_id": number})
                except DuplicateKeyError:
                    pass
                except PyMongoError as error:
                    self.record.error(type(error).__name__)
                    time.sleep(0.05)
                    continue
                self.record.acknowledge(number)
                self.record.attempts += 1

    def stop(self) -> dict[str, Any]:
        """Read all documents back, and drop the collection."""
        self._asked.set()
        self.join(timeout=30)
        deadline = time.monotonic() + _SETTLE_S
        while True:
            try:
                with self._client() as client:
                    documents = client[VERIFY_DATABASE][self._name]
                    stored = {int(one["_id"]) for one in documents.find()}
                    documents.drop()
                return self.record.summary(stored)
            except PyMongoError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
