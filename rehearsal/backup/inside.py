"""Inside the sandbox: Kafka and S3 into a backup and back; one order after the other.

`python -m rehearsal.backup.inside` answers each command with an event of the same name. What is
under way is told by events `progress`; the end of the input ends it at once.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from components.datalake.ceph_buckets import client
from components.datalake.ceph_config import REGION
from components.datalake.kafka_config import BACKUP_USER, VERIFY_TOPIC
from rehearsal import clients
from rehearsal.access import Access
from services.backup import BackupError, objects, topics
from services.backup.folder import Progress, Writer
from services.backup.records import Record

_EVERY_S = 0.2
BY_CHECKS = (b'"name":"verify"', b'"device":"estate-verify"')
"""In messages about images that the checks send: no data of anybody's."""


class Worker:
    """Clients of one rehearsal's Kafka and S3; `objects_` maps a bucket to [owner, secret key]."""

    def __init__(self, access: Access, objects_: Mapping[str, Any], folder: Path) -> None:
        """Make what needs no connection yet."""
        authority = folder / "ca.crt"
        authority.write_text(access.ca)
        self._options = {**access.kafka_options(BACKUP_USER), "error_cb": lambda _: None}
        self._admin = AdminClient(self._options)
        made = {
            owner: client(access.s3_endpoint, REGION, str(authority), owner, key)
            for owner, key in dict(map(tuple, objects_.values())).items()
        }
        self._buckets = {bucket: made[owner] for bucket, (owner, _) in objects_.items()}

    def _consumer(self) -> Consumer:
        return Consumer({**self._options, **topics.READER})

    def save(self, folder: str, what: str) -> dict[str, Any]:
        """`kafka` or `objects` into the hidden folder of a backup."""
        writer = Writer(Path(folder))
        parts: dict[str, Any] = {}
        if what == "objects" and self._buckets:
            parts["objects"] = objects.save(self._buckets, writer, progress("objects"))
        elif what == "kafka":
            consumer = self._consumer()
            try:
                parts["kafka"] = topics.save(self._admin, consumer, writer, progress("messages"))
            finally:
                consumer.close()
        return {"parts": parts, "files": writer.files}

    def sizes(self) -> dict[str, Any]:
        """What a backup would hold: messages, and bytes of objects."""
        consumer = self._consumer()
        try:
            messages = sum(topics.records_of(consumer, topics.names(self._admin)).values())
        finally:
            consumer.close()
        return {
            "messages": messages,
            "bytes": sum(objects.size_of(s3, bucket) for bucket, s3 in self._buckets.items()),
        }

    def data(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        """What is there already and not from the checks, in words; refuses what does not fit."""
        known = topics.names(self._admin)
        topics.fits(parts["kafka"], known)
        if "objects" in parts:
            objects.fits(parts["objects"], self._buckets)
        found = []
        consumer = self._consumer()
        try:
            for topic, partitions in known.items():
                if topic != VERIFY_TOPIC and any(
                    not _by_check(record)
                    for partition in range(partitions)
                    for record in topics.read(consumer, topic, partition)
                ):
                    found.append(f"topic {topic}")
        finally:
            consumer.close()
        found += [
            f"bucket {bucket}"
            for bucket, s3 in self._buckets.items()
            if bucket in ("datasets", "backup") and not objects.is_empty(s3, bucket)
        ]
        return {"found": found}

    def restore(self, folder: str, parts: Mapping[str, Any]) -> dict[str, Any]:
        """Everything out of topics and buckets, then the backup's into them."""
        consumer = self._consumer()
        producer = Producer({**self._options, **topics.WRITER})
        try:
            topics.empty(self._admin, consumer, topics.names(self._admin))
            topics.restore(
                self._admin,
                consumer,
                producer,
                Path(folder),
                parts["kafka"],
                progress("messages"),
            )
        finally:
            consumer.close()
        if "objects" in parts:
            for bucket, s3 in self._buckets.items():
                objects.empty(s3, bucket)
            objects.restore(self._buckets, Path(folder), parts["objects"], progress("objects"))
        return {}

    def compare(self, folder: str, parts: Mapping[str, Any]) -> dict[str, Any]:
        """What differs from the backup, in words."""
        consumer = self._consumer()
        try:
            wrong = topics.compare(
                self._admin, consumer, Path(folder), parts["kafka"], progress("messages read back")
            )
        finally:
            consumer.close()
        if "objects" in parts:
            look = progress("objects read back")
            wrong += objects.compare(self._buckets, Path(folder), parts["objects"], look)
        return {"wrong": wrong}


def _by_check(record: Record) -> bool:
    return record.value is not None and any(mark in record.value for mark in BY_CHECKS)


def progress(part: str) -> Progress:
    """Tells the caller how far a part is, a few times a second."""
    told = 0.0

    def tell(row: str, done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > _EVERY_S or done >= total:
            told = time.monotonic()
            clients.emit("progress", part=part, row=row, done=done, total=total)

    return tell


def commands() -> queue.Queue[dict[str, Any]]:
    """The caller's commands; the end of the input ends the process, whatever is under way."""
    found: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            found.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, name="commands", daemon=True).start()
    return found


def main() -> int:
    """Obey until the input ends; an error is the last word."""
    access, specification = clients.specification()
    asked = commands()
    with tempfile.TemporaryDirectory(prefix="estate-backup-") as folder:
        worker = Worker(access, specification["objects"], Path(folder))
        orders: dict[str, Callable[..., dict[str, Any]]] = {
            name: getattr(worker, name) for name in ("save", "sizes", "data", "restore", "compare")
        }
        while True:
            values = asked.get()
            order = values.pop("command")
            try:
                clients.emit(order, **orders[order](**values))
            except BackupError as error:
                clients.emit("error", thing=error.thing, value=error.value, way_out=error.way_out)
                return 1
            except (BotoCoreError, ClientError, KafkaException, OSError) as error:
                clients.emit("error", thing=order, value=str(error)[:300])
                return 1


if __name__ == "__main__":
    sys.exit(main())
