"""The platform layer: namespaces, cert-manager, the estate's own certificate authority.

Not named platform.py: Pulumi runs Python in this folder, where that would hide the standard
library's module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

from components.platform.cert_manager import CertManager
from components.platform.namespaces import AUTOSCALING, GPUS, NAMESPACES, STORAGE, Namespaces
from components.platform.network import Network
from components.platform.pki import Pki
from stacks.context import Context, manifest


@dataclass(frozen=True)
class Platform:
    """What the other layers take: namespaces, and the authority to depend on."""

    namespaces: Mapping[str, pulumi.Output[str]]
    pki: Pki


def deploy_namespaces(context: Context) -> Namespaces:
    """The namespaces come before everything, operators included."""
    environment = context.environment
    ceph, monitoring = environment.ceph, environment.monitoring
    needed = {
        STORAGE: ceph is not None and ceph.implementation == "rook",
        GPUS: monitoring is not None and monitoring.dcgm is not None,
        AUTOSCALING: environment.serving is not None and environment.serving.autoscaled,
    }
    return Namespaces(
        "namespaces",
        environment.namespaces,
        namespaces=[*NAMESPACES, *(name for name, wanted in needed.items() if wanted)],
        opts=pulumi.ResourceOptions(provider=context.provider),
    )


def deploy(
    context: Context, namespaces: Namespaces, monitors: Sequence[pulumi.Resource] | None
) -> Platform:
    """cert-manager and the authority."""
    environment = context.environment
    # The manifest is that of the images; versions.toml is the one place that names the release.
    release = context.images["cert_manager_controller"].tag.removeprefix("v")
    cert_manager = CertManager(
        "cert-manager",
        environment.cert_manager,
        images=context.images,
        objects=manifest(f"cert-manager-{release}"),
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider, depends_on=[namespaces]),
    )
    pki = Pki(
        "pki",
        environment.pki,
        namespaces=namespaces.names,
        cert_manager=cert_manager.ready,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
    for component in (cert_manager, pki):
        context.declare(component)
    return Platform(namespaces=namespaces.names, pki=pki)


def deploy_network(context: Context, namespaces: Namespaces) -> None:
    """The policies of all flows that were declared until now: so it comes last."""
    network = Network(
        "network",
        context.environment.network,
        namespaces=namespaces.names,
        flows=context.flows,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
    context.declare(network)
