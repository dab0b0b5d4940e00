"""What an operator decides about the platform: namespaces, network, certificates."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from components.flows import Port
from components.model import GPU, Model, Resources, Spread, immutable, problem, refuse

Namespace = Literal[
    "platform",
    "datalake",
    "realtime",
    "serving",
    "monitoring",
    "storage",
    "autoscaling",
    "gpu",
]


class Quota(Model):
    """What all pods and claims of a namespace may ask for together."""

    cpu_request_m: int = Field(ge=1)
    memory_request_mib: int = Field(ge=1)
    storage_gib: int | None = Field(default=None, ge=1)
    gpus: int = Field(default=0, ge=0)

    def hard(self) -> dict[str, str]:
        """As a ResourceQuota writes it."""
        found = {
            "requests.cpu": f"{self.cpu_request_m}m",
            "requests.memory": f"{self.memory_request_mib}Mi",
            f"requests.{GPU}": str(self.gpus),
        }
        if self.storage_gib is not None:
            found["requests.storage"] = f"{self.storage_gib}Gi"
        return found


class NamespacesConfig(Model):
    """`protect` refuses to delete the namespaces, and with them every claim inside."""

    quotas: dict[Namespace, Quota] = Field(default_factory=dict)
    protect: bool = True


class NetworkConfig(Model):
    """Where the Kubernetes API answers, as a pod sees it behind the Service `kubernetes`."""

    api_server_cidrs: list[str] = Field(
        default=["0.0.0.0/0"], min_length=1, description="addresses of the control plane, a.b.c.d/n"
    )
    api_server_port: Port = 6443

    @field_validator("api_server_cidrs")
    @classmethod
    def _networks(cls, values: list[str]) -> list[str]:
        for value in values:
            ipaddress.ip_network(value)  # its ValueError names the value and what is wrong
        return values


class CertManagerConfig(Model):
    """What one replica of each program may use. Which release runs is what its images say."""

    controller: Resources = Resources(cpu_request_m=20, memory_request_mib=64, memory_limit_mib=192)
    webhook: Resources = Resources(cpu_request_m=10, memory_request_mib=32, memory_limit_mib=96)
    cainjector: Resources = Resources(cpu_request_m=10, memory_request_mib=64, memory_limit_mib=192)
    protect: bool = True


class KedaConfig(Model):
    """Each replica of KEDA's operator, and of its metrics adapter; one of each leads."""

    replicas: int = Field(default=2, ge=1, le=4)
    resources: Resources = Resources(cpu_request_m=50, memory_request_mib=128, memory_limit_mib=512)
    spread: Spread = "prefer"
    protect: bool = True


class PkiConfig(Model):
    """The authority's name and life; its key is generated in the cluster and never leaves it.

    `generation` signs. `also_trusted` are generations that exist and are trusted beside it: the
    next one before it signs, the former one until nothing presents its certificates any more.
    """

    common_name: str = immutable("Estate CA", min_length=1, max_length=64)
    generation: int = Field(default=1, ge=1, le=999)
    also_trusted: list[Annotated[int, Field(ge=1, le=999)]] = Field(default_factory=list)
    duration_days: int = Field(default=3650, ge=30, le=7300)
    renew_before_days: int = Field(default=365, ge=1)
    protect: bool = True

    @model_validator(mode="after")
    def _generations(self) -> PkiConfig:
        names = [self.generation, *self.also_trusted]
        refuse(
            [
                problem(f"also_trusted.{i}", one, "named twice; `generation` is trusted by itself")
                for i, one in enumerate(self.also_trusted)
                if one in names[: i + 1]
            ]
        )
        return self

    @property
    def trusted(self) -> tuple[int, ...]:
        """All generations that exist, in their order."""
        return tuple(sorted([self.generation, *self.also_trusted]))
