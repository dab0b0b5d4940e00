"""Documents: FerretDB on the estate's PostgreSQL, or MongoDB's operator and a replica set."""

from __future__ import annotations

from collections.abc import Mapping

import pulumi

from components.datalake.ferretdb import FerretDB
from components.datalake.mongodb_cluster import MongodbCluster
from components.datalake.mongodb_community import MongodbCommunity
from components.datalake.mongodb_config import MongodbConfig
from components.datalake.mongodb_operator import MANIFEST, MongodbOperator
from stacks.context import Context, manifest
from stacks.datalake import Databases, Monitors
from stacks.foundation import Platform


def deploy(
    context: Context, platform: Platform, databases: Databases | None, monitors: Monitors
) -> MongodbCluster | None:
    """MongoDB's protocol, where it is declared, by the implementation that is chosen."""
    config = context.environment.mongodb
    if config is None:
        return None
    passwords = {user.name: context.secret(user.password) for user in config.users}
    cluster: MongodbCluster
    if config.implementation == "community":
        cluster = _community(context, platform, config, passwords, monitors)
    else:
        assert databases is not None
        cluster = _ferretdb(context, platform, config, passwords, databases, monitors)
    context.declare(cluster)
    pulumi.export("mongodb", {"url": cluster.url})
    return cluster


def _ferretdb(
    context: Context,
    platform: Platform,
    config: MongodbConfig,
    passwords: Mapping[str, pulumi.Output[str]],
    databases: Databases,
    monitors: Monitors,
) -> FerretDB:
    declared = context.environment.postgres
    assert declared is not None
    database = config.on_postgres.database
    owner = next(one.owner for one in declared.databases if one.name == database)
    role = next(one for one in declared.roles if one.name == owner)
    return FerretDB(
        "mongodb",
        config,
        postgres=databases.postgres,
        role=owner,
        role_password=context.secret(role.password),
        databases=databases.ready,
        namespace=platform.namespaces["datalake"],
        image=context.images["ferretdb"],
        admin_image=context.images["estate_admin"],
        passwords=passwords,
        authority=platform.pki.authority,
        issuer=[platform.pki],
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )


def _community(
    context: Context,
    platform: Platform,
    config: MongodbConfig,
    passwords: Mapping[str, pulumi.Output[str]],
    monitors: Monitors,
) -> MongodbCommunity:
    """The operator, which watches the data lake's namespace alone, and the replica set."""
    images = {
        part: context.images[f"mongodb_{part}"] for part in ("server", "agent", "hook", "readiness")
    }
    operator = MongodbOperator(
        "mongodb-operator",
        context.environment.mongodb_operator,
        namespace=platform.namespaces["platform"],
        watched=("datalake", platform.namespaces["datalake"]),
        image=context.images["mongodb_operator"],
        images=images,
        objects=manifest(MANIFEST),
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
    context.declare(operator)
    return MongodbCommunity(
        "mongodb",
        config,
        namespace=platform.namespaces["datalake"],
        images=images,
        passwords=passwords,
        metrics_password=context.secret(config.replica_set.metrics_password),
        authority=platform.pki.authority,
        operator=operator.ready,
        issuer=platform.pki.ready,
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
