"""Inside the sandbox: clients that write while something is broken, and count what was kept.

A writer knows what the service acknowledged and when (monotonic clock, which all processes of the
machine share); after the drill it reads everything back. `python -m rehearsal.drills.writers`
runs those that the caller asks for until it is told to stop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Protocol

import paho.mqtt.client as mqtt
import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from psycopg import sql
from pymongo.errors import PyMongoError

from rehearsal import clients, paths
from rehearsal.access import DRILL_TOPIC, Access
from rehearsal.drills import senders, visitors
from rehearsal.drills.mongodb_writer import MongodbWriter
from rehearsal.drills.pipeline_writer import PipelineWriter
from rehearsal.drills.record import Record, producer
from rehearsal.drills.s3_writer import S3Writer

_READY_S = 40.0
_SETTLE_S = 90.0  # for what was accepted before the stop to be acknowledged and read back
_CLIENT_TIMEOUT_S = 3.0
_LIFETIME_S = 20.0
"""Of a pooled session: shorter than Pgpool's drain_s, as any client's pool must have it."""


class Writer(Protocol):
    """What every writer offers."""

    def trust(self, pem: str) -> None:
        """Verify servers with these certificates from now on, as after a change of the bundle."""

    def start(self) -> None:
        """Begin to write; raises OSError or the client's own error when the service is away."""

    def stop(self) -> dict[str, Any]:
        """End, read back, count: plain JSON, see `summary`."""


class PostgresWriter(threading.Thread):
    """One session that inserts a row every 10 ms through Pgpool, and reconnects at any error.

    `direct` goes to the primary's service instead. After `lifetime_s` a session is left for a new
    one, as clients' pools do.
    """

    def __init__(
        self,
        access: Access,
        folder: Path,
        run: str,
        *,
        direct: bool = False,
        lifetime_s: float = math.inf,
    ) -> None:
        name = "postgres-direct" if direct else "postgres"
        super().__init__(name=f"{name}-writer", daemon=True)
        self._dsn = access.dsn(folder, direct=direct)
        self._authority = folder / "ca.crt"
        self._lifetime_s = lifetime_s
        self._table = sql.Identifier(f"drill_{'direct_' if direct else ''}{run}")
        self._asked = threading.Event()
        self._busy: tuple[float, psycopg.Connection[Any]] | None = None
        self.record = Record(name)

    def trust(self, pem: str) -> None:
        """Connections made from now on read it."""
        paths.replace(self._authority, pem)

    def start(self) -> None:
        """Make the table, then write."""
        with self._connect() as connection:
            connection.execute(
                sql.SQL("CREATE TABLE {} (row bigint PRIMARY KEY)").format(self._table)
            )
        super().start()
        threading.Thread(target=self._watch, name="postgres-watch", daemon=True).start()

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            self._dsn,
            autocommit=True,
            # A pool waits for a session as long as its application allows; a writer that looks
            # for the next primary asks again soon.
            connect_timeout=2 if math.isinf(self._lifetime_s) else 10,
            tcp_user_timeout=int(_CLIENT_TIMEOUT_S * 1000),
            options=f"-c statement_timeout={int(_CLIENT_TIMEOUT_S * 1000)}",
            # Prepared statements would outlive the session behind a pool.
            prepare_threshold=None,
        )

    def _watch(self) -> None:
        """Break a connection whose statement has no answer: what an application's driver does."""
        while not self._asked.wait(0.1):
            busy = self._busy
            if busy is not None and time.monotonic() - busy[0] > _CLIENT_TIMEOUT_S:
                with contextlib.suppress(OSError, psycopg.Error):
                    shut = socket.socket(fileno=busy[1].fileno())
                    shut.shutdown(socket.SHUT_RDWR)
                    shut.detach()

    def run(self) -> None:
        """Write until asked to stop."""
        insert = sql.SQL("INSERT INTO {} (row) VALUES (%s)").format(self._table)
        connection: psycopg.Connection[Any] | None = None
        since = 0.0
        while not self._asked.is_set():
            if connection is not None and time.monotonic() - since > self._lifetime_s:
                connection.close()
                connection = None
            row = self.record.attempts
            self.record.attempts += 1
            try:
                if connection is None:
                    connection, since = self._connect(), time.monotonic()
                self._busy = (time.monotonic(), connection)
                connection.execute(insert, (row,))
                self.record.acknowledge(row)
                self._busy = None
                time.sleep(0.01)
            except psycopg.Error as error:
                self._busy = None
                self.record.error(error)
                if connection is not None:
                    connection.close()
                connection = None
                time.sleep(0.05)
        if connection is not None:
            connection.close()

    def stop(self) -> dict[str, Any]:
        """Count the rows, asked of the primary, and drop the table."""
        self._asked.set()
        self.join(timeout=30)
        deadline = time.monotonic() + _SETTLE_S
        while True:
            try:
                with self._connect() as connection:
                    # The comment sends the read to the primary: a standby may be behind.
                    found = connection.execute(
                        sql.SQL("/*NO LOAD BALANCE*/ SELECT row FROM {}").format(self._table)
                    ).fetchall()
                    connection.execute(sql.SQL("DROP TABLE {}").format(self._table))
                return self.record.summary({int(row[0]) for row in found})
            except psycopg.Error:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)


