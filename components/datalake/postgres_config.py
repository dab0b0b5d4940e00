"""What an operator decides about PostgreSQL: instances, roles, memory, durability."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from components.model import (
    Model,
    Resources,
    SecretRef,
    Spread,
    Storage,
    immutable,
    problem,
    refuse,
)

NAMESPACE = "datalake"
PORT = 5432
STATUS_PORT, METRICS_PORT = 8000, 9187  # of CloudNativePG (pkg/management/url)
IDENTIFIER = r"^[a-z_][a-z0-9_]{0,62}$"
MONITOR_ROLE = "monitor"
"""Reads statistics (pg_monitor): checks and the pool's exporter use it."""
RESERVED = ("postgres", "streaming_replica")
"""Roles that CloudNativePG keeps for itself, and everything that starts with cnpg_ or pg_."""
RESERVED_DATABASES = ("postgres", "template0", "template1")


class PostgresRole(Model):
    """A login role. `member_of` names roles whose rights it inherits, such as pg_read_all_data."""

    name: str = Field(pattern=IDENTIFIER)
    password: SecretRef
    member_of: list[str] = Field(default_factory=list)
    connection_limit: int = Field(default=-1, ge=-1, description="-1: no limit")


class PostgresDatabase(Model):
    """One more database. Nobody but its owner and its readers may connect to it.

    Readers may read what the owner keeps in schema `public`, now and later, and write nothing.
    """

    name: str = Field(pattern=IDENTIFIER)
    owner: str = Field(pattern=IDENTIFIER, description="one of postgres.roles")
    readers: list[str] = Field(default_factory=list, description="some of postgres.roles")
    extensions: list[str] = Field(
        default_factory=list, description="of PostgreSQL, which the operator creates in it"
    )


class PostgresConfig(Model):
    """The cluster, its databases and its roles.

    `owner` owns `database`; `roles` holds everybody else, `monitor` (member of pg_monitor) and the
    owners and readers of `databases` among them. `synchronous_standbys` of the standbys must hold
    a row before it is acknowledged.
    """

    instances: int = Field(default=3, ge=1, le=9)
    synchronous_standbys: int = Field(default=1, ge=0)
    failover_quorum: bool = Field(
        default=True,
        description="promote only when a standby with every acknowledged row is known to be there",
    )
    database: str = immutable("app", pattern=IDENTIFIER)
    owner: PostgresRole
    roles: list[PostgresRole] = Field(default_factory=list)
    databases: list[PostgresDatabase] = Field(default_factory=list)
    storage: Storage = Storage(size_gib=2)
    resources: Resources = Resources(
        cpu_request_m=100, memory_request_mib=256, memory_limit_mib=512
    )
    shared_buffers_mib: int = Field(default=96, ge=16)
    max_connections: int = Field(default=100, ge=20, le=2000)
    parameters: dict[str, str] = Field(
        default_factory=dict, description="further settings of postgresql.conf, as strings"
    )
    spread: Spread = "prefer"
    failover_target_s: int = Field(
        default=10, ge=1, description="longest write outage after the loss of the primary's pod"
    )
    protect: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> PostgresConfig:
        problems = []
        if self.synchronous_standbys >= self.instances:
            problems.append(
                problem(
                    "synchronous_standbys",
                    self.synchronous_standbys,
                    f"at most {self.instances - 1}: instances is {self.instances}, one of them "
                    "the primary; add instances or ask for fewer standbys",
                )
            )
        if self.synchronous_standbys and self.synchronous_standbys + 1 == self.instances:
            problems.append(
                problem(
                    "instances",
                    self.instances,
                    f"at least {self.synchronous_standbys + 2}: with fewer, the loss of any "
                    "standby stops all writes",
                )
            )
        if self.shared_buffers_mib * 2 > self.resources.memory_limit_mib:
            problems.append(
                problem(
                    "shared_buffers_mib",
                    self.shared_buffers_mib,
                    f"at most half of resources.memory_limit_mib "
                    f"({self.resources.memory_limit_mib}); sessions need the rest",
                )
            )
        problems += [
            problem(f"parameters.{key}", self.parameters[key], "set by the component; remove it")
            for key in sorted(set(self.parameters) & set(own_parameters(self)))
        ]
        names = [self.owner.name, *(role.name for role in self.roles)]
        keys = ["owner", *(f"roles.{i}" for i in range(len(self.roles)))]
        for i, (key, name) in enumerate(zip(keys, names, strict=True)):
            if name in names[:i]:
                problems.append(problem(f"{key}.name", name, "declared twice; every role once"))
            if name in RESERVED or name.startswith(("cnpg_", "pg_")):
                problems.append(problem(f"{key}.name", name, "reserved; choose another name"))
        if MONITOR_ROLE not in names:
            problems.append(
                problem("roles", names, f"the estate's own role {MONITOR_ROLE!r} is missing")
            )
        refuse(problems + self._database_problems())
        return self

    def _database_problems(self) -> list[dict[str, Any]]:
        found = []
        roles = [role.name for role in self.roles]
        names = [one.name for one in self.databases]
        for i, one in enumerate(self.databases):
            key = f"databases.{i}"
            if one.name in (self.database, *names[:i]):
                found.append(
                    problem(f"{key}.name", one.name, "declared twice; every database once")
                )
            if one.name in RESERVED_DATABASES:
                found.append(problem(f"{key}.name", one.name, "reserved; choose another name"))
            declared = f"one of postgres.roles ({', '.join(roles)}); declare it there"
            if one.owner not in roles:
                found.append(problem(f"{key}.owner", one.owner, declared))
            for j, reader in enumerate(one.readers):
                if reader not in roles:
                    found.append(problem(f"{key}.readers.{j}", reader, declared))
                elif reader == one.owner or reader in one.readers[:j]:
                    text = "an owner reads anyway, and every reader is named once; remove it"
                    found.append(problem(f"{key}.readers.{j}", reader, text))
        return found


def own_parameters(config: PostgresConfig) -> dict[str, str]:
    """Settings of postgresql.conf that the component answers for (CloudNativePG: strings only)."""
    return {
        "max_connections": str(config.max_connections),
        "shared_buffers": f"{config.shared_buffers_mib}MB",
        # After a promotion every write waits until the other standby follows the new primary. A
        # standby that lost its primary asks again only this often (default 5 s, all of it outage).
        "wal_retrieve_retry_interval": "500ms",
        # A primary that vanished without closing its connections: the operator elects nobody
        # while a WAL receiver still believes in it (CloudNativePG's default 5 s).
        "wal_receiver_timeout": "3s",
        "wal_sender_timeout": "5s",
        "wal_receiver_status_interval": "1s",
        # Promotion ends with a checkpoint before the new primary is announced
        # (promote.go): keep what it has to write small.
        "checkpoint_timeout": "5min",
        "max_wal_size": "512MB",
        # Slots keep what standbys need; the operator's 512MB is a quarter of a small claim.
        "wal_keep_size": "64MB",
        "log_checkpoints": "off",
        "password_encryption": "scram-sha-256",
    }
