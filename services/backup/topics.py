"""Kafka's messages and consumer groups: into a backup, back into topics that are there, compared.

A partition keeps its order, and every message its time, key, value and headers; offsets are new, so
those of the groups are counted anew. Topics and users are declared, not backed up.
"""

# confluent_kafka.admin hands its classes on without declaring it.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import hashlib
import itertools
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from services.backup import BackupError
from services.backup.folder import Progress, Writer, line, read_lines
from services.backup.records import Record

SEGMENT_RECORDS = 50_000
SEGMENT_BYTES = 64 << 20
MOST_SHOWN = 20
"""Differences of one partition that are told apart; further ones are only counted."""
_TIMEOUT_S = 30.0
_SILENCE_S = 60.0
_BATCH = 500
_POLL_S = 0.2

READER: Mapping[str, Any] = {
    "group.id": "estate-backup",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
}
"""What a consumer for `save` and `compare` needs beside its access."""
WRITER: Mapping[str, Any] = {
    "acks": "all",
    # Keeps the order of a partition through retries.
    "enable.idempotence": True,
    "linger.ms": 20,
    "compression.type": "zstd",
    "message.max.bytes": 100 << 20,
    "delivery.timeout.ms": 120_000,
}
"""The same for the producer of `restore`."""


class Offsets:
    """Counts how many kept messages of a partition are before an offset of its old log."""

    def __init__(self, offsets: Sequence[int]) -> None:
        """Take the offsets of the kept messages, in order."""
        self._offsets = offsets

    def before(self, offset: int) -> int:
        """How many; a committed offset becomes the first of the new log plus this."""
        return bisect_left(self._offsets, offset)


def names(admin: AdminClient) -> dict[str, int]:
    """Topic -> number of partitions, less those that Kafka keeps for itself."""
    found = admin.list_topics(timeout=_TIMEOUT_S).topics
    return {
        name: len(topic.partitions)
        for name, topic in sorted(found.items())
        if not name.startswith("__")
    }


def records_of(consumer: Consumer, topics: Mapping[str, int]) -> dict[str, int]:
    """Topic -> how many offsets its partitions have, which is at least its messages."""
    return {
        topic: sum(
            high - low for low, high in (_marks(consumer, topic, one) for one in range(partitions))
        )
        for topic, partitions in topics.items()
    }


def _marks(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    found = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_TIMEOUT_S)
    if found is None:
        raise BackupError(
            f"topic {topic}", f"partition {partition} does not answer", "see ./estate verify"
        )
    return int(found[0]), int(found[1])


def read(consumer: Consumer, topic: str, partition: int) -> Iterator[Record]:
    """The messages that a partition has now, from the first on."""
    low, high = _marks(consumer, topic, partition)
    if low >= high:
        return
    consumer.assign([TopicPartition(topic, partition, low)])
    silent = 0.0
    while silent < _SILENCE_S:
        # It returns when it has so many, or after this time: so long does the last batch take.
        messages = consumer.consume(_BATCH, timeout=_POLL_S)
        silent = 0.0 if messages else silent + _POLL_S
        for message in messages:
            if message.topic() != topic or message.partition() != partition:
                continue  # of the partition before
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                return
            if error is not None:
                raise KafkaException(error)
            record = Record.of_message(message)
            if record.offset >= high:
                return
            yield record
            if record.offset == high - 1:
                return
    raise BackupError(
        f"topic {topic}", f"partition {partition} is silent at {high}", "see ./estate verify"
    )


# -- into a backup ---------------------------------------------------------------------------------


def save(
    admin: AdminClient, consumer: Consumer, writer: Writer, progress: Progress
) -> dict[str, Any]:
    """All topics and groups; returns the manifest's part."""
    topics = names(admin)
    # Groups first: what is read meanwhile is read twice after a restore, never lost.
    groups = committed(admin, topics)
    total = sum(records_of(consumer, topics).values())
    done, found = 0, {}
    for topic, partitions in topics.items():
        kept = []
        for partition in range(partitions):
            kept.append(_save(consumer, writer, topic, partition))
            done += kept[-1]["records"]
            progress(topic, done, max(done, total))
        found[topic] = kept
    return {"topics": found, "groups": groups}


def _save(consumer: Consumer, writer: Writer, topic: str, partition: int) -> dict[str, Any]:
    content = Content()
    segments = []
    for segment in cut(read(consumer, topic, partition)):
        name = f"kafka/{topic}/{partition}-{segment[0].offset:020d}.jsonl.gz"
        with writer.lines(name) as write:
            for record in segment:
                write(record.plain())
                content.add(record)
        segments.append(name)
    return {"segments": segments, "records": content.records, "content": content.digest}


