"""What the console is told: one JSON file, made by the component that deploys it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")
"""From the one who may least; each may what those before it may."""


_OWN: dict[str, Role] = {role: role for role in ROLES}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Issuer(_Strict):
    """An OIDC issuer whose tokens are taken.

    Its keys are a JWK set at `jwks_url` (`trust` verifies that server; unset: the system's
    authorities) or in `jwks_file`, or the one public key of the PEM certificate `certificate`.
    `role_claim` is a path of claims with dots (`realm_access.roles`); `roles` maps what is found
    there to the console's roles, everything else there means nothing.
    """

    issuer: str = Field(min_length=1)
    audience: str = Field(min_length=1)
    algorithms: list[Literal["RS256", "ES256"]] = Field(default=["RS256", "ES256"], min_length=1)
    jwks_url: str | None = Field(default=None, pattern=r"^https://")
    jwks_file: Path | None = None
    certificate: Path | None = None
    trust: Path | None = None
    role_claim: str = Field(default="roles", min_length=1)
    roles: dict[str, Role] = Field(default_factory=lambda: _OWN.copy())

    @model_validator(mode="after")
    def _one_source(self) -> Issuer:
        sources = (self.jwks_url, self.jwks_file, self.certificate)
        if sum(source is not None for source in sources) != 1:
            raise ValueError("an issuer has exactly one of jwks_url, jwks_file and certificate")
        return self


class Kafka(_Strict):
    """Topics and consumer groups."""

    bootstrap: str
    user: str
    password: Path


class Documents(_Strict):
    """MongoDB's protocol; `url` has no credentials."""

    url: str
    user: str
    password: Path
    database: str = "lake"


class Objects(_Strict):
    """S3; `buckets` are those that are shown (a user is told of his own alone), each with the bytes
    that its owner may have in all of his together, if that is bounded.
    """

    endpoint: str
    region: str = "us-east-1"
    access_key: Path
    secret_key: Path
    buckets: dict[str, int | None] = Field(default_factory=dict)
    images: str = "images"
    datasets: str = "datasets"


class Catalogue(_Strict):
    """The catalogue in PostgreSQL, which is read and never written."""

    host: str
    port: int = 5432
    database: str = "catalogue"
    user: str = "console"
    password: Path
    connections: int = Field(default=4, ge=1, le=100)


class Uploads(_Strict):
    """The image-transfer server: `key` signs its tokens, `url` is where uploads go."""

    url: str
    key: Path


class Limits(_Strict):
    """What one caller, or one request, may take."""

    body_kib: int = Field(default=64, ge=1)
    requests_per_minute: int = Field(default=600, ge=1, description="of one subject, per replica")
    concurrent: int = Field(default=64, ge=1, description="requests at a time, per replica")
    backend_timeout_s: float = Field(default=5, gt=0)
    verify_s: float = Field(default=20, gt=0, description="how long a dataset is verified at most")
    link_s: int = Field(default=300, ge=1, description="how long a presigned address is good")
    upload_token_s: int = Field(default=3600, ge=60, description="the longest upload token")


class Settings(_Strict):
    """Addresses, and the files with what is secret. What is unset is not there to be asked."""

    port: int = 8443
    internal_port: int = 8405
    host: str = "0.0.0.0"
    tls_certificate: Path
    tls_key: Path
    trust: Path
    documentation: Path | None = Field(default=None, description="folder with Swagger UI's files")
    issuers: list[Issuer] = Field(min_length=1)
    kafka: Kafka | None = None
    documents: Documents | None = None
    objects: Objects | None = None
    catalogue: Catalogue | None = None
    uploads: Uploads | None = None
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _issuers_once(self) -> Settings:
        names = [one.issuer for one in self.issuers]
        if len(set(names)) < len(names):
            raise ValueError(f"issuers: each once; got {names}")
        return self


def load(path: Path) -> Settings:
    """The settings of a file. Raises OSError, ValueError."""
    return Settings.model_validate_json(path.read_text(encoding="utf-8"))


def secret(path: Path) -> str:
    """The content of a secret's file, without the line's end that an editor leaves."""
    return path.read_text(encoding="utf-8").rstrip("\n")


def claim(claims: dict[str, Any], path: str) -> list[str]:
    """The texts at a path of claims (`realm_access.roles`): a text is a list of one, else none."""
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, str):
        value = [value]
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
