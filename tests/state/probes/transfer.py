"""Probes of image transfer: resumed, refused, quarantined, replicated."""

from __future__ import annotations

import hashlib
import io
import random
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from confluent_kafka import Consumer, TopicPartition
from PIL import Image

from services import sending, tokens, tus
from services.events import QUARANTINED_TOPIC, RECEIVED_TOPIC, ImageQuarantined, ImageReceived
from tests.state.probes import ProbeContext, probe
from tests.state.probes.kafka import _scram

Secret = Mapping[str, str]
_EVENT_S = 15.0
# Below one of tusd's parts, and above: what is cut in both ways must go on.
_SIZE = (2000, 1500)


def _door(ctx: ProbeContext, url: str, ca: Secret, key: Secret) -> sending.Door:
    signing = ctx.secret(key)
    host = urlsplit(url).hostname or ""
    return sending.Door(
        url, host, ctx.secret(ca).decode(), lambda: tokens.issue(signing, "verify", lifetime_s=120)
    )


class _Topic:
    """What comes to a topic from now on."""

    def __init__(self, client: Mapping[str, Any], topic: str) -> None:
        self._topic = topic
        self._consumer = Consumer(
            {**client, "group.id": "estate-verify", "enable.auto.commit": False}
        )
        partitions = []
        metadata = self._consumer.list_topics(topic, timeout=15).topics[topic]
        assert metadata.error is None, f"topic {topic}: {metadata.error}"
        for number in metadata.partitions:
            partition = TopicPartition(topic, number)
            _, partition.offset = self._consumer.get_watermark_offsets(partition, timeout=15)
            partitions.append(partition)
        self._consumer.assign(partitions)

    def value(self, upload_id: str) -> bytes:
        """The message about an upload. AssertionError when none comes."""
        deadline = time.monotonic() + _EVENT_S
        while time.monotonic() < deadline:
            message = self._consumer.poll(0.5)
            if message is None:
                continue
            assert message.error() is None, f"{self._topic}: {message.error()}"
            value = message.value() or b""
            if upload_id.encode() in value:
                return value
        raise AssertionError(f"nothing in {self._topic} of upload {upload_id} in {_EVENT_S:.0f} s")

    def __enter__(self) -> _Topic:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()


@dataclass
class _Bytes:
    """What is sent; the first time it is read it ends, by a broken connection, at `cut`."""

    content: bytes
    cut: int | None = None

    @property
    def length(self) -> int:
        return len(self.content)

    def read_from(self, offset: int) -> Iterator[bytes]:
        """The bytes in pieces."""
        cut, self.cut = self.cut, None
        end = len(self.content) if cut is None else cut
        for at in range(offset, end, 65_536):
            yield self.content[at : min(at + 65_536, end)]
        if cut is not None:
            raise requests.ConnectionError("cut on purpose")


def _image(kind: str) -> bytes:
    """Noise, new each time, so that nothing is known from before."""
    width, height = _SIZE
    pixels = random.Random(uuid.uuid4().int).randbytes(width * height * 3)
    made = io.BytesIO()
    Image.frombytes("RGB", _SIZE, pixels).save(made, kind)
    return made.getvalue()