def cut(
    records: Iterable[Record], most: int = SEGMENT_RECORDS, most_bytes: int = SEGMENT_BYTES
) -> Iterator[list[Record]]:
    """Cut a partition into segments, none of them empty."""
    segment: list[Record] = []
    length = 0
    for record in records:
        segment.append(record)
        length += record.length
        if len(segment) >= most or length >= most_bytes:
            yield segment
            segment, length = [], 0
    if segment:
        yield segment


class Content:
    """A digest over messages without their offsets: the same before and after a restore."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.records = 0

    def add(self, record: Record) -> None:
        """Count one message."""
        self._sha256.update(line({k: v for k, v in record.plain().items() if k != "o"}))
        self.records += 1

    @property
    def digest(self) -> str:
        """Of all messages so far."""
        return self._sha256.hexdigest()


def committed(admin: AdminClient, topics: Iterable[str]) -> dict[str, dict[str, dict[str, int]]]:
    """Group -> topic -> partition -> the offset that it reads next."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    known = set(topics)
    for one in _groups(admin):
        asked = [ConsumerGroupTopicPartitions(one.group_id)]
        answer = admin.list_consumer_group_offsets(asked)[one.group_id].result(_TIMEOUT_S)
        for part in answer.topic_partitions or ():
            if part.offset >= 0 and part.topic in known:
                of_topic = found.setdefault(one.group_id, {}).setdefault(part.topic, {})
                of_topic[str(part.partition)] = part.offset
    return dict(sorted(found.items()))


def _groups(admin: AdminClient) -> list[Any]:
    """All groups. Those of a coordinator that does not answer are in no answer, only an error."""
    deadline = time.monotonic() + _SILENCE_S
    while True:
        found = admin.list_consumer_groups().result(_TIMEOUT_S)
        if not found.errors:
            return list(found.valid)
        if time.monotonic() > deadline:
            words = str(found.errors[0])[:200]
            raise BackupError("Kafka's consumer groups", words, "see ./estate verify")
        time.sleep(0.5)


# -- and back --------------------------------------------------------------------------------------


def saved(folder: Path, segments: Iterable[str]) -> Iterator[Record]:
    """The messages of a partition, from its segments in a backup."""
    for name in segments:
        for value in read_lines(folder / name):
            yield Record.of_plain(value)


def fits(part: Mapping[str, Any], topics: Mapping[str, int]) -> None:
    """Refuse a backup with a topic or partition that is not there. Raises BackupError."""
    for topic, partitions in part["topics"].items():
        if topics.get(topic, 0) < len(partitions):
            raise BackupError(
                f"topic {topic}",
                f"has {topics.get(topic, 0)} partitions here and {len(partitions)} in the backup",
                "declare it so in kafka.topics, run up, then restore again",
            )


def empty(admin: AdminClient, consumer: Consumer, topics: Mapping[str, int]) -> None:
    """Delete all messages of these topics."""
    ends = [
        TopicPartition(topic, one, OFFSET_END)
        for topic, partitions in topics.items()
        for one in range(partitions)
        if len(set(_marks(consumer, topic, one))) > 1
    ]
    for future in (admin.delete_records(ends) if ends else {}).values():
        future.result(_TIMEOUT_S)


