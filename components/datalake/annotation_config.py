"""What an operator decides about annotation: where Supervisely is, what is annotated as what."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from components.datalake.ceph_config import CephConfig
from components.flows import Port
from components.model import Model, Name, Resources, SecretRef, problem, refuse

NAMESPACE = "datalake"
USER = "annotation"
"""Of the object store."""
GRANTS = {"images": "read", "datasets": "write"}
"""What the user must be allowed in which bucket."""
PORT, METRICS_PORT = 443, 9109
"""Of the Service and of the pod; both serve metrics alone."""

Text = Annotated[str, Field(min_length=1)]


class AnnotationClass(Model):
    """A class of objects; COCO has these three shapes."""

    name: Text
    shape: Literal["rectangle", "polygon", "bitmap"]


class AnnotatedVersion(Model):
    """A dataset version that is sent, and whose annotations are fetched."""

    name: Name
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="of its manifest")


class AnnotationConfig(Model):
    """A run every `every_s`: send, fetch, reconcile, for each of `versions`."""

    host: str = Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", description="Supervisely's")
    port: Port = 443
    ca: str | None = Field(
        default=None,
        pattern=r"^-----BEGIN CERTIFICATE-----",
        description="PEM of who signs its certificate; None: the public authorities",
    )
    token: SecretRef
    team: Text
    workspace: Text
    project: Text
    every_s: int = Field(default=3600, ge=60, le=86_400, description="from run to run")
    longest_s: int = Field(default=3000, ge=60, le=86_400, description="a run, then it is stopped")
    classes: list[AnnotationClass] = Field(min_length=1)
    versions: list[AnnotatedVersion] = Field(default_factory=list)
    resources: Resources = Resources(
        cpu_request_m=100, memory_request_mib=512, memory_limit_mib=1024
    )

    @model_validator(mode="after")
    def _classes_are_named_once(self) -> AnnotationConfig:
        names = [one.name for one in self.classes]
        refuse(
            [
                problem(f"classes.{i}.name", name, "declared twice; every class once")
                for i, name in enumerate(names)
                if name in names[:i]
            ]
        )
        return self


def store_problems(ceph: CephConfig | None) -> list[dict[str, Any]]:
    """What annotation needs of the object store, and is not declared."""
    if ceph is None:
        text = "dataset versions are in S3; declare ceph too, or leave both"
        return [problem("annotation", "declared", text)]
    users = [user.name for user in ceph.users]
    found = []
    if USER not in users:
        text = f"user {USER!r} (annotation) is missing; add it"
        found.append(problem("ceph.users", users, text))
    buckets = {bucket.name: bucket for bucket in ceph.buckets}
    for name, access in GRANTS.items():
        grants = [one.model_dump() for one in buckets[name].grants] if name in buckets else []
        if {"user": USER, "access": access} not in grants:
            text = f"bucket {name!r} lacks {{user: {USER}, access: {access}}} (annotation); add it"
            found.append(problem("ceph.buckets", grants, text))
    return found
