"""The monitoring layer: the operator's definitions first, Prometheus and Alertmanager last."""

from __future__ import annotations

import pulumi

from components.monitoring.dcgm import Dcgm
from components.monitoring.grafana import Dashboards
from components.monitoring.monitoring import Monitoring, asked
from components.monitoring.prometheus_operator import MANIFEST, PrometheusOperator
from components.monitoring.state_metrics import StateMetrics
from components.platform.namespaces import GPUS, Namespaces
from stacks import backup
from stacks.context import Context, manifest
from stacks.foundation import Platform


def deploy_operator(context: Context, namespaces: Namespaces) -> PrometheusOperator | None:
    """The operator, whose definitions every component's monitors depend on."""
    if context.environment.monitoring is None:
        return None
    operator = PrometheusOperator(
        "prometheus-operator",
        context.environment.prometheus_operator,
        namespace=namespaces.names["monitoring"],
        watched=sorted(namespaces.names),
        images=context.images,
        objects=manifest(MANIFEST),
        opts=pulumi.ResourceOptions(provider=context.provider, depends_on=[namespaces]),
    )
    context.declare(operator)
    return operator


def deploy_dashboards(context: Context, platform: Platform) -> None:
    """The dashboards of all parts that were declared until now: so it comes last."""
    config = context.environment.monitoring
    if config is None or not config.dashboards:
        return
    dashboards = Dashboards(
        "dashboards",
        context.dashboards,
        namespaces=platform.namespaces,
        prometheus=asked(),
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
    context.declare(dashboards)


def deploy(context: Context, platform: Platform, operator: PrometheusOperator) -> Monitoring:
    """Prometheus and Alertmanager."""
    config = context.environment.monitoring
    assert config is not None
    monitoring = Monitoring(
        "monitoring",
        config,
        namespace=platform.namespaces["monitoring"],
        watched=sorted(platform.namespaces),
        images=context.images,
        operator=operator.ready,
        authority=platform.pki.authority,
        issuer=platform.pki.ready,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
    context.declare(monitoring)
    if config.state_metrics is not None:
        state = StateMetrics(
            "state-metrics",
            config.state_metrics,
            namespace=platform.namespaces["monitoring"],
            watched={
                space: platform.namespaces[space]
                for space in backup.namespaces(
                    context.environment.backup, context.environment.model_repository
                )
            },
            image=context.images["state_metrics"],
            authority=platform.pki.authority,
            issuer=platform.pki.ready,
            monitors=operator.definitions,
            opts=pulumi.ResourceOptions(provider=context.provider),
        )
        context.declare(state)
    if config.dcgm is not None:
        dcgm = Dcgm(
            "dcgm-exporter",
            config.dcgm,
            namespace=platform.namespaces[GPUS],
            image=context.images["dcgm_exporter"],
            authority=platform.pki.authority,
            issuer=platform.pki.ready,
            monitors=operator.definitions,
            opts=pulumi.ResourceOptions(provider=context.provider),
        )
        context.declare(dcgm)
    context.links["prometheus"] = monitoring.prometheus_url
    context.links["alertmanager"] = monitoring.alertmanager_url
    return monitoring
