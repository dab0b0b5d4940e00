"""The program: resolves the environment, composes the layers, exports what they declare."""

from __future__ import annotations

import pulumi

from components.model import MissingImage
from configs.errors import ConfigError
from stacks import (
    annotation,
    backup,
    console,
    datalake,
    documents,
    foundation,
    lifetimes,
    model_repository,
    monitoring,
    pipeline,
    realtime,
    serving,
    simulated,
    transfer,
)
from stacks.context import Context, from_pulumi, json_list


def main() -> None:
    """Run the program; a configuration problem ends it with one clear message."""
    simulated.register()
    lifetimes.register()
    try:
        compose(from_pulumi())
    except ConfigError as error:
        raise pulumi.RunError("\n".join(error.lines)) from None
    except MissingImage as error:
        raise pulumi.RunError(str(error)) from None


def compose(context: Context) -> None:
    """All layers of one environment. Raises ConfigError when a secret or image is missing."""
    namespaces = foundation.deploy_namespaces(context)
    operator = monitoring.deploy_operator(context, namespaces)
    monitors = operator.definitions if operator is not None else None
    platform = foundation.deploy(context, namespaces, monitors)
    # The slowest first: what is created first is also started first.
    backups = backup.deploy(context, platform)
    databases = datalake.deploy_postgres(context, platform, monitors, backups)
    store = datalake.deploy_ceph(context, platform, monitors)
    kafka = datalake.deploy_kafka(context, platform, monitors)
    mongodb = documents.deploy(context, platform, databases, monitors)
    backup.deploy_jobs(context, platform, monitors, backups, kafka, mongodb)
    images = transfer.deploy(context, platform, monitors, store, kafka)
    pipeline.deploy(context, platform, monitors, store, kafka, mongodb, databases)
    annotation.deploy(context, platform, monitors, store)
    console.deploy(
        context,
        platform,
        monitors,
        kafka=kafka,
        documents=mongodb,
        store=store,
        databases=databases,
        transfer=images,
    )
    realtime.deploy(context, platform, monitors, kafka)
    registry = model_repository.deploy(context, platform, monitors, databases, backups)
    serving.deploy(context, platform, monitors, registry)
    if operator is not None:
        monitoring.deploy(context, platform, operator)
    monitoring.deploy_dashboards(context, platform)
    foundation.deploy_network(context, namespaces)
    pulumi.export("links", context.links)
    pulumi.export("checks", json_list(context.checks))
    pulumi.export("expected_pods", json_list(context.expected_pods))
