"""Probes of collection: a device's reading in Kafka and acknowledged, a bad one dead and told."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from paho.mqtt.client import MQTTMessage

from services.collect.device import Outbox
from services.collect.messages import (
    DEAD_TOPIC,
    READINGS_TOPIC,
    DeadLetter,
    Record,
    Rejection,
    acknowledgements,
    readings,
)
from tests.state.probes import ProbeContext, probe
from tests.state.probes.kafka import _scram
from tests.state.probes.mosquitto import TIMEOUT_S, _Session, _session
from tests.state.probes.transfer import _Topic

Args = Mapping[str, Any]


@contextmanager
def _device(ctx: ProbeContext, mqtt: Args) -> Iterator[_Session]:
    """The device, connected, with its acknowledgements subscribed."""
    device = mqtt["username"]
    password = ctx.secret(mqtt["password"]).decode()
    with _session(ctx, mqtt["host"], mqtt["port"], device, password, mqtt["ca"]) as session:
        code = session.connect()
        assert not code.is_failure, f"connect as {device}: {code}"
        session.client.subscribe(acknowledgements(device), qos=1)
        granted = session.expect("subscribe")[0]
        assert not granted.is_failure, f"subscribe to {acknowledgements(device)}: {granted}"
        yield session


def _topic(ctx: ProbeContext, kafka: Args, topic: str) -> _Topic:
    password = ctx.secret(kafka["password"])
    client = _scram(ctx, kafka["bootstrap"], kafka["username"], password, kafka["ca"])
    return _Topic(client, topic)


@probe("collect_round_trip")
def round_trip(ctx: ProbeContext, *, mqtt: Args, kafka: Args) -> str:
    """Publish a reading twice, as one that heard nothing: it is told, and Kafka has it once."""
    device, boot = mqtt["username"], uuid.uuid4().int >> 75
    outbox = Outbox(device, boot)
    with _topic(ctx, kafka, READINGS_TOPIC) as topic, _device(ctx, mqtt) as session:
        outbox.add(time.time_ns() // 1_000_000, {"verify": 1.0})
        began = time.monotonic()
        (payload,) = outbox.due(began)
        for _ in range(2):
            session.client.publish(readings(device), payload, qos=1)
        while outbox.held:
            message: MQTTMessage = session.expect("message")
            outbox.answered(bytes(message.payload), time.monotonic())
        told = time.monotonic() - began
        record = Record.from_bytes(topic.value(str(boot)))
        assert (record.device, record.boot, record.sequence) == (device, boot, 1), record
        outbox.add(time.time_ns() // 1_000_000, {"verify": 2.0})
        (payload,) = outbox.due(time.monotonic())
        session.client.publish(readings(device), payload, qos=1)
        following = Record.from_bytes(topic.value(str(boot)))
        assert following.sequence == 2, f"Kafka has a reading again: {following}"
    return f"acknowledged to the device in {told * 1000:.0f} ms, once in {READINGS_TOPIC}"


@probe("collect_dead_letter")
def dead_letter(ctx: ProbeContext, *, mqtt: Args, kafka: Args) -> str:
    """Publish what names another device: its reason is in the topic, and the device is told."""
    device, mark = mqtt["username"], uuid.uuid4().int >> 75
    other = Outbox("another", mark)
    other.add(0, {"verify": 1.0})
    (payload,) = other.due(0.0)
    with _topic(ctx, kafka, DEAD_TOPIC) as topic, _device(ctx, mqtt) as session:
        session.client.publish(readings(device), payload, qos=1)
        rejection = _rejection(session)
        letter = DeadLetter.from_bytes(topic.value(rejection.rejected))
    assert letter.reason == rejection.reason == "wrong-device", f"{letter.reason}: {letter.detail}"
    assert letter.topic == readings(device), letter.topic
    return f"{letter.reason} in {DEAD_TOPIC}, and told"


def _rejection(session: _Session) -> Rejection:
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        message: MQTTMessage = session.expect("message")
        if "rejected" in json.loads(message.payload):
            return Rejection.from_bytes(bytes(message.payload))
    raise AssertionError(f"no rejection within {TIMEOUT_S:.0f} s")
