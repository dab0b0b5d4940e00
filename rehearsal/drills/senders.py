"""Inside the sandbox: senders of images, who afterwards look for each one of theirs in Kafka.

Acknowledged is what the server has confirmed to the last byte; stored is what Kafka tells of as it
must: good images received with their digest, the others quarantined with the right reason.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import requests
from confluent_kafka import Consumer, TopicPartition
from PIL import Image

from rehearsal.access import Access
from rehearsal.drills import lake
from rehearsal.drills.record import Record
from services import tus
from services.events import QUARANTINED_TOPIC, RECEIVED_TOPIC
from services.sending import upload_name

_SETTLE_S = 240.0
"""For what was sent to be verified and told: sweeps come every 30 s."""
_THREADS = 4
_LARGE_SIDE = 8165  # pixels: 200 MB as an uncompressed BMP
_CUTS = 3
_WAITS_S = (0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 8.0)
RECEIVED = "received"
TOO_LARGE = "too-large"


@dataclass
class Sent:
    """What one upload must lead to: `reason`, or RECEIVED, and the digest."""

    number: int
    expected: str
    sha256: str


@dataclass
class Content:
    """What is sent; at each of `cuts` the connection breaks once."""

    content: bytes
    cuts: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """How many bytes."""
        return len(self.content)

    def read_from(self, offset: int) -> Iterator[bytes]:
        """The bytes from there to the end, or to the next cut."""
        view = memoryview(self.content)
        ahead = [cut for cut in self.cuts if cut > offset]
        end = min(ahead, default=len(view))
        for at in range(offset, end, 1 << 18):
            yield bytes(view[at : min(at + (1 << 18), end)])
        if ahead:
            self.cuts.remove(end)
            raise requests.ConnectionError("cut by the drill")


class Sender(threading.Thread):
    """Sends until told to stop, with `threads` uploads at a time; subclasses say what."""

    kind = "images"
    threads = _THREADS

    def __init__(self, access: Access, run: str) -> None:
        super().__init__(name=f"{self.kind}-sender", daemon=True)
        self.record = Record(self.kind)
        self._access, self._door = access, access.door()
        self._run_id = int(hashlib.sha256(run.encode()).hexdigest()[:8], 16)
        self._topics = [_Topic(access, topic) for topic in (RECEIVED_TOPIC, QUARANTINED_TOPIC)]
        self._asked = threading.Event()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._sent: dict[str, Sent] = {}

    def trust(self, pem: str) -> None:
        """Senders of a drill that changes no authority."""

    def content(self, number: int) -> tuple[Content, str, str]:
        """What to send as this number, its declared type, and what must become of it."""
        content, content_type, expected = small(self._run_id + number)
        return Content(content), content_type, expected

    def run(self) -> None:
        """Send until asked to stop."""
        threads = [threading.Thread(target=self._send, daemon=True) for _ in range(self.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _send(self) -> None:
        client = self._door.client(waits_s=_WAITS_S)
        while not self._asked.is_set():
            with self._lock:
                number = next(self._numbers)
                self.record.attempts += 1
            source, content_type, expected = self.content(number)
            digest = sha256(source.content)
            metadata = {"filename": f"{number}", "filetype": content_type, "sha256": digest}
            counted = tus.Counted()
            try:
                url = client.create(source.length, metadata)
                client.send(url, source, counted=counted)
            except (tus.Refused, tus.GaveUp) as error:
                self.record.error(error)
                continue
            with self._lock:
                name = upload_name(url)
                self._sent[name] = Sent(number, expected, digest)
                self.record.acknowledge(number)
            self.noted(number, counted)

    def noted(self, number: int, counted: tus.Counted) -> None:
        """What is worth a line of the timeline."""

    def stop(self) -> dict[str, Any]:
        """Wait for what is under way, then look for every upload in Kafka."""
        self._asked.set()
        self.join(timeout=120)
        told: dict[str, list[tuple[int, str, str]]] = {}
        deadline = time.monotonic() + _SETTLE_S
        while time.monotonic() < deadline and set(self._sent) - set(told):
            for topic in self._topics:
                for at, event in topic.new():
                    word = (at, event.get("reason", RECEIVED), event["sha256"])
                    told.setdefault(event["upload_id"], []).append(word)
        for topic in self._topics:
            topic.close()
        stored: set[int] = set()
        for name, sent in self._sent.items():
            found = [word[1:] for word in sorted(told.get(name, []))]
            if sent.expected == RECEIVED and TOO_LARGE in [state for state, _ in found[1:]]:
                # The pipeline's word, once it has come so far: it takes less than transfer does.
                found = [word for word in found if word[0] != TOO_LARGE]
            if found and set(found) == {(sent.expected, sent.sha256)}:
                stored.add(sent.number)
            else:
                wanted = f"wanted {sent.expected}, {sent.sha256[:8]}"
                self.record.note(f"upload {name} ({wanted}): {found or 'not told of'}")
        again = sum(len(found) - 1 for found in told.values() if found)
        states = sorted(sent.expected for sent in self._sent.values())
        counts = {state: states.count(state) for state in dict.fromkeys(states)}
        self.record.note(f"{counts}; told more than once: {again}")
        return self.record.summary(stored)


class LargeSender(Sender):
    """One after another, 200 MB each, cut at three random points of its way."""

    kind = "large-images"
    threads = 1

    def __init__(self, access: Access, run: str) -> None:
        super().__init__(access, run)
        self._random = random.Random(self._run_id)
        self._cuts = 0
        self._large = bytearray(_bmp(_LARGE_SIDE, self._random))

    def content(self, number: int) -> tuple[Content, str, str]:
        """The same noise with other pixels at its end."""
        self._large[-8:] = number.to_bytes(8, "big")
        cuts = sorted(self._random.sample(range(1 << 20, len(self._large) - (1 << 20)), _CUTS))
        self.record.note(f"{number}: cuts at {', '.join(f'{cut / 1e6:.0f}' for cut in cuts)} MB")
        return Content(bytes(self._large), cuts), "image/bmp", RECEIVED

    def stop(self) -> dict[str, Any]:
        """As the others, and take away what was sent."""
        found = super().stop()
        self.record.note(
            f"{found['stored']} of {len(self._sent)} uploads of {len(self._large) / 1e6:.0f} MB "
            f"resumed after {self._cuts} cuts in all, with the SHA-256 that was sent"
        )
        lake.take_away(self._access, self._sent)
        return found

    def noted(self, number: int, counted: tus.Counted) -> None:
        """How many requests it took."""
        self._cuts += counted.cuts
        self.record.note(f"{number}: sent in {counted.requests} requests, {counted.cuts} cuts")


class _Topic:
    """What comes to a topic from now on."""

    def __init__(self, access: Access, topic: str) -> None:
        self._consumer = Consumer(
            access.kafka_options(
                "verify", group_id="estate-verify-senders", enable_auto_commit=False
            )
        )
        partitions = []
        for number in self._consumer.list_topics(topic, timeout=20).topics[topic].partitions:
            partition = TopicPartition(topic, number)
            _, partition.offset = self._consumer.get_watermark_offsets(partition, timeout=20)
            partitions.append(partition)
        self._consumer.assign(partitions)

    def new(self) -> list[tuple[int, dict[str, Any]]]:
        """What has come since the last call, waited for a little, with the time of each."""
        messages = [one for one in self._consumer.consume(1000, 0.3) if one.error() is None]
        return [(one.timestamp()[1], json.loads(one.value() or b"{}")) for one in messages]

    def close(self) -> None:
        """End it."""
        self._consumer.close()


def sha256(content: bytes) -> str:
    """The digest as senders declare it."""
    return hashlib.sha256(content).hexdigest()


def make(kind: str, access: Access, run: str) -> Sender | None:
    """The sender of a kind; None for another kind."""
    found = {one.kind: one for one in (Sender, LargeSender)}.get(kind)
    return found(access, run) if found else None


def _bmp(side: int, numbers: random.Random) -> bytes:
    """A square of noise, three bytes a pixel, uncompressed."""
    line = numbers.randbytes(1 << 20)
    size = side * side * 3
    pixels = b"".join(itertools.repeat(line, size // len(line) + 1))[:size]
    made = io.BytesIO()
    Image.frombytes("RGB", (side, side), pixels).save(made, "BMP")
    return made.getvalue()


def small(number: int) -> tuple[bytes, str, str]:
    """Content, declared content type, and what must become of it: in turns, good and bad."""
    kind = number % 8
    if kind == 0:
        return b"", "image/png", "empty"
    png = _noise("PNG", (160, 120), 0 if kind == 1 else number)  # kind 1: always the same
    if kind == 2:
        return png, "image/jpeg", "wrong-type"
    if kind == 3:
        return png[: len(png) // 2], "image/png", "truncated"
    if kind == 4:
        return f"no image {number}".encode(), "image/png", "unknown-type"
    return png, "image/png", RECEIVED


def _noise(kind: str, size: tuple[int, int], seed: int) -> bytes:
    pixels = random.Random(seed).randbytes(size[0] * size[1] * 3)
    made = io.BytesIO()
    Image.frombytes("RGB", size, pixels).save(made, kind)
    return made.getvalue()
