"""What has been received: from Kafka, from a prefix of a bucket, from a folder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from services.events import (
    QUARANTINED_TOPIC,
    RECEIVED_TOPIC,
    ImageQuarantined,
    ImageReceived,
    content_type_of,
)
from services.pipeline.buckets import read_object
from services.pipeline.ports import Arrivals, Event, source_of

FOLDER = "folder"
"""`bucket` of what lies in a folder of this machine; its `key` is the path."""
TOPICS = (RECEIVED_TOPIC, QUARANTINED_TOPIC)
_QUIET_S = 1.0
"""A batch is closed when nothing came for so long."""
_ANSWER_S = 20.0

Known = Callable[[Collection[str]], set[str]]


def batch(arrivals: Arrivals, known: Known, limit: int, timeout_s: float) -> list[Event]:
    """The next images, without what has a receipt already, and every source once."""
    found: dict[str, Event] = {}
    for event in arrivals.poll(limit, timeout_s):
        found.setdefault(source_of(event), event)
    done = known(list(found)) if found else set()
    return [event for source, event in found.items() if source not in done]


class Bytes:
    """Reads what events name: a range of an object, or a file."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def read(self, event: ImageReceived) -> bytes:
        """All bytes of an image. Raises LookupError."""
        if event.bucket == FOLDER:
            try:
                return Path(event.key).read_bytes()
            except FileNotFoundError as error:
                raise LookupError(str(error)) from None
        range_ = None
        if event.member is not None:
            range_ = f"bytes={event.offset}-{event.offset + event.length - 1}"
        return read_object(self._client, event.bucket, event.key, range_)


# -- Kafka -----------------------------------------------------------------------------------------


class KafkaArrivals:
    """A member of the pipeline's consumer group. Offsets go forward by `commit` alone.

    A run that is killed leaves them where they were, and its partitions to whoever comes next,
    after SESSION_S at the latest.
    """

    SESSION_S = 10

    def __init__(self, options: dict[str, Any], group: str) -> None:
        self._consumer = Consumer(
            {
                **options,
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "session.timeout.ms": self.SESSION_S * 1000,
                "heartbeat.interval.ms": 2000,
                # Longer than the slowest batch: another member would take it over.
                "max.poll.interval.ms": 900_000,
            }
        )
        self._consumer.subscribe(list(TOPICS))
        self._positions: dict[tuple[str, int], int] = {}

    def poll(self, limit: int, timeout_s: float) -> list[Event]:
        """Up to `limit` images; waits `timeout_s` for the first one. Raises KafkaException."""
        events: list[Event] = []
        deadline = time.monotonic() + timeout_s
        while len(events) < limit and (left := deadline - time.monotonic()) > 0:
            for message in self._consumer.consume(min(500, limit - len(events)), min(left, 0.5)):
                if (error := message.error()) is not None:
                    if error.code() == KafkaError._PARTITION_EOF or error.retriable():
                        continue
                    raise KafkaException(error)
                place = (str(message.topic()), int(message.partition() or 0))
                self._positions[place] = int(message.offset() or 0) + 1
                events.append(read_message(message))
                deadline = time.monotonic() + _QUIET_S
        return events

    def commit(self) -> None:
        """Commit what `poll` gave, and wait for the answer. Raises KafkaException."""
        if not self._positions:
            return
        done = self._consumer.commit(
            offsets=[TopicPartition(*place, at) for place, at in self._positions.items()],
            asynchronous=False,
        )
        for one in done or ():
            if one.error is not None:
                raise KafkaException(one.error)
        self._positions.clear()

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()


def read_message(message: Message) -> Event:
    """The event of a message; a message that is none is a quarantined image itself."""
    value = message.value() or b""
    kind = ImageReceived if message.topic() == RECEIVED_TOPIC else ImageQuarantined
    try:
        return kind.from_message(value)
    except ValueError as error:
        text = " ".join(str(error).split())[:200]
    where = f"{message.topic()}-{message.partition()}@{message.offset()}"
    return ImageQuarantined(
        upload_id=f"kafka:{where}",
        bucket="kafka",
        key=where,
        offset=0,
        length=len(value),
        sha256=hashlib.sha256(value).hexdigest(),
        content_type="application/json",
        name=where,
        received_at=datetime.now(UTC),
        reason="bad-metadata",
        detail=f"a message that is no event: {text}",
    )


