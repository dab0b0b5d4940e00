"""Mosquitto's configuration and the texts made from it: broker, ACLs, exporter, scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from components import shell
from components.model import (
    Model,
    Name,
    Resources,
    SecretRef,
    Storage,
    problem,
    refuse,
)
from services.collect import messages

PORT = 8883
METRICS_PORT = 9641
UID = 1883
VERIFY_TOPIC = "estate/verify"
"""Topic of the round trip check; the user `verify` may use it and nothing else."""
VERIFY_DEVICE = "verify-sensor"
"""The device that checks are."""

_METRICS = {
    "clients/connected": ("mosquitto_clients_connected", "gauge", "clients connected now"),
    "clients/disconnected": ("mosquitto_clients_disconnected", "gauge", "kept sessions offline"),
    "messages/received": ("mosquitto_messages_received_total", "counter", "packets received"),
    "messages/sent": ("mosquitto_messages_sent_total", "counter", "packets sent"),
    "publish/messages/received": ("mosquitto_publish_received_total", "counter", "PUBLISH in"),
    "publish/messages/sent": ("mosquitto_publish_sent_total", "counter", "PUBLISH out"),
    "publish/messages/dropped": (
        "mosquitto_publish_dropped_total",
        "counter",
        "messages dropped because a client's queue was full",
    ),
    "subscriptions/count": ("mosquitto_subscriptions", "gauge", "active subscriptions"),
    "store/messages/count": ("mosquitto_stored_messages", "gauge", "messages held by the broker"),
    "heap/current": ("mosquitto_heap_bytes", "gauge", "heap in use"),
}


class Acl(Model):
    """What a user may do with topics of a filter."""

    topic: str = Field(min_length=1, max_length=1024, pattern=r"^[^\x00-\x20]+$")
    access: Literal["read", "write", "readwrite"]

    @model_validator(mode="after")
    def _wildcards(self) -> Acl:
        levels = self.topic.split("/")
        if "#" in "".join(levels[:-1]) or ("#" in levels[-1] and levels[-1] != "#"):
            refuse([problem("topic", self.topic, "`#` stands alone, and only as the last level")])
        if any("+" in level and level != "+" for level in levels):
            refuse([problem("topic", self.topic, "`+` stands alone in its level")])
        return self


class MosquittoUser(Model):
    """A user of the broker; without ACL it may connect and do nothing."""

    name: Name
    password: SecretRef
    acl: list[Acl] = Field(default_factory=list)


class MosquittoDevice(Model):
    """A sensor: a user that publishes its own readings and reads its own acknowledgements.

    Its rules name it. A `pattern` with `%u` would hold for every user of the broker.
    """

    name: Name
    password: SecretRef

    @property
    def user(self) -> MosquittoUser:
        """With its rules."""
        acl = [
            Acl(topic=messages.readings(self.name), access="write"),
            Acl(topic=messages.acknowledgements(self.name), access="read"),
        ]
        return MosquittoUser(name=self.name, password=self.password, acl=acl)


class MosquittoConfig(Model):
    """The broker: one replica with its queue on a claim (Mosquitto has no cluster mode)."""

    users: list[MosquittoUser] = Field(min_length=1)
    devices: list[MosquittoDevice] = Field(default_factory=list)
    storage: Storage = Storage(size_gib=1)
    resources: Resources = Resources(cpu_request_m=20, memory_request_mib=24, memory_limit_mib=128)
    exporter_resources: Resources = Resources(
        cpu_request_m=5, memory_request_mib=16, memory_limit_mib=64
    )
    max_queued_messages: int = Field(
        default=10_000, ge=1, description="messages held for one offline client (QoS 1 and 2)"
    )
    max_packet_bytes: int = Field(default=262_144, ge=1024, le=268_435_455)
    sys_interval_s: int = Field(default=10, ge=1, le=3600)
    protect: bool = True

    @model_validator(mode="after")
    def _users(self) -> MosquittoConfig:
        names = [user.name for user in self.users]
        problems = [
            problem(f"users.{i}.name", name, "declared twice; every user once")
            for i, name in enumerate(names)
            if name in names[:i]
        ]
        problems += [
            problem("users", names, f"the estate's own user {needed!r} ({why}) is missing; add it")
            for needed, why in (("verify", "checks"), ("exporter", "metrics"))
            if needed not in names
        ]
        devices = [device.name for device in self.devices]
        problems += [
            problem(f"devices.{i}.name", name, "declared twice; every device and user once")
            for i, name in enumerate(devices)
            if name in names or name in devices[:i]
        ]
        refuse(problems)
        return self

    @property
    def everyone(self) -> list[MosquittoUser]:
        """Users, and devices as users."""
        return [*self.users, *(device.user for device in self.devices)]


def server_config(config: MosquittoConfig) -> str:
    """mosquitto.conf: one TLS listener, no anonymous clients, durable sessions on the claim."""
    return "\n".join(
        [
            f"listener {PORT}",
            "protocol mqtt",
            "certfile /mosquitto/tls/tls.crt",
            "keyfile /mosquitto/tls/tls.key",
            "tls_version tlsv1.2",
            # A reading would wait for the acknowledgement of the packet before it, up to 40 ms.
            "set_tcp_nodelay true",
            "allow_anonymous false",
            "password_file /mosquitto/auth/passwords",
            "acl_file /mosquitto/config/acl",
            "persistence true",
            "persistence_location /mosquitto/data/",
            "autosave_interval 30",
            f"max_queued_messages {config.max_queued_messages}",
            f"max_packet_size {config.max_packet_bytes}",
            f"sys_interval {config.sys_interval_s}",
            "log_dest stdout",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "log_timestamp_format %Y-%m-%dT%H:%M:%S",
            "",
        ]
    )


def open_server_config(config: MosquittoConfig) -> str:
    """The same without passwords: what the fault of the password check installs."""
    return (
        server_config(config)
        .replace("allow_anonymous false", "allow_anonymous true")
        .replace("password_file /mosquitto/auth/passwords\n", "")
    )


def acl_file(config: MosquittoConfig, overrides: Mapping[str, Sequence[Acl]] | None = None) -> str:
    """The ACL file; `overrides` replaces the rules of single users (for faults)."""
    lines = []
    for user in config.everyone:
        lines.append(f"user {user.name}")
        rules = (overrides or {}).get(user.name, user.acl)
        lines += [f"topic {rule.access} {rule.topic}" for rule in rules]
        lines.append("")
    return "\n".join(lines)


def exporter_config(user: str, service: str) -> str:
    """Configuration of prometheus-mqtt-exporter (JSON is YAML): the broker's $SYS tree."""
    return json.dumps(
        {
            "mqtt": {
                # By the service's name, because that is what the certificate says.
                "server": f"ssl://{service}:{PORT}",
                "user": user,
                "client_id": "estate-exporter",
                "topic_path": "$SYS/broker/#",
                "device_id_regex": r"\$SYS/(?P<deviceid>broker)/.*",
                "metric_per_topic_config": {
                    "metric_name_regex": r"\$SYS/broker/(?P<metricname>.*)"
                },
                "qos": 0,
            },
            # $SYS topics are published when they change: the last value stays valid.
            "cache": {"timeout": "-1ns"},
            "metrics": [
                {
                    "prom_name": prom_name,
                    "mqtt_name": topic,
                    "help": text,
                    "type": kind,
                    "omit_timestamp": True,
                }
                for topic, (prom_name, kind, text) in _METRICS.items()
            ],
        },
        indent=1,
    )


