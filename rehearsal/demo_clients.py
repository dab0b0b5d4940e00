"""Inside the sandbox: devices -> MQTT -> bridge -> Kafka -> sink -> PostgreSQL.

Every hop acknowledges only what the next one holds: the bridge acknowledges an MQTT message when
Kafka's in-sync replicas have it, the sink commits its Kafka position when PostgreSQL has committed
the rows. So each hop delivers at least once, and the primary key makes it once in the table.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from rehearsal import clients, series
from rehearsal.access import DEAD_LETTERS_TOPIC, SENSORS_TOPIC, Access
from rehearsal.demo_data import Key, Sample, account, rows

TABLE = "demo_readings"
_SESSION_S = 600  # how long the broker keeps messages for a bridge that is away
_CONNECT_S = 90.0
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
    run text NOT NULL,
    device text NOT NULL,
    sequence bigint NOT NULL,
    month text NOT NULL,
    celsius double precision NOT NULL,
    sent_at timestamptz NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    deliveries integer NOT NULL DEFAULT 1,
    PRIMARY KEY (run, device, sequence)
)"""
# One statement for a batch, and so one transaction; a message that comes again is counted.
_UPSERT = f"""
INSERT INTO {TABLE} (run, device, sequence, month, celsius, sent_at, deliveries)
SELECT run, device, sequence, month, celsius, to_timestamp(sent_s), deliveries
FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::float8[], %s::float8[], %s::int[])
    AS new(run, device, sequence, month, celsius, sent_s, deliveries)
ON CONFLICT (run, device, sequence)
DO UPDATE SET deliveries = {TABLE}.deliveries + excluded.deliveries"""


class Devices:
    """Publishes the series as several devices, each with its own connection, QoS 1."""

    def __init__(self, access: Access, run: str, names: list[str]) -> None:
        self._run, self._names = run, names
        self._series = series.el_nino()
        self._refused: list[str] = []
        self.sent: dict[Key, Sample] = {}
        self.acknowledged = 0
        self._clients = [self._client(access, name) for name in names]

    def _client(self, access: Access, name: str) -> mqtt.Client:
        client: mqtt.Client = access.mqtt_client("device", f"{name}-{self._run}")
        client.on_publish = self._acknowledge
        client.on_connect = self._connected
        client.connect_async(access.mqtt_host, access.mqtt_port, keepalive=10)
        client.loop_start()
        return client

    def _connected(self, _: object, __: object, ___: object, reason: Any, ____: object) -> None:
        if reason.is_failure:
            self._refused.append(str(reason))

    def _acknowledge(self, *_: object) -> None:
        self.acknowledged += 1

    def wait(self) -> None:
        """Until all are connected; ConnectionError names the first that is not."""
        deadline = time.monotonic() + _CONNECT_S
        while not all(client.is_connected() for client in self._clients):
            if self._refused:
                raise ConnectionError(f"Mosquitto refuses a device: {self._refused[0]}")
            if time.monotonic() > deadline:
                raise ConnectionError(f"Mosquitto does not answer within {_CONNECT_S:.0f} s")
            time.sleep(0.02)

    def publish(self, messages: int, rate: float, stop: threading.Event) -> None:
        """Send so many messages at so many per second, the devices in turn."""
        began, count = time.monotonic(), len(self._names)
        for number in range(messages):
            if stop.wait(max(0.0, began + number / rate - time.monotonic())):
                return
            index, sequence = number % count, number // count
            value = series.reading(self._series, index, count, sequence)
            name = self._names[index]
            sample = Sample(self._run, name, sequence, value.month, value.celsius, time.time_ns())
            self.sent[name, sequence] = sample
            # While it is offline the client keeps the message and sends it after reconnecting.
            self._clients[index].publish(f"sensors/{name}/temperature", sample.payload(), qos=1)

    def close(self) -> None:
        """Disconnect all."""
        for client in self._clients:
            client.disconnect()
            client.loop_stop()