class KafkaWriter(threading.Thread):
    """Produces 100 messages a second with acks=all to every partition of a replicated topic."""

    def __init__(self, access: Access, run: str) -> None:
        super().__init__(name="kafka-writer", daemon=True)
        self.record = Record("kafka")
        self._run = run
        self._access = access
        self._producer = producer(access, self.record)
        self._consumer = self._reader()
        self._asked = threading.Event()
        self._start: list[TopicPartition] = []

    def _reader(self) -> Consumer:
        return Consumer(
            self._access.kafka_options(
                "verify",
                group_id="estate-verify-drill",
                enable_auto_commit=False,
                error_cb=lambda error: None,
            )
        )

    def trust(self, pem: str) -> None:
        """A client reads its certificates once: new ones take over, as in a rolled out program."""
        self._access = dataclasses.replace(self._access, ca=pem)
        former, self._producer = self._producer, producer(self._access, self.record)
        self._consumer = self._reader()
        former.flush(_SETTLE_S)

    def start(self) -> None:
        """Remember where each partition ends now, then produce."""
        found = self._consumer.list_topics(DRILL_TOPIC, timeout=_READY_S).topics[DRILL_TOPIC]
        for number in found.partitions:
            partition = TopicPartition(DRILL_TOPIC, number)
            _, partition.offset = self._consumer.get_watermark_offsets(partition, timeout=_READY_S)
            self._start.append(partition)
        super().start()
        threading.Thread(target=self._watch, name="kafka-watch", daemon=True).start()

    def _watch(self) -> None:
        """Note every change of the smallest in-sync replica set."""
        seen: int | None = None
        while not self._asked.wait(0.25):
            in_sync = self.in_sync()
            if in_sync != seen and in_sync is not None:
                self.record.note(f"in-sync replicas: {in_sync}")
                seen = in_sync

    def in_sync(self) -> int | None:
        """The smallest number of in-sync replicas of a partition; None without an answer."""
        try:
            found = self._consumer.list_topics(DRILL_TOPIC, timeout=2).topics[DRILL_TOPIC]
        except KafkaException:
            return None
        return min((len(one.isrs) for one in found.partitions.values()), default=None)

    def run(self) -> None:
        """Produce until asked to stop; the client tries again by itself."""

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                value = message.value() or b""
                self.record.acknowledge(int(value.rsplit(b":", 1)[1]), message.partition() or 0)
            else:
                self.record.error(error.str())

        lanes = len(self._start)
        while not self._asked.wait(0.01):
            number = self.record.attempts
            try:
                self._producer.produce(
                    DRILL_TOPIC,
                    f"{self._run}:{number}".encode(),
                    partition=self._start[number % lanes].partition,
                    on_delivery=delivered,
                )
                self.record.attempts += 1
            except BufferError:
                pass
            self._producer.poll(0)

    def stop(self) -> dict[str, Any]:
        """Wait for the acknowledgements of all that was produced, then consume it."""
        self._asked.set()
        self.join(timeout=30)
        self._producer.flush(_SETTLE_S)
        stored: set[int] = set()
        deadline = time.monotonic() + _SETTLE_S
        left: dict[int, int] = {}
        for partition in self._start:
            _, end = self._consumer.get_watermark_offsets(partition, timeout=_READY_S)
            if end > partition.offset:
                left[partition.partition] = end
        self._consumer.assign(self._start)
        prefix = f"{self._run}:".encode()
        while left and time.monotonic() < deadline:
            for message in self._consumer.consume(1000, 1.0):
                value = message.value() or b""
                if message.error() is None and value.startswith(prefix):
                    stored.add(int(value[len(prefix) :]))
            # Positions, not messages: the last offset may be a control record.
            for position in self._consumer.position(self._start):
                if position.offset >= left.get(position.partition, sys.maxsize):
                    left.pop(position.partition, None)
        self._consumer.close()
        return self.record.summary(stored)


