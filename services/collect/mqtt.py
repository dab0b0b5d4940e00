"""The broker: one durable session, acknowledged by hand, on the caller's thread."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from services.collect.messages import SUBSCRIPTION, Acknowledgement, Rejection, acknowledgements
from services.collect.settings import MqttSettings, secret

_log = logging.getLogger("collect")
_KEEPALIVE_S = 20
_BETWEEN_S = 1.0
"""Between two attempts to connect."""
_QUEUED = 1000
"""Answers to devices that wait for the broker; what is not told is told later."""


class Token(NamedTuple):
    """A message of one connection: in another one its packet identifier may be another's."""

    connection: int
    mid: int
    qos: int


class Mqtt:
    """`took` gets topic, payload and token; `renewed` is called when there is a new connection."""

    def __init__(
        self,
        settings: MqttSettings,
        trust: str,
        took: Callable[[str, bytes, Token], None],
        renewed: Callable[[], None],
    ) -> None:
        self._settings, self._took, self._renewed = settings, took, renewed
        self._connection = 0
        self._open = False
        self._tried_at = float("-inf")
        self._came = False
        self.subscribed = False
        """Whether the broker sends what devices publish."""
        self._client = client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.username_pw_set(settings.user, secret(settings.password))
        client.tls_set_context(ssl.create_default_context(cafile=trust))
        client.max_queued_messages_set(_QUEUED)
        client.on_socket_open = _at_once
        client.on_connect = self._connected
        client.on_subscribe = self._granted
        client.on_message = self._message
        self._properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        self._properties.SessionExpiryInterval = settings.session_s
        # Without it Mosquitto sends max_inflight_messages, 20 by default, and then waits.
        self._properties.ReceiveMaximum = settings.receive_maximum

    def turn(self, wait_s: float, longest_s: float) -> None:
        """Wait for messages so long, then take what is there, for `longest_s` at the most."""
        if not self._open and not self._connect(wait_s):
            return
        end = time.monotonic() + longest_s
        self._came = False
        self._loop(wait_s)
        while self._came and self._open and time.monotonic() < end:
            self._came = False
            self._loop(0)

    def acknowledge(self, token: Token) -> None:
        """PUBACK, where the connection is still the one that the message came by."""
        if token.connection == self._connection and self._open:
            self._client.ack(token.mid, token.qos)

    def publish(self, device: str, answer: Acknowledgement | Rejection) -> bool:
        """To the device's topic at QoS 1; an acknowledgement is retained: it stays true."""
        if not self.subscribed:
            return False
        sent = self._client.publish(
            acknowledgements(device),
            answer.to_bytes(),
            qos=1,
            retain=isinstance(answer, Acknowledgement),
        )
        # Without a connection the client has it, and sends it with the next one.
        return sent.rc in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN)

    def close(self) -> None:
        """Leave; the session stays, and the broker keeps what comes."""
        if self._open:
            self._client.disconnect()
            self._client.loop(0.2)
            self._open = self.subscribed = False

    def _connect(self, wait_s: float) -> bool:
        if time.monotonic() - self._tried_at < _BETWEEN_S:
            time.sleep(wait_s)
            return False
        self._tried_at = time.monotonic()
        try:
            self._client.connect(
                self._settings.host,
                self._settings.port,
                keepalive=_KEEPALIVE_S,
                clean_start=False,
                properties=self._properties,
            )
        except OSError as error:
            _log.warning("mqtt: %s", error)
            return False
        # What the broker sends from here on belongs to the new connection.
        self._connection += 1
        self._open = True
        self._renewed()
        return True

    def _loop(self, timeout: float) -> None:
        try:
            code = self._client.loop(timeout)
        except OSError as error:
            _log.warning("mqtt: %s", error)
            code = MQTTErrorCode.MQTT_ERR_CONN_LOST
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            if self._open:
                _log.warning("mqtt: connection lost: %s", code.name)
            self._open = self.subscribed = False

    def _connected(
        self, client: mqtt.Client, _: Any, flags: mqtt.ConnectFlags, reason: Any, __: Any
    ) -> None:
        if reason.is_failure:
            _log.error("mqtt: refused: %s", reason)
            return
        _log.info("mqtt: connected, session %s", "kept" if flags.session_present else "new")
        client.subscribe(SUBSCRIPTION, qos=1)

    def _granted(self, _: mqtt.Client, __: Any, ___: int, reasons: list[Any], ____: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            _log.error("mqtt: subscription refused: %s", reasons[0])
            return
        self.subscribed = True

    def _message(self, _: mqtt.Client, __: Any, message: mqtt.MQTTMessage) -> None:
        self._came = True
        token = Token(self._connection, message.mid, message.qos)
        self._took(message.topic, bytes(message.payload), token)


def _at_once(_: mqtt.Client, __: Any, opened: Any) -> None:
    """Acknowledgements are small: none waits for TCP's acknowledgement of the one before it."""
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
