"""Probes of Mosquitto: a round trip, a wrong password, a foreign topic."""

from __future__ import annotations

import queue
import ssl
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from tests.state.probes import ProbeContext, probe

TIMEOUT_S = 10.0
Secret = Mapping[str, str]
Event = tuple[str, Any]


class _Session:
    """An MQTT 5 client whose callbacks become events: in MQTT 5 refusals carry their reason."""

    def __init__(
        self, ctx: ProbeContext, host: str, port: int, username: str, password: str, ca: Secret
    ) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"estate-verify-{uuid.uuid4().hex[:12]}",
            protocol=mqtt.MQTTv5,
        )
        client.username_pw_set(username, password)
        client.tls_set_context(ssl.create_default_context(cadata=ctx.secret(ca).decode()))
        client.on_connect = lambda _c, _u, _f, code, _p: self.events.put(("connect", code))
        client.on_subscribe = lambda _c, _u, _m, codes, _p: self.events.put(("subscribe", codes))
        client.on_publish = lambda _c, _u, _m, code, _p: self.events.put(("publish", code))
        client.on_message = lambda _c, _u, message: self.events.put(("message", message))
        self.client, self.address = client, (host, port)

    def expect(self, kind: str) -> Any:
        """The next event of a kind; AssertionError when it does not come in time."""
        end = time.monotonic() + TIMEOUT_S
        while (left := end - time.monotonic()) > 0:
            try:
                found, value = self.events.get(timeout=left)
            except queue.Empty:
                break
            if found == kind:
                return value
        raise AssertionError(f"no {kind} from {self.address[0]} within {TIMEOUT_S:.0f} s")

    def connect(self) -> ReasonCode:
        """The broker's answer to CONNECT."""
        try:
            self.client.connect(*self.address, keepalive=20)
        except OSError as error:
            raise AssertionError(f"{self.address[0]}:{self.address[1]}: {error}") from None
        self.client.loop_start()
        code = self.expect("connect")
        assert isinstance(code, ReasonCode)
        return code


@contextmanager
def _session(
    ctx: ProbeContext, host: str, port: int, username: str, password: str, ca: Secret
) -> Iterator[_Session]:
    session = _Session(ctx, host, port, username, password, ca)
    try:
        yield session
    finally:
        session.client.disconnect()
        session.client.loop_stop()


@probe("mosquitto_round_trip")
def round_trip(
    ctx: ProbeContext,
    *,
    host: str,
    port: int,
    username: str,
    password: Secret,
    ca: Secret,
    topic: str,
) -> str:
    """Publish at QoS 1 and get the same payload back by the subscription."""
    with _session(ctx, host, port, username, ctx.secret(password).decode(), ca) as session:
        code = session.connect()
        assert not code.is_failure, f"connect as {username}: {code}"
        session.client.subscribe(topic, qos=1)
        granted = session.expect("subscribe")[0]
        assert not granted.is_failure, f"subscribe to {topic}: {granted}"
        payload = uuid.uuid4().bytes
        began = time.monotonic()
        session.client.publish(topic, payload, qos=1)
        while (message := session.expect("message")).payload != payload:
            continue  # another run's
        return f"round trip {(time.monotonic() - began) * 1000:.0f} ms on {message.topic}"


@probe("mosquitto_wrong_password")
def wrong_password(
    ctx: ProbeContext, *, host: str, port: int, username: str, password: Secret, ca: Secret
) -> str:
    """CONNACK must say "not authorised": refused for its password, and for nothing else."""
    wrong = ctx.secret(password).decode() + "-wrong"
    with _session(ctx, host, port, username, wrong, ca) as session:
        code = session.connect()
    assert code.is_failure, f"user {username} was accepted with a wrong password"
    refusals = [
        ReasonCode(PacketTypes.CONNACK, name)
        for name in ("Not authorized", "Bad user name or password")
    ]
    assert code in refusals, f"refused, but not by authentication: {code}"
    return f"CONNACK: {code}"


@probe("mosquitto_foreign_topic")
def foreign_topic(
    ctx: ProbeContext,
    *,
    host: str,
    port: int,
    username: str,
    password: Secret,
    ca: Secret,
    topic: str,
) -> str:
    """A publication to a topic that is not the user's must be answered with "not authorised"."""
    with _session(ctx, host, port, username, ctx.secret(password).decode(), ca) as session:
        code = session.connect()
        assert not code.is_failure, f"connect as {username}: {code}"
        session.client.publish(topic, b"estate", qos=1)
        answer = session.expect("publish")
    assert answer.is_failure, f"{username} published to {topic}, which is not its topic"
    assert answer == ReasonCode(PacketTypes.PUBACK, "Not authorized"), f"PUBACK: {answer}"
    return f"PUBACK: {answer}"
