"""What the annotation service is told: one JSON file, made by the component that deploys it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

VARIABLE = "ANNOTATION_SETTINGS"
"""Names the file."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(_Strict):
    """Supervisely's server; an unset `ca` takes the authorities that Python's `requests` has."""

    url: str = Field(pattern=r"^https://[^/\s]+$", description="without a path")
    token: Path
    ca: Path | None = None
    team: str
    workspace: str
    project: str
    attempts: int = Field(default=8, ge=1, le=20, description="of one request")
    wait_s: int = Field(default=2, ge=0, le=60, description="before the second; doubled each time")


class S3(_Strict):
    """The object store."""

    endpoint: str
    region: str = "us-east-1"
    access_key: Path
    secret_key: Path
    trust: Path
    images: str = "images"
    datasets: str = "datasets"


class Class(_Strict):
    """A class of objects. Of other shapes the SDK's converter to COCO makes nothing."""

    name: str = Field(min_length=1)
    shape: Literal["rectangle", "polygon", "bitmap"]


class Sent(_Strict):
    """A dataset version that is to be annotated."""

    name: str
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")

    @property
    def dataset(self) -> str:
        """What it is called there."""
        return f"{self.name}-{self.digest[:16]}"


class Serve(_Strict):
    """For `serve`: a run every so often, stopped when it takes too long; metrics over TLS."""

    port: int = Field(ge=1, le=65_535)
    certificate: Path
    key: Path
    every_s: int = Field(ge=1)
    longest_s: int = Field(ge=1)


class Settings(_Strict):
    """Addresses, files with what is secret, and what is annotated as what."""

    server: Server
    s3: S3
    classes: list[Class] = Field(min_length=1)
    finished: str = Field(default="finished", description="tag of an image whose labels are done")
    versions: list[Sent] = Field(default_factory=list)
    batch: int = Field(default=50, ge=1, le=500, description="images of one request")
    serve: Serve | None = None


def load(path: Path | None = None) -> Settings:
    """The settings of a file, or of the one that VARIABLE names. Raises OSError, ValueError."""
    file = path or Path(os.environ[VARIABLE])
    return Settings.model_validate_json(file.read_text(encoding="utf-8"))
