"""The namespaces of the estate, Pod Security `restricted` but for what needs nodes' own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import pulumi
import pulumi_kubernetes as k8s

from components.platform.config import Namespace, NamespacesConfig
from components.workload import Component, labels, meta, waive

POD_SECURITY_VERSION = "v1.35"
"""The level is pinned: a newer cluster must not tighten it without a reviewed change."""


STORAGE: Namespace = "storage"
"""Of Rook, where it runs Ceph."""
GPUS: Namespace = "gpu"
"""Of what looks at the nodes' GPUs, where it is declared."""
AUTOSCALING: Namespace = "autoscaling"
"""Of KEDA, where something is scaled by it."""
PRIVILEGED: Mapping[Namespace, str] = {
    STORAGE: "storage drivers mount volumes on nodes, and OSDs open the nodes' disks",
    GPUS: "the exporter asks each node's kubelet, by its socket, which pod has which GPU",
}
"""Why they are no `restricted` ones."""
_SOMETIMES = (*PRIVILEGED, AUTOSCALING)
NAMESPACES: tuple[Namespace, ...] = tuple(
    one for one in get_args(Namespace) if one not in _SOMETIMES
)
"""Those of every environment."""


class Namespaces(Component):
    """Namespaces labelled for Pod Security; `names[n]` is an output that waits for its creation."""

    names: dict[str, pulumi.Output[str]]

    def __init__(
        self,
        name: str,
        config: NamespacesConfig,
        *,
        namespaces: Sequence[Namespace],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:platform:Namespaces", name, opts)
        self.names = {}
        for namespace in namespaces:
            reason = PRIVILEGED.get(namespace)
            level = "restricted" if reason is None else "privileged"
            created = k8s.core.v1.Namespace(
                namespace,
                metadata=meta(
                    namespace,
                    None,
                    {
                        **labels(namespace),
                        # cert-manager's webhook leaves out its own namespace by this label.
                        "name": namespace,
                        **{
                            f"pod-security.kubernetes.io/{mode}{suffix}": value
                            for mode in ("enforce", "audit", "warn")
                            for suffix, value in (
                                ("", level),
                                ("-version", POD_SECURITY_VERSION),
                            )
                        },
                    },
                    None if reason is None else waive({"pod-security": reason}),
                ),
                opts=self.child(protect=config.protect),
            )
            self.names[namespace] = created.metadata.apply(lambda m: str(m.name))
            if quota := config.quotas.get(namespace):
                k8s.core.v1.ResourceQuota(
                    f"quota-{namespace}",
                    metadata=meta("estate", self.names[namespace], labels(namespace)),
                    spec=k8s.core.v1.ResourceQuotaSpecArgs(hard=quota.hard()),
                    opts=self.child(),
                )
        self.register_outputs({"names": self.names})
