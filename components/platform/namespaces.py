"""The namespaces of the estate, Pod Security `restricted` from the first day."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.model import Model, Name
from components.workload import Component, labels, meta

POD_SECURITY_VERSION = "v1.35"
"""The level is pinned: a newer cluster must not tighten it without a reviewed change."""


class NamespacesConfig(Model):
    """`protect` refuses to delete the namespaces, and with them every claim inside."""

    protect: bool = True


class Namespaces(Component):
    """Namespaces labelled for Pod Security; `names[n]` is an output that waits for its creation."""

    names: dict[str, pulumi.Output[str]]

    def __init__(
        self,
        name: str,
        config: NamespacesConfig,
        *,
        namespaces: Sequence[Name],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:platform:Namespaces", name, opts)
        self.names = {}
        for namespace in namespaces:
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
                                ("", "restricted"),
                                ("-version", POD_SECURITY_VERSION),
                            )
                        },
                    },
                ),
                opts=self.child(protect=config.protect),
            )
            self.names[namespace] = created.metadata.apply(lambda m: str(m.name))
        self.register_outputs({"names": self.names})
