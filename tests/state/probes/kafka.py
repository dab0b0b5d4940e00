"""Probes of Kafka: records, passwords, replicas, the declaration."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]

from components.datalake.kafka_reconcile import bindings, existing_acls
from tests.state.probes import ProbeContext, probe

Secret = Mapping[str, str]
TIMEOUT_S = 15.0
DROPS = 2


def _quiet(_: KafkaError) -> None:
    """Errors reach the probe through its calls; the library need not print them."""


def _scram(
    ctx: ProbeContext, bootstrap: str, username: str, password: bytes, ca: Secret
) -> dict[str, Any]:
    return {
        "bootstrap.servers": bootstrap,
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": username,
        "sasl.password": password.decode(),
        "ssl.ca.pem": ctx.secret(ca).decode(),
        "log_level": 0,
        "error_cb": _quiet,
    }


def _administrator(
    ctx: ProbeContext, bootstrap: str, ca: Secret, certificate: Secret, key: Secret
) -> AdminClient:
    settings: dict[str, Any] = {
        "bootstrap.servers": bootstrap,
        "security.protocol": "ssl",
        "ssl.ca.pem": ctx.secret(ca).decode(),
        "ssl.certificate.pem": ctx.secret(certificate).decode(),
        "ssl.key.pem": ctx.secret(key).decode(),
        "log_level": 0,
        "error_cb": _quiet,
    }
    return AdminClient(settings)


@probe("kafka_produce_consume")
def produce_consume(
    ctx: ProbeContext,
    *,
    bootstrap: str,
    username: str,
    password: Secret,
    ca: Secret,
    topic: str,
) -> str:
    """Write one record with acks=all and read it back from its partition and offset."""
    client = _scram(ctx, bootstrap, username, ctx.secret(password), ca)
    value = uuid.uuid4().bytes
    written: list[tuple[KafkaError | None, Any]] = []
    producer = Producer({**client, "acks": "all", "delivery.timeout.ms": int(TIMEOUT_S * 1000)})
    began = time.monotonic()
    producer.produce(
        topic, value, on_delivery=lambda error, message: written.append((error, message))
    )
    left = producer.flush(TIMEOUT_S + 2)
    assert not left and written, f"no acknowledgement from {bootstrap} in {TIMEOUT_S:.0f} s"
    error, message = written[0]
    assert error is None, f"produce to {topic}: {error.str()}"
    acknowledged = time.monotonic() - began
    consumer = Consumer({**client, "group.id": "estate-verify", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, message.partition(), message.offset())])
        record = consumer.poll(TIMEOUT_S)
        assert record is not None, f"the record did not come back in {TIMEOUT_S:.0f} s"
        assert record.error() is None, f"consume from {topic}: {record.error()}"
        assert record.value() == value, "another record came back"
    finally:
        consumer.close()
    total = time.monotonic() - began
    return f"acknowledged by all in {acknowledged * 1000:.0f} ms, read in {total * 1000:.0f} ms"


def _first_error(client: Mapping[str, Any]) -> KafkaError | None:
    """What ends a connection: None when it is accepted, else the first telling error."""
    found: list[KafkaError] = []
    producer = Producer({**client, "error_cb": found.append, "log_level": 0})
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        try:
            # Errors of the connection come by the callback, which poll() serves.
            producer.poll(0.1)
            producer.list_topics(timeout=0.1)
        except KafkaException as error:
            telling: list[KafkaError] = [*found, error.args[0]]
            for candidate in telling:
                if candidate.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
                    return candidate
        else:
            return None
    return found[0] if found else KafkaError(KafkaError._TIMED_OUT)


@probe("kafka_wrong_password")
def wrong_password(
    ctx: ProbeContext,
    *,
    bootstrap: str,
    username: str,
    password: Secret,
    ca: Secret,
    topic: str,
) -> str:
    """At each broker a wrong password must fail in authentication, and none must not get in."""
    trusted, wrong = ctx.secret(ca).decode(), ctx.secret(password) + b"-wrong"

    def ask(broker: str) -> str:
        error = _first_error(_scram(ctx, broker, username, wrong, ca))
        assert error is not None, f"{broker}: user {username} was accepted with a wrong password"
        assert error.code() == KafkaError._AUTHENTICATION, (
            f"{broker}: refused, but not by authentication: {error.str()}"
        )
        settings = {"bootstrap.servers": broker, "security.protocol": "ssl", "ssl.ca.pem": trusted}
        dropped = _drops(settings, topic)
        assert dropped, f"{broker}: a client without a password was let in"
        return dropped

    brokers = bootstrap.split(",")
    with ThreadPoolExecutor(len(brokers)) as pool:
        dropped = list(pool.map(ask, brokers))
    return f"SaslAuthenticationFailed by {len(brokers)}; without a password {dropped[0]}"


class _Said(logging.Handler):
    """Keeps what the library logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _drops(client: Mapping[str, Any], topic: str) -> str:
    """How a client without a password is turned away; empty when it is let in.

    A broker that wants one says nothing: it closes the connection at the first request. Once could
    be a broker that stops, so it has to happen DROPS times.
    """
    said = _Said()
    logger = logging.Logger("stranger")  # only the library's log has it, no callback
    logger.addHandler(said)
    stranger = Producer({**client, "error_cb": _quiet}, logger=logger)
    drops = 0
    end = time.monotonic() + TIMEOUT_S
    while drops < DROPS and time.monotonic() < end:
        try:
            stranger.list_topics(topic, timeout=0.1)
        except KafkaException:
            stranger.poll(0)  # serves the log
        else:
            return ""
        drops = sum("connection closed by peer" in line for line in said.lines)
    assert drops, (
        f"a client without a password got neither an answer nor an end in {TIMEOUT_S:.0f} s"
    )
    return f"dropped {drops} times"


