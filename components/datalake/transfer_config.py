"""What an operator decides about image transfer: how much is taken, how it is buffered."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from components.model import Model, Resources, Spread, problem, refuse

NAMESPACE = "datalake"
BUCKET = "images-incoming"
USER = "transfer"
"""Of the object store and of Kafka."""
PORT = 443
CLIENTS_PORT, PEERS_PORT, METRICS_PORT = 8443, 8444, 8405
TUSD_PORT, SERVICE_PORT = 1080, 1081
"""On the pod's loopback."""
ALGORITHM = "ES256"
AUDIENCE = "transfer"
"""What a token must be signed with, and for."""
TOKEN_SECRET = "transfer-tokens"
"""Its `tls.key` signs tokens; the proxy gets the certificate alone."""
BASE_PATH = "/files/"


class TransferConfig(Model):
    """tusd behind a proxy, and the service that verifies what it has stored.

    An upload travels in parts of `part_mib`; a replica holds at most `buffer_mib` of them, in
    memory or on its node's disk, before it makes senders wait.
    """

    replicas: int = Field(default=2, ge=1, le=16)
    upload_mib: int = Field(default=2048, ge=1, le=1_048_576)
    image_mib: int = Field(default=128, ge=1, le=4096)
    megapixels: int = Field(default=100, ge=1, le=1000)
    batch_members: int = Field(default=20_000, ge=1, le=200_000)
    part_mib: int = Field(default=16, ge=5, le=5120, description="S3 takes no part below 5 MiB")
    buffered_parts: int = Field(default=2, ge=0, le=100, description="of one upload")
    concurrent_parts: int = Field(default=8, ge=1, le=1000, description="to the store, per replica")
    buffer: Literal["memory", "disk"] = "disk"
    buffer_mib: int = Field(default=1024, ge=64, le=1_048_576)
    workers: int = Field(default=2, ge=1, le=64, description="uploads judged at a time")
    sweep_s: int = Field(default=30, ge=5, le=3600)
    window_h: int = Field(default=168, ge=1, le=8760, description="how long an upload may take")
    proxy_resources: Resources = Resources(
        cpu_request_m=50, memory_request_mib=64, memory_limit_mib=256
    )
    tusd_resources: Resources = Resources(
        cpu_request_m=50, memory_request_mib=64, memory_limit_mib=512
    )
    resources: Resources = Resources(
        cpu_request_m=50, memory_request_mib=128, memory_limit_mib=1024
    )
    spread: Spread = "prefer"

    @model_validator(mode="after")
    def _fits(self) -> TransferConfig:
        found: list[dict[str, Any]] = []
        if self.image_mib > self.upload_mib:
            text = f"at most upload_mib ({self.upload_mib}): an image is part of an upload"
            found.append(problem("image_mib", self.image_mib, text))
        # Four bytes a pixel, one large image at a time, beside the interpreter and what is read.
        needed = self.megapixels * 4 + 192 + 32 * self.workers
        if self.resources.memory_limit_mib < needed:
            text = f"at least {needed}, to decode an image of {self.megapixels} megapixels"
            found.append(
                problem("resources.memory_limit_mib", self.resources.memory_limit_mib, text)
            )
        if self.buffer == "memory" and self.tusd_resources.memory_limit_mib < self.buffer_mib + 128:
            text = f"at least buffer_mib + 128 ({self.buffer_mib + 128}): the buffer is memory"
            found.append(
                problem(
                    "tusd_resources.memory_limit_mib", self.tusd_resources.memory_limit_mib, text
                )
            )
        refuse(found)
        return self
