"""The real-time layer: the MQTT broker that devices speak to, and what takes their readings."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi

from components.datalake.kafka_cluster import KafkaCluster
from components.realtime.collect import Collect
from components.realtime.collect_config import USER
from components.realtime.mosquitto import Mosquitto
from stacks.context import Context
from stacks.foundation import Platform

Monitors = Sequence[pulumi.Resource] | None


def deploy(
    context: Context, platform: Platform, monitors: Monitors, kafka: KafkaCluster | None
) -> Mosquitto | None:
    """Mosquitto, where the environment declares it, and collection from it into Kafka."""
    config = context.environment.mosquitto
    if config is None:
        return None
    mosquitto = Mosquitto(
        "mosquitto",
        config,
        namespace=platform.namespaces["realtime"],
        image=context.images["mosquitto"],
        exporter_image=context.images["mqtt_exporter"],
        passwords={user.name: context.secret(user.password) for user in config.everyone},
        trust=platform.pki.trust,
        authority=platform.pki.authority,
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider, depends_on=[platform.pki]),
    )
    context.declare(mosquitto)
    pulumi.export("mosquitto", {"host": mosquitto.host, "port": mosquitto.port})
    if context.environment.collect is not None:
        assert kafka is not None  # the environment's model asks for it
        _deploy_collect(context, platform, monitors, mosquitto, kafka)
    return mosquitto


def _deploy_collect(
    context: Context,
    platform: Platform,
    monitors: Monitors,
    mosquitto: Mosquitto,
    kafka: KafkaCluster,
) -> None:
    environment = context.environment
    assert environment.collect is not None and environment.kafka is not None
    user = next(one for one in environment.kafka.users if one.name == USER)
    collect = Collect(
        environment.collect,
        namespace=platform.namespaces["realtime"],
        image=context.images["estate_collect"],
        mosquitto=mosquitto,
        kafka=kafka,
        kafka_password=context.secret(user.password),
        authority=platform.pki.authority,
        issuer=platform.pki.ready,
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider, depends_on=[platform.pki]),
    )
    context.declare(collect)
