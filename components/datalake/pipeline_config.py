"""What an operator decides about the pipeline: what is taken, who may look, where runs run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from components.model import Model, Name, Resources, SecretRef, Spread, problem, refuse

NAMESPACE = "datalake"
USER = "pipeline"
"""Of the object store, of Kafka and of the documents."""
DAGSTER, CATALOGUE = "dagster", "catalogue"
"""Databases of PostgreSQL, each with an owner of the same name."""
READER = "console"
"""Role that reads the catalogue."""
VERIFY_USER = "verify"
"""Of the web pages; a check logs in as him."""
PORT = 443
CLIENTS_PORT, METRICS_PORT = 8443, 9108
WEB_PORT, CODE_SOCKET = 3000, "/run/pipeline/code.sock"
"""On the pod's loopback, and a socket of the pod."""


class PipelineUser(Model):
    """Who may use the web pages: to see everything, and to start and stop runs."""

    name: Name
    password: SecretRef


class RunLimits(Model):
    """What is taken and what it becomes; services/pipeline/settings.py has the meanings."""

    image_mib: int = Field(default=64, ge=1, le=4096)
    megapixels: int = Field(default=100, ge=1, le=1000)
    side_px: int = Field(default=1024, ge=64, le=16_384, description="longest stored side")
    quality: int = Field(default=90, ge=50, le=95, description="of the stored JPEG")
    near_bits: int = Field(default=3, ge=0, le=3, description="of 64; hashes so near are equal")
    batch: int = Field(default=400, ge=1, le=10_000, description="images of one run")


class PipelineConfig(Model):
    """Dagster with its web pages, its daemon and the pipeline's code.

    `launcher` says where runs run: beside the code (`local`), or each in a Job of its own, on any
    node (`kubernetes`), `parallel` of them at once.
    """

    launcher: Literal["local", "kubernetes"] = "local"
    parallel: int = Field(default=1, ge=1, le=64, description="runs of the image job at once")
    limits: RunLimits = RunLimits()
    users: list[PipelineUser] = Field(min_length=1)
    proxy_resources: Resources = Resources(
        cpu_request_m=10, memory_request_mib=32, memory_limit_mib=128
    )
    web_resources: Resources = Resources(
        cpu_request_m=50, memory_request_mib=256, memory_limit_mib=640
    )
    daemon_resources: Resources = Resources(
        cpu_request_m=50, memory_request_mib=256, memory_limit_mib=640
    )
    code_resources: Resources = Resources(
        cpu_request_m=200, memory_request_mib=512, memory_limit_mib=2048
    )
    """Of the code's container: what serves it and, with launcher `local`, the runs."""
    run_resources: Resources = Resources(
        cpu_request_m=500, memory_request_mib=512, memory_limit_mib=2048
    )
    """Of a run's own pod, with launcher `kubernetes`."""
    metrics_resources: Resources = Resources(
        cpu_request_m=10, memory_request_mib=96, memory_limit_mib=256
    )
    lag_images: int = Field(default=5000, ge=1, description="that wait, before an alert is due")
    spread: Spread = "prefer"

    @model_validator(mode="after")
    def _users_are_well_named(self) -> PipelineConfig:
        names = [user.name for user in self.users]
        problems = [
            problem(f"users.{i}.name", name, "declared twice; every user once")
            for i, name in enumerate(names)
            if name in names[:i]
        ]
        if VERIFY_USER not in names:
            text = f"the estate's own user {VERIFY_USER!r} is missing; a check logs in as him"
            problems.append(problem("users", names, text))
        refuse(problems)
        return self
