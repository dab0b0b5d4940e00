"""The objects as a Pulumi program, with the estate's own provider and transformations."""

from __future__ import annotations

import os

import pulumi
import pulumi_kubernetes as k8s

from components.platform.release import Manifest, logical_name
from components.workload import Component
from configs.schema import ClusterConfig
from rehearsal.scale.objects import COUNT_VARIABLE, NAMESPACE, namespaced
from stacks import context, lifetimes, simulated


class Scale(Component):
    """A namespace, and the objects in it."""

    def __init__(self, count: int, opts: pulumi.ResourceOptions) -> None:
        super().__init__("estate:rehearsal:Scale", NAMESPACE, opts)
        namespace = k8s.core.v1.Namespace(
            NAMESPACE, metadata={"name": NAMESPACE}, opts=self.child()
        )
        for body in namespaced(count):
            Manifest(logical_name(body), body, self.child(depends_on=[namespace]))
        self.register_outputs({})


simulated.register()
lifetimes.register()
provider = context.kubernetes(ClusterConfig())
Scale(int(os.environ[COUNT_VARIABLE]), pulumi.ResourceOptions(provider=provider))
