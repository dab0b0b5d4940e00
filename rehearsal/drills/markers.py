"""Inside the sandbox: rows, documents, objects and messages that are known, written and looked for.

All of it follows from a seed, so that what is read is compared with what was meant, whatever a
backup says. Commands: `write`, `read` (what is not as written, in words), `spoil` (one of each is
changed, which `read` has to find), `remove`.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from botocore.exceptions import BotoCoreError, ClientError
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from psycopg.types.json import Jsonb
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from components.datalake.ceph_buckets import client
from components.datalake.ceph_config import BACKUP_BUCKET, BACKUP_USER, REGION
from components.datalake.kafka_config import BACKUP_USER as KAFKA_USER
from components.datalake.kafka_config import VERIFY_TOPIC
from components.datalake.mongodb_config import PORT, VERIFY_DATABASE, VERIFY_USER
from rehearsal import clients
from rehearsal.access import Access
from rehearsal.backup.inside import commands
from services.backup import topics
from services.backup.objects import listed
from services.backup.records import Record

ROWS, DOCUMENTS, KEYS, MESSAGES = 2000, 300, 60, 3000
TABLE = "drill_restore"
GROUP = "estate-backup-drill"
_PREFIX = "drill-restore/"
Version = tuple[bytes, dict[str, str], dict[str, str]] | None
"""Content, metadata and tags of a version of an object; None: a delete marker."""


def rows(seed: int) -> list[tuple[Any, ...]]:
    """Number, text, time, a float and JSON."""
    chance = random.Random(f"rows {seed}")
    return [
        (
            number,
            None if number % 11 == 0 else f"row {number} é \\ \t {chance.random()}",
            datetime.fromtimestamp(chance.randrange(2_000_000_000), UTC),
            chance.random() / 3,
            {"n": number, "deep": [chance.random(), None, "ü"]},
            chance.randbytes(chance.randrange(40)),
        )
        for number in range(ROWS)
    ]


def documents(seed: int) -> list[dict[str, Any]]:
    """Documents of the types that the estate stores."""
    chance = random.Random(f"documents {seed}")
    return [
        {
            "_id": f"drill-{number}",
            "n": number,
            "name": f"document {number} é",
            "at": datetime.fromtimestamp(chance.randrange(2_000_000_000), UTC),
            "embedding": [chance.random() for _ in range(8)],
            "original": {"sha256": chance.randbytes(32).hex(), "none": None, "true": True},
        }
        for number in range(DOCUMENTS)
    ]


def objects(seed: int) -> dict[str, list[Version]]:
    """Key -> its versions, the oldest first."""
    chance = random.Random(f"objects {seed}")
    found: dict[str, list[Version]] = {}
    for number in range(KEYS):
        versions: list[Version] = []
        for at in range(1 + number % 3):
            size = 6 << 20 if number == at == 0 else chance.randrange(20_000)
            metadata = {"number": str(number), "version": str(at)} if number % 2 else {}
            tags = {"state": str(at)} if number % 5 == 0 else {}
            versions.append((chance.randbytes(size), metadata, tags))
        if number % 7 == 0:
            versions.append(None)
        found[f"{_PREFIX}{number:04d} é"] = versions
    return found


def messages(seed: int, partitions: int, now_ms: int) -> dict[int, list[Record]]:
    """Partition -> its messages; their times lie in the last minutes, out of order."""
    chance = random.Random(f"messages {seed}")
    found: dict[int, list[Record]] = {partition: [] for partition in range(partitions)}
    for number in range(MESSAGES):
        found[chance.randrange(partitions)].append(
            Record(
                number,
                now_ms - chance.randrange(600_000),
                None if number % 7 == 0 else f"key {number % 50}".encode(),
                None if number % 50 == 0 else f"drill {seed} {number} ".encode() * (number % 9),
                (("h", f"{number}".encode()), ("h", None), ("", b"")) if number % 3 == 0 else (),
            )
        )
    return found


class Markers:
    """All of them in one rehearsal; documents and objects where it has a lake."""

    def __init__(
        self, access: Access, folder: Path, *, seed: int, now_ms: int, s3_key: str
    ) -> None:
        """Take what is written; `now_ms` is the time that messages are about."""
        self._access, self._folder = access, folder
        self._seed, self._now_ms = seed, now_ms
        self._dsn = access.dsn(folder, direct=True)
        self._s3: Any = (
            client(access.s3_endpoint, REGION, str(folder / "ca.crt"), BACKUP_USER, s3_key)
            if s3_key
            else None
        )
        self._options = access.kafka_options(KAFKA_USER)
        self._admin = AdminClient(self._options)
        self._partitions = topics.names(self._admin)[VERIFY_TOPIC]

    def _documents(self) -> MongoClient[dict[str, Any]]:
        return MongoClient(
            self._access.mongodb_host,
            PORT,
            username=VERIFY_USER,
            password=self._access.mongodb_password,
            tls=True,
            tlsCAFile=str(self._folder / "ca.crt"),
            tz_aware=True,
            serverSelectionTimeoutMS=60_000,
        )

    # -- writing -----------------------------------------------------------------------------------

    def write(self) -> dict[str, Any]:
        """All of it; returns how many of each."""
        counted = {"rows": self._write_rows(), "messages": self._write_messages()}
        if self._access.mongodb_password is not None:
            with self._documents() as server:
                server[VERIFY_DATABASE][TABLE].drop()
                server[VERIFY_DATABASE][TABLE].insert_many(documents(self._seed))
            counted["documents"] = DOCUMENTS
        if self._s3 is not None:
            counted["versions of objects"] = self._write_objects()
        return {"counted": counted}

    def _write_rows(self) -> int:
        with psycopg.connect(self._dsn, connect_timeout=10) as session:
            session.execute(f"DROP TABLE IF EXISTS {TABLE}".encode())
            session.execute(
                f"CREATE TABLE {TABLE} (n int PRIMARY KEY, t text, at timestamptz, f float8, "
                "j jsonb, b bytea, s serial)".encode()
            )
            with session.cursor() as cursor:
                cursor.executemany(
                    f"INSERT INTO {TABLE} (n, t, at, f, j, b) "
                    "VALUES (%s, %s, %s, %s, %s, %s)".encode(),
                    [(*one[:4], Jsonb(one[4]), one[5]) for one in rows(self._seed)],
                )
        return ROWS

    def _write_objects(self) -> int:
        self._remove_objects()
        versions = 0
        for key, content in objects(self._seed).items():
            for version in content:
                versions += 1
                if version is None:
                    self._s3.delete_object(Bucket=BACKUP_BUCKET, Key=key)
                    continue
                body, metadata, tags = version
                put = self._s3.put_object(
                    Bucket=BACKUP_BUCKET,
                    Key=key,
                    Body=body,
                    Metadata=metadata,
                    ContentType="application/x-drill",
                )
                if tags:
                    self._s3.put_object_tagging(
                        Bucket=BACKUP_BUCKET,
                        Key=key,
                        VersionId=put["VersionId"],
                        Tagging={"TagSet": [{"Key": k, "Value": v} for k, v in tags.items()]},
                    )
        return versions

    def _write_messages(self) -> int:
        consumer = self._consumer()
        try:
            # Nothing else lies in this topic than what checks and drills wrote.
            topics.empty(self._admin, consumer, {VERIFY_TOPIC: self._partitions})
            halves = []
            producer = Producer({**self._options, **topics.WRITER})
            for partition, records in self._messages().items():
                first = consumer.get_watermark_offsets(TopicPartition(VERIFY_TOPIC, partition))[1]
                topics.produce(producer, VERIFY_TOPIC, partition, records)
                halves.append(TopicPartition(VERIFY_TOPIC, partition, first + len(records) // 2))
        finally:
            consumer.close()
        topics.commit(self._admin, GROUP, halves)
        return MESSAGES

    def _messages(self) -> dict[int, list[Record]]:
        return messages(self._seed, self._partitions, self._now_ms)

    def _consumer(self) -> Consumer:
        return Consumer({**self._options, **topics.READER})

    # -- reading -----------------------------------------------------------------------------------

    def read(self) -> dict[str, Any]:
        """What is not as it was written, one by one, in words."""
        wrong = [*self._read_rows(), *self._read_messages()]
        if self._access.mongodb_password is not None:
            with self._documents() as server:
                found = {one["_id"]: one for one in server[VERIFY_DATABASE][TABLE].find()}
            wrong += different("document", {d["_id"]: d for d in documents(self._seed)}, found)
        if self._s3 is not None:
            wrong += different("object", objects(self._seed), self._read_objects())
        return {"wrong": wrong}

    def _read_rows(self) -> list[str]:
        with psycopg.connect(self._dsn, connect_timeout=10) as session:
            found = session.execute(f"SELECT n, t, at, f, j, b FROM {TABLE}".encode()).fetchall()
            (serial,) = session.execute(
                f"SELECT nextval(pg_get_serial_sequence('{TABLE}', 's'))".encode()
            ).fetchone() or (0,)
        wrong = different(
            "row", {one[0]: one for one in rows(self._seed)}, {one[0]: one for one in found}
        )
        return wrong + ([] if serial > ROWS else [f"the sequence goes on at {serial}"])

    def _read_objects(self) -> dict[str, list[Version]]:
        found: dict[str, list[Version]] = {}
        for key, versions in listed(self._s3, BACKUP_BUCKET):
            if not key.startswith(_PREFIX):
                continue
            found[key] = [None if one["marker"] else self._version(one) for one in versions]
        return found

    def _version(self, version: dict[str, Any]) -> Version:
        named = {"Bucket": BACKUP_BUCKET, "Key": version["Key"], "VersionId": version["VersionId"]}
        got = self._s3.get_object(**named)
        tags = self._s3.get_object_tagging(**named)["TagSet"]
        return got["Body"].read(), got["Metadata"], {one["Key"]: one["Value"] for one in tags}

    def _read_messages(self) -> list[str]:
        wrong = []
        asked = [ConsumerGroupTopicPartitions(GROUP)]
        answer = self._admin.list_consumer_group_offsets(asked)[GROUP].result(30)
        group = {one.partition: one.offset for one in answer.topic_partitions or ()}
        consumer = self._consumer()
        try:
            for partition, records in self._messages().items():
                found = list(topics.read(consumer, VERIFY_TOPIC, partition))
                wrong += [
                    f"partition {partition}: {one}" for one in topics.differences(records, found)
                ]
                first = found[0].offset if found else 0
                due = first + len(records) // 2
                if group.get(partition) != due:
                    text = f"reads on at {group.get(partition)}, not at {due}"
                    wrong.append(f"group {GROUP}, partition {partition}: {text}")
        finally:
            consumer.close()
        return wrong

    # -- spoiling ----------------------------------------------------------------------------------

    def spoil(self) -> dict[str, Any]:
        """Change one of each; returns how many differences `read` has to find."""
        changes = 2
        with psycopg.connect(self._dsn, connect_timeout=10) as session:
            session.execute(f"UPDATE {TABLE} SET t = 'spoilt' WHERE n = 5".encode())
        producer = Producer({**self._options, **topics.WRITER})
        topics.produce(producer, VERIFY_TOPIC, 0, [Record(0, self._now_ms, b"spoilt", b"")])
        if self._access.mongodb_password is not None:
            with self._documents() as server:
                server[VERIFY_DATABASE][TABLE].delete_one({"_id": "drill-5"})
            changes += 1
        if self._s3 is not None:
            key = next(iter(objects(self._seed)))
            self._s3.put_object(Bucket=BACKUP_BUCKET, Key=key, Body=b"spoilt")
            changes += 1
        return {"changes": changes}

    def remove(self) -> dict[str, Any]:
        """Everything but the messages, which the topic's hour of retention takes."""
        with psycopg.connect(self._dsn, connect_timeout=10) as session:
            session.execute(f"DROP TABLE IF EXISTS {TABLE}".encode())
        if self._access.mongodb_password is not None:
            with self._documents() as server:
                server[VERIFY_DATABASE][TABLE].drop()
        if self._s3 is not None:
            self._remove_objects()
        return {}

    def _remove_objects(self) -> None:
        pages = self._s3.get_paginator("list_object_versions").paginate(
            Bucket=BACKUP_BUCKET, Prefix=_PREFIX
        )
        for page in pages:
            for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                self._s3.delete_object(
                    Bucket=BACKUP_BUCKET, Key=one["Key"], VersionId=one["VersionId"]
                )


