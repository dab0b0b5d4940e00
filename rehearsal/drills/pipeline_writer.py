"""Inside the sandbox: announces sample images, and afterwards accounts for each of them.

Acknowledged is what S3 has and Kafka has confirmed. Stored is what ended as its sample says: one
receipt, of the right state and reason, and of what is stored the same digest in all three stores.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from confluent_kafka import KafkaError, Message, Producer

from rehearsal import samples
from rehearsal.access import Access
from rehearsal.drills import accounting, lake
from rehearsal.drills.pipeline import folder as samples_folder
from rehearsal.drills.record import Record
from services.events import RECEIVED_TOPIC, ImageReceived
from services.pipeline.buckets import client

_INCOMING = "images-incoming"
_PERIOD_S = 0.08
_SETTLE_S = 600.0


class PipelineWriter(threading.Thread):
    """Sends the samples, one every 80 ms, and looks for their receipts."""

    def __init__(self, access: Access, folder: Path, run: str) -> None:
        super().__init__(name="pipeline-writer", daemon=True)
        self.record = Record("pipeline")
        self._run = f"drill-{run}"
        self._lake = lake.Lake(access, folder)
        self._samples = samples.read(samples_folder())
        self._sender = client(
            access.s3_endpoint,
            lake.REGION,
            access_key=access.s3_access_key,
            secret_key=access.s3_secret_key,
            trust=folder / "ca.crt",
        )
        self._producer = Producer(
            access.kafka_options("transfer", acks="all", enable_idempotence=True)
        )
        self._sent = threading.Event()

    def trust(self, pem: str) -> None:
        """A drill that changes no authority."""

    def run(self) -> None:
        """Send them all, whatever happens meanwhile; the kill falls within."""
        began = time.monotonic()
        for number, sample in enumerate(self._samples):
            self._wait_until(began + number * _PERIOD_S)
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
                device=self._run,
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
        self._producer.flush(60)
        self._sent.set()

    def _wait_until(self, due: float) -> None:
        # `poll` returns with the first acknowledgement, long before its time is over.
        self._producer.poll(0)
        while (left := due - time.monotonic()) > 0:
            self._producer.poll(left)

    def stop(self) -> dict[str, Any]:
        """Wait until all is sent and has a receipt, then compare."""
        self._sent.wait(300)
        self.record.note(f"all {len(self.record.acknowledged)} are sent")
        deadline = time.monotonic() + _SETTLE_S
        with self._lake.catalogue() as session:
            while lake.count(session, self._run) < len(self.record.acknowledged):
                if time.monotonic() > deadline:
                    break
                time.sleep(1)
            found = lake.found(session, self._run)
        self.record.note(f"{len(found.receipts)} have a receipt, {len(found.rows)} are stored")
        found.elsewhere = self._lake.missing([row.sha256 for row in found.rows])
        wrong = accounting.account(self._samples, found).wrong
        for one in sorted(wrong.values())[:10]:
            self.record.note(one)
        names = {sample.name: number for number, sample in enumerate(self._samples)}
        return self.record.summary({number for name, number in names.items() if name not in wrong})
