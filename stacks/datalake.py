"""The data lake layer: Kafka, and PostgreSQL behind Pgpool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.datalake.ceph import Ceph
from components.datalake.cloudnative_pg import MANIFEST, CloudNativePgOperator
from components.datalake.kafka import Kafka
from components.datalake.kafka_cluster import KafkaCluster
from components.datalake.object_store import ObjectStore
from components.datalake.pgpool import Pgpool
from components.datalake.postgres import Postgres
from components.datalake.postgres_databases import PostgresDatabases
from components.datalake.rook_ceph import RookCeph
from stacks import backup, rook, strimzi
from stacks.backup import Backups
from stacks.context import Context, manifest
from stacks.foundation import Platform

Monitors = Sequence[pulumi.Resource] | None
"""What monitors depend on (their definitions); None where nothing scrapes."""


def deploy_kafka(context: Context, platform: Platform, monitors: Monitors) -> KafkaCluster | None:
    """Kafka, where the environment declares it, by the implementation that it chooses."""
    config = context.environment.kafka
    if config is None:
        return None
    kafka: KafkaCluster
    if config.implementation == "strimzi":
        kafka = strimzi.deploy(context, platform, config, monitors)
    else:
        kafka = Kafka(
            "kafka",
            config,
            namespace=platform.namespaces["datalake"],
            image=context.images["kafka"],
            admin_image=context.images["estate_admin"],
            authority=platform.pki.authority,
            passwords={user.name: context.secret(user.password) for user in config.users},
            monitors=monitors,
            opts=pulumi.ResourceOptions(provider=context.provider, depends_on=[platform.pki]),
        )
    context.declare(kafka)
    pulumi.export("kafka", {"bootstrap": kafka.bootstrap})
    return kafka


def deploy_ceph(context: Context, platform: Platform, monitors: Monitors) -> ObjectStore | None:
    """The object store, where the environment declares it: what its S3 clients need."""
    config = context.environment.ceph
    if config is None:
        return None
    ceph: Ceph | RookCeph
    if config.implementation == "rook":
        ceph = rook.deploy(context, platform, config, monitors)
    else:
        assert config.keys is not None
        ceph = Ceph(
            "ceph",
            config,
            namespace=platform.namespaces["datalake"],
            image=context.images["ceph"],
            admin_image=context.images["estate_admin"],
            seed=context.secret(config.keys),
            secret_keys={user.name: context.secret(user.secret_key) for user in config.users},
            authority=platform.pki.authority,
            monitors=monitors,
            opts=pulumi.ResourceOptions(provider=context.provider, depends_on=[platform.pki]),
        )
    context.declare(ceph)
    pulumi.export("s3", {"endpoint": ceph.store.endpoint, "region": ceph.store.region})
    return ceph.store


@dataclass(frozen=True)
class Databases:
    """The cluster, and what must exist before one of `postgres.databases` can be used."""

    postgres: Postgres
    ready: Sequence[pulumi.Resource]


def deploy_postgres(
    context: Context, platform: Platform, monitors: Monitors, backups: Backups | None = None
) -> Databases | None:
    """The PostgreSQL cluster with its operator and databases, and the pool in front of it."""
    config = context.environment.postgres
    if config is None:
        return None
    issuer = platform.pki.ready
    operator = CloudNativePgOperator(
        "cloudnative-pg",
        context.environment.cloudnative_pg,
        namespace=platform.namespaces["platform"],
        image=context.images["cnpg_operator"],
        objects=manifest(MANIFEST),
        authority=platform.pki.authority,
        issuer=issuer,
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
    archive = backup.deploy_archive(context, platform, backups, operator.ready)
    passwords = {role.name: context.secret(role.password) for role in (config.owner, *config.roles)}
    postgres = Postgres(
        "postgres",
        config,
        namespace=platform.namespaces["datalake"],
        image=context.images["postgresql"],
        passwords=passwords,
        operator=operator.ready,
        authority=platform.pki.authority,
        issuer=issuer,
        archive=archive,
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
    for component in (operator, postgres):
        context.declare(component)
    pulumi.export(
        "postgres",
        {
            "write_host": postgres.write_host,
            "read_host": postgres.read_host,
            "port": postgres.port,
            "database": postgres.database,
        },
    )
    ready = postgres.ready
    if config.databases:
        databases = PostgresDatabases(
            "postgres",
            config,
            postgres=postgres,
            namespace=platform.namespaces["datalake"],
            image=context.images["postgresql"],
            passwords=passwords,
            opts=pulumi.ResourceOptions(provider=context.provider),
        )
        context.declare(databases)
        ready = databases.ready
    if context.environment.pgpool is not None:
        _deploy_pgpool(context, platform, monitors, postgres, passwords)
    return Databases(postgres, ready)


def _deploy_pgpool(
    context: Context,
    platform: Platform,
    monitors: Monitors,
    postgres: Postgres,
    passwords: dict[str, pulumi.Output[str]],
) -> None:
    environment = context.environment
    assert environment.pgpool is not None
    assert environment.postgres is not None
    pgpool = Pgpool(
        "pgpool",
        environment.pgpool,
        postgres=postgres,
        namespace=platform.namespaces["datalake"],
        image=context.images["pgpool"],
        exporter_image=context.images["sql_exporter"] if environment.pgpool.exporter else None,
        passwords=passwords,
        owner=environment.postgres.owner.name,
        authority=platform.pki.authority,
        issuer=platform.pki.ready,
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
    context.declare(pgpool)
    pulumi.export("pgpool", {"host": pgpool.host, "port": pgpool.port})