def _announce(client: tus.Client, content: bytes, content_type: str) -> tuple[str, str]:
    """Begin an upload; its URL and name."""
    metadata = {
        "filename": "verify",
        "filetype": content_type,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    url = client.create(len(content), metadata)
    return url, sending.upload_name(url)


@probe("transfer_resume")
def resume(
    ctx: ProbeContext,
    *,
    url: str,
    ca: Secret,
    key: Secret,
    bootstrap: str,
    username: str,
    password: Secret,
) -> str:
    """Cut an upload on its way, go on where the server says, and read its event."""
    door = _door(ctx, url, ca, key)
    kafka = _scram(ctx, bootstrap, username, ctx.secret(password), ca)
    content = _image("BMP")
    with _Topic(kafka, RECEIVED_TOPIC) as topic:
        client = door.client(waits_s=(0.3, 1, 2, 4))
        began = time.monotonic()
        upload, upload_id = _announce(client, content, "image/bmp")
        counted = tus.Counted()
        client.send(upload, _Bytes(content, cut=len(content) * 2 // 3), counted=counted)
        assert counted.cuts, "the upload was not cut"
        event = ImageReceived.from_message(topic.value(upload_id))
    seconds = time.monotonic() - began
    found = hashlib.sha256(content).hexdigest()
    assert event.sha256 == found, f"sent {found}, the event says {event.sha256}"
    assert (event.offset, event.length) == (0, len(content)), "the event names another range"
    megabytes = len(content) / 1e6
    return f"{megabytes:.0f} MB in {counted.requests} requests, in Kafka after {seconds:.1f} s"


@probe("transfer_token")
def token(ctx: ProbeContext, *, url: str, ca: Secret, key: Secret) -> str:
    """Nobody begins an upload or asks for one but with a good token; with one he does."""
    door = _door(ctx, url, ca, key)
    good, signing = door.token(), ctx.secret(key)
    head, _, signature = good.rpartition(".")
    wrong = {
        "none": None,
        "of another signature": f"{head}.{signature[:-8]}{'A' * 8}",
        "expired": tokens.issue(signing, "verify", lifetime_s=-5),
        "for something else": tokens.issue(signing, "verify", audience="elsewhere"),
    }
    headers = {"Tus-Resumable": tus.VERSION, "Upload-Length": "1"}
    with door.session() as session:
        for what, value in wrong.items():
            sent = headers | ({} if value is None else {"Authorization": f"Bearer {value}"})
            for method, where in (("POST", url), ("HEAD", f"{url}x"), ("PATCH", f"{url}x")):
                status = session.request(method, where, headers=sent, timeout=15).status_code
                assert status == 401, f"token {what}: {method} was answered by {status}"
        sent = {**headers, "Authorization": f"Bearer {good}"}
        # Without metadata the upload itself is refused, by the service and not by the door.
        status = session.post(url, headers=sent, timeout=15).status_code
        assert status == 400, f"with a good token: {status}"
    return f"{len(wrong)} bad tokens refused, a good one let in"


@probe("transfer_quarantine")
def quarantine(
    ctx: ProbeContext,
    *,
    url: str,
    ca: Secret,
    key: Secret,
    bootstrap: str,
    username: str,
    password: Secret,
) -> str:
    """Send a JPEG that is said to be a PNG, read what Kafka is told and the receipt."""
    door = _door(ctx, url, ca, key)
    kafka = _scram(ctx, bootstrap, username, ctx.secret(password), ca)
    content = _image("JPEG")
    with _Topic(kafka, QUARANTINED_TOPIC) as topic, door.session() as session:
        client = door.client(waits_s=(0.3, 1, 2, 4))
        upload, upload_id = _announce(client, content, "image/png")
        client.send(upload, _Bytes(content))
        event = ImageQuarantined.from_message(topic.value(upload_id))
        assert event.reason == "wrong-type", f"the reason is {event.reason}: {event.detail}"
        (image,) = sending.receipt(door, session, upload, 10)["images"]
    assert image["state"] == "quarantined", f"its receipt says {image['state']}"
    return f"{event.reason}: {event.detail}"


@probe("transfer_replicas")
def replicas(
    ctx: ProbeContext,
    *,
    url: str,
    ca: Secret,
    key: Secret,
    namespace: str,
    selector: str,
    replicas: int,
    port: int,
) -> str:
    """Ask the proxy and the tusd of each pod by the pod's own address."""
    pods = {
        pod["metadata"]["name"]: pod["status"].get("podIP") for pod in ctx.pods(namespace, selector)
    }
    assert len(pods) == replicas, f"{len(pods)} of {replicas} replicas"
    door = _door(ctx, url, ca, key)
    headers = {"Authorization": f"Bearer {door.token()}"}
    with door.session() as session:
        for name, address in pods.items():
            assert address, f"{name} has no address yet"
            where = f"https://{address}:{port}{urlsplit(url).path}"
            answer = session.options(where, headers=headers, timeout=15)
            versions = answer.headers.get("Tus-Version", "")
            assert tus.VERSION in versions, (
                f"{name}: {answer.status_code}, Tus-Version {versions or 'missing'}"
            )
    return f"{replicas} replicas speak tus {tus.VERSION}"
