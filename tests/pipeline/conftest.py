"""A real PostgreSQL for the catalogue, moto's S3, and documents in memory."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.session
import psycopg
import pytest
from moto import mock_aws

from rehearsal import samples
from rehearsal.samples import Sample
from services.events import ImageQuarantined, ImageReceived
from services.pipeline import model
from services.pipeline.batch import World
from services.pipeline.buckets import Bucket
from services.pipeline.catalogue import Catalogue
from services.pipeline.collect import Bytes
from services.pipeline.features import OnnxEmbedder
from services.pipeline.ports import Event
from services.pipeline.settings import Limits
from tests import postgres

INCOMING = "images-incoming"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The connection string of a PostgreSQL that is made for these tests."""
    with postgres.running() as made:
        yield made.dsn


@pytest.fixture
def dsn(server: str) -> Iterator[str]:
    """An empty database."""
    name = f"t{secrets.token_hex(6)}"
    with psycopg.connect(f"{server} dbname=postgres", autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name}")
        yield f"{server} dbname={name}"
        session.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def catalogue(dsn: str) -> Iterator[Catalogue]:
    with psycopg.connect(dsn, autocommit=True) as session:
        found = Catalogue(session)
        found.migrate()
        yield found


@pytest.fixture
def s3() -> Iterator[Any]:
    with mock_aws():
        client = botocore.session.Session().create_client(
            "s3", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
        )
        for bucket in (INCOMING, "images", "datasets"):
            client.create_bucket(Bucket=bucket)
        yield client


class Memory:
    """Documents, and who is told of what is quarantined; both take everything twice."""

    def __init__(self) -> None:
        self.documents: dict[str, Mapping[str, Any]] = {}
        self.told: list[ImageQuarantined] = []

    def save(self, documents: Sequence[Mapping[str, Any]]) -> None:
        self.documents |= {one["_id"]: one for one in documents}

    def missing(self, ids: Collection[str]) -> set[str]:
        return set(ids) - set(self.documents)

    def publish(self, events: Sequence[ImageQuarantined]) -> None:
        self.told += events


class Topic:
    """What Kafka is to a consumer: everything from the committed offset on, again and again."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events, self.committed, self._position = list(events), 0, 0

    def restart(self) -> None:
        """Another consumer begins."""
        self._position = self.committed

    def poll(self, limit: int, timeout_s: float) -> list[Event]:
        found = self.events[self._position : self._position + limit]
        self._position += len(found)
        return found

    def commit(self) -> None:
        self.committed = self._position


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture(scope="session")
def embedder() -> OnnxEmbedder:
    return OnnxEmbedder(model.build())


@pytest.fixture
def world(s3: Any, catalogue: Catalogue, memory: Memory, embedder: OnnxEmbedder) -> World:
    return World(
        reader=Bytes(s3),
        catalogue=catalogue,
        objects=Bucket(s3, "images"),
        documents=memory,
        quarantine=memory,
        embedder=embedder,
        limits=Limits(batch=16),
    )


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    samples.write(folder, 100, large=False)
    return folder


def announce(s3: Any, folder: Path) -> tuple[list[Sample], list[Event]]:
    """Put the samples into the bucket, and say so."""
    found = samples.read(folder)
    events: list[Event] = []
    for number, one in enumerate(found):
        s3.put_object(Bucket=INCOMING, Key=one.name, Body=(folder / one.name).read_bytes())
        events.append(
            ImageReceived(
                upload_id=f"upload-{number}",
                bucket=INCOMING,
                key=one.name,
                offset=0,
                length=one.length,
                sha256=one.sha256,
                content_type=one.content_type,
                name=one.name,
                device="camera-1",
                received_at=AT,
            )
        )
    return found, events


def received(data: bytes, content_type: str = "image/png", **values: Any) -> ImageReceived:
    """The event of these bytes."""
    import hashlib

    known: dict[str, Any] = {
        "upload_id": "u1",
        "bucket": INCOMING,
        "key": "u1",
        "offset": 0,
        "length": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "content_type": content_type,
        "name": "one",
        "received_at": AT,
    }
    return ImageReceived(**(known | values))
