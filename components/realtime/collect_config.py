"""What an operator decides about collection: how much is on its way, how long Kafka may be away."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from components.datalake.kafka_config import KafkaConfig
from components.model import Model, Resources, Storage, problem, refuse
from components.realtime.mosquitto_config import VERIFY_DEVICE, Acl, MosquittoConfig
from services.collect.messages import (
    DEAD_TOPIC,
    READINGS_TOPIC,
    SUBSCRIPTION,
    acknowledgements,
)

NAMESPACE = "realtime"
NAME = "collect"
USER = "collect"
"""Of Mosquitto and of Kafka."""
ACL = (
    Acl(topic=SUBSCRIPTION, access="read"),
    Acl(topic=acknowledgements("+"), access="write"),
)
"""What the user must be allowed at Mosquitto."""
PORT = 8443
"""Metrics and probes, by TLS."""


class CollectConfig(Model):
    """The bridge from MQTT into Kafka: one pod, and a claim for what waits while Kafka is away.

    At 1,000 readings a second of some values each, 15 MiB a minute go to the spool.
    """

    receive_maximum: int = Field(
        default=500, ge=1, le=65_535, description="messages on their way from Mosquitto"
    )
    linger_ms: int = Field(default=2, ge=0, le=1000, description="for a batch to Kafka to fill")
    patience_ms: int = Field(
        default=2000, ge=100, le=60_000, description="without an answer of Kafka, then it spools"
    )
    window: int = Field(
        default=5000, ge=1, le=100_000, description="readings on their way from the spool to Kafka"
    )
    acknowledge_ms: int = Field(default=100, ge=1, le=10_000, description="between answers")
    session_h: int = Field(
        default=168, ge=1, le=8760, description="how long Mosquitto keeps messages for the bridge"
    )
    boots: int = Field(default=50_000, ge=1, le=10_000_000, description="remembered")
    tail: int = Field(
        default=20_000, ge=0, le=1_000_000, description="records of a partition read at the start"
    )
    spool_mib: int = Field(default=1024, ge=64, le=1_048_576)
    storage: Storage = Storage(size_gib=2)
    resources: Resources = Resources(
        cpu_request_m=200, memory_request_mib=128, memory_limit_mib=512
    )
    protect: bool = True

    @model_validator(mode="after")
    def _fits(self) -> CollectConfig:
        found: list[dict[str, Any]] = []
        most = self.storage.size_gib * 1024 * 9 // 10
        if self.spool_mib > most:
            text = f"at most {most}, nine tenths of storage.size_gib; a full disk stops the bridge"
            found.append(problem("spool_mib", self.spool_mib, text))
        # What is on its way lies before the end of the topic; a shorter tail would miss it.
        if self.tail < self.window:
            text = f"at least window ({self.window}), or what was on its way is sent again"
            found.append(problem("tail", self.tail, text))
        refuse(found)
        return self


def collect_problems(
    mosquitto: MosquittoConfig | None, kafka: KafkaConfig | None
) -> list[dict[str, Any]]:
    """What collection needs of Mosquitto and Kafka, and is not declared."""
    if mosquitto is None or kafka is None:
        text = "it stands between mosquitto and kafka; declare both too, or leave it out"
        return [problem("collect", "declared", text)]
    found = []
    users = {user.name: user for user in mosquitto.users}
    rules = users[USER].acl if USER in users else []
    for rule in ACL:
        if rule not in rules:
            text = f"user {USER!r} lacks {{topic: {rule.topic}, access: {rule.access}}}; add it"
            found.append(problem("mosquitto.users", sorted(users), text))
    devices = [device.name for device in mosquitto.devices]
    if VERIFY_DEVICE not in devices:
        text = f"device {VERIFY_DEVICE!r} (checks of collection) is missing; add it"
        found.append(problem("mosquitto.devices", devices, text))
    topics = [topic.name for topic in kafka.topics]
    found += [
        problem("kafka.topics", topics, f"topic {topic!r} (collection) is missing; add it")
        for topic in (READINGS_TOPIC, DEAD_TOPIC)
        if topic not in topics
    ]
    names = [user.name for user in kafka.users]
    if USER not in names:
        text = f"user {USER!r} (collection) is missing; add it"
        found.append(problem("kafka.users", names, text))
    return found
