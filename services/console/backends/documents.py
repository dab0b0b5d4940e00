"""The lake's documents: collections with their counts, sizes and indexes."""

from __future__ import annotations

import threading
from typing import Any

from pydantic import BaseModel, Field
from pymongo import MongoClient

from services.console.backends import answering
from services.console.problems import NotFound
from services.console.settings import Documents, secret

NAME = "documents"


class Index(BaseModel):
    """An index: its fields in order, each with 1, -1 or a kind."""

    name: str
    fields: dict[str, int | str]
    unique: bool


class Collection(BaseModel):
    """A collection; sizes in bytes, as the server counts them."""

    name: str
    documents: int
    bytes: int = Field(description="of the documents")
    stored_bytes: int = Field(description="that they take")
    index_bytes: int
    indexes: list[Index]


class DocumentLake:
    """One database, by a client that connects when it is first asked."""

    name = NAME

    def __init__(self, settings: Documents, trust: str, timeout_s: float) -> None:
        self._settings, self._trust, self._timeout = settings, trust, timeout_s
        self._lock = threading.Lock()
        self._made: tuple[str, MongoClient[dict[str, Any]]] | None = None

    def _database(self) -> Any:
        password = secret(self._settings.password)
        with self._lock:
            if self._made is None or self._made[0] != password:
                if self._made is not None:
                    self._made[1].close()
                milliseconds = int(self._timeout * 1000)
                client: MongoClient[dict[str, Any]] = MongoClient(
                    self._settings.url,
                    username=self._settings.user,
                    password=password,
                    authSource="admin",
                    tlsCAFile=self._trust,
                    appname="estate-console",
                    maxPoolSize=8,
                    serverSelectionTimeoutMS=milliseconds,
                    connectTimeoutMS=milliseconds,
                    socketTimeoutMS=milliseconds,
                )
                self._made = password, client
            return self._made[1][self._settings.database]

    def ping(self) -> None:
        """It lists collections: `ping` itself asks for no authentication."""
        self._database().list_collection_names()

    def names(self) -> list[str]:
        """The collections, by name."""
        with answering(NAME):
            return sorted(
                name
                for name in self._database().list_collection_names()
                if not name.startswith("system.")
            )

    def collection(self, name: str) -> Collection:
        """A collection. Raises NotFound."""
        with answering(NAME):
            database = self._database()
            if name not in self.names():
                raise NotFound(f"no collection is called {name}")
            stats = database.command("collStats", name)
            return Collection(
                name=name,
                documents=database[name].estimated_document_count(),
                bytes=int(stats.get("size", 0)),
                stored_bytes=int(stats.get("storageSize", 0)),
                index_bytes=int(stats.get("totalIndexSize", 0)),
                indexes=[
                    Index(
                        name=one["name"],
                        fields={
                            field: int(kind) if isinstance(kind, (int, float)) else str(kind)
                            for field, kind in one["key"].items()
                        },
                        unique=bool(one.get("unique", one["name"] == "_id_")),
                    )
                    for one in database[name].list_indexes()
                ],
            )
