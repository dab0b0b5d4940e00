"""The real things behind `ports`, made from the settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from confluent_kafka import Producer
from pymongo import MongoClient

from services.events import QUARANTINED_TOPIC, ImageQuarantined
from services.pipeline import model
from services.pipeline.batch import World
from services.pipeline.buckets import Bucket, client
from services.pipeline.catalogue import Catalogue
from services.pipeline.collect import Bytes
from services.pipeline.features import OnnxEmbedder
from services.pipeline.settings import Postgres, Settings, secret
from services.pipeline.store import MongoDocuments

_ANSWER_S = 60


def s3(settings: Settings) -> Any:
    """A client of the object store; nothing is asked of it yet."""
    return client(
        settings.s3.endpoint,
        settings.s3.region,
        access_key=secret(settings.s3.access_key),
        secret_key=secret(settings.s3.secret_key),
        trust=settings.trust,
    )


def kafka(settings: Settings) -> dict[str, Any]:
    """The settings of librdkafka."""
    return {
        "bootstrap.servers": settings.kafka.bootstrap,
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": settings.kafka.user,
        "sasl.password": secret(settings.kafka.password),
        "ssl.ca.location": str(settings.trust),
        "client.id": "pipeline",
        "reconnect.backoff.max.ms": 2000,
    }


def postgres(settings: Settings, database: Postgres) -> psycopg.Connection[Any]:
    """A session. Raises psycopg.OperationalError."""
    return psycopg.connect(
        host=database.host,
        port=database.port,
        dbname=database.database,
        user=database.user,
        password=secret(database.password),
        sslmode="verify-full",
        sslrootcert=str(settings.trust),
        connect_timeout=10,
        autocommit=True,
        # A primary that is gone without a word must not hold a run for ever.
        tcp_user_timeout=_ANSWER_S * 1000,
        options=f"-c statement_timeout={5 * _ANSWER_S * 1000}",
    )


def mongo(settings: Settings) -> MongoClient[dict[str, Any]]:
    """A client of the documents."""
    return MongoClient(
        settings.mongo.url,
        username=settings.mongo.user,
        password=secret(settings.mongo.password),
        authSource="admin",
        authMechanism="SCRAM-SHA-256",
        tlsCAFile=str(settings.trust),
        serverSelectionTimeoutMS=20_000,
        tz_aware=True,
        appname="pipeline",
    )


class KafkaQuarantine:
    """Tells the topic of quarantined images, with acks=all."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._producer = Producer({**options, "acks": "all", "enable.idempotence": True})

    def publish(self, events: Sequence[ImageQuarantined]) -> None:
        """Return when all are acknowledged. Raises TimeoutError with what Kafka said last."""
        failed: list[str] = []
        for event in events:
            self._producer.produce(
                QUARANTINED_TOPIC,
                event.to_message(),
                event.message_key(),
                on_delivery=lambda error, _: failed.append(str(error)) if error else None,
            )
        left = self._producer.flush(_ANSWER_S)
        if left or failed:
            raise TimeoutError(f"{left + len(failed)} events not acknowledged: {failed[-1:]}")


@contextlib.contextmanager
def world(settings: Settings) -> Iterator[World]:
    """Everything that a batch touches, connected."""
    with (
        postgres(settings, settings.catalogue) as session,
        mongo(settings) as documents,
    ):
        store = s3(settings)
        yield World(
            reader=Bytes(store),
            catalogue=Catalogue(session),
            objects=Bucket(store, settings.s3.images),
            documents=MongoDocuments(documents, settings.mongo.database, settings.mongo.collection),
            quarantine=KafkaQuarantine(kafka(settings)),
            embedder=OnnxEmbedder(model.build()),
            limits=settings.limits,
            bucket=settings.s3.images,
        )
