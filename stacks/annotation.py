"""Annotation, between the lake's dataset versions and a Supervisely elsewhere."""

from __future__ import annotations

import pulumi

from components.datalake.annotation import Annotation
from components.datalake.object_store import ObjectStore
from stacks.context import Context
from stacks.datalake import Monitors
from stacks.foundation import Platform


def deploy(
    context: Context, platform: Platform, monitors: Monitors, store: ObjectStore | None
) -> Annotation | None:
    """Annotation, where the environment declares it."""
    config = context.environment.annotation
    if config is None:
        return None
    assert store is not None  # the environment's model asks for it
    annotation = Annotation(
        "annotation",
        config,
        namespace=platform.namespaces["datalake"],
        image=context.images["estate_annotation"],
        store=store,
        token=context.secret(config.token),
        authority=platform.pki.authority,
        issuer=platform.pki.ready,
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider, depends_on=[platform.pki]),
    )
    context.declare(annotation)
    return annotation
