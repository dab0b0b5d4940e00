"""Kafka by Strimzi: the operator, then the cluster that it runs."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi

from components.datalake.kafka_config import KafkaConfig
from components.datalake.strimzi_kafka import StrimziKafka
from components.datalake.strimzi_operator import StrimziOperator, kafka_version
from stacks.context import Context, manifest
from stacks.foundation import Platform

IMAGE = "strimzi_kafka"
"""The image that runs; those of the other Kafkas that the operator supports begin like it."""


def deploy(
    context: Context,
    platform: Platform,
    config: KafkaConfig,
    monitors: Sequence[pulumi.Resource] | None,
) -> StrimziKafka:
    """The operator, which watches the data lake's namespace alone, and the cluster."""
    images = context.images
    release = images["strimzi_operator"].tag
    operator = StrimziOperator(
        "strimzi",
        context.environment.strimzi,
        namespace=platform.namespaces["platform"],
        watched={"datalake": platform.namespaces["datalake"]},
        image=images["strimzi_operator"],
        kafka_image=images[IMAGE],
        kafka_images=[images[key] for key in sorted(images) if key.startswith(IMAGE)],
        objects=manifest(f"strimzi-{release}"),
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
    context.declare(operator)
    return StrimziKafka(
        "kafka",
        config,
        namespace=platform.namespaces["datalake"],
        version=kafka_version(images[IMAGE]),
        authority=platform.pki.authority,
        passwords={user.name: context.secret(user.password) for user in config.users},
        operator=operator.ready,
        issuer=platform.pki.ready,
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
