"""What an operator decides about the documents: users, and who serves MongoDB's protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from components.datalake.postgres_config import IDENTIFIER, PostgresConfig
from components.model import (
    Model,
    Name,
    Resources,
    SecretRef,
    Spread,
    Storage,
    immutable,
    problem,
    refuse,
)

NAMESPACE = "datalake"
PORT = 27017
VERIFY_USER = "verify"
VERIFY_DATABASE = "estate_verify"
AUTH_DATABASE = "admin"
"""Where users are kept, and what clients authenticate against."""
RESERVED = ("tls", "config", "keyfile", "agent-password", "metrics", "backend", "users")
"""Users whose Secret `mongodb-<user>` would be another one's."""
DatabaseName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,37}$")]


class Access(Model):
    """A database that a user may use. FerretDB has no authorization: there it is not enforced."""

    database: DatabaseName
    write: bool = True


class MongodbUser(Model):
    """A SCRAM-SHA-256 user, kept in database `admin`; `backup` is MongoDB's role of that name."""

    name: Name
    password: SecretRef
    access: list[Access] = Field(default_factory=list)
    backup: bool = Field(default=False, description="may read all there is; of a replica set alone")


class FerretDb(Model):
    """What only FerretDB has: its database in PostgreSQL."""

    database: str = immutable("documents", pattern=IDENTIFIER, description="of postgres.databases")
    connections_per_replica: int = Field(default=10, ge=2, le=200)
    job_resources: Resources = Resources(
        cpu_request_m=10, memory_request_mib=64, memory_limit_mib=192
    )


class Community(Model):
    """What only the replica set has: storage, and the exporter that its agents bring."""

    storage: Storage = Storage(size_gib=50)
    logs: Storage = Storage(size_gib=5)
    agent_resources: Resources = Resources(
        cpu_request_m=100, memory_request_mib=400, memory_limit_mib=512
    )
    metrics_password: SecretRef


class MongodbConfig(Model):
    """MongoDB's protocol, by `ferretdb` on the estate's PostgreSQL or by a replica set of mongod
    (`community`) that MongoDB's operator runs.
    """

    implementation: Literal["ferretdb", "community"] = immutable("ferretdb")
    replicas: int = Field(default=2, ge=1, le=7, description="pods; members of a replica set")
    users: list[MongodbUser] = Field(default_factory=list)
    resources: Resources = Resources(cpu_request_m=50, memory_request_mib=64, memory_limit_mib=256)
    spread: Spread = "prefer"
    ferretdb: FerretDb | None = None
    community: Community | None = None
    protect: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> MongodbConfig:
        refuse([*self._implementation(), *self._user_problems()])
        return self

    @property
    def on_postgres(self) -> FerretDb:
        """`ferretdb`, or its defaults."""
        return self.ferretdb or FerretDb()

    @property
    def replica_set(self) -> Community:
        """`community`, which a replica set must have."""
        assert self.community is not None
        return self.community

    def _implementation(self) -> list[dict[str, Any]]:
        other = "community" if self.implementation == "ferretdb" else "ferretdb"
        found = []
        if getattr(self, other) is not None:
            text = f"of another implementation than {self.implementation}; leave it out"
            found.append(problem(other, "declared", text))
        if self.implementation == "community":
            if self.community is None:
                text = "a replica set needs at least the password of its exporter"
                found.append(problem("community", None, text))
            if self.replicas < 3 or self.replicas % 2 == 0:
                text = "3, 5 or 7: members vote, and a majority must outlive the loss of one"
                found.append(problem("replicas", self.replicas, text))
        return found

    def _user_problems(self) -> list[dict[str, Any]]:
        names = [user.name for user in self.users]
        found = []
        verify = [user for user in self.users if user.name == VERIFY_USER]
        if not any(
            one.database == VERIFY_DATABASE and one.write for u in verify for one in u.access
        ):
            text = f"user {VERIFY_USER!r} (checks), who writes to {VERIFY_DATABASE!r}, is missing"
            found.append(problem("users", names, text))
        for i, name in enumerate(names):
            if name in names[:i]:
                found.append(problem(f"users.{i}.name", name, "declared twice; every user once"))
            if name in RESERVED:
                found.append(problem(f"users.{i}.name", name, "reserved; choose another name"))
        for i, user in enumerate(self.users):
            if not user.access and not user.backup:
                text = "nothing to read; name a database, or leave the user out"
                found.append(problem(f"users.{i}.access", [], text))
            if user.backup and self.implementation == "ferretdb":
                text = "FerretDB knows no roles, and is saved with its PostgreSQL; leave it out"
                found.append(problem(f"users.{i}.backup", True, text))
        return found


def postgres_problems(
    config: MongodbConfig, postgres: PostgresConfig | None, pool_connections: int
) -> list[dict[str, Any]]:
    """What FerretDB lacks in the PostgreSQL that it stands on.

    `pool_connections` are those that others may take, the reserve included.
    """
    wanted = config.on_postgres
    if postgres is None:
        text = "FerretDB stands on the estate's PostgreSQL; declare postgres, or leave both"
        return [problem("mongodb", "declared", text)]
    found = []
    names = [one.name for one in postgres.databases]
    if wanted.database not in names:
        text = f"one of postgres.databases ({', '.join(names) or 'none'}); declare it there"
        found.append(problem("mongodb.ferretdb.database", wanted.database, text))
    # The replicas, and the one of the Job that keeps users.
    needed = (config.replicas + 1) * wanted.connections_per_replica + pool_connections
    if needed > postgres.max_connections:
        text = f"at least {needed}: that many may be open with those of pgpool and mongodb"
        found.append(problem("postgres.max_connections", postgres.max_connections, text))
    return found