class MqttWriter(threading.Thread):
    """A device publishing 100 messages a second at QoS 1, and a subscriber with a kept session."""

    def __init__(self, access: Access, run: str) -> None:
        super().__init__(name="mqtt-writer", daemon=True)
        self.record = Record("mqtt")
        self._subscribed = threading.Event()
        self._address = (access.mqtt_host, access.mqtt_port)
        self._topic = f"sensors/drill-{run}/number"
        self._contexts = [access.tls_context() for _ in range(2)]
        self._publisher: mqtt.Client = access.mqtt_client(
            "device", f"drill-{run}-device", self._contexts[0]
        )
        self._publisher.on_publish = self._acknowledge
        self._subscriber: mqtt.Client = access.mqtt_client(
            "bridge", f"drill-{run}-reader", self._contexts[1]
        )
        self._subscriber.on_message = self._message
        self._subscriber.on_connect = self._connected
        self._subscriber.on_subscribe = lambda *_: self._subscribed.set()
        for client, who in ((self._publisher, "device"), (self._subscriber, "subscriber")):
            client.on_disconnect = self._disconnected(who)
        self._asked = threading.Event()
        self._lock = threading.Lock()
        # Message id -> number, and the acknowledgements that came before publish() returned.
        self._numbers: dict[int, int] = {}
        self._early: dict[int, Any] = {}
        self._received: set[int] = set()

    def trust(self, pem: str) -> None:
        """Reconnections verify with these too; the connection that is there goes on."""
        for context in self._contexts:
            context.load_verify_locations(cadata=pem)

    def _disconnected(self, who: str) -> Any:
        def note(_: object, __: object, ___: object, reason: Any, ____: object) -> None:
            if not self._asked.is_set():
                self.record.note(f"{who} disconnected: {reason}")

        return note

    def _connected(
        self, client: mqtt.Client, _: object, flags: Any, reason: Any, __: object
    ) -> None:
        if reason.is_failure:
            self.record.error(reason)
        elif not flags.session_present:
            # A second time would mean that the broker forgot the session: seen in the timeline.
            client.subscribe(self._topic, qos=1)
            self.record.note("subscriber: new session")
        else:
            self.record.note("subscriber: session resumed")

    def _message(self, _: object, __: object, message: mqtt.MQTTMessage) -> None:
        self._received.add(int(message.payload))

    def _acknowledge(self, _: object, __: object, mid: int, reason: Any, ___: object) -> None:
        with self._lock:
            number = self._numbers.pop(mid, None)
            if number is None:
                self._early[mid] = reason
                return
        self._count(number, reason)

    def _count(self, number: int, reason: Any) -> None:
        if reason.is_failure:
            self.record.error(reason)
        else:
            self.record.acknowledge(number)

    def start(self) -> None:
        """Connect both, the subscriber first, then publish."""
        kept = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        kept.SessionExpiryInterval = 600
        self._subscriber.connect(*self._address, keepalive=5, clean_start=False, properties=kept)
        self._subscriber.loop_start()
        if not self._subscribed.wait(_READY_S):
            raise ConnectionError(f"Mosquitto: no subscription after {_READY_S:.0f} s")
        kept = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        kept.SessionExpiryInterval = 600
        self._publisher.connect(*self._address, keepalive=5, clean_start=False, properties=kept)
        self._publisher.loop_start()
        super().start()

    def run(self) -> None:
        """Publish until asked to stop; while offline the client keeps messages for later."""
        while not self._asked.wait(0.01):
            number = self.record.attempts
            # Outside of the lock: publish() takes one of paho's, under which it calls back.
            info = self._publisher.publish(self._topic, str(number).encode(), qos=1)
            with self._lock:
                reason = self._early.pop(info.mid, None)
                if reason is None:
                    self._numbers[info.mid] = number
            if reason is not None:
                self._count(number, reason)
            self.record.attempts += 1

    def stop(self) -> dict[str, Any]:
        """Wait for the acknowledgements, then for the deliveries."""
        self._asked.set()
        self.join(timeout=30)
        deadline = time.monotonic() + _SETTLE_S
        while time.monotonic() < deadline:
            accepted = {number for _, number, _ in self.record.acknowledged}
            if not self._numbers and accepted <= self._received:
                break
            time.sleep(0.1)
        for client in (self._publisher, self._subscriber):
            ended = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
            ended.SessionExpiryInterval = 0
            client.disconnect(properties=ended)
            client.loop_stop()
        return self.record.summary(set(self._received))


