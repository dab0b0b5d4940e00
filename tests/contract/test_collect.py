"""The bridge as a pod runs it, between the real Mosquitto and librdkafka's own mock of Kafka.

Mosquitto has the configuration and the ACLs that the environment `local` declares for it. Both are
killed under devices that send. What Kafka's replicas do is the rehearsal's business.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import signal
import ssl
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
import requests
from confluent_kafka import Consumer, KafkaError, TopicPartition
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from components.realtime.mosquitto_config import MosquittoConfig, acl_file, server_config
from configs.schema import load
from rehearsal import paths
from rehearsal.images import Apt, unpack_tools
from rehearsal.images.errors import ImageError
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
from tests.loopback import free_port

DEVICES = ("sensor-1", "sensor-2", "sensor-3")
# The mock of Kafka knows neither passwords nor TLS: nothing else of the program is another.
RUN = """
import services.collect.kafka as kafka
kafka._client = lambda settings, trust: {"bootstrap.servers": settings.bootstrap}
from services.collect.__main__ import main
main()
"""


KAFKA = """
import sys, time
from confluent_kafka import Producer
cluster = Producer({"test.mock.num.brokers": 3, "log_level": 0})
for topic in sys.argv[1:]:
    cluster.list_topics(topic, timeout=10)  # makes it
brokers = cluster.list_topics(timeout=10).brokers.values()
print(",".join(f"{one.host}:{one.port}" for one in brokers), flush=True)
time.sleep(3600)
"""
"""In a process of its own: stopped, it is a Kafka that hangs."""


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of Debian's Mosquitto, unpacked below the cache."""
    root = paths.ensure(paths.cache(), "cache") / "debian-mosquitto"
    try:
        unpack_tools(["mosquitto"], root, apt=Apt(paths.cache() / "images" / "apt"))
    except ImageError as error:
        pytest.skip(f"no mosquitto: {error}")
    return root / "usr"


