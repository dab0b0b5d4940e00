"""Ceph by Rook: the operator, then the cluster that it runs."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi

from components.datalake.ceph_config import CephConfig
from components.datalake.rook_ceph import RookCeph
from components.datalake.rook_operator import RookOperator
from components.platform.namespaces import STORAGE
from stacks.context import Context, manifest
from stacks.foundation import Platform


def deploy(
    context: Context,
    platform: Platform,
    config: CephConfig,
    monitors: Sequence[pulumi.Resource] | None,
) -> RookCeph:
    """The operator and the cluster, both in the namespace `storage`."""
    images = context.images
    release = images["rook_operator"].tag.removeprefix("v")
    operator = RookOperator(
        "rook",
        context.environment.rook,
        namespace=platform.namespaces[STORAGE],
        images=images,
        objects=manifest(f"rook-{release}"),
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
    ceph = RookCeph(
        "ceph",
        config,
        namespace=platform.namespaces[STORAGE],
        clients_namespace=platform.namespaces["datalake"],
        image=images["ceph"],
        admin_image=images["estate_admin"],
        secret_keys={user.name: context.secret(user.secret_key) for user in config.users},
        realm_keys=_realm_keys(context, config),
        authority=platform.pki.authority,
        operator=operator.ready,
        issuer=platform.pki.ready,
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
    context.declare(operator)
    return ceph


def _realm_keys(context: Context, config: CephConfig) -> list[pulumi.Output[str]]:
    several = config.rook.replication if config.rook is not None else None
    if several is None:
        return []
    return [context.secret(several.access_key), context.secret(several.secret_key)]