def different(kind: str, due: dict[Any, Any], found: dict[Any, Any]) -> list[str]:
    """What is missing, changed or too much."""
    wrong = [f"{kind} {key} is missing" for key in due if key not in found]
    wrong += [f"{kind} {key} is too much" for key in found if key not in due]
    return wrong + [
        f"{kind} {key} differs" for key in due if key in found and due[key] != found[key]
    ]


def main() -> int:
    """Obey until the input ends; an error is the last word."""
    access, specification = clients.specification()
    asked = commands()
    with tempfile.TemporaryDirectory(prefix="estate-markers-") as folder:
        try:
            markers = Markers(access, Path(folder), **specification)
            orders: dict[str, Callable[[], dict[str, Any]]] = {
                name: getattr(markers, name) for name in ("write", "read", "spoil", "remove")
            }
            while True:
                order = asked.get()["command"]
                clients.emit(order, **orders[order]())
        except (
            *(psycopg.Error, PyMongoError, KafkaException, BotoCoreError, ClientError),
            OSError,
        ) as error:
            words = (str(error).splitlines() or [type(error).__name__])[0][:300]
            clients.emit("error", thing="drill restore", value=words)
            return 1


def now_ms() -> int:
    """The time in ms since 1970, for `Markers`."""
    return int(time.time() * 1000)


if __name__ == "__main__":
    sys.exit(main())
