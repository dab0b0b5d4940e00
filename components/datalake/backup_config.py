"""What an operator decides about backups: where they go, when they are made, how long they stay."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from components.model import Model, Resources, SecretRef, Storage, problem, refuse

NAMESPACE = "datalake"
REGION = "us-east-1"
CHECKSUMS = "when_required"
"""Of stores that are not Amazon's many refuse the checksums which newer clients add by default."""
_HTTPS_PORT = 443
_FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 6),
)
_TERM = re.compile(r"(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/(\d{1,2}))?")


def cron(value: str) -> str:
    """A schedule of five numeric fields, as both cron of Kubernetes and CloudNativePG's take it.

    Raises ValueError, which names the field.
    """
    fields = value.split(" ")
    if len(fields) != len(_FIELDS):
        raise ValueError(
            f"{value!r} has {len(fields)} fields; five, parted by single spaces: minute, hour, "
            "day of the month, month, day of the week"
        )
    for field, (name, lowest, highest) in zip(fields, _FIELDS, strict=True):
        for term in field.split(","):
            found = _TERM.fullmatch(term)
            first, last, step = (
                (None if one is None else int(one) for one in found.groups())
                if found is not None
                else (-1, None, None)
            )
            low = lowest if first is None else first
            high = low if last is None else last
            if not lowest <= low <= high <= highest or step == 0:
                raise ValueError(
                    f"{term!r} is no {name}; {lowest} to {highest}, `*`, `a-b`, `*/n` or a list"
                )
    return value


Cron = Annotated[str, AfterValidator(cron)]
ServerName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?$")]


class BackupStore(Model):
    """A bucket of an S3 that is not the estate's own, and so is not lost with it.

    The bucket is there already, versioned, and its keys may write, read and delete in it.
    """

    endpoint: str = Field(
        pattern=r"^https://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[1-9][0-9]{0,4})?$",
        description="https:// and a host, with its port if that is not 443; path-style",
    )
    region: str = Field(default=REGION, min_length=1)
    bucket: str = Field(pattern=r"^[a-z0-9]([-a-z0-9.]{1,61})[a-z0-9]$")
    access_key: SecretRef
    secret_key: SecretRef
    ca: str | None = Field(
        default=None,
        pattern=r"^-----BEGIN CERTIFICATE-----",
        description="PEM of who signs its certificate; None: the public authorities",
    )

    @property
    def port(self) -> int:
        """Where the endpoint answers."""
        host = self.endpoint.removeprefix("https://")
        return int(host.partition(":")[2] or _HTTPS_PORT)


class Schedule(Model):
    """When backups are made, how long they stay, and when a missing one is an alarm."""

    schedule: Cron = "0 1 * * *"
    retention_days: int = Field(default=30, ge=2, le=3650)
    max_age_h: int = Field(
        default=26,
        ge=1,
        le=8760,
        description="an alert fires when the last good backup is older: a period and its duration",
    )

    @model_validator(mode="after")
    def _stays_until_the_next(self) -> Schedule:
        if self.max_age_h > self.retention_days * 24:
            text = f"above max_age_h ({self.max_age_h}) / 24, or the last backup is deleted first"
            refuse([problem("retention_days", self.retention_days, text)])
        return self


class Recovery(Model):
    """Where a new PostgreSQL cluster begins: an archive, and a moment in it."""

    server: ServerName
    target_time: str | None = Field(
        default=None,
        pattern=r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}(\.\d{1,6})?[+-]\d{2}(:?\d{2})?$",
        description="`2026-11-29 04:00:00+00`; None: all that was archived",
    )


