"""What a client of the estate's object store needs to know, whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

from components.flows import Pods


@dataclass(frozen=True)
class ObjectStore:
    """S3 over TLS by the estate's CA, path-style; `secrets` maps a user to his Secret's name.

    The Secrets (keys `access-key`, `secret-key`) are in the store's namespace. `pods` answer on
    `target_port`.
    """

    host: str
    port: int
    target_port: int
    region: str
    secrets: Mapping[str, str]
    pods: Pods
    ready: Sequence[pulumi.Resource]

    @property
    def endpoint(self) -> str:
        """`https://host:port`."""
        return f"https://{self.host}:{self.port}"
