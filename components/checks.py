"""What a component declares about its running state: checks, their faults, expected pods.

A check names a probe (tests/state/probes) and its arguments; a fault is the patch with which
`verify --prove` must be able to turn exactly this check red. Secrets appear as references only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, JsonValue

from components.model import Model, Name, Resources, Spread


class ObjectRef(Model):
    """One object of the cluster."""

    api_version: str
    kind: str
    namespace: str | None
    name: str


class SecretKeyRef(Model):
    """One key of a Kubernetes Secret; a probe resolves it with `ctx.secret(ref)`."""

    namespace: Name
    secret: str
    key: str

    def arg(self) -> dict[str, JsonValue]:
        """As a probe's argument."""
        return {"namespace": self.namespace, "secret": self.secret, "key": self.key}


class Fault(Model):
    """How to break a check's subject: a JSON merge patch on `target`, reverted afterwards.

    `restart` is a label selector: the pods it selects (in the target's namespace) are deleted
    after the patch and again after the revert, for what reads its configuration at start only.
    """

    target: ObjectRef
    patch: dict[str, JsonValue]
    restart: str | None = None


class Check(Model):
    """One statement about the running estate, and how it is proven able to fail."""

    id: str = Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$", description="component.statement")
    title: str = Field(min_length=1)
    probe: str = Field(min_length=1, description="name in tests/state/probes")
    args: dict[str, JsonValue] = Field(default_factory=dict)
    fault: Fault

    def json_object(self) -> dict[str, Any]:
        """Plain JSON, as the stack output `checks` carries it."""
        return self.model_dump(mode="json")


class ExpectedPods(Model):
    """Pods that a declaration must lead to, so that a rehearsal without its operator still
    schedules them: `claims` are the sizes in GiB of one pod's claims. With `exclusive` no two of
    them share a node (or zone), where a spread alone keeps their numbers even. `nodes` are the
    labels of those nodes that they are held to.
    """

    name: str
    namespace: Name
    selector: dict[str, str]
    count: int = Field(ge=0)
    resources: Resources
    spread: Spread = "prefer"
    exclusive: bool = False
    claims: list[int] = Field(default_factory=list)
    nodes: dict[str, str] = Field(default_factory=dict)

    def json_object(self) -> dict[str, Any]:
        """Plain JSON, as the stack output `expected_pods` carries it."""
        return self.model_dump(mode="json")


def scale_to(
    replicas: int, kind: str, namespace: str, name: str, api_version: str = "apps/v1"
) -> Fault:
    """The commonest fault: another number of replicas (0: nobody answers)."""
    return Fault(
        target=ObjectRef(api_version=api_version, kind=kind, namespace=namespace, name=name),
        patch={"spec": {"replicas": replicas}},
    )


def settings_fault(
    namespace: str, config_map: str, data: Mapping[str, str], *, restart: str | None = None
) -> Fault:
    """Other settings: keys of a ConfigMap, which the pods of workload `restart` read at start."""
    return Fault(
        target=ObjectRef(api_version="v1", kind="ConfigMap", namespace=namespace, name=config_map),
        patch={"data": dict[str, JsonValue](data)},
        restart=f"app.kubernetes.io/name={restart}" if restart is not None else None,
    )
