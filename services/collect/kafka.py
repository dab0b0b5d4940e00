"""Kafka: what is written in order and without end of patience, and what the topics have already."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from pydantic import ValidationError

from services.collect.messages import DEAD_TOPIC, READINGS_TOPIC, Record
from services.collect.settings import KafkaSettings, secret
from services.collect.spool import Entry, Stream

_log = logging.getLogger("collect")
_TIMEOUT_S = 10.0
_AGAIN_S = 2.0


class Undeliverable(Exception):
    """Kafka will never take an entry, or the producer cannot go on: nothing may come behind it."""


class KafkaLog:
    """An idempotent producer that never gives up: Kafka has of a partition what it was given first.

    Raises Undeliverable from `poll`.
    """

    def __init__(
        self, settings: KafkaSettings, trust: Path, delivered: Callable[[int], None]
    ) -> None:
        self._delivered, self._failed = delivered, ""
        self._producer = Producer(
            {
                **_client(settings, trust),
                "acks": "all",
                "enable.idempotence": True,
                # Without end: one that timed out would leave a gap before those behind it. Another
                # failure ends the producer, and nothing behind it is written.
                "message.timeout.ms": 0,
                "enable.gapless.guarantee": True,
                "linger.ms": settings.linger_ms,
                "compression.type": "lz4",
                # Java's, so that other clients find a device in the same partition.
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 1_000_000,
                "reconnect.backoff.max.ms": 1000,
                "error_cb": self._error,
            }
        )

    def produce(self, entry: Entry) -> None:
        """Queue one; a partition's keep their order."""
        self._producer.produce(
            DEAD_TOPIC if entry.dead else READINGS_TOPIC,
            entry.value,
            entry.stream.device.encode(),
            timestamp=entry.received_ms,
            on_delivery=partial(self._reported, entry.id),
        )

    def poll(self) -> None:
        """Hear what was delivered."""
        self._producer.poll(0)
        if self._failed:
            raise Undeliverable(self._failed)

    def flush(self, seconds: float) -> None:
        """Wait for what was queued, so long at the most."""
        self._producer.flush(seconds)

    def _reported(self, id_: int, error: KafkaError | None, _: Message) -> None:
        # After the first failure nothing is acknowledged: what is behind it may be written.
        if error is not None:
            self._failed = self._failed or error.str()
        elif not self._failed:
            self._delivered(id_)

    def _error(self, error: KafkaError) -> None:
        if error.fatal():
            self._failed = self._failed or error.str()
        else:
            _log.warning("kafka: %s", error.str())


class Known:
    """The last sequence of each boot, as records say it in their order."""

    def __init__(self) -> None:
        self.last: dict[Stream, int] = {}

    def add(self, record: Record) -> None:
        """The next record of a partition.

        One whose `previous` is lacking does not count, nor those behind it: there is a gap that its
        device knows nothing of. No producer here leaves one; if it did, nothing would be lost.
        """
        stream = Stream(record.device, record.boot)
        last = self.last.get(stream)
        if last is None or (record.previous or 0) <= last:
            self.last[stream] = max(record.sequence, last or 0)
        else:
            _log.error(
                "kafka: %s: %d is lacking before %d", stream, record.previous, record.sequence
            )


class Tail(threading.Thread):
    """Reads the last records of each partition once; `known` is there when it is through."""

    def __init__(self, settings: KafkaSettings, trust: Path) -> None:
        super().__init__(name="tail", daemon=True)
        self._settings, self._trust = settings, trust
        self.known: dict[Stream, int] | None = None

    def run(self) -> None:
        """Until it has succeeded."""
        while self.known is None:
            try:
                self.known = self._read()
            except KafkaException as error:
                _log.warning("kafka: tail of %s: %s", READINGS_TOPIC, error)
                time.sleep(_AGAIN_S)

    def _read(self) -> dict[Stream, int]:
        consumer = Consumer(
            {
                **_client(self._settings, self._trust),
                "group.id": "collect-tail",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            }
        )
        try:
            return self._known(consumer)
        finally:
            consumer.close()

    def _known(self, consumer: Consumer) -> dict[Stream, int]:
        topic = consumer.list_topics(READINGS_TOPIC, timeout=_TIMEOUT_S).topics[READINGS_TOPIC]
        if topic.error is not None:
            raise KafkaException(topic.error)
        wanted = []
        for number in topic.partitions:
            partition = TopicPartition(READINGS_TOPIC, number)
            low, high = consumer.get_watermark_offsets(partition, timeout=_TIMEOUT_S)
            partition.offset = max(low, high - self._settings.tail)
            wanted.append(partition)
        consumer.assign(wanted)
        left = {partition.partition for partition in wanted}
        known = Known()
        while left:
            for message in consumer.consume(1000, timeout=1.0):
                error = message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                elif error is not None:
                    raise KafkaException(error)
                else:
                    _add(known, message)
        return known.last


def _add(known: Known, message: Message) -> None:
    try:
        known.add(Record.from_bytes(message.value() or b""))
    except ValidationError:
        where = f"{message.topic()} {message.partition()} {message.offset()}"
        _log.warning("kafka: %s is no record of this bridge", where)


def _client(settings: KafkaSettings, trust: Path) -> dict[str, Any]:
    return {
        "bootstrap.servers": settings.bootstrap,
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": settings.user,
        "sasl.password": secret(settings.password),
        "ssl.ca.location": str(trust),
        "client.id": "collect",
    }
