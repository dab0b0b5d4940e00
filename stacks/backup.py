"""Backups to a store outside of the estate: an archive before PostgreSQL, Jobs after the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.datalake.backup_config import BACKUP_USER, NAMESPACE, BackupConfig
from components.datalake.backup_store import BackupStore
from components.datalake.barman_cloud import BarmanCloud
from components.datalake.kafka_backup import KafkaBackup
from components.datalake.kafka_cluster import KafkaCluster
from components.datalake.mongodb_backup import MongodbBackup
from components.datalake.mongodb_cluster import MongodbCluster
from components.datalake.postgres_archive import PostgresArchive
from components.model_repository.config import NAME as REGISTRY
from components.model_repository.config import NAMESPACE as SERVING
from components.model_repository.config import ModelRepositoryConfig
from components.model_repository.nexus import Nexus
from components.model_repository.nexus_backup import NexusBackup
from components.workload import Component
from stacks.context import Context, manifest
from stacks.foundation import Platform


@dataclass(frozen=True)
class Backups:
    """What is saved, and the store's keys."""

    config: BackupConfig
    store: BackupStore


def deploy(context: Context, platform: Platform) -> Backups | None:
    """The store's keys, where the environment declares backups."""
    config = context.environment.backup
    if config is None:
        return None
    return Backups(config, _store(context, config, "backup-store", platform.namespaces[NAMESPACE]))


def _store(
    context: Context, config: BackupConfig, name: str, namespace: pulumi.Input[str]
) -> BackupStore:
    return BackupStore(
        name,
        config.store,
        namespace=namespace,
        access_key=context.secret(config.store.access_key),
        secret_key=context.secret(config.store.secret_key),
        opts=pulumi.ResourceOptions(provider=context.provider),
    )


def namespaces(config: BackupConfig | None, registry: ModelRepositoryConfig | None) -> list[str]:
    """Where CronJobs are whose age somebody has to tell: those of backups, and of ECR's token."""
    models = config is not None and config.models is not None
    ecr = registry is not None and registry.ecr is not None
    return [NAMESPACE, *([SERVING] if models or ecr else [])]


def deploy_archive(
    context: Context,
    platform: Platform,
    backups: Backups | None,
    operator: Sequence[pulumi.Resource],
) -> PostgresArchive | None:
    """PostgreSQL's archive and the plugin that fills it; what its cluster is made with."""
    if backups is None or backups.config.postgres is None:
        return None
    image = context.images["barman_cloud"]
    plugin = BarmanCloud(
        "barman-cloud",
        context.environment.barman_cloud,
        namespace=platform.namespaces["platform"],
        image=image,
        sidecar=context.images["barman_cloud_sidecar"],
        objects=manifest(f"plugin-barman-cloud-{image.tag.removeprefix('v')}"),
        authority=platform.pki.authority,
        issuer=platform.pki.ready,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
    context.declare(plugin)
    return PostgresArchive(
        "postgres-archive",
        backups.config.postgres,
        namespace=platform.namespaces["datalake"],
        store=backups.store,
        plugin=[*operator, *plugin.ready],
        opts=pulumi.ResourceOptions(provider=context.provider),
    )


def deploy_jobs(
    context: Context,
    platform: Platform,
    monitors: Sequence[pulumi.Resource] | None,
    backups: Backups | None,
    kafka: KafkaCluster | None,
    mongodb: MongodbCluster | None,
) -> None:
    """The CronJobs of what is saved by dumps."""
    if backups is None:
        return
    config = backups.config
    made: list[Component] = []
    opts = pulumi.ResourceOptions(provider=context.provider)
    if config.mongodb is not None:
        # The environment's model asks for both, and for the user.
        declared = context.environment.mongodb
        assert mongodb is not None and declared is not None
        user = next(one for one in declared.users if one.name == BACKUP_USER)
        documents = MongodbBackup(
            "mongodb-backup",
            config.mongodb,
            namespace=platform.namespaces["datalake"],
            mongodb=mongodb,
            password=context.secret(user.password),
            store=backups.store,
            image=context.images["mongodb_server"],
            rclone=context.images["rclone"],
            monitors=monitors,
            opts=opts,
        )
        made.append(documents)
    if config.kafka is not None:
        assert kafka is not None
        messages = KafkaBackup(
            "kafka-backup",
            config.kafka,
            namespace=platform.namespaces["datalake"],
            kafka=kafka,
            store=backups.store,
            image=context.images["estate_admin"],
            rclone=context.images["rclone"],
            monitors=monitors,
            opts=opts,
        )
        made.append(messages)
    for component in made:
        context.declare(component)


def deploy_models(
    context: Context,
    platform: Platform,
    monitors: Sequence[pulumi.Resource] | None,
    backups: Backups | None,
    nexus: Nexus,
) -> None:
    """The CronJob of Nexus' blobs, with the store's keys in its namespace."""
    if backups is None or backups.config.models is None:
        return
    namespace = platform.namespaces[SERVING]
    blobs = NexusBackup(
        f"{REGISTRY}-backup",
        backups.config.models,
        namespace=namespace,
        nexus=nexus,
        store=_store(context, backups.config, f"{REGISTRY}-backup-store", namespace),
        rclone=context.images["rclone"],
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
    context.declare(blobs)
