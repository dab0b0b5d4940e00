"""The objects: a namespace with so many Deployments of two replicas, and as many ConfigMaps."""

from __future__ import annotations

from typing import Any

from configs.schema import NodePool

NAMESPACE = "scale"
REPLICAS = 2
COUNT_VARIABLE = "ESTATE_SCALE"
"""How many of each kind the program declares."""

_PODS_PER_NODE = 100  # of the 110 that a node takes


def nodes(count: int) -> list[NodePool]:
    """Nodes on which all pods find room."""
    needed = -(-count * REPLICAS // _PODS_PER_NODE)
    return [NodePool(name="scale", count=max(2, needed), cpu=64, memory_gib=256)]


def objects(count: int) -> list[dict[str, Any]]:
    """The namespace first, then what is in it, as a manifest has them."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    return [space, *namespaced(count)]


def namespaced(count: int) -> list[dict[str, Any]]:
    """A ConfigMap and the Deployment that mounts it, `count` times."""
    return [
        body
        for at in range(count)
        for body in (_config_map(f"app-{at:04}"), _deployment(f"app-{at:04}"))
    ]


def _metadata(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/name": name}}


def _config_map(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(name),
        "data": {"application.properties": f"name={name}\nlog.level=info\nworkers=4\n"},
    }


def _deployment(name: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": name}
    container = {
        "name": "app",
        "image": f"registry.example/{name}:1.0.0",
        "ports": [{"name": "http", "containerPort": 8080}],
        "resources": {
            "requests": {"cpu": "10m", "memory": "16Mi"},
            "limits": {"memory": "32Mi"},
        },
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/app"}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(name),
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "automountServiceAccountToken": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [container],
                    "volumes": [{"name": "config", "configMap": {"name": name}}],
                },
            },
        },
    }
