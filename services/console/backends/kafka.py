"""Kafka's topics and consumer groups, by a user who may describe them and no more."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    OffsetSpec,
    ResourceType,
)
from pydantic import BaseModel, Field

from services.console.backends import answering
from services.console.problems import NotFound
from services.console.settings import Kafka, secret

NAME = "kafka"
_EARLIEST: Any = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_UNKNOWN_GROUP = ("DEAD",)


class TopicSummary(BaseModel):
    """A topic in a list."""

    name: str
    partitions: int
    replication_factor: int


class Partition(BaseModel):
    """A partition: `end` is the offset that the next record will have."""

    partition: int
    leader: int
    replicas: list[int]
    in_sync: list[int]
    begin: int
    end: int


class Topic(TopicSummary):
    """A topic with its partitions and how long records are kept."""

    records: int = Field(description="at most so many: compaction and transactions leave gaps")
    retention_ms: int | None = Field(description="null: for ever")
    retention_bytes: int | None = Field(description="of a partition; null: as many as there are")
    cleanup_policy: str
    under_replicated: int
    offsets: list[Partition]


class GroupSummary(BaseModel):
    """A consumer group in a list."""

    id: str
    state: str


class Lag(BaseModel):
    """How far a group is behind in a partition; `lag` is null where that is gone."""

    topic: str
    partition: int
    committed: int
    end: int | None
    lag: int | None


class Group(GroupSummary):
    """A consumer group with what it has committed."""

    members: int
    lag: int = Field(description="of all partitions that the group has committed")
    partitions: list[Lag]


class KafkaLake:
    """The cluster by one AdminClient, which connects when it is first asked."""

    name = NAME

    def __init__(self, settings: Kafka, trust: str, timeout_s: float) -> None:
        self._settings, self._trust, self._timeout = settings, trust, timeout_s
        self._lock = threading.Lock()
        self._made: tuple[str, AdminClient] | None = None

    def _client(self) -> AdminClient:
        """The client, made anew when the password was replaced."""
        password = secret(self._settings.password)
        with self._lock:
            if self._made is None or self._made[0] != password:
                self._made = password, AdminClient(self._options(password))
            return self._made[1]

    def _options(self, password: str) -> dict[str, Any]:
        return {
            "bootstrap.servers": self._settings.bootstrap,
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": self._settings.user,
            "sasl.password": password,
            "ssl.ca.location": self._trust,
            "client.id": "estate-console",
            "socket.timeout.ms": int(self._timeout * 1000),
            "reconnect.backoff.max.ms": 1000,
            "log_level": 2,
        }

    def ping(self) -> None:
        """The brokers hand out what they have."""
        self._client().list_topics(timeout=self._timeout)

    def topics(self) -> list[TopicSummary]:
        """Every topic that the user may describe, by name; Kafka's own left out."""
        with answering(NAME):
            found = self._client().list_topics(timeout=self._timeout).topics
            return [
                _summary(name, topic)
                for name, topic in sorted(found.items())
                if not name.startswith("__") and topic.error is None
            ]

    def topic(self, name: str) -> Topic:
        """A topic. Raises NotFound."""
        with answering(NAME):
            client = self._client()
            # All of them: to ask for one that is not there could make it.
            topic = client.list_topics(timeout=self._timeout).topics.get(name)
            if topic is None or topic.error is not None:
                raise NotFound(f"no topic is called {name}")
            where = [TopicPartition(name, number) for number in sorted(topic.partitions)]
            begins = self._offsets(client, where, _EARLIEST)
            ends = self._offsets(client, where, _LATEST)
            config = self._config(client, name)
            offsets = [
                Partition(
                    partition=number,
                    leader=one.leader,
                    replicas=list(one.replicas),
                    in_sync=list(one.isrs),
                    begin=begins.get((name, number), 0),
                    end=ends.get((name, number), 0),
                )
                for number, one in sorted(topic.partitions.items())
            ]
            return Topic(
                **_summary(name, topic).model_dump(),
                records=sum(one.end - one.begin for one in offsets),
                retention_ms=_limit(config.get("retention.ms")),
                retention_bytes=_limit(config.get("retention.bytes")),
                cleanup_policy=config.get("cleanup.policy") or "delete",
                under_replicated=sum(len(one.in_sync) < len(one.replicas) for one in offsets),
                offsets=offsets,
            )

    def groups(self) -> list[GroupSummary]:
        """Every consumer group that the user may describe, by name."""
        with answering(NAME):
            found = _done(self._client().list_consumer_groups(request_timeout=self._timeout))
            return sorted(
                (GroupSummary(id=one.group_id, state=one.state.name) for one in found.valid),
                key=lambda one: one.id,
            )

    def group(self, name: str) -> Group:
        """A consumer group and how far it is behind. Raises NotFound."""
        with answering(NAME):
            client = self._client()
            asked = client.describe_consumer_groups([name], request_timeout=self._timeout)
            try:
                described = _done(asked[name])
            except KafkaException as error:
                if error.args[0].name() == "GROUP_ID_NOT_FOUND":
                    raise NotFound(f"no consumer group is called {name}") from None
                raise
            # A group that never was is said to be dead.
            if described.state.name in _UNKNOWN_GROUP:
                raise NotFound(f"no consumer group is called {name}")
            partitions = self._lags(client, name)
            return Group(
                id=name,
                state=described.state.name,
                members=len(described.members),
                lag=sum(one.lag or 0 for one in partitions),
                partitions=partitions,
            )

    def _lags(self, client: AdminClient, group: str) -> list[Lag]:
        request = [ConsumerGroupTopicPartitions(group)]
        answers = client.list_consumer_group_offsets(request, request_timeout=self._timeout)
        committed = [one for one in _done(answers[group]).topic_partitions if one.offset >= 0]
        there = client.list_topics(timeout=self._timeout).topics
        known = [
            TopicPartition(one.topic, one.partition)
            for one in committed
            if one.topic in there and one.partition in there[one.topic].partitions
        ]
        ends = self._offsets(client, known, _LATEST)
        lags = []
        for one in sorted(committed, key=lambda one: (one.topic, one.partition)):
            end = ends.get((one.topic, one.partition))
            lag = None if end is None else max(end - one.offset, 0)
            lags.append(
                Lag(
                    topic=one.topic,
                    partition=one.partition,
                    committed=one.offset,
                    end=end,
                    lag=lag,
                )
            )
        return lags

    def _offsets(
        self, client: AdminClient, where: Sequence[TopicPartition], spec: Any
    ) -> dict[tuple[str, int], int]:
        if not where:
            return {}
        asked = client.list_offsets(dict.fromkeys(where, spec), request_timeout=self._timeout)
        return {(one.topic, one.partition): _done(future).offset for one, future in asked.items()}

    def _config(self, client: AdminClient, topic: str) -> Mapping[str, str | None]:
        resource = ConfigResource(ResourceType.TOPIC, topic)
        asked = client.describe_configs([resource], request_timeout=self._timeout)
        (config,) = _results(asked.values())
        return {name: entry.value for name, entry in config.items()}


def _summary(name: str, topic: Any) -> TopicSummary:
    partitions = topic.partitions.values()
    return TopicSummary(
        name=name,
        partitions=len(partitions),
        replication_factor=min((len(one.replicas) for one in partitions), default=0),
    )


def _limit(value: str | None) -> int | None:
    return None if value is None or int(value) < 0 else int(value)


def _done(future: Future[Any]) -> Any:
    # The request has its own limit; this one is for a client that lost it.
    return future.result(timeout=30)


def _results(futures: Iterable[Future[Any]]) -> list[Any]:
    return [_done(one) for one in futures]
