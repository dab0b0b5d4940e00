"""What an operator decides about the model registry: who runs it, its users, the keys it trusts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from components.datalake.postgres_config import PostgresDatabase
from components.model import (
    Model,
    Resources,
    SecretRef,
    Storage,
    immutable,
    problem,
    refuse,
)

NAME, NAMESPACE = "model-registry", "serving"
HOST = f"{NAME}.{NAMESPACE}.svc.cluster.local"
PUBLISHER, READER = "publisher", "reader"
USERS = (PUBLISHER, READER)
"""Who adds versions, and who reads them."""
PUBLISH_PORT, READ_PORT = 5000, 5001
"""Of the Service and of the pod: one door for each user."""
METRICS_PORT = 8405
LINKS = {PUBLISHER: "models-publish", READER: "models-read"}
"""Of the rehearsal's gateway, to the door of each user: by these `./estate model` speaks to it."""
TRUST = "model-trust"
"""ConfigMap of the public keys of which one must have signed a version."""
TRUST_KEY = "signing.pub"
EXTENSION = "pg_trgm"
"""Of PostgreSQL, which Nexus needs."""
VERIFY_REPOSITORY = "estate-verify"
"""Where checks push, and nobody else."""
# No account, no session and nothing with a wildcard: `Principal` takes those too.
_ARN = r"^arn:aws(?:-cn|-us-gov)?:iam::[0-9]{{12}}:{}/[A-Za-z0-9+=,.@_/-]{{1,512}}$"


class TrustedKey(Model):
    """A public key: its PEM here, or where it is to be had. It is no secret."""

    pem: str | None = Field(
        default=None, pattern=r"^-----BEGIN PUBLIC KEY-----\n", description="ECDSA P-256"
    )
    reference: SecretRef | None = None

    @model_validator(mode="after")
    def _one(self) -> TrustedKey:
        if (self.pem is None) == (self.reference is None):
            raise ValueError("a trusted key is either pem (the text itself) or reference")
        return self


