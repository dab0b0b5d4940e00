"""What the service is told: one JSON file, made by the component that deploys it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """What is taken. More than `upload_mib` is refused before it is sent, the rest afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    upload_mib: int = Field(ge=1)
    image_mib: int = Field(ge=1)
    megapixels: int = Field(ge=1)
    batch_members: int = Field(ge=1)


class Settings(BaseModel):
    """Addresses, and the files with what is secret. `trust` verifies the store and Kafka."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int
    page: Path
    endpoint: str
    region: str
    bucket: str
    access_key: Path
    secret_key: Path
    bootstrap: str
    user: str
    password: Path
    trust: Path
    limits: Limits
    workers: int = Field(ge=1)
    sweep_s: float = Field(gt=0)
    window_h: int = Field(ge=1, description="how old an unfinished upload may be to be looked for")


def secret(path: Path) -> str:
    """The content of a secret's file, without the line's end that an editor leaves."""
    return path.read_text(encoding="utf-8").rstrip("\n")
