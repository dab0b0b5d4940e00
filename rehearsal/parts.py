"""What the estate consists of, and what of each part is real in a rehearsal.

The one source of the table in README.md, docs and `./estate status`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["real", "simulated", "declared"]

# Profiles beyond the core, with the budget that each must keep (time, memory, disk).
PROFILES: dict[str, str] = {}


@dataclass(frozen=True)
class Part:
    """One part: its state on a real node, without one, and a plain sentence on how."""

    name: str
    node: State
    without_node: State
    how: str


PARTS = (
    Part("Kubernetes control plane 1.35", "real", "real", "etcd, API server, scheduler, controllers run by kwokctl"),
    Part("Node: kubelet, containerd, kube-proxy", "real", "simulated", "upstream programs in namespaces of their own"),
    Part("CoreDNS, local-path storage", "real", "simulated", "upstream programs; claims are folders of the rehearsal"),
    Part("CPU, GPU and edge nodes", "simulated", "simulated", "KWOK nodes with real capacities, labels and taints"),
    Part("cert-manager and the estate's CA", "real", "declared", "release 1.11.5 runs here; newer ones are declared where images can be pulled"),
    Part("Mosquitto", "real", "simulated", "Debian's 2.0.11 with TLS, users and ACLs"),
    Part("Kafka", "real", "simulated", "three KRaft brokers of 4.4.0 from Maven, without an operator"),
    Part("PostgreSQL HA", "real", "declared", "CloudNativePG 1.30 with Debian's PostgreSQL 15, three instances"),
    Part("Pgpool", "real", "simulated", "Debian's 4.3.5, two replicas, its own failover off"),
    Part("Prometheus and Alertmanager", "real", "declared", "prometheus-operator 0.93.1, Prometheus 3.13 from its Go module, Debian's Alertmanager 0.25"),
)  # fmt: skip


def table_rows(mode: str) -> list[tuple[str, str, str]]:
    """Rows of part, state and how, for a rehearsal of this mode ("node" or "simulated")."""
    return [(p.name, p.node if mode == "node" else p.without_node, p.how) for p in PARTS]


def markdown() -> str:
    """The table as Markdown, as README.md carries it."""
    lines = ["| part | with a real node | without | how |", "| --- | --- | --- | --- |"]
    lines += [f"| {p.name} | {p.node} | {p.without_node} | {p.how} |" for p in PARTS]
    return "\n".join(lines)
