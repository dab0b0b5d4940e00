"""What the programs are told: one JSON file each, made by the component that deploys them."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from model_repo import signing
from model_repo.oci import Registry
from model_repo.repository import Repository
from services.serving.model import Track


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Raises pydantic's ValidationError."""
        return cls.model_validate_json(file.read_text(encoding="utf-8"))


class RegistrySettings(_Strict):
    """Where versions are read, by whom, and whose signatures count. Files are read anew each time:
    certificates and passwords change.
    """

    url: str = Field(pattern=r"^https://")
    ca: Path | None
    """None: its certificate is by a public authority."""
    username: Path
    password: Path
    trust: Path

    def repository(self) -> Repository:
        """A client for one piece of work. Raises OciError."""
        user = self.username.read_text().strip(), self.password.read_text().strip()
        registry = Registry(self.url, user, ca=self.ca)
        return Repository(registry, signing.trusted([self.trust]))


class ServerSettings(_Strict):
    """Where a program serves metrics and what it knows, by TLS."""

    port: int
    certificate: Path
    key: Path


class SyncSettings(_Strict):
    """The sidecar of one Triton."""

    namespace: str
    track: Track
    pool: str
    registry: RegistrySettings
    repository: Path
    """Triton's model repository."""
    versions: Path
    """What was pulled, to which it leads."""
    triton: str = "http://127.0.0.1:8000"
    native: bool = False
    gpu: bool = False
    server: ServerSettings


class ControlSettings(_Strict):
    """The controller of rollouts."""

    namespace: str
    registry: RegistrySettings
    triton_port: int
    metrics_port: int
    sync_port: int
    sync_name: str
    """In the certificate of the sidecars."""
    gateway_selector: str
    gateway_port: int
    gateway_name: str
    """In the certificate of the gateway."""
    pools: tuple[str, ...]
    ca: Path
    client_certificate: Path
    client_key: Path
    server: ServerSettings
