"""The real-time layer: the MQTT broker that devices speak to."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi

from components.realtime.mosquitto import Mosquitto
from stacks.context import Context
from stacks.foundation import Platform


def deploy(
    context: Context, platform: Platform, monitors: Sequence[pulumi.Resource] | None
) -> Mosquitto | None:
    """Mosquitto, where the environment declares it."""
    config = context.environment.mosquitto
    if config is None:
        return None
    mosquitto = Mosquitto(
        "mosquitto",
        config,
        namespace=platform.namespaces["realtime"],
        image=context.images["mosquitto"],
        exporter_image=context.images["mqtt_exporter"],
        passwords={user.name: context.secret(user.password) for user in config.users},
        trust=platform.pki.trust,
        authority=platform.pki.authority,
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider, depends_on=[platform.pki]),
    )
    context.declare(mosquitto)
    pulumi.export("mosquitto", {"host": mosquitto.host, "port": mosquitto.port})
    return mosquitto
