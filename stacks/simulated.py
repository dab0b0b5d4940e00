"""What changes where every node is simulated: one transformation of all resources.

There the control plane is real, but no container runs. So nothing answers behind a webhook, no
operator works on a custom resource, and no authority issues. Everything is declared all the same;
only what would wait for a container, for ever, does not. Where an environment is rehearsed, nothing
is waited for: what cannot be scheduled is found and named by `estate rehearse`, in seconds.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi.runtime import register_stack_transformation

from components.platform.release import is_custom
from stacks.context import REHEARSE_VARIABLE

VARIABLE = "ESTATE_SIMULATED"
STAND_IN = "no container runs here, so no authority issues: this stands in for a certificate\n"

_WORKLOADS = (":Deployment", ":StatefulSet", ":DaemonSet", ":Job")
_AWAITED = "pulumi.com/waitFor"
_SKIP = {"pulumi.com/skipAwait": "true"}


def register() -> None:
    """Transform the resources of this program if `VARIABLE` says that no node is real."""
    if os.environ.get(VARIABLE) == "1":
        register_stack_transformation(transform)


def transform(
    args: pulumi.ResourceTransformationArgs,
) -> pulumi.ResourceTransformationResult | None:
    """A resource as it can exist without any container; None leaves it as it is."""
    if not args.type_.startswith("kubernetes:"):
        return None
    if args.opts.id is not None:
        return _written_here(args)
    props = dict(args.props)
    kind = str(props.get("kind", ""))
    if kind.endswith("WebhookConfiguration"):
        # One that is registered refuses every object of its kinds: nobody answers.
        props["webhooks"] = []
    elif kind == "APIService":
        # Nobody answers for its kinds either; without a Service they are only not there.
        spec = props["spec"]
        assert isinstance(spec, Mapping)
        props["spec"] = {key: spec[key] for key in spec if key not in ("service", "caBundle")}
    elif not (
        is_custom(str(props.get("apiVersion") or props.get("api_version") or ""))
        or (os.environ.get(REHEARSE_VARIABLE) == "1" and args.type_.endswith(_WORKLOADS))
    ):
        return None
    props["metadata"] = _not_awaited(props.get("metadata"))
    return pulumi.ResourceTransformationResult(props, args.opts)


def _not_awaited(metadata: Any) -> Any:
    if isinstance(metadata, k8s.meta.v1.ObjectMetaArgs):
        found = metadata.annotations
        assert found is None or isinstance(found, Mapping)
        metadata.annotations = {**_without_await(found), **_SKIP}
        return metadata
    assert isinstance(metadata, Mapping)
    return {**metadata, "annotations": {**_without_await(metadata.get("annotations")), **_SKIP}}


def _without_await(annotations: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (annotations or {}).items() if key != _AWAITED}


def _written_here(
    args: pulumi.ResourceTransformationArgs,
) -> pulumi.ResourceTransformationResult:
    """A Secret that the program reads, and that an operator would have written, is made here."""
    if args.type_ != "kubernetes:core/v1:Secret":
        raise pulumi.RunError(f"{args.name}: nothing stands in for {args.type_} in simulated mode")
    options = args.opts._copy()
    identifier = pulumi.Output.from_input(options.id)
    options.id = None
    props = {
        **args.props,
        "api_version": "v1",
        "kind": "Secret",
        "metadata": {
            "namespace": identifier.apply(lambda id_: str(id_).partition("/")[0]),
            "name": identifier.apply(lambda id_: str(id_).partition("/")[2]),
        },
        "data": {"tls.crt": base64.b64encode(STAND_IN.encode()).decode()},
    }
    return pulumi.ResourceTransformationResult(props, options)
