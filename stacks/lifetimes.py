"""What is in a namespace goes with it: one transformation of all resources.

`pulumi destroy` would delete every object and await its end, one by one; Kubernetes deletes what a
namespace holds by itself, and Pulumi awaits the namespace. Where only some objects go and their
namespace stays, each is deleted as ever.

Custom resources are left out. Their operators have to see them go (finalizers of topics, backups,
volumes), in the order of the declaration and while they still run: a namespace drops everything at
once, the operator too, and is then held for ever by what that would have finished.

A protected namespace takes nothing with it. It refuses to go after Pulumi has crossed out what is
in it, which would then be there without a state that knows of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pulumi
import pulumi_kubernetes as k8s
from pulumi.runtime import register_stack_transformation

from components.platform.release import is_custom


class _Namespace:
    """Stands for the Namespace resource that a name leads to; Pulumi asks `deleted_with` for this.

    The name may be an output, which is known only when the namespace was made.
    """

    def __init__(self, urn: pulumi.Output[str]) -> None:
        self.urn = urn


def register() -> None:
    """Transform the resources of this program."""
    made: dict[str, pulumi.Resource] = {}

    def transform(
        args: pulumi.ResourceTransformationArgs,
    ) -> pulumi.ResourceTransformationResult | None:
        if not args.type_.startswith("kubernetes:"):
            return None
        metadata = args.props.get("metadata")
        if args.type_ == "kubernetes:core/v1:Namespace":
            if not args.opts.protect:
                made[_field(metadata, "name")] = args.resource
            return None
        space = _field(metadata, "namespace")
        version = args.props.get("apiVersion") or args.props.get("api_version") or ""
        if space is None or args.opts.id is not None or is_custom(str(version)):
            return None

        def urn(name: str) -> pulumi.Output[str]:
            # Protected, or none of ours (kube-system): its objects go one by one.
            return made[name].urn if name in made else pulumi.Output.from_input("")

        holder = _Namespace(pulumi.Output.from_input(space).apply(urn))
        own = pulumi.ResourceOptions(deleted_with=cast(pulumi.Resource, holder))
        return pulumi.ResourceTransformationResult(
            args.props, pulumi.ResourceOptions.merge(args.opts, own)
        )

    register_stack_transformation(transform)


def _field(metadata: Any, key: str) -> Any:
    if isinstance(metadata, k8s.meta.v1.ObjectMetaArgs):
        return getattr(metadata, key)
    return metadata.get(key) if isinstance(metadata, Mapping) else None
