"""What the bridge is told: one JSON file, made by the component that deploys it."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MqttSettings(_Strict):
    """The broker. `receive_maximum` messages are on their way unacknowledged at the most."""

    host: str
    port: int
    user: str
    password: Path
    client_id: str
    session_s: int = Field(ge=60, description="how long the broker keeps messages for the bridge")
    receive_maximum: int = Field(ge=1, le=65_535)


class KafkaSettings(_Strict):
    """The log, and how many records of each partition are read when the bridge begins."""

    bootstrap: str
    user: str
    password: Path
    linger_ms: int = Field(ge=0)
    tail: int = Field(ge=0)


class SpoolSettings(_Strict):
    """Where what waits for Kafka is kept, and how much of it."""

    folder: Path
    limit_mib: int = Field(ge=1)


class ServerSettings(_Strict):
    """Metrics and probes, by TLS."""

    port: int
    certificate: Path
    key: Path


class Settings(_Strict):
    """Addresses, files with what is secret, limits. `trust` verifies the broker and Kafka."""

    mqtt: MqttSettings
    kafka: KafkaSettings
    spool: SpoolSettings
    server: ServerSettings
    trust: Path
    patience_s: float = Field(gt=0, description="how long Kafka may take before it is spooled")
    window: int = Field(ge=1)
    acknowledge_ms: int = Field(ge=1, description="between acknowledgements of one device")
    boots: int = Field(ge=1, description="lives of devices' counters that are remembered")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Raises OSError and pydantic's ValidationError."""
        return cls.model_validate_json(file.read_text(encoding="utf-8"))


def secret(path: Path) -> str:
    """The content of a secret's file, without the line's end that an editor leaves."""
    return path.read_text(encoding="utf-8").rstrip("\n")
