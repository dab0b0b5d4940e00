"""What an operator decides about serving: pools of Triton, the gateway, who watches rollouts."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from components.model import MigProfile, Model, Name, Resources, Spread, problem, refuse

NAMESPACE = "serving"
GATEWAY = "inference"
"""Deployment and Service that clients ask."""
HOST = f"{GATEWAY}.{NAMESPACE}.svc.cluster.local"
HTTP_PORT, GRPC_PORT, METRICS_PORT = 8000, 8001, 8002
"""Triton's own."""
SYNC_PORT = 8080
CONTROL_PORT = 8081
PORT = 443
CLIENTS_PORT, RUNTIME_PORT, GATEWAY_METRICS_PORT = 8443, 9998, 8405
UID = 1000
CONTROLLER = "serving-controller"
"""The common name of the certificate that the gateway's runtime API asks for."""


class Autoscaling(Model):
    """More replicas where requests queue: KEDA asks Prometheus for the mean time in the queue."""

    max_replicas: int = Field(ge=2, le=64)
    queue_us: int = Field(default=2000, ge=1, le=10_000_000, description="mean, per request")
    cooldown_s: int = Field(
        default=300, ge=30, le=3600, description="a replica goes when none more was wanted so long"
    )


class TritonPool(Model):
    """Replicas of Triton on nodes of one kind, for the versions that are served and the canary's.

    `native`: models run in Triton's own backends, which NVIDIA's image has for ONNX and PyTorch;
    otherwise all of them in the estate's Python backend, whose image has every framework.
    `mig` asks for a slice of a GPU instead of whole ones. `runtime_class` is for clusters whose
    default runtime hands no GPU to a container; NVIDIA's GPU operator brings the class `nvidia`.
    """

    name: Name
    replicas: int = Field(default=2, ge=1, le=64)
    canary_replicas: int = Field(default=1, ge=1, le=16)
    resources: Resources = Resources(
        cpu_request_m=100, memory_request_mib=1024, memory_limit_mib=4096
    )
    sync_resources: Resources = Resources(
        cpu_request_m=20, memory_request_mib=96, memory_limit_mib=384
    )
    native: bool = False
    mig: MigProfile | None = None
    runtime_class: Name | None = None
    models_gib: int = Field(default=4, ge=1, le=4096, description="on each node, for all models")
    shared_memory_mib: int = Field(
        default=256, ge=64, le=65_536, description="between Triton and its Python backends"
    )
    response_cache_mib: int = Field(default=64, ge=0, le=65_536)
    rate_limiter: bool = Field(default=False, description="Triton heeds the models' rate_limit")
    spread: Spread = "prefer"
    autoscaling: Autoscaling | None = None

    @model_validator(mode="after")
    def _agrees(self) -> TritonPool:
        found: list[dict[str, Any]] = []
        if self.mig is not None and self.resources.gpus:
            text = "a slice of a GPU, or whole ones: leave one of mig and resources.gpus out"
            found.append(problem("mig", self.mig, text))
        if self.gpu and not self.native:
            text = "models run on a GPU in Triton's own backends alone: set it"
            found.append(problem("native", self.native, text))
        if self.runtime_class is not None and not self.gpu:
            text = "for a pool with mig or resources.gpus; leave it out"
            found.append(problem("runtime_class", self.runtime_class, text))
        needed = self.shared_memory_mib + self.response_cache_mib + 256
        if self.resources.memory_limit_mib < needed:
            text = f"at least {needed}: shared memory and response cache are part of it"
            found.append(
                problem("resources.memory_limit_mib", self.resources.memory_limit_mib, text)
            )
        scaled = self.autoscaling
        if scaled is not None and scaled.max_replicas <= self.replicas:
            text = f"above replicas ({self.replicas}), from which it rises"
            found.append(problem("autoscaling.max_replicas", scaled.max_replicas, text))
        refuse(found)
        return self

    @property
    def gpu(self) -> bool:
        """Whether its pods run on GPU nodes."""
        return self.mig is not None or self.resources.gpus > 0


class TritonConfig(Model):
    """Serving: a gateway before pools of Triton."""

    pools: list[TritonPool] = Field(default=[TritonPool(name="cpu")], min_length=1, max_length=8)
    gateway_replicas: int = Field(default=2, ge=1, le=16)
    gateway_threads: int = Field(
        default=1, ge=1, le=64, description="of each gateway; each thread may use one core"
    )
    gateway_resources: Resources = Resources(
        cpu_request_m=50, memory_request_mib=64, memory_limit_mib=256
    )
    controller_resources: Resources = Resources(
        cpu_request_m=20, memory_request_mib=96, memory_limit_mib=384
    )
    request_timeout_s: int = Field(default=30, ge=1, le=3600)
    request_mib: int = Field(default=64, ge=1, le=2048, description="the longest request body")
    spread: Spread = "prefer"

    @property
    def autoscaled(self) -> bool:
        """Whether any pool is."""
        return any(pool.autoscaling is not None for pool in self.pools)

    @model_validator(mode="after")
    def _pools_differ(self) -> TritonConfig:
        names = [pool.name for pool in self.pools]
        if len(set(names)) != len(names):
            refuse([problem("pools", names, "a name is there twice; name each pool differently")])
        return self