class NexusConfig(Model):
    """Sonatype Nexus Repository, one instance (more need a Pro licence).

    Its database is one of `postgres.databases`, its blobs are on a claim. The free Community
    Edition serves nothing until its licence is accepted, which `accept_eula` does in your name.
    """

    admin: SecretRef
    database: str = immutable("nexus", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    repository: str = immutable("models", pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")
    accept_eula: bool = False
    keep_days: int = Field(
        default=0, ge=0, le=3650, description="of what nobody pulled; 0: everything is kept"
    )
    heap_mib: int = Field(default=2703, ge=1024, description="Sonatype's least for production")
    resources: Resources = Resources(
        cpu_request_m=500, memory_request_mib=6144, memory_limit_mib=6144
    )
    job_resources: Resources = Resources(
        cpu_request_m=10, memory_request_mib=32, memory_limit_mib=128
    )

    @model_validator(mode="after")
    def _fits(self) -> NexusConfig:
        # As much direct memory as heap, as Sonatype advises, and what Java itself takes.
        needed = self.heap_mib * 2 + 512
        if self.resources.memory_limit_mib < needed:
            text = f"at least {needed}: twice heap_mib ({self.heap_mib}) and 512 for Java itself"
            refuse([problem("resources.memory_limit_mib", self.resources.memory_limit_mib, text)])
        return self


class EcrConfig(Model):
    """Amazon ECR: a repository for each model in one account and region, and nothing in the cluster
    but what keeps the reader's token fresh.

    Who may add versions and who may read them are IAM's: an ARN each, of a role or a user. The
    reader is a role that EKS gives to a service account (IRSA).
    """

    account: str = immutable(pattern=r"^[0-9]{12}$", description="of AWS, 12 digits in quotes")
    region: str = immutable(pattern=r"^[a-z]{2}(-[a-z]+)+-[1-9]$")
    prefix: str | None = immutable(
        None,
        pattern=r"^[a-z0-9]+([._-][a-z0-9]+)*(/[a-z0-9]+([._-][a-z0-9]+)*)*$",
        max_length=128,
        description="before models/<name>: tells apart the environments of one account and region",
    )
    publisher: str = Field(pattern=_ARN.format("(role|user)"), description="ARN: adds versions")
    reader: str = Field(pattern=_ARN.format("role"), description="ARN: reads them")
    expire_untagged_days: int = Field(
        default=0, ge=0, le=3650, description="of manifests without a tag; 0: they are kept"
    )
    tags: dict[str, str] = Field(default_factory=dict, description="of everything that is AWS's")
    job_resources: Resources = Resources(
        cpu_request_m=10, memory_request_mib=64, memory_limit_mib=192
    )

    @model_validator(mode="after")
    def _two(self) -> EcrConfig:
        if self.publisher == self.reader:
            text = "the publisher too, so who serves models could change them; take two principals"
            refuse([problem("reader", self.reader, text)])
        return self

    @property
    def host(self) -> str:
        """The registry's, as Amazon ECR names it."""
        domain = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        return f"{self.account}.dkr.ecr.{self.region}.{domain}"

    @property
    def url(self) -> str:
        """Where versions are published and read: `models/<name>` is below."""
        return f"https://{self.host}" + (f"/{self.prefix}" if self.prefix is not None else "")

    def repository(self, model: str) -> str:
        """The name of a model's repository in ECR."""
        return (f"{self.prefix}/" if self.prefix is not None else "") + f"models/{model}"


_IN_CLUSTER = (*USERS, "storage", "resources", "proxy_resources")
"""Keys that only a registry in the cluster has a use for."""


class ModelRepositoryConfig(Model):
    """A registry by one of three implementations, with the same protocol and outputs.

    `distribution` is the CNCF's own registry; `nexus` is for a company that has one or wants its
    pages; `ecr` is Amazon's, for a cluster in AWS. `trusted_keys` are those of which one must have
    signed a version before it is served.
    """

    implementation: Literal["distribution", "nexus", "ecr"] = immutable("distribution")
    publisher: SecretRef | None = Field(
        default=None, description="password of the user who adds versions"
    )
    reader: SecretRef | None = Field(
        default=None, description="password of the user who reads them"
    )
    trusted_keys: list[TrustedKey] = Field(min_length=1)
    storage: Storage = Storage(size_gib=10)
    nexus: NexusConfig | None = None
    ecr: EcrConfig | None = None
    proxy_resources: Resources = Resources(
        cpu_request_m=10, memory_request_mib=32, memory_limit_mib=128
    )
    resources: Resources = Resources(cpu_request_m=20, memory_request_mib=32, memory_limit_mib=256)
    """Of each of the two processes of `distribution`."""
    protect: bool = True

    @model_validator(mode="after")
    def _of_its_implementation(self) -> ModelRepositoryConfig:
        found = []
        for name, needed in (
            ("nexus", "its admin and database"),
            ("ecr", "its account, region and principals"),
        ):
            declared = getattr(self, name) is not None
            if self.implementation == name and not declared:
                text = f"{needed} are needed; declare model_repository.{name}"
                found.append(problem(name, "missing", text))
            if self.implementation != name and declared:
                text = f"of another implementation than {self.implementation}; leave it out"
                found.append(problem(name, "declared", text))
        if self.implementation == "ecr":
            text = "of a registry in the cluster; leave it out: model_repository.ecr has its like"
            found += [
                problem(key, "declared", text)
                for key in _IN_CLUSTER
                if key in self.model_fields_set and getattr(self, key) is not None
            ]
        else:
            found += [
                problem(user, "missing", "say where the password of this user is ({file: ...})")
                for user in USERS
                if getattr(self, user) is None
            ]
        refuse(found)
        return self

    def key_files(self) -> list[str]:
        """The trusted keys that are files of the secrets' folder."""
        references = [one.reference for one in self.trusted_keys if one.reference is not None]
        return [one.file for one in references if one.file is not None]

    def passwords(self) -> dict[str, SecretRef]:
        """User -> where the password is; with ECR nobody has one."""
        given = {PUBLISHER: self.publisher, READER: self.reader}
        return {user: ref for user, ref in given.items() if ref is not None}


def postgres_problems(
    config: ModelRepositoryConfig, databases: Mapping[str, PostgresDatabase] | None
) -> list[dict[str, Any]]:
    """What Nexus needs of PostgreSQL, and is not declared; None: there is no PostgreSQL."""
    if config.nexus is None:
        return []
    if databases is None:
        text = "Nexus keeps its records in PostgreSQL; declare postgres too, or leave both"
        return [problem("model_repository", "declared", text)]
    name = config.nexus.database
    if name not in databases:
        text = f"database {name!r} (model_repository.nexus) is missing; add it"
        return [problem("postgres.databases", sorted(databases), text)]
    if EXTENSION not in databases[name].extensions:
        text = f"database {name!r} lacks extension {EXTENSION!r}, by which Nexus searches; add it"
        return [problem("postgres.databases", databases[name].extensions, text)]
    return []