def make(kind: str, access: Access, folder: Path, run: str) -> Writer:
    """The writer of a kind: postgres, -pooled, -direct, kafka, mqtt, mongodb, s3 or pipeline."""
    match kind:
        case "postgres":
            return PostgresWriter(access, folder, run)
        case "postgres-pooled":
            return PostgresWriter(access, folder, run, lifetime_s=_LIFETIME_S)
        case "postgres-direct":
            return PostgresWriter(access, folder, run, direct=True)
        case "kafka":
            return KafkaWriter(access, run)
        case "mqtt":
            return MqttWriter(access, run)
        case "mongodb":
            return MongodbWriter(access, folder, run)
        case "s3":
            return S3Writer(access, folder, run)
        case "pipeline":
            return PipelineWriter(access, folder, run)
    raise ValueError(kind)


def main() -> int:
    """Start the writers of the specification, say `ready`, and count after `stop`."""
    access, specification = clients.specification()
    writers: dict[str, Writer] = {}
    stop = clients.stop_asked(lambda command: visitors.answer(command, writers.values()))
    with tempfile.TemporaryDirectory(prefix="estate-drill-") as folder:
        kind = ""
        try:
            for kind in specification["writers"]:
                own = Path(folder) / kind
                own.mkdir()
                run = specification["run"]
                writers[kind] = (
                    visitors.make(kind, access, own, run)
                    or senders.make(kind, access, run)
                    or make(kind, access, own, run)
                )
                writers[kind].start()
            clients.emit("ready")
            stop.wait()
            for kind, writer in writers.items():
                clients.emit("result", writer=kind, **writer.stop())
        except (OSError, psycopg.Error, KafkaException, PyMongoError) as error:
            words = str(error).strip().splitlines() or [type(error).__name__]
            clients.emit("error", thing=f"drill's {kind} writer", value=words[0][:300])
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
