"""What an operator decides about annotation: where Supervisely is, what is annotated as what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.flows import Port
from components.model import Model, Name, Resources, SecretRef, problem, refuse

NAMESPACE = "datalake"
USER = "annotation"
"""Of the object store: reads `images`, writes `datasets`."""

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
    """A run at each time of `schedule`: send, fetch, reconcile, for each of `versions`."""

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
    schedule: str = Field(default="17 * * * *", pattern=r"^(\S+ ){4}\S+$", description="cron's")
    longest_s: int = Field(default=3000, ge=60, le=86_400, description="a run, then it is ended")
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
