"""What an environment is to serve, as the delivery in the cluster reads it: a ConfigMap each."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as k8s

from components.workload import Component, labels, meta
from model_repo.declared import Desired
from services.serving.model import DECLARED_KEY, DECLARED_LABEL


def config_map(model: str) -> str:
    """The name of a model's ConfigMap."""
    return f"model-{model}"


class ModelDeclaration(Component):
    """One model: a preview shows another version, or another way of serving it, as its diff."""

    def __init__(
        self,
        name: str,
        desired: Desired,
        *,
        namespace: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:triton:ModelDeclaration", name, opts)
        self.desired = desired
        k8s.core.v1.ConfigMap(
            config_map(desired.name),
            metadata=meta(
                config_map(desired.name),
                namespace,
                # The name is a label's value, which is shorter than an object's name may be.
                {**labels("model", component="declaration"), DECLARED_LABEL: desired.name},
            ),
            data={DECLARED_KEY: desired.document()},
            opts=self.child(),
        )
        self.register_outputs({})
