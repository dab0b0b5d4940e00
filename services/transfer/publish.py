"""Events to Kafka, each acknowledged by all in-sync replicas before anything is said about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from confluent_kafka import KafkaError, Message, Producer

from services.events import QUARANTINED_TOPIC, RECEIVED_TOPIC, ImageQuarantined, ImageReceived
from services.transfer.settings import Settings, secret

Event = ImageReceived | ImageQuarantined
_TIMEOUT_S = 60.0


class NotPublished(Exception):
    """Some events were not acknowledged; those that were will come a second time."""


class Publisher(Protocol):
    """Where events go."""

    def publish(self, events: Sequence[Event]) -> None:
        """Return when all are acknowledged. Raises NotPublished."""


class KafkaPublisher:
    """An idempotent producer with acks=all; several threads may publish at once."""

    def __init__(self, settings: Settings) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": settings.bootstrap,
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": settings.user,
                "sasl.password": secret(settings.password),
                "ssl.ca.location": str(settings.trust),
                "client.id": "transfer",
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "compression.type": "lz4",
                "delivery.timeout.ms": int(_TIMEOUT_S * 1000),
                "reconnect.backoff.max.ms": 2000,
            }
        )

    def publish(self, events: Sequence[Event]) -> None:
        """Send all and wait for every acknowledgement."""
        lock = threading.Lock()
        left, failed = len(events), []

        def delivered(error: KafkaError | None, _: Message) -> None:
            nonlocal left
            with lock:
                left -= 1
                if error is not None:
                    failed.append(error.str())

        for event in events:
            self._send(event, delivered)
        deadline = time.monotonic() + _TIMEOUT_S + 10
        while left and time.monotonic() < deadline:
            self._producer.poll(0.05)
        if left or failed:
            why = failed[0] if failed else f"no answer in {_TIMEOUT_S:.0f} s"
            raise NotPublished(f"{left + len(failed)} of {len(events)} events: {why}")

    def _send(self, event: Event, delivered: Any) -> None:
        topic = RECEIVED_TOPIC if isinstance(event, ImageReceived) else QUARANTINED_TOPIC
        while True:
            try:
                self._producer.produce(
                    topic, event.to_message(), event.message_key(), on_delivery=delivered
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return
