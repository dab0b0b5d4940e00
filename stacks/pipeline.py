"""The pipeline, between the image topic and the lake's three stores."""

from __future__ import annotations

import pulumi

from components.datalake.kafka_cluster import KafkaCluster
from components.datalake.mongodb_cluster import MongodbCluster
from components.datalake.object_store import ObjectStore
from components.datalake.pipeline import Pipeline
from stacks.context import Context
from stacks.datalake import Databases, Monitors
from stacks.foundation import Platform


def deploy(
    context: Context,
    platform: Platform,
    monitors: Monitors,
    store: ObjectStore | None,
    kafka: KafkaCluster | None,
    mongodb: MongodbCluster | None,
    databases: Databases | None,
) -> Pipeline | None:
    """The pipeline, where the environment declares it."""
    config = context.environment.pipeline
    if config is None:
        return None
    # The environment's model asks for all of them.
    assert store is not None and kafka is not None
    assert mongodb is not None and databases is not None
    pipeline = Pipeline(
        "pipeline",
        config,
        namespace=platform.namespaces["datalake"],
        image=context.images["estate_pipeline"],
        proxy_image=context.images["haproxy"],
        store=store,
        kafka=kafka,
        mongodb=mongodb,
        postgres=databases.postgres,
        databases=databases.ready,
        passwords={user.name: context.secret(user.password) for user in config.users},
        authority=platform.pki.authority,
        issuer=platform.pki.ready,
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider, depends_on=[platform.pki]),
    )
    context.declare(pipeline)
    context.links["pipeline"] = pipeline.url
    pulumi.export("pipeline", {"url": pipeline.url})
    return pipeline
