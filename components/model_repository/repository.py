"""What the registry's users need to know of it, whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

from components.flows import OUTSIDE, Flow, Pods
from components.model_repository.config import HOST, PUBLISH_PORT, READ_PORT, READER, TRUST
from components.workload import TRUST_CONFIG_MAP


@dataclass(frozen=True)
class ModelRepository:
    """Where versions of models are published, and where they are read.

    `publish_url` and `read_url` are `https://host:port[/path]`; versions are the repositories
    `models/<name>` below. `secrets` maps a user to the Secret (keys `username`, `password`) in the
    registry's namespace, and `trust` names the ConfigMap whose `signing.pub` holds the PEM public
    keys of which one must have signed what is served. `authority` names the ConfigMap whose
    `ca.crt` verifies the certificate. `ready` holds what must be there before anybody asks.

    A registry outside of the cluster (ECR) has no `pods` and no `authority`: flows then lead to
    port 443 of anywhere, and the public authorities verify. `secrets` then has the reader's alone.
    `read_address` is what `read_url` will be, for checks: they are written before anything is made.
    """

    publish_url: pulumi.Output[str]
    read_url: pulumi.Output[str]
    secrets: Mapping[str, str]
    ready: Sequence[pulumi.Resource]
    pods: Pods | None = None
    authority: str | None = TRUST_CONFIG_MAP
    trust: str = TRUST
    read_address: str = f"https://{HOST}:{READ_PORT}"

    @property
    def reader_secret(self) -> str:
        """The Secret of who reads."""
        return self.secrets[READER]

    def read_by(self, source: Pods) -> Flow:
        """The flow of pods that read versions."""
        return self._asked_by(source, READ_PORT)

    def published_by(self, source: Pods) -> Flow:
        """The flow of pods that add versions."""
        return self._asked_by(source, PUBLISH_PORT)

    def _asked_by(self, source: Pods, port: int) -> Flow:
        if self.pods is None:
            return Flow(source=source, target=OUTSIDE, ports=[443])
        return Flow(source=source, target=self.pods, ports=[port])
