"""Inside the sandbox: announces sample images, and afterwards accounts for each of them.

Acknowledged is what S3 has and Kafka has confirmed. Stored is what ended as its sample says: one
receipt, of the right state and reason, and of what is stored the same digest in all three stores.
"""

from __future__ import annotations

import hashlib
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.session
import psycopg
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from confluent_kafka import KafkaError, Message, Producer
from pymongo import MongoClient

from components.datalake.mongodb_config import PORT as MONGODB_PORT
from components.datalake.mongodb_config import VERIFY_USER
from components.datalake.pipeline_config import CATALOGUE, READER
from rehearsal import samples
from rehearsal.access import Access
from rehearsal.drills.pipeline import folder as samples_folder
from rehearsal.drills.record import Record
from services.events import RECEIVED_TOPIC, ImageReceived

_INCOMING, _IMAGES, _DATABASE = "images-incoming", "images", "lake"
_PERIOD_S = 0.08
_SETTLE_S = 600.0


class PipelineWriter(threading.Thread):
    """Sends the samples, one every 80 ms, and looks for their receipts."""

    def __init__(self, access: Access, folder: Path, run: str) -> None:
        super().__init__(name="pipeline-writer", daemon=True)
        self.record = Record("pipeline")
        self._access, self._authority, self._run = access, folder / "ca.crt", f"drill-{run}"
        self._authority.write_text(access.ca)
        self._samples = samples.read(samples_folder())
        self._sender = self._s3(access.s3_access_key, access.s3_secret_key)
        self._reader = self._s3(access.reader_access_key, access.reader_secret_key)
        self._producer = Producer(
            access.kafka_options("transfer", acks="all", enable_idempotence=True)
        )
        self._sent = threading.Event()

    def _s3(self, access_key: str, secret_key: str) -> Any:
        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self._access.s3_endpoint,
            region_name="us-east-1",
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            verify=str(self._authority),
            config=Config(
                s3={"addressing_style": "path"},
                retries={"mode": "standard", "max_attempts": 4},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def trust(self, pem: str) -> None:
        """A drill that changes no authority."""

    def run(self) -> None:
        """Send them all, whatever happens meanwhile."""
        for number, sample in enumerate(self._samples):
            content = (samples_folder() / sample.name).read_bytes()
            key = f"{self._run}/{sample.name}"
            self.record.attempts += 1
            try:
                self._sender.put_object(Bucket=_INCOMING, Key=key, Body=content)
            except (BotoCoreError, ClientError) as error:
                self.record.error(error)
                continue
            event = ImageReceived(
                upload_id=f"{self._run}-{number}",
                bucket=_INCOMING,
                key=key,
                offset=0,
                length=sample.length,
                sha256=sample.sha256,
                content_type=sample.content_type,
                name=sample.name,
                device="drill",
                received_at=datetime.now(UTC),
            )

            def told(error: KafkaError | None, _: Message, number: int = number) -> None:
                if error is not None:
                    self.record.error(error.str())
                else:
                    self.record.acknowledge(number)

            self._producer.produce(
                RECEIVED_TOPIC, event.to_message(), event.message_key(), on_delivery=told
            )
            self._producer.poll(_PERIOD_S)
        self._producer.flush(60)
        self._sent.set()

    def _catalogue(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=self._access.primary_host,
            port=self._access.primary_port,
            dbname=CATALOGUE,
            user=READER,
            password=self._access.reader_password,
            sslmode="verify-full",
            sslrootcert=str(self._authority),
            autocommit=True,
            connect_timeout=5,
        )

    def stop(self) -> dict[str, Any]:
        """Wait until all is sent and has a receipt, then compare."""
        self._sent.wait(300)
        self.record.note(f"all {len(self.record.acknowledged)} are sent")
        deadline = time.monotonic() + _SETTLE_S
        with self._catalogue() as session:
            while True:
                rows = session.execute(
                    "SELECT name, state, reason, image FROM receipts WHERE source LIKE %s",
                    (f"{self._run}-%",),
                ).fetchall()
                if len(rows) >= len(self.record.acknowledged) or time.monotonic() > deadline:
                    break
                time.sleep(1)
            stored = session.execute(
                "SELECT name, sha256, source FROM images WHERE source LIKE %s",
                (f"{self._run}-%",),
            ).fetchall()
        self.record.note(f"{len(rows)} have a receipt, {len(stored)} are stored")
        wrong = self._wrong(
            {str(name): (str(state), reason) for name, state, reason, _ in rows},
            {str(name): str(digest) for name, digest, _ in stored},
        )
        for one in sorted(wrong.values())[:10]:
            self.record.note(one)
        names = {sample.name: number for number, sample in enumerate(self._samples)}
        return self.record.summary({number for name, number in names.items() if name not in wrong})

    def _wrong(
        self, found: dict[str, tuple[str, str | None]], stored: dict[str, str]
    ) -> dict[str, str]:
        """Name of a sample -> what is wrong with it."""
        wrong: dict[str, str] = {}
        for sample in self._samples:
            for line in samples.differences([sample], found):
                # Which one of a group is stored is judged below, over all of it.
                if not line.endswith("are stored"):
                    wrong[sample.name] = line
        groups: dict[int, int] = {}
        for sample in self._samples:
            if sample.group is not None:
                state = found.get(sample.name, ("lost", None))[0]
                groups[sample.group] = groups.get(sample.group, 0) + (state == "stored")
        for sample in self._samples:
            if sample.group is not None and groups[sample.group] != 1:
                wrong[sample.name] = f"{groups[sample.group]} of group {sample.group} are stored"
        said = {name for name, (state, _) in found.items() if state == "stored"}
        for name in said ^ set(stored):
            wrong[name] = f"{name} is stored by its receipt or its row, and not by both"
        return wrong | self._elsewhere(stored)

    def _elsewhere(self, stored: dict[str, str]) -> dict[str, str]:
        """What of the stored images S3 and the documents do not have, or have otherwise."""
        wrong = {}
        with MongoClient[dict[str, Any]](
            self._access.mongodb_host,
            MONGODB_PORT,
            username=VERIFY_USER,
            password=self._access.mongodb_password,
            tls=True,
            tlsCAFile=str(self._authority),
            serverSelectionTimeoutMS=10_000,
        ) as client:
            asked = {"_id": {"$in": list(stored.values())}}
            documents = {str(one["_id"]) for one in client[_DATABASE]["images"].find(asked)}
        for name, digest in stored.items():
            try:
                body = self._reader.get_object(Bucket=_IMAGES, Key=digest)["Body"].read()
            except (BotoCoreError, ClientError) as error:
                wrong[name] = f"{name}: S3: {error}"
                continue
            if hashlib.sha256(body).hexdigest() != digest:
                wrong[name] = f"{name}: S3 has other bytes than {digest}"
            elif digest not in documents:
                wrong[name] = f"{name}: no document {digest}"
        return wrong