def restore(
    admin: AdminClient,
    consumer: Consumer,
    producer: Producer,
    folder: Path,
    part: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Write all messages into empty topics, then the groups' offsets."""
    total = sum(one["records"] for kept in part["topics"].values() for one in kept)
    done = 0
    new: dict[tuple[str, int], tuple[int, Offsets]] = {}
    for topic, partitions in part["topics"].items():
        for partition, kept in enumerate(partitions):
            first = _marks(consumer, topic, partition)[1]
            offsets = produce(
                producer,
                topic,
                partition,
                saved(folder, kept["segments"]),
                partial(_sent, progress, topic, done, total),
            )
            new[topic, partition] = first, Offsets(offsets)
            done += kept["records"]
            progress(topic, done, total)
    for group, committed_ in moved(part["groups"], new).items():
        offsets_ = [
            TopicPartition(topic, int(partition), offset)
            for topic, partitions in committed_.items()
            for partition, offset in partitions.items()
        ]
        commit(admin, group, offsets_)


def _sent(progress: Progress, topic: str, done: int, total: int, sent: int) -> None:
    progress(topic, done + sent, total)


def produce(
    producer: Producer,
    topic: str,
    partition: int,
    records: Iterable[Record],
    sent: Callable[[int], object] = lambda _: None,
) -> list[int]:
    """Send them in order and wait until all are acknowledged; returns their old offsets."""
    failed: list[KafkaError] = []
    offsets: list[int] = []

    def delivered(error: KafkaError | None, _: object) -> None:
        if error is not None:
            failed.append(error)

    for record in records:
        while True:
            try:
                producer.produce(
                    topic,
                    record.value,
                    record.key,
                    partition,
                    on_delivery=delivered,
                    timestamp=record.timestamp,
                    headers=list(record.headers),
                )
                break
            except BufferError:
                producer.poll(0.2)
        producer.poll(0)
        offsets.append(record.offset)
        if len(offsets) % 1000 == 0:
            sent(len(offsets))
        if failed:
            break
    left = producer.flush(150)
    if failed or left:
        words = failed[0].str() if failed else f"{left} messages not acknowledged in 150 s"
        raise BackupError(f"topic {topic}", words, "see ./estate verify, then restore again")
    return offsets


def commit(admin: AdminClient, group: str, offsets: list[TopicPartition]) -> None:
    """Say where a group without members reads on. Raises BackupError.

    Of a new cluster the first request makes the topic of offsets, and may get no answer.
    """
    deadline = time.monotonic() + _SILENCE_S
    while True:
        asked = [ConsumerGroupTopicPartitions(group, offsets)]
        future = admin.alter_consumer_group_offsets(asked, request_timeout=10.0)[group]
        try:
            failed = [one.error for one in future.result(20).topic_partitions if one.error]
            if not failed:
                return
            words = str(failed[0])
        except (KafkaException, TimeoutError) as error:
            words = str(error) or "no answer"
        if time.monotonic() > deadline:
            raise BackupError(f"group {group}", words[:200], "end its consumers, then try again")
        time.sleep(1)


def moved(
    groups: Mapping[str, Mapping[str, Mapping[str, int]]],
    new: Mapping[tuple[str, int], tuple[int, Offsets]],
) -> dict[str, dict[str, dict[str, int]]]:
    """The groups' offsets in the new logs: `new` has each one's first offset and what it keeps."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for group, topics in groups.items():
        for topic, partitions in topics.items():
            for partition, offset in partitions.items():
                first, kept = new[topic, int(partition)]
                of_topic = found.setdefault(group, {}).setdefault(topic, {})
                of_topic[partition] = first + kept.before(offset)
    return found


def compare(
    admin: AdminClient,
    consumer: Consumer,
    folder: Path,
    part: Mapping[str, Any],
    progress: Progress,
) -> list[str]:
    """Every message and every group of a backup with what is there; what differs, in words."""
    wrong: list[str] = []
    new: dict[tuple[str, int], tuple[int, Offsets]] = {}
    total = sum(one["records"] for kept in part["topics"].values() for one in kept)
    done = 0
    for topic, partitions in part["topics"].items():
        for partition, kept in enumerate(partitions):
            offsets: list[int] = []
            there = list_first(read(consumer, topic, partition))
            new_first, present = there
            wanted = saved(folder, kept["segments"])
            different = differences(_noting(wanted, offsets), present)
            wrong += [f"topic {topic}, partition {partition}: {one}" for one in different]
            if new_first is None:
                new_first = _marks(consumer, topic, partition)[1]
            new[topic, partition] = new_first, Offsets(offsets)
            done += kept["records"]
            progress(topic, done, total)
    found = committed(admin, part["topics"])
    for group, due in moved(part["groups"], new).items():
        if found.get(group) != due:
            wrong.append(f"group {group}: reads on at {found.get(group)}, not at {due}")
    return wrong


def list_first(records: Iterator[Record]) -> tuple[int | None, Iterator[Record]]:
    """The first offset, and all records with it."""
    first = next(records, None)
    if first is None:
        return None, iter(())
    return first.offset, itertools.chain([first], records)


def _noting(records: Iterable[Record], offsets: list[int]) -> Iterator[Record]:
    for record in records:
        offsets.append(record.offset)
        yield record


def differences(wanted: Iterable[Record], present: Iterable[Record]) -> list[str]:
    """What of two partitions differs, message by message; the first ones in words."""
    wrong: list[str] = []
    more = 0
    for number, (due, found) in enumerate(itertools.zip_longest(wanted, present)):
        if due is not None and found is not None and due.content == found.content:
            continue
        if len(wrong) >= MOST_SHOWN:
            more += 1
        elif found is None:
            wrong.append(f"message {number} is missing (was at offset {due.offset})")
        elif due is None:
            wrong.append(f"message {number} is in no backup (at offset {found.offset})")
        else:
            keys = ("timestamp", "key", "value", "headers")
            pairs = zip(keys, due.content, found.content, strict=True)
            which = ", ".join(key for key, old, new in pairs if old != new)
            wrong.append(f"message {number} has another {which} (at offset {found.offset})")
    return wrong + ([f"{more} more"] if more else [])