class Bridge(threading.Thread):
    """MQTT to Kafka, on one thread: nothing is acknowledged before Kafka has acknowledged it."""

    def __init__(self, access: Access) -> None:
        super().__init__(name="bridge", daemon=True)
        self._access = access
        self._producer = Producer(
            access.kafka_options(
                "bridge",
                acks="all",
                enable_idempotence=True,
                linger_ms=2,
                delivery_timeout_ms=60_000,
            )
        )
        # The session outlives a lost connection: the broker keeps what comes meanwhile.
        self._client = access.mqtt_client("bridge", "estate-bridge", manual_ack=True)
        self._client.on_message = self._message
        self._client.on_connect = self._connected
        self._client.on_subscribe = self._subscribed
        self._asked = threading.Event()
        self._undelivered = False
        self.ready = threading.Event()
        self.forwarded = 0
        self.dead_letters = 0
        self.failures: list[str] = []

    def _connected(
        self, client: mqtt.Client, _: object, __: object, reason: Any, ___: object
    ) -> None:
        if reason.is_failure:
            self.failures.append(f"Mosquitto refuses the bridge: {reason}")
        else:
            client.subscribe("sensors/+/temperature", qos=1)

    def _subscribed(self, *_: object) -> None:
        self.ready.set()

    def _message(self, _: mqtt.Client, __: object, message: mqtt.MQTTMessage) -> None:
        headers: list[tuple[str, str | bytes | None]] = [("bridged_ns", str(time.time_ns()))]
        device, payload = message.topic.split("/")[1], bytes(message.payload)
        topic = SENSORS_TOPIC
        try:
            Sample.parse(payload, device)
        except (ValueError, TypeError) as error:
            topic = DEAD_LETTERS_TOPIC
            headers += [("topic", message.topic), ("error", str(error)[:200])]
            self.dead_letters += 1

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is None:
                self._client.ack(message.mid, message.qos)
                self.forwarded += 1
            else:
                # Not acknowledged, so the broker sends it again once the connection is new.
                self._undelivered = True
                self.failures.append(f"Kafka: {error.str()}")

        while True:
            try:
                self._producer.produce(
                    topic, payload, device, headers=headers, on_delivery=delivered
                )
                return
            except BufferError:  # the producer's queue is full: let it send first
                self._producer.poll(0.1)

    def run(self) -> None:
        """Forward until `stop`; a lost connection is made again."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = _SESSION_S
        connected = False
        with contextlib.suppress(KafkaException):
            # The first message should not wait for what the client has to learn anyway.
            self._producer.list_topics(SENSORS_TOPIC, timeout=10)
        while not self._asked.is_set():
            try:
                if not connected:
                    self._client.connect(
                        self._access.mqtt_host,
                        self._access.mqtt_port,
                        keepalive=10,
                        clean_start=False,
                        properties=properties,
                    )
                    connected = True
                connected = self._client.loop(timeout=0.005) == MQTTErrorCode.MQTT_ERR_SUCCESS
                self._producer.poll(0)
                if self._undelivered:
                    self._undelivered, connected = False, False
            except OSError as error:
                connected = False
                self.failures.append(f"Mosquitto: {error}")
                self._asked.wait(0.5)
        self._producer.flush(10)
        # The session ends with the demo, or the broker would queue for nobody.
        properties = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 0
        self._client.disconnect(properties=properties)
        self._client.loop(timeout=0.2)

    def stop(self) -> None:
        """Send what is in hand, then end."""
        self._asked.set()
        self.join(timeout=20)


@dataclass
class Times:
    """Seconds that one message took: device to bridge, to the sink, to the committed row."""

    mqtt: float
    kafka: float
    postgres: float


class Sink(threading.Thread):
    """Kafka to PostgreSQL: the position is committed after the rows are."""

    def __init__(self, access: Access, dsn: str, run: str) -> None:
        super().__init__(name="sink", daemon=True)
        self._dsn, self._run = dsn, run
        self._consumer = Consumer(
            access.kafka_options(
                "bridge",
                group_id="bridge-demo",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                session_timeout_ms=10_000,
            )
        )
        self._connection: psycopg.Connection[Any] | None = None
        self._asked = threading.Event()
        self.ready = threading.Event()
        self.times: dict[Key, Times] = {}
        self.unreadable = 0
        self.failures: list[str] = []

    def run(self) -> None:
        """Store until `stop`."""
        self._consumer.subscribe([SENSORS_TOPIC], on_assign=lambda *_: self.ready.set())
        try:
            while not self._asked.is_set():
                first = self._consumer.poll(0.1)
                if first is not None:
                    # What has come already joins the batch; nothing waits for more.
                    self._store([first, *self._consumer.consume(199, 0)])
        finally:
            self._consumer.close()
            if self._connection is not None:
                self._connection.close()

    def _store(self, messages: list[Message]) -> None:
        received = time.time()
        batch: list[tuple[Sample, float]] = []
        for message in messages:
            if (error := message.error()) is not None:
                self.failures.append(f"Kafka: {error.str()}")
                continue
            try:
                headers = dict(message.headers() or [])
                bridged = int(headers["bridged_ns"] or b"") / 1e9
                batch.append((Sample.parse(message.value() or b""), bridged))
            except (ValueError, TypeError, KeyError):
                self.unreadable += 1  # no bridge wrote this; it stays in the topic
        if not self._write([sample for sample, _ in batch]):
            return
        committed = time.time()
        try:
            self._consumer.commit(asynchronous=False)
        except KafkaException as error:
            # Another member has the partition now: it stores the rows again, which is harmless.
            # Without a position all that came was an error, which was noted.
            if error.args[0].code() != KafkaError._NO_OFFSET:
                self.failures.append(f"Kafka: {error.args[0].str()}")
        for sample, bridged in batch:
            if sample.run == self._run:
                sent = sample.sent_ns / 1e9
                times = Times(bridged - sent, received - bridged, committed - received)
                self.times.setdefault((sample.device, sample.sequence), times)

    def _write(self, samples: list[Sample]) -> bool:
        """Whether the rows were committed; tried again until `stop`."""
        if not samples:
            return True
        columns = list(zip(*rows(samples), strict=True))
        while not self._asked.is_set():
            try:
                if self._connection is None:
                    self._connection = connect(self._dsn)
                self._connection.execute(_UPSERT, [list(column) for column in columns])
                return True
            except psycopg.Error as error:
                self.failures.append(f"PostgreSQL: {str(error).splitlines()[0][:160]}")
                if self._connection is not None:
                    self._connection.close()
                self._connection = None
                self._asked.wait(0.1)
        return False

    def stop(self) -> None:
        """End after the batch in hand."""
        self._asked.set()
        self.join(timeout=20)


def connect(dsn: str) -> psycopg.Connection[Any]:
    """A connection that gives up soon; behind a pool no statement is prepared."""
    return psycopg.connect(
        dsn, autocommit=True, connect_timeout=5, tcp_user_timeout=5000, prepare_threshold=None
    )


def stored(dsn: str, run: str) -> dict[Key, tuple[float, int]]:
    """The rows of a run, asked of the primary: a standby may be behind."""
    with connect(dsn) as connection:
        found = connection.execute(
            f"/*NO LOAD BALANCE*/ SELECT device, sequence, celsius, deliveries "
            f"FROM {TABLE} WHERE run = %s",
            [run],
        )
        return {(str(row[0]), int(row[1])): (float(row[2]), int(row[3])) for row in found}


def replay(
    access: Access,
    folder: Path,
    *,
    run: str,
    messages: int,
    rate: float,
    devices: int,
    stop: threading.Event,
    progress: Callable[..., None],
) -> dict[str, Any]:
    """Send, store and count; plain JSON. Raises OSError, psycopg.Error, KafkaException."""
    dsn = access.dsn(folder)
    with connect(dsn) as connection:
        connection.execute(_SCHEMA)
    bridge, sink = Bridge(access), Sink(access, dsn, run)
    bridge.start()
    sink.start()
    source = Devices(access, run, series.devices(devices))
    try:
        source.wait()
        for part in (bridge, sink):
            if not part.ready.wait(_CONNECT_S):
                words = part.failures[-1] if part.failures else f"not ready after {_CONNECT_S} s"
                raise ConnectionError(f"{part.name}: {words}")
        began = time.monotonic()
        sender = threading.Thread(
            target=source.publish, args=(messages, rate, stop), name="devices", daemon=True
        )
        sender.start()
        seen, seen_at = -1, time.monotonic()
        # Half a minute without a new row, after the last was sent, is taken for a loss.
        while not stop.is_set() and time.monotonic() - seen_at < 30:
            progress(sent=len(source.sent), forwarded=bridge.forwarded, stored=len(sink.times))
            if len(sink.times) != seen or sender.is_alive():
                seen, seen_at = len(sink.times), time.monotonic()
            if not sender.is_alive() and source.acknowledged >= messages <= len(sink.times):
                break
            time.sleep(0.1)
        seconds = time.monotonic() - began
    finally:
        source.close()
        bridge.stop()
        sink.stop()
    result = account(source.sent, stored(dsn, run))
    return {
        "sent": len(source.sent),
        "acknowledged": source.acknowledged,
        "seconds": seconds,
        **result.__dict__,
        "times": [[times.mqtt, times.kafka, times.postgres] for times in sink.times.values()],
        "dead_letters": bridge.dead_letters,
        "failures": [*bridge.failures, *sink.failures],
    }


def main() -> int:
    """Run as the caller's specification says; the result is the last line."""
    access, specification = clients.specification()
    stop = clients.stop_asked()
    with tempfile.TemporaryDirectory(prefix="estate-demo-") as folder:
        try:
            result = replay(
                access,
                Path(folder),
                stop=stop,
                progress=lambda **values: clients.emit("progress", **values),
                **specification,
            )
        except (OSError, psycopg.Error, KafkaException) as error:
            words = str(error).strip().splitlines() or [type(error).__name__]
            clients.emit("error", thing="demo", value=words[0][:300])
            return 1
    clients.emit("result", **result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
