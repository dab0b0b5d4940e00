"""Pods in the place of those that an operator would make, where no operator runs.

They have the number, labels, requests, claims and spread that the component expects, so that the
scheduler, quotas, budgets and storage decide on them as on the real ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.checks import ExpectedPods
from components.model import GPU, topology, topology_spread
from rehearsal.kube import Api, Object

LABEL = "estate.dev/placeholder"
_KINDS = ("Deployment", "StatefulSet", "DaemonSet")


def missing(api: Api, expected: Iterable[Mapping[str, Any]]) -> list[ExpectedPods]:
    """Those of the stack's expected pods that no workload of the cluster makes. ApiError."""
    templates = [
        (body["metadata"]["namespace"], body["spec"]["template"]["metadata"].get("labels", {}))
        for kind in _KINDS
        for body in api.items("apps/v1", kind)
    ]
    found = [ExpectedPods.model_validate(one) for one in expected]
    return [
        one
        for one in found
        if one.count
        and not any(
            namespace == one.namespace and one.selector.items() <= labels.items()
            for namespace, labels in templates
        )
    ]


def objects(expected: Sequence[ExpectedPods], image: str) -> list[Object]:
    """A StatefulSet for each."""
    return [_stateful_set(one, image) for one in expected]


def _apart(expected: ExpectedPods) -> dict[str, Any]:
    key, required = topology(expected.spread)
    selected = {"labelSelector": {"matchLabels": dict(expected.selector)}}
    if not expected.exclusive:
        spread = topology_spread(expected.spread, expected.selector, expected.count)
        return {"topologySpreadConstraints": spread}
    term = {"topologyKey": key, **selected}
    rule: dict[str, Any] = (
        {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
        if required
        else {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 100, "podAffinityTerm": term}
            ]
        }
    )
    return {"affinity": {"podAntiAffinity": rule}}


def _stateful_set(expected: ExpectedPods, image: str) -> Object:
    labels = {**expected.selector, LABEL: expected.name}
    claims = [f"claim-{at}" for at in range(len(expected.claims))]
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **_apart(expected),
        "containers": [
            {
                "name": "placeholder",
                "image": image,
                "resources": expected.resources.quantities(),
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in claims],
            }
        ],
    }
    if expected.nodes:
        pod["nodeSelector"] = dict(expected.nodes)
    if expected.resources.gpus:
        pod["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {
            "name": expected.name,
            "namespace": expected.namespace,
            "labels": {LABEL: expected.name},
        },
        "spec": {
            "replicas": expected.count,
            "serviceName": expected.name,
            # All at once: what does not fit is seen whole, not pod by pod.
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": name},
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": f"{size}Gi"}},
                    },
                }
                for name, size in zip(claims, expected.claims, strict=True)
            ],
        },
    }
