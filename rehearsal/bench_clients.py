"""Inside the sandbox: short measurements of Kafka, PostgreSQL and Mosquitto, side by side.

What is compared is measured in turns, so that other work on the machine meets both alike.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
from botocore.exceptions import BotoCoreError, ClientError
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from psycopg import sql

from rehearsal import bench_transfer, clients
from rehearsal.access import DRILL_TOPIC, Access
from rehearsal.demo_clients import connect
from services import tus

_ERRORS = (
    *(OSError, psycopg.Error, KafkaException),
    *(tus.Refused, tus.GaveUp, BotoCoreError, ClientError),
)
MESSAGE_BYTES = 1024
_SECONDS = 4.0  # of publishing
_PRODUCE_S = 2.0  # per turn, or less:
_PRODUCE_MOST = 50_000  # messages; what was produced stays in the topic for an hour
_ROUNDS = 2
_ROWS = 300  # per way and round


def kafka(access: Access) -> dict[str, Any]:
    """Messages per second produced with acks=all and acks=1, and consumed."""
    rates: dict[str, list[float]] = {"all": [], "1": []}
    consumed: list[float] = []
    for _ in range(_ROUNDS):
        for acks, found in rates.items():
            start = _ends(access)
            count, seconds = _produce(access, acks)
            found.append(count / seconds)
            consumed.append(_consume(access, start, count))
    produced = {acks: sum(found) / len(found) for acks, found in rates.items()}
    return {
        "message_bytes": MESSAGE_BYTES,
        "produce_acks_all_per_s": produced["all"],
        "produce_acks_1_per_s": produced["1"],
        "produce_acks_all_to_1": produced["all"] / produced["1"],
        "consume_per_s": sum(consumed) / len(consumed),
    }


def _produce(access: Access, acks: str) -> tuple[int, float]:
    producer = Producer(
        access.kafka_options(
            "verify", acks=acks, linger_ms=5, delivery_timeout_ms=30_000, compression_type="none"
        )
    )
    failed: list[str] = []
    delivered = 0

    def note(error: Any, _: Message) -> None:
        nonlocal delivered
        delivered += error is None
        if error is not None:
            failed.append(error.str())

    producer.list_topics(DRILL_TOPIC, timeout=20)
    payload, began, produced = b"x" * MESSAGE_BYTES, time.monotonic(), 0
    while time.monotonic() - began < _PRODUCE_S and produced < _PRODUCE_MOST:
        try:
            for _ in range(100):
                producer.produce(DRILL_TOPIC, payload, on_delivery=note)
                produced += 1
            producer.poll(0)
        except BufferError:
            producer.poll(0.05)
    producer.flush(60)
    if failed:
        raise ConnectionError(f"Kafka, acks={acks}: {failed[0]}")
    return delivered, time.monotonic() - began


def _consumer(access: Access) -> Consumer:
    return Consumer(
        access.kafka_options("verify", group_id="estate-verify-bench", enable_auto_commit=False)
    )


def _ends(access: Access) -> list[TopicPartition]:
    consumer = _consumer(access)
    found = []
    for number in consumer.list_topics(DRILL_TOPIC, timeout=20).topics[DRILL_TOPIC].partitions:
        partition = TopicPartition(DRILL_TOPIC, number)
        _, partition.offset = consumer.get_watermark_offsets(partition, timeout=20)
        found.append(partition)
    consumer.close()
    return found


def _consume(access: Access, start: list[TopicPartition], count: int) -> float:
    consumer = _consumer(access)
    consumer.assign(start)
    got, first = 0, 0.0
    deadline = time.monotonic() + 60
    while got < count and time.monotonic() < deadline:
        batch = consumer.consume(min(5000, count - got), 0.5)
        if batch and not first:
            # The clock begins with the first batch: finding the leaders is not throughput.
            first = time.monotonic()
            count -= len(batch)
            continue
        got += len(batch)
    seconds = time.monotonic() - first
    consumer.close()
    if got < count:
        raise ConnectionError(f"Kafka: {got} of {count} messages consumed in 60 s")
    return got / seconds


def postgres(access: Access, folder: Path) -> dict[str, Any]:
    """Seconds of a committed one-row insert, directly to the primary and through Pgpool."""
    ways = {"direct": access.dsn(folder, direct=True), "pool": access.dsn(folder)}
    times: dict[str, list[float]] = {way: [] for way in ways}
    connects: dict[str, list[float]] = {way: [] for way in ways}
    table = sql.Identifier("bench_rows")
    insert = sql.SQL("INSERT INTO {} (way, at) VALUES (%s, %s)").format(table)
    with connect(ways["direct"]) as connection:
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
        connection.execute(
            sql.SQL("CREATE TABLE {} (id bigserial PRIMARY KEY, way text, at float8)").format(table)
        )
    try:
        for _ in range(_ROUNDS):
            sessions = {}
            for way, dsn in ways.items():
                began = time.perf_counter()
                sessions[way] = connect(dsn)
                connects[way].append(time.perf_counter() - began)
            for _ in range(_ROWS):
                for way, session in sessions.items():
                    began = time.perf_counter()
                    session.execute(insert, (way, began))
                    times[way].append(time.perf_counter() - began)
            for session in sessions.values():
                session.close()
    finally:
        with connect(ways["direct"]) as connection:
            connection.execute(sql.SQL("DROP TABLE {}").format(table))
    p50 = {way: _percentile(found, 50) for way, found in times.items()}
    p99 = {way: _percentile(found, 99) for way, found in times.items()}
    return {
        "rows_per_way": _ROUNDS * _ROWS,
        "direct_p50_ms": p50["direct"] * 1000,
        "direct_p99_ms": p99["direct"] * 1000,
        "pool_p50_ms": p50["pool"] * 1000,
        "pool_p99_ms": p99["pool"] * 1000,
        "pool_to_direct_p50": p50["pool"] / p50["direct"],
        "connect_direct_ms": min(connects["direct"]) * 1000,
        "connect_pool_ms": min(connects["pool"]) * 1000,
    }


def _percentile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def mosquitto(access: Access) -> dict[str, Any]:
    """Messages per second published over TLS and acknowledged, QoS 1, one client."""
    client = access.mqtt_client("device", "bench-device")
    acknowledged = 0
    connected, room = threading.Event(), threading.Semaphore(1000)

    def on_publish(*_: object) -> None:
        nonlocal acknowledged
        acknowledged += 1
        room.release()

    client.on_connect = lambda *_: connected.set()
    client.on_publish = on_publish
    client.connect(access.mqtt_host, access.mqtt_port, keepalive=10)
    client.loop_start()
    if not connected.wait(20):
        raise ConnectionError("Mosquitto does not answer within 20 s")
    payload, began, sent = b"x" * 200, time.monotonic(), 0
    while time.monotonic() - began < _SECONDS:
        if not room.acquire(timeout=10):
            raise ConnectionError("Mosquitto acknowledges nothing for 10 s")
        client.publish("sensors/bench/none", payload, qos=1)
        sent += 1
    while acknowledged < sent and time.monotonic() - began < _SECONDS + 30:
        time.sleep(0.01)
    seconds = time.monotonic() - began
    client.disconnect()
    client.loop_stop()
    return {"payload_bytes": len(payload), "publish_qos1_tls_per_s": acknowledged / seconds}


def _measure(part: str, access: Access, folder: Path) -> dict[str, Any]:
    match part:
        case "mosquitto":
            return mosquitto(access)
        case "kafka":
            return kafka(access)
        case "transfer":
            return bench_transfer.measure(access)
    return postgres(access, folder)


def main() -> int:
    """Measure all; one event per part, then `result`."""
    access, _ = clients.specification()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="estate-bench-") as folder:
        part = ""
        try:
            lake = ("transfer",) if access.token_key else ()
            for part in ("mosquitto", "kafka", "postgres", *lake):
                clients.emit("part", part=part)
                results[part] = _measure(part, access, Path(folder))
        except _ERRORS as error:
            words = str(error).strip().splitlines() or [type(error).__name__]
            clients.emit("error", thing=f"bench of {part}", value=words[0][:300])
            return 1
    clients.emit("result", figures=results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
