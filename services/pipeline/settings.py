"""What the pipeline is told: one JSON file, made by the component that deploys it."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

VARIABLE = "PIPELINE_SETTINGS"
"""Names the file; Dagster imports the pipeline and hands it no arguments."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Strict):
    """What is taken, and what it becomes."""

    image_mib: int = Field(default=64, ge=1)
    megapixels: int = Field(default=100, ge=1)
    side_px: int = Field(default=1024, ge=64, description="longest side of a stored image")
    quality: int = Field(default=90, ge=50, le=95, description="of JPEG")
    near_bits: int = Field(
        default=3, ge=0, le=3, description="perceptual hashes no further apart are one image's"
    )
    batch: int = Field(default=400, ge=1, le=10_000, description="images of one run")


class S3(_Strict):
    """The object store; an unset `trust` takes the system's authorities."""

    endpoint: str
    region: str = "us-east-1"
    access_key: Path
    secret_key: Path
    images: str = "images"
    datasets: str = "datasets"


class Kafka(_Strict):
    """Where images are announced."""

    bootstrap: str
    user: str
    password: Path
    group: str = "pipeline"


class Mongo(_Strict):
    """Where documents go; `url` has no credentials."""

    url: str
    user: str
    password: Path
    database: str = "lake"
    collection: str = "images"


class Postgres(_Strict):
    """A database, always by TLS."""

    host: str
    port: int = 5432
    database: str
    user: str
    password: Path


class Settings(_Strict):
    """Addresses, and the files with what is secret. `trust` verifies every server."""

    s3: S3
    kafka: Kafka
    mongo: Mongo
    catalogue: Postgres
    dagster: Postgres
    trust: Path
    limits: Limits = Limits()
    readers: list[str] = Field(default_factory=list, description="roles that read the catalogue")
    metrics_port: int = 9108
    parallel: int = Field(default=1, ge=1, le=64, description="runs at once")


def load(path: Path | None = None) -> Settings:
    """The settings of a file, or of the one that VARIABLE names. Raises OSError, ValueError."""
    file = path or Path(os.environ[VARIABLE])
    return Settings.model_validate_json(file.read_text(encoding="utf-8"))


def secret(path: Path) -> str:
    """The content of a secret's file, without the line's end that an editor leaves."""
    return path.read_text(encoding="utf-8").rstrip("\n")
