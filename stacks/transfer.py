"""Image transfer, on the lake's object store and Kafka."""

from __future__ import annotations

import pulumi

from components.datalake.kafka_cluster import KafkaCluster
from components.datalake.object_store import ObjectStore
from components.datalake.transfer import Transfer
from stacks.context import Context
from stacks.datalake import Monitors
from stacks.foundation import Platform


def deploy(
    context: Context,
    platform: Platform,
    monitors: Monitors,
    store: ObjectStore | None,
    kafka: KafkaCluster | None,
) -> Transfer | None:
    """Image transfer, where the environment declares it."""
    config = context.environment.transfer
    if config is None:
        return None
    assert store is not None and kafka is not None  # the environment's model asks for both
    transfer = Transfer(
        "transfer",
        config,
        namespace=platform.namespaces["datalake"],
        proxy_image=context.images["haproxy"],
        tusd_image=context.images["tusd"],
        image=context.images["estate_transfer"],
        store=store,
        kafka=kafka,
        authority=platform.pki.authority,
        issuer=platform.pki.ready,
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider, depends_on=[platform.pki]),
    )
    context.declare(transfer)
    context.links["upload"] = transfer.url
    pulumi.export("transfer", {"url": transfer.url, "token_secret": transfer.token_secret})
    return transfer