class PostgresBackup(Schedule):
    """Base backups by CloudNativePG's plugin, and every WAL file as it is complete.

    `server` is the folder of this cluster in the bucket. A recovered cluster writes to another one:
    `recover` is looked at only when the cluster is made.
    """

    server: ServerName = "postgres"
    recover: Recovery | None = None
    wal_parallel: int = Field(default=4, ge=1, le=32, description="WAL files sent at a time")
    wal_waiting: int = Field(
        default=16, ge=1, description="an alert fires when more WAL files wait to be archived"
    )
    resources: Resources = Resources(
        cpu_request_m=100, memory_request_mib=256, memory_limit_mib=512
    )

    @model_validator(mode="after")
    def _own_archive(self) -> PostgresBackup:
        if self.recover is not None and self.recover.server == self.server:
            text = (
                f"that of the lost cluster is {self.recover.server}; name a new one, such as "
                f"{self.server}-2: two histories in one archive restore neither"
            )
            refuse([problem("server", self.server, text)])
        return self


class CopyBackup(Schedule):
    """A Job at each time of `schedule`: files to the store, as they are."""

    longest_s: int = Field(default=14_400, ge=60, le=86_400, description="a run, then it is ended")
    upload_resources: Resources = Resources(
        cpu_request_m=250, memory_request_mib=256, memory_limit_mib=512
    )


class DumpBackup(CopyBackup):
    """A Job at each time of `schedule`: into a scratch volume, then to the store."""

    scratch: Storage = Storage(size_gib=50)
    resources: Resources = Resources(
        cpu_request_m=250, memory_request_mib=512, memory_limit_mib=1024
    )


class BackupConfig(Model):
    """What is saved to `store`, and when; a part that is left out is not saved.

    `models` are the blobs of Nexus; its records are in PostgreSQL's archive.
    """

    store: BackupStore
    postgres: PostgresBackup | None = None
    mongodb: DumpBackup | None = None
    kafka: DumpBackup | None = None
    models: CopyBackup | None = None

    @model_validator(mode="after")
    def _saves_something(self) -> BackupConfig:
        if not self.parts:
            refuse([problem("postgres", None, "nothing is saved; declare a part, or no backup")])
        return self

    @model_validator(mode="after")
    def _blobs_have_records(self) -> BackupConfig:
        if self.models is None:
            return self
        if self.postgres is None:
            text = "the records of models' blobs are there; declare it too, or leave models out"
            refuse([problem("postgres", None, text)])
        elif self.models.retention_days < self.postgres.retention_days:
            text = (
                f"below that of postgres ({self.postgres.retention_days}): records of then would "
                "name blobs that are gone"
            )
            refuse([problem("models.retention_days", self.models.retention_days, text)])
        return self

    @property
    def parts(self) -> list[str]:
        """The names of the parts that are saved."""
        named = ("postgres", "mongodb", "kafka", "models")
        return [part for part in named if getattr(self, part) is not None]


_DECLARED_BY = {"models": "model_repository with implementation nexus"}


def unmet(
    config: BackupConfig, declared: dict[str, Any], users: dict[str, list[str]], *, aged: bool
) -> list[dict[str, Any]]:
    """What the environment lacks for its backups.

    `declared` maps a part to its configuration or None, `users` to those who may read all of it;
    `aged` says whether Jobs' ages are exported to whoever alerts.
    """
    found = []
    for part in config.parts:
        if declared[part] is None:
            needed = _DECLARED_BY.get(part, part)
            text = f"{needed} is not declared; declare it too, or leave its backup out"
            found.append(problem(f"backup.{part}", "declared", text))
        elif part in users and BACKUP_USER not in users[part]:
            text = f"user {BACKUP_USER!r} (backup) is missing; add it"
            if part == "mongodb":
                text = f"user {BACKUP_USER!r} with `backup: true` is missing; add it"
            found.append(problem(f"{part}.users", users[part], text))
        if part != "postgres" and not aged:
            text = f"who looks at the age of backup.{part}? declare it"
            found.append(problem("monitoring.state_metrics", None, text))
    return found


BACKUP_USER = "backup"
"""Of Kafka and of MongoDB: reads everything."""