def lag(options: dict[str, Any], group: str) -> dict[str, int]:
    """Topic -> messages that the group has not committed. Raises KafkaException."""
    consumer = Consumer({**options, "group.id": group, "enable.auto.commit": False})
    try:
        places = _partitions(consumer)
        found = dict.fromkeys(TOPICS, 0)
        for place in consumer.committed(places, timeout=_ANSWER_S):
            low, high = consumer.get_watermark_offsets(place, timeout=_ANSWER_S)
            begins = place.offset if place.offset >= 0 else low
            found[place.topic] += max(0, high - max(begins, low))
        return found
    finally:
        consumer.close()


def announced(options: dict[str, Any], group: str) -> Iterator[Event]:
    """Everything that Kafka still has of both topics, up to now; commits nothing."""
    consumer = Consumer({**options, "group.id": group, "enable.auto.commit": False})
    try:
        ends: dict[tuple[str, int], int] = {}
        begins = []
        for place in _partitions(consumer):
            low, high = consumer.get_watermark_offsets(place, timeout=_ANSWER_S)
            if high > low:
                ends[(place.topic, place.partition)] = high
                begins.append(TopicPartition(place.topic, place.partition, low))
        consumer.assign(begins)
        deadline = time.monotonic() + _ANSWER_S
        while ends:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Kafka sent nothing of {sorted(ends)} in {_ANSWER_S:.0f} s")
            for message in consumer.consume(500, 0.5):
                if message.error() is not None:
                    continue
                deadline = time.monotonic() + _ANSWER_S
                place_ = (str(message.topic()), int(message.partition() or 0))
                yield read_message(message)
                if int(message.offset() or 0) + 1 >= ends.get(place_, 0):
                    ends.pop(place_, None)
    finally:
        consumer.close()


def _partitions(consumer: Consumer) -> list[TopicPartition]:
    places = []
    for topic in TOPICS:
        found = consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
        places += [TopicPartition(topic, number) for number in sorted(found.partitions)]
    return places


# -- what nobody announced -------------------------------------------------------------------------


class Listed:
    """Images that are found by looking: what has a receipt is not read again."""

    def __init__(self, found: Iterator[tuple[str, Callable[[], ImageReceived]]], known: Known):
        self._found, self._known = found, known

    def poll(self, limit: int, timeout_s: float) -> list[Event]:
        """Up to `limit` images; none when all are handed out."""
        events: list[Event] = []
        for source, read in self._found:
            if not self._known([source]):
                events.append(read())
            if len(events) == limit:
                break
        return events

    def commit(self) -> None:
        """Nothing to say: receipts are what is looked at."""


def of_prefix(
    client: Any, bucket: str, prefix: str
) -> Iterator[tuple[str, Callable[[], ImageReceived]]]:
    """The objects below a prefix. An object that is written anew is another image."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            key, tag = str(item["Key"]), str(item["ETag"]).strip('"')
            source = f"s3://{bucket}/{key}#{tag}"

            def read(key: str = key, source: str = source, at: Any = item) -> ImageReceived:
                head = client.head_object(Bucket=bucket, Key=key)
                data = read_object(client, bucket, key)
                return _seen(
                    source, bucket, key, data, str(head.get("ContentType", "")), at["LastModified"]
                )

            yield source, read


def of_folder(folder: Path) -> Iterator[tuple[str, Callable[[], ImageReceived]]]:
    """The files below a folder, by their paths; their types by their names."""
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        state = path.stat()
        source = f"file:{path}#{state.st_size}-{state.st_mtime_ns}"

        def read(path: Path = path, source: str = source, at: float = state.st_mtime) -> Any:
            type_ = content_type_of(path.name)
            when = datetime.fromtimestamp(at, UTC)
            return _seen(source, FOLDER, str(path), path.read_bytes(), type_, when)

        yield source, read


def _seen(
    source: str, bucket: str, key: str, data: bytes, content_type: str, at: datetime
) -> ImageReceived:
    return ImageReceived(
        upload_id=source,
        bucket=bucket,
        key=key,
        offset=0,
        length=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        content_type=content_type,
        name=key.rpartition("/")[2] or key,
        received_at=at,
    )
