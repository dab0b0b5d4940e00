"""What a cluster has before anything is declared on it: DNS, storage, simulated nodes.

These belong to the rehearsal, not to the declared estate: a cluster of the user's own brings its
own.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from components.model import GPU, GPU_NODE, mig_resource
from configs.schema import NodePool
from rehearsal import sandbox

HERE = Path(__file__).parent / "addons"
IMAGES = ("pause", "coredns", "local_path_provisioner", "busybox")


def manifests(images: Mapping[str, str], volumes: Path) -> str:
    """DNS, storage and the rights of the policy engine as one YAML stream.

    `images` maps an image's key to its full reference, `volumes` is where claims get folders.
    """
    values = {**images, "dns_ip": sandbox.DNS_SERVICE_IP, "volumes": str(volumes)}
    parts = []
    for file in ("coredns.yaml", "local-path.yaml", "cilium.yaml"):
        parts.append(string.Template((HERE / file).read_text()).substitute(values))
    return "---\n".join(parts)


def fleet(*, take_all: bool = False) -> str:
    """The simulated nodes of addons/fleet.yaml as one YAML stream of Node objects.

    With `take_all`, where there is no real node, the CPU pool takes every pod.
    """
    pools = yaml.safe_load((HERE / "fleet.yaml").read_text())["pools"]
    nodes = [_node(pool, index) for pool in pools for index in range(pool["count"])]
    if take_all:
        for node in nodes:
            if node["metadata"]["labels"]["estate.dev/pool"] == "cpu":
                node["spec"]["taints"] = []
    return yaml.safe_dump_all(nodes)


def nodes(pools: Sequence[NodePool]) -> str:
    """An environment's own nodes, simulated, as one YAML stream of Node objects.

    Those with GPUs are labelled as by NVIDIA's feature discovery, and where there are any comes
    the runtime class too: its GPU operator brings both to a real cluster.
    """
    found: list[dict[str, Any]] = []
    if any(pool.gpus or pool.mig for pool in pools):
        found.append(
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": "nvidia"},
                "handler": "nvidia",
            }
        )
    for pool in pools:
        capacity: dict[str, object] = {
            "cpu": pool.cpu,
            "memory": f"{pool.memory_gib}Gi",
            "ephemeral-storage": f"{pool.disk_gib}Gi",
            "pods": 110,
        }
        if pool.gpus:
            capacity[GPU] = pool.gpus
        capacity |= {mig_resource(profile): count for profile, count in pool.mig.items()}
        values = {**pool.model_dump(), "capacity": capacity}
        if pool.gpus or pool.mig:
            values["labels"] = {**GPU_NODE, **pool.labels}
        for index in range(pool.count):
            node = _node(values, index)
            node["spec"]["taints"] = values["taints"]
            found.append(node)
    return yaml.safe_dump_all(found)


def simulated() -> str:
    """The default StorageClass where no node is real; `stages` binds its claims."""
    return (HERE / "simulated-storage.yaml").read_text()


def stages() -> str:
    """KWOK stages that stand for a provisioner, and a kubelet's repair, where no node is real."""
    return (HERE / "simulated-stages.yaml").read_text()


def fleet_names() -> list[str]:
    """The names of the simulated nodes."""
    pools = yaml.safe_load((HERE / "fleet.yaml").read_text())["pools"]
    return [f"{pool['name']}-{index}" for pool in pools for index in range(pool["count"])]


def _node(pool: Mapping[str, Any], index: int) -> dict[str, Any]:
    name = f"{pool['name']}-{index}"
    capacity = {key: str(value) for key, value in pool["capacity"].items()}
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": pool.get("arch", "amd64"),
        "type": "kwok",
        "estate.dev/node": "simulated",
        "estate.dev/pool": pool["name"],
        **pool.get("labels", {}),
    }
    if zones := pool.get("zones"):
        labels["topology.kubernetes.io/zone"] = zones[index % len(zones)]
    simulated = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {"kwok.x-k8s.io/node": "fake", "node.alpha.kubernetes.io/ttl": "0"},
        },
        "spec": {"taints": [simulated, *pool.get("taints", [])]},
        "status": {"capacity": capacity, "allocatable": capacity},
    }
