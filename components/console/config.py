"""What an operator decides about the console: whose tokens are taken, and how much it takes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from components.datalake.kafka_config import KafkaConfig
from components.model import Model, Resources, Spread, problem, refuse

NAMESPACE = "datalake"
USER = "console"
"""Of Kafka, the documents, the object store and PostgreSQL."""
CATALOGUE = "catalogue"
"""The database that it reads."""
PORT, CLIENTS_PORT, INTERNAL_PORT = 443, 8443, 8405
TOKEN_SECRET = "console-tokens"
"""Its `tls.key` signs the tokens of the estate's own issuer; the console gets the certificate."""
Role = Literal["viewer", "operator", "admin"]


class ConsoleIssuer(Model):
    """An OIDC issuer whose tokens are taken; Keycloak's `role_claim` is `realm_access.roles`.

    Its keys are asked for at `jwks_url`, or are the JWK set `jwks`, which holds public keys only.
    """

    issuer: str = Field(min_length=1)
    audience: str = Field(min_length=1)
    algorithms: list[Literal["RS256", "ES256"]] = Field(default=["RS256", "ES256"], min_length=1)
    jwks_url: str | None = Field(default=None, pattern=r"^https://")
    jwks: dict[str, Any] | None = Field(default=None, description="{keys: [...]} (RFC 7517)")
    role_claim: str = Field(default="roles", min_length=1)
    roles: dict[str, Role] = Field(min_length=1, description="role of the issuer -> of the console")

    @model_validator(mode="after")
    def _one_source(self) -> ConsoleIssuer:
        found = []
        if (self.jwks_url is None) == (self.jwks is None):
            text = "exactly one of jwks_url and jwks; without keys no token can be verified"
            found.append(problem("jwks_url", self.jwks_url, text))
        if any("d" in key for key in (self.jwks or {}).get("keys", []) if isinstance(key, dict)):
            text = "a private key (`d`) belongs to the issuer alone; give its public half"
            found.append(problem("jwks", "(a hidden value)", text))
        refuse(found)
        return self


class ConsoleConfig(Model):
    """The REST API. With `own_issuer` the estate signs tokens too (`./estate token`): for where
    there is no other issuer yet.
    """

    replicas: int = Field(default=2, ge=1, le=16)
    own_issuer: bool = False
    issuers: list[ConsoleIssuer] = Field(default_factory=list)
    requests_per_minute: int = Field(
        default=600, ge=1, le=1_000_000, description="of one subject, per replica"
    )
    concurrent: int = Field(default=64, ge=1, le=10_000, description="requests, per replica")
    backend_timeout_s: int = Field(default=5, ge=1, le=60)
    catalogue_connections: int = Field(default=4, ge=1, le=100, description="per replica")
    upload_token_s: int = Field(default=3600, ge=60, le=86_400)
    resources: Resources = Resources(cpu_request_m=50, memory_request_mib=128, memory_limit_mib=384)
    spread: Spread = "prefer"

    @model_validator(mode="after")
    def _has_issuers(self) -> ConsoleConfig:
        found = []
        if not self.issuers and not self.own_issuer:
            found.append(
                problem("issuers", [], "somebody must sign tokens; name one, or set own_issuer")
            )
        names = [one.issuer for one in self.issuers]
        for i, name in enumerate(names):
            if name in names[:i] or (self.own_issuer and name == "estate"):
                found.append(problem(f"issuers.{i}.issuer", name, "declared twice; each once"))
        refuse(found)
        return self


def kafka_problems(kafka: KafkaConfig | None) -> list[dict[str, Any]]:
    """What the console lacks of a Kafka that is declared."""
    if kafka is None or any(user.name == USER for user in kafka.users):
        return []
    names = [user.name for user in kafka.users]
    return [problem("kafka.users", names, f"the console's user {USER!r} is missing; declare it")]