@probe("kafka_in_sync")
def in_sync(
    ctx: ProbeContext,
    *,
    bootstrap: str,
    ca: Secret,
    certificate: Secret,
    key: Secret,
    brokers: int,
) -> str:
    """All brokers are there, and no partition of any topic misses a replica or a leader."""
    metadata = _administrator(ctx, bootstrap, ca, certificate, key).list_topics(timeout=TIMEOUT_S)
    assert len(metadata.brokers) == brokers, f"{len(metadata.brokers)} of {brokers} brokers"
    behind = [
        f"{topic.topic}-{number} ({len(partition.isrs)} of {len(partition.replicas)})"
        for topic in metadata.topics.values()
        for number, partition in topic.partitions.items()
        if partition.leader < 0 or len(partition.isrs) < len(partition.replicas)
    ]
    assert not behind, f"{len(behind)} partitions under-replicated: {', '.join(behind[:3])}"
    count = sum(len(topic.partitions) for topic in metadata.topics.values())
    return f"{brokers} brokers, {count} partitions in sync"


@probe("kafka_declared")
def declared(
    ctx: ProbeContext,
    *,
    bootstrap: str,
    ca: Secret,
    certificate: Secret,
    key: Secret,
    namespace: str,
    config_map: str,
) -> str:
    """Topics (partitions, factor, configs), users and ACLs equal the declaration."""
    data = ctx.config_map(namespace, config_map)
    declaration = json.loads(data["declaration.json"])
    client = _administrator(ctx, bootstrap, ca, certificate, key)
    problems = [
        *_topic_differences(client, declaration["topics"]),
        *_user_differences(client, [user["name"] for user in declaration["users"]]),
    ]
    wanted, present = bindings(declaration["users"]), existing_acls(client)
    problems += [f"ACL missing: {acl}" for acl in wanted - present]
    problems += [f"ACL not declared: {acl}" for acl in present - wanted]
    assert not problems, "; ".join(problems)
    return (
        f"{len(declaration['topics'])} topics, {len(declaration['users'])} users, "
        f"{len(wanted)} ACLs"
    )


def _topic_differences(client: AdminClient, topics: list[dict[str, Any]]) -> list[str]:
    existing = client.list_topics(timeout=TIMEOUT_S).topics
    problems = []
    for topic in topics:
        name = topic["name"]
        if name not in existing:
            problems.append(f"topic {name} is missing")
            continue
        partitions = existing[name].partitions
        if len(partitions) != topic["partitions"]:
            problems.append(f"topic {name}: {len(partitions)} partitions")
        if any(len(p.replicas) != topic["replication_factor"] for p in partitions.values()):
            problems.append(f"topic {name}: another replication factor")
    present = [topic for topic in topics if topic["name"] in existing]
    asked = [ConfigResource(ConfigResource.Type.TOPIC, topic["name"]) for topic in present]
    answers = client.describe_configs(asked) if asked else {}
    for resource, future in answers.items():
        values = {key: entry.value for key, entry in future.result(TIMEOUT_S).items()}
        wanted = next(topic["configs"] for topic in present if topic["name"] == resource.name)
        problems += [
            f"topic {resource.name}: {key} is {values.get(key)}"
            for key, value in wanted.items()
            if values.get(key) != value
        ]
    return problems


def _user_differences(client: AdminClient, names: list[str]) -> list[str]:
    ask = cast(Callable[[], Any], client.describe_user_scram_credentials)
    present = set(ask().result(TIMEOUT_S))
    return [f"user {name} is missing" for name in sorted(set(names) - present)] + [
        f"user {name} is not declared" for name in sorted(present - set(names))
    ]
