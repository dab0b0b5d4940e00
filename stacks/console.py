"""The console, over what of the lake the environment declares."""

from __future__ import annotations

import pulumi

from components.console.config import CATALOGUE, USER
from components.console.console import Backends, Console
from components.datalake.ceph_config import CephConfig
from components.datalake.ceph_users import GIB
from components.datalake.kafka_cluster import KafkaCluster
from components.datalake.mongodb_cluster import MongodbCluster
from components.datalake.object_store import ObjectStore
from components.datalake.postgres_config import PostgresConfig
from components.datalake.transfer import Transfer
from stacks.context import Context
from stacks.datalake import Databases, Monitors
from stacks.foundation import Platform

TRANSFER_URL = "https://transfer.datalake.svc.cluster.local/files/"


def deploy(
    context: Context,
    platform: Platform,
    monitors: Monitors,
    *,
    kafka: KafkaCluster | None = None,
    documents: MongodbCluster | None = None,
    store: ObjectStore | None = None,
    databases: Databases | None = None,
    transfer: Transfer | None = None,
) -> Console | None:
    """The console, where the environment declares it."""
    config = context.environment.console
    if config is None:
        return None
    declared = context.environment.postgres
    catalogue = databases if declared is not None and _reads(declared) else None
    ready: list[pulumi.Resource] = [
        *(kafka.ready if kafka is not None else ()),
        *(documents.ready if documents is not None else ()),
        *(store.ready if store is not None else ()),
        *(catalogue.ready if catalogue is not None else ()),
    ]
    console = Console(
        "console",
        config,
        namespace=platform.namespaces["datalake"],
        image=context.images["estate_console"],
        backends=Backends(
            kafka=kafka,
            documents=documents,
            store=store,
            buckets=_buckets(context.environment.ceph),
            postgres=catalogue.postgres if catalogue is not None else None,
            upload_url=TRANSFER_URL if transfer is not None else None,
            upload_secret=transfer.token_secret if transfer is not None else None,
            ready=ready,
        ),
        authority=platform.pki.authority,
        issuer=platform.pki.ready,
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider, depends_on=[platform.pki]),
    )
    context.declare(console)
    context.links["console"] = console.url
    pulumi.export("console", {"url": console.url, "token_secret": console.token_secret})
    return console


def _buckets(ceph: CephConfig | None) -> dict[str, int | None]:
    """The buckets that it may read, with the bytes that the owner of each may have."""
    if ceph is None:
        return {}
    quotas = {user.name: user.quota_gib for user in ceph.users}
    return {
        bucket.name: gib * GIB if (gib := quotas[bucket.owner]) is not None else None
        for bucket in ceph.buckets
        if any(grant.user == USER for grant in bucket.grants)
    }


def _reads(postgres: PostgresConfig) -> bool:
    """Whether role `console` may read the catalogue."""
    return any(one.name == CATALOGUE and USER in one.readers for one in postgres.databases)