def certificate(folder: Path) -> None:
    """One that is its own authority, for the loopback."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    for file in ("tls.crt", "ca.crt"):
        (folder / file).write_bytes(pem)
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


class Site:
    """Mosquitto, a mock of Kafka, the bridge, and what they have on disk."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self._programs = folder, programs
        certificate(folder)
        self.mqtt_port, self.port = free_port(), free_port()
        self._configure()
        self.log = (folder / "log").open("ab")
        kafka = subprocess.Popen(
            [sys.executable, "-c", KAFKA, READINGS_TOPIC, DEAD_TOPIC],
            stdout=subprocess.PIPE,
            stderr=self.log,
        )
        self._processes: dict[str, subprocess.Popen[bytes]] = {"kafka": kafka}
        assert kafka.stdout is not None
        self.bootstrap = kafka.stdout.readline().decode().strip()

    def _configure(self) -> None:
        config = load(paths.root() / "configs" / "Pulumi.local.yaml").mosquitto
        assert config is not None
        (self.folder / "data").mkdir()
        passwords = self.folder / "passwords"
        passwords.write_text("".join(f"{user.name}:{user.name}\n" for user in config.everyone))
        passwords.chmod(0o600)
        subprocess.run([self._programs / "bin" / "mosquitto_passwd", "-U", passwords], check=True)
        (self.folder / "acl").write_text(acl_file(config))
        (self.folder / "acl").chmod(0o600)
        (self.folder / "mosquitto.conf").write_text(self._broker(config))
        (self.folder / "password").write_text("collect\n")

    def _broker(self, config: MosquittoConfig) -> str:
        text = server_config(config)
        for there, here in (
            ("listener 8883", f"listener {self.mqtt_port} 127.0.0.1"),
            ("/mosquitto/tls", str(self.folder)),
            ("/mosquitto/auth", str(self.folder)),
            ("/mosquitto/config", str(self.folder)),
            ("/mosquitto/data", f"{self.folder}/data"),
        ):
            assert there in text
            text = text.replace(there, here)
        return f"{text}user root\n"

    def settings(self, **changes: Any) -> Path:
        values = {
            "mqtt": {
                "host": "127.0.0.1",
                "port": self.mqtt_port,
                "user": "collect",
                "password": f"{self.folder}/password",
                "client_id": "collect",
                "session_s": 3600,
                "receive_maximum": 200,
            },
            "kafka": {
                "bootstrap": changes.get("bootstrap", self.bootstrap),
                "user": "collect",
                "password": f"{self.folder}/password",
                "linger_ms": 2,
                "tail": 20_000,
            },
            "spool": {"folder": f"{self.folder}/spool", "limit_mib": 8},
            "server": {
                "port": self.port,
                "certificate": f"{self.folder}/tls.crt",
                "key": f"{self.folder}/tls.key",
            },
            "trust": f"{self.folder}/ca.crt",
            "patience_s": 2,
            "window": 1000,
            "acknowledge_ms": 50,
            "boots": 1000,
        }
        file = self.folder / "settings.json"
        file.write_text(json.dumps(values))
        return file

    def start_broker(self) -> None:
        command = [self._programs / "sbin" / "mosquitto", "-c", self.folder / "mosquitto.conf"]
        self._start("broker", list(map(str, command)))

    def start_bridge(self, **changes: Any) -> None:
        self._start("bridge", [sys.executable, "-c", RUN, str(self.settings(**changes))])

    def _start(self, name: str, command: list[str]) -> None:
        self._processes[name] = subprocess.Popen(
            command, cwd=paths.root(), stdout=self.log, stderr=subprocess.STDOUT
        )

    def send(self, name: str, how: signal.Signals) -> None:
        self._processes[name].send_signal(how)

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> int:
        self._processes[name].send_signal(how)
        return self._processes[name].wait(20)

    def get(self, path: str) -> requests.Response:
        return requests.get(
            f"https://127.0.0.1:{self.port}{path}", verify=f"{self.folder}/ca.crt", timeout=5
        )

    def ready(self) -> bool:
        try:
            return self.get("/ready").status_code == 200
        except requests.ConnectionError:
            return False

    def topic(self, topic: str) -> dict[int, list[bytes]]:
        """The values of each partition, from the beginning to the end."""
        options = {"bootstrap.servers": self.bootstrap, "group.id": "test", "log_level": 0}
        consumer = Consumer({**options, "enable.partition.eof": True})
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        found: dict[int, list[bytes]] = defaultdict(list)
        left = set(partitions)
        while left:
            message = consumer.poll(10)
            assert message is not None
            number = message.partition()
            assert number is not None
            if (error := message.error()) is None:
                found[number].append(message.value() or b"")
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error
                left.discard(number)
        consumer.close()
        return found

    def close(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        self.log.close()


@pytest.fixture
def site(tmp_path: Path, programs: Path) -> Iterator[Site]:
    made = Site(tmp_path, programs)
    made.start_broker()
    try:
        yield made
    finally:
        made.close()


class Device:
    """A device that connects again by itself."""

    def __init__(self, site: Site, name: str, boot: int = 1) -> None:
        self.name, self._site = name, site
        self.outbox = Outbox(name, boot, window=50)
        self.refused: list[str] = []
        self.rejections: list[Rejection] = []
        self._open = False
        client = self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5
        )
        client.username_pw_set(name, name)
        client.tls_set_context(ssl.create_default_context(cafile=f"{site.folder}/ca.crt"))
        client.on_connect = self._connected
        client.on_message = self._told
        client.on_publish = lambda _c, _u, _m, code, _p: (
            self.refused.append(str(code)) if code.is_failure else None
        )

    def _connected(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe(acknowledgements(self.name), qos=1)

    def _told(self, _: mqtt.Client, __: Any, message: mqtt.MQTTMessage) -> None:
        payload = bytes(message.payload)
        if b"rejected" in payload:
            self.rejections.append(Rejection.from_bytes(payload))
        self.outbox.answered(payload, time.monotonic())

    def turn(self) -> None:
        if not self._open:
            try:
                self.client.connect("127.0.0.1", self._site.mqtt_port, keepalive=5)
                self._open = True
            except OSError:
                return
        for payload in self.outbox.due(time.monotonic()):
            self.client.publish(readings(self.name), payload, qos=1)
        for _ in range(4):
            self._open = self.client.loop(0.001) == MQTTErrorCode.MQTT_ERR_SUCCESS

    def until(self, done: Any, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, "not in time"
            self.turn()


def wait_for(site: Site) -> None:
    end = time.monotonic() + 30
    while not site.ready():
        assert time.monotonic() < end, (site.folder / "log").read_text()
        time.sleep(0.1)


def check(site: Site, wanted: dict[str, int]) -> int:
    """Every reading of each device is in Kafka, in its order; how many are there again."""
    seen: dict[str, list[int]] = defaultdict(list)
    for values in site.topic(READINGS_TOPIC).values():
        for value in values:
            record = Record.from_bytes(value)
            seen[record.device].append(record.sequence)
    again = 0
    for device, count in wanted.items():
        first = list(dict.fromkeys(seen[device]))
        assert first == list(range(1, count + 1)), device
        again += len(seen[device]) - count
    return again


@pytest.mark.parametrize("victim", ["bridge", "broker"])
def test_what_is_killed_under_load_loses_and_repeats_nothing(site: Site, victim: str) -> None:
    site.start_bridge()
    wait_for(site)
    devices = [Device(site, name) for name in DEVICES]
    for number in range(500):
        for device in devices:
            device.outbox.add(number, {"celsius": number / 8})
            device.turn()
        if number in (150, 350):
            site.kill(victim)
            site.start_bridge() if victim == "bridge" else site.start_broker()
    end = time.monotonic() + 90
    while any(device.outbox.held for device in devices):
        assert time.monotonic() < end, Counter({one.name: one.outbox.held for one in devices})
        for device in devices:
            device.turn()
    assert check(site, dict.fromkeys(DEVICES, 500)) == 0
    assert not any(device.outbox.given_up for device in devices)


def test_what_was_spooled_comes_first_and_once(site: Site) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    site.start_bridge(bootstrap=nowhere)
    wait_for(site)
    device = Device(site, DEVICES[0])
    for number in range(100):
        device.outbox.add(number, {"celsius": 1.0})
    device.until(lambda: not device.outbox.held)
    device.until(lambda: "collect_spooling 1.0" in site.get("/metrics").text)
    site.kill("bridge")
    site.start_bridge()
    for number in range(50):
        device.outbox.add(number, {"celsius": 2.0})
    device.until(lambda: not device.outbox.held)
    end = time.monotonic() + 20
    while sum(map(len, site.topic(READINGS_TOPIC).values())) < 150:
        assert time.monotonic() < end
    assert check(site, {DEVICES[0]: 150}) == 0
    assert site.kill("bridge", signal.SIGTERM) == 0


@pytest.mark.parametrize("killed", [False, True], ids=["it stays", "and the bridge is killed"])
def test_a_kafka_that_hangs_keeps_no_device_waiting(site: Site, killed: bool) -> None:
    site.start_bridge()
    wait_for(site)
    device = Device(site, DEVICES[0])
    device.outbox.add(0, {"celsius": 1.0})
    device.until(lambda: not device.outbox.held)
    site.send("kafka", signal.SIGSTOP)
    for number in range(200):
        device.outbox.add(number, {"celsius": 1.0})
        device.turn()
    device.until(lambda: not device.outbox.held)
    if killed:
        site.kill("bridge")
        site.start_bridge()
        wait_for(site)
        device.outbox.add(0, {"celsius": 2.0})
        device.until(lambda: not device.outbox.held)
    site.send("kafka", signal.SIGCONT)
    count = 202 if killed else 201
    end = time.monotonic() + 30
    while sum(map(len, site.topic(READINGS_TOPIC).values())) < count:
        assert time.monotonic() < end
    again = check(site, {DEVICES[0]: count})
    # What the killed bridge had given to its sockets is Kafka's, whenever it goes on.
    assert killed or not again


def test_a_bad_message_is_dead_once_and_told(site: Site) -> None:
    site.start_bridge()
    wait_for(site)
    device = Device(site, DEVICES[0])
    device.turn()
    device.until(device.client.is_connected)
    device.client.publish(readings(device.name), b'{"schema": 7}', qos=1)
    device.until(lambda: device.rejections)
    assert device.rejections[0].reason == "unknown-schema"
    # It may have been told from the spool, before Kafka has it.
    device.until(lambda: any(site.topic(DEAD_TOPIC).values()))
    ((value,),) = site.topic(DEAD_TOPIC).values()
    assert DeadLetter.from_bytes(value).topic == readings(device.name)


def test_a_device_publishes_its_own_readings_alone(site: Site) -> None:
    device = Device(site, DEVICES[0])
    device.until(device.client.is_connected)
    for topic in (readings(DEVICES[1]), acknowledgements(DEVICES[0]), "sensors/x/temperature"):
        device.client.publish(topic, b"x", qos=1)
    device.until(lambda: len(device.refused) == 3)
    assert set(device.refused) == {"Not authorized"}
