"""Configuration of the object store: Ceph's daemons, and the users and buckets of S3."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from components.datalake.rook_config import RookSettings
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

UID = 64045
"""User and group `ceph` of Debian's packages."""
VERIFY_USER = "verify"
VERIFY_BUCKET = "estate-verify"
BACKUP_USER = BACKUP_BUCKET = "backup"
REGION = "us-east-1"
"""What S3 clients sign for where a zone group names none."""

_BUCKET = r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$"


class S3User(Model):
    """A user of the object store; his access key is his name."""

    name: Name
    secret_key: SecretRef
    quota_gib: int | None = Field(
        default=None, ge=1, le=1_048_576, description="of all his buckets together"
    )


class Grant(Model):
    """What another user may do in a bucket: `read` lists and gets, `write` puts, deletes too."""

    user: Name
    access: Literal["read", "write"]


class Lifecycle(Model):
    """What the store removes by itself, in days; None: never."""

    expire_days: int | None = Field(default=None, ge=1, description="objects, after their creation")
    expire_old_versions_days: int | None = Field(default=None, ge=1)
    abort_uploads_days: int = Field(default=7, ge=1, description="multipart uploads without an end")


class Bucket(Model):
    """A bucket, made and owned by a declared user."""

    name: str = Field(pattern=_BUCKET, description="3 to 63 of a-z, 0-9 and '-'")
    owner: Name
    grants: list[Grant] = Field(default_factory=list)
    versioning: bool = False
    lifecycle: Lifecycle = Lifecycle()


class CephConfig(Model):
    """A cluster of monitors, OSDs with `replicas` copies of each object, and S3 gateways.

    `statefulset` runs Ceph's daemons without an operator, on files in claims (`storage`); `rook`
    on the disks of nodes. `fsid` and `keys` are for the former, `rook` for the latter.
    """

    implementation: Literal["statefulset", "rook"] = immutable("statefulset")
    fsid: str | None = immutable(
        None,
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        description="the cluster's UUID; invent one",
    )
    keys: SecretRef | None = Field(
        default=None, description="what the keys of all daemons are derived from"
    )
    rook: RookSettings | None = None
    monitors: Literal[1, 3, 5] = immutable(1)
    osds: int = immutable(3, ge=1, le=100)
    replicas: int = Field(default=3, ge=2, le=5, description="copies of each object")
    min_replicas: int = Field(default=2, ge=1, le=5, description="copies that a write waits for")
    gateways: int = Field(default=2, ge=1, le=20)
    storage: Storage = Storage(size_gib=8)
    monitor_storage: Storage = Storage(size_gib=1)
    spread: Spread = "prefer"
    users: list[S3User] = Field(default_factory=list)
    buckets: list[Bucket] = Field(default_factory=list)
    monitor_resources: Resources = Resources(
        cpu_request_m=50, memory_request_mib=96, memory_limit_mib=512
    )
    manager_resources: Resources = Resources(
        cpu_request_m=50, memory_request_mib=192, memory_limit_mib=768
    )
    osd_resources: Resources = Resources(
        cpu_request_m=100, memory_request_mib=256, memory_limit_mib=1024
    )
    gateway_resources: Resources = Resources(
        cpu_request_m=50, memory_request_mib=128, memory_limit_mib=768
    )
    job_resources: Resources = Resources(
        cpu_request_m=20, memory_request_mib=64, memory_limit_mib=256
    )
    protect: bool = True

    @model_validator(mode="after")
    def _fits_together(self) -> CephConfig:
        found = self._of_the_other()
        if self.replicas > self.osds:
            text = f"more copies than osds ({self.osds}); lower it or add OSDs"
            found.append(problem("replicas", self.replicas, text))
        if self.min_replicas > self.replicas:
            text = f"above replicas ({self.replicas}): no write would ever be taken"
            found.append(problem("min_replicas", self.min_replicas, text))
        found += _names("users", [user.name for user in self.users])
        found += _names("buckets", [bucket.name for bucket in self.buckets])
        known = {user.name for user in self.users}
        for i, bucket in enumerate(self.buckets):
            named = {f"buckets.{i}.owner": bucket.owner} | {
                f"buckets.{i}.grants.{j}.user": grant.user for j, grant in enumerate(bucket.grants)
            }
            found += [
                problem(key, user, f"no such user; declared are {', '.join(sorted(known))}")
                for key, user in named.items()
                if user not in known
            ]
        owners = {bucket.name: bucket.owner for bucket in self.buckets}
        if owners.get(VERIFY_BUCKET) != VERIFY_USER:
            text = f"the checks need a bucket {VERIFY_BUCKET} of a user {VERIFY_USER}"
            found.append(problem("buckets", sorted(owners), text))
        refuse(found)
        return self

    def _of_the_other(self) -> list[dict[str, Any]]:
        """What this implementation needs and has not, or has and does not need."""
        found = []
        for key, value in (("fsid", self.fsid), ("keys", self.keys), ("rook", self.rook)):
            needed = (key == "rook") == (self.implementation == "rook")
            if needed and value is None:
                text = f"missing; implementation {self.implementation} needs it"
                found.append(problem(key, None, text))
            elif not needed and value is not None:
                text = f"implementation {self.implementation} does not use it; leave it out"
                found.append(problem(key, "declared", text))
        if self.rook is not None and self.rook.wipe and self.protect:
            text = (
                "a protected cluster must not empty its disks; set protect: false, or leave it out"
            )
            found.append(problem("rook.wipe", True, text))
        return found

    def declaration(self) -> dict[str, Any]:
        """Users and buckets as plain data: what the Jobs make true and a check compares."""
        return {
            "users": [{"name": user.name, "quota_gib": user.quota_gib} for user in self.users],
            "buckets": [bucket.model_dump() for bucket in self.buckets],
        }


def _names(key: str, names: list[str]) -> list[dict[str, Any]]:
    return [
        problem(f"{key}.{i}.name", name, "declared twice; each once")
        for i, name in enumerate(names)
        if name in names[:i]
    ]