HASH_PASSWORDS = """\
#!/bin/sh
# Writes the password file: names and passwords come from files, never from an argument list.
set -eu
umask 077
target=/mosquitto/auth/passwords
: > "$target.plain"
for file in /mosquitto/users/*; do
  printf '%s:%s\\n' "${file##*/}" "$(cat "$file")" >> "$target.plain"
done
mosquitto_passwd -U "$target.plain"
mv "$target.plain" "$target"
"""

EXPORT = f"""\
#!/bin/sh
# Runs the exporter, which reads whom it trusts once: again, when that has changed.
set -eu
fingerprint() {{ cksum < "$SSL_CERT_FILE"; }}
stopping=
trap 'stopping=1' TERM INT
while [ -z "$stopping" ]; do
  before=$(fingerprint)
  /usr/bin/prometheus-mqtt-exporter -config /exporter/config/exporter.yaml \\
    -listen-port {METRICS_PORT} -log-level warn -treat-mqtt-password-as-file-name=true &
  exporter=$!
  while kill -0 "$exporter" 2>/dev/null && [ -z "$stopping" ] \\
    && [ "$(fingerprint)" = "$before" ]; do
    sleep 5 & wait $! || true
  done
  kill "$exporter" 2>/dev/null || [ -n "$stopping" ] || exit 1
  wait "$exporter" || true
done
"""

SERVE = """\
#!/bin/sh
# Runs the broker and tells it (SIGHUP) when cert-manager has renewed its certificate.
set -eu
fingerprint() { cksum < /mosquitto/tls/tls.crt; }
before=$(fingerprint)  # of what is read below, so that no change falls between
mosquitto -c /mosquitto/config/mosquitto.conf &
broker=$!
watch() {
  while sleep 10; do
    now=$(fingerprint)
    if [ "$now" != "$before" ]; then
      before=$now
      echo "certificate renewed: reloading"
      kill -HUP "$broker" || exit 0
    fi
  done
}
"""
SERVE += shell.until_it_ends("broker", watch="watch")
