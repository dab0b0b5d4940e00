"""What must be true of running collection, and how each statement is broken to prove it."""

from __future__ import annotations

from pydantic import JsonValue

from components.checks import Check, Fault, SecretKeyRef, settings_fault
from components.realtime.collect_config import NAME, NAMESPACE
from components.realtime.mosquitto_config import VERIFY_DEVICE


def collect_checks(*, mqtt: tuple[str, int], kafka: str, misled: str, mute: Fault) -> list[Check]:
    """The checks of the bridge; `misled` is a settings.json whose Kafka is nowhere, `mute` makes
    Mosquitto refuse what it tells devices.
    """
    host, port = mqtt

    def secret(of: str, key: str, namespace: str = NAMESPACE) -> dict[str, JsonValue]:
        return SecretKeyRef(namespace=namespace, secret=of, key=key).arg()

    ca = secret(f"{NAME}-tls", "ca.crt")
    args: dict[str, JsonValue] = {
        "mqtt": {
            "host": host,
            "port": port,
            "username": VERIFY_DEVICE,
            "password": secret(f"mosquitto-{VERIFY_DEVICE}", "password"),
            "ca": ca,
        },
        "kafka": {
            "bootstrap": kafka,
            "username": "verify",
            "password": secret("kafka-verify", "password", "datalake"),
            "ca": ca,
        },
    }
    # Messages are taken and acknowledged, from the spool, and come to no topic.
    nowhere = settings_fault(NAMESPACE, f"{NAME}-config", {"settings.json": misled}, restart=NAME)
    return [
        Check(
            id=f"{NAME}.round-trip",
            title="a reading of a device is in Kafka, once, and its device is told",
            probe="collect_round_trip",
            args=args,
            fault=nowhere,
        ),
        Check(
            id=f"{NAME}.dead-letter",
            title="a message that names another device is a dead letter, and its device is told",
            probe="collect_dead_letter",
            args=args,
            fault=mute,
        ),
    ]
