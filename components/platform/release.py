"""Vendored release manifests as Pulumi resources, one each, so that previews stay legible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pulumi

Object = dict[str, Any]
"""A Kubernetes object as its manifest writes it (camelCase keys)."""

_CORE_GROUPS = {"v1": "core/v1"}


class Manifest(pulumi.CustomResource):
    """One object of a manifest, of any kind, exactly as written."""

    def __init__(self, name: str, body: Object, opts: pulumi.ResourceOptions) -> None:
        version = str(body["apiVersion"])
        token = f"kubernetes:{_CORE_GROUPS.get(version, version)}:{body['kind']}"
        super().__init__(token, name, dict(body), opts)


def is_custom(api_version: str) -> bool:
    """Whether a kind comes from a definition: the groups of Kubernetes itself end otherwise."""
    group = api_version.rpartition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


def logical_name(body: Mapping[str, Any]) -> str:
    """`<namespace>/<name>` in lower case behind the kind: unique within a release."""
    metadata = body["metadata"]
    parts = [str(body["kind"]).lower(), str(metadata.get("namespace", "")), str(metadata["name"])]
    return "-".join(part for part in parts if part)


def annotate(body: Object, annotations: Mapping[str, str]) -> Object:
    """The object with more annotations."""
    metadata = dict(body["metadata"])
    metadata["annotations"] = {**metadata.get("annotations", {}), **annotations}
    return {**body, "metadata": metadata}


def apply_release(
    objects: Iterable[Object],
    parent: pulumi.Resource,
    *,
    transform: Callable[[Object], Object] = lambda body: body,
    depends_on: Iterable[pulumi.Resource] = (),
    namespace: pulumi.Input[str] | None = None,
    protect_crds: bool = False,
) -> list[Manifest]:
    """Create a release in an order that needs no retries, and return all its resources.

    Definitions first (waited for until Established), then what workloads stand on, then the
    workloads, then webhook configurations: a webhook that is registered before its pods answer
    would refuse every object of its kinds. `transform` may change any object; a webhook
    configuration that carries `pulumi.com/waitFor` is waited for. With a `namespace` all that is in
    one is in that one, and waits for it.
    """
    ranks: dict[int, list[Manifest]] = {}
    before = list(depends_on)
    for body in sorted(objects, key=_rank):
        rank = _rank(body)
        body = transform(body)
        options = pulumi.ResourceOptions(parent=parent)
        if rank == 0:
            body = annotate(body, {"pulumi.com/waitFor": "condition=Established"})
            options.protect = protect_crds
        earlier = [made for low, group in ranks.items() if low < rank for made in group]
        options.depends_on = [*before, *earlier]
        name = logical_name(body)
        if namespace is not None and "namespace" in body["metadata"]:
            body = {**body, "metadata": {**body["metadata"], "namespace": namespace}}
        ranks.setdefault(rank, []).append(Manifest(name, body, options))
    return [made for group in ranks.values() for made in group]


def _rank(body: Mapping[str, Any]) -> int:
    kind = str(body["kind"])
    if kind == "CustomResourceDefinition":
        return 0
    if kind in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
        return 2
    if kind.endswith("WebhookConfiguration"):
        return 3
    return 1
