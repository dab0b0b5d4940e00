"""Dashboards as Grafana reads them: ConfigMaps that its sidecar finds by their label.

Written by Grafana's own SDK, which is generated from the schemas of its dashboards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard as Builder
from grafana_foundation_sdk.builders.dashboard import (
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from pydantic import JsonValue

from components.checks import Check, settings_fault
from components.dashboards import HERE, Dashboard, Panel
from components.workload import Component, labels, meta

LABEL = {"grafana_dashboard": "1"}
"""By it the sidecar of Grafana's chart (kube-prometheus-stack has the same) finds dashboards."""
PROVED = "monitoring"
"""The dashboard that every environment with dashboards has: `verify --prove` breaks it."""
_DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_SERIES = "prometheus_config_last_reload_successful"


class Dashboards(Component):
    """A ConfigMap for every dashboard, in its part's namespace; Grafana itself is not the estate's.

    `prometheus` are the arguments by which a probe asks Prometheus (`url`, `ca`).
    """

    def __init__(
        self,
        name: str,
        dashboards: Sequence[Dashboard],
        *,
        namespaces: Mapping[str, pulumi.Input[str]],
        prometheus: Mapping[str, JsonValue],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:monitoring:Dashboards", name, opts)
        for one in dashboards:
            k8s.core.v1.ConfigMap(
                config_map(one.name),
                metadata=meta(
                    config_map(one.name),
                    namespaces[one.namespace],
                    {**labels(config_map(one.name), component="dashboard"), **LABEL},
                ),
                data={f"{one.uid}.json": render(one)},
                opts=self.child(),
            )
        self.checks.append(_check(dashboards, prometheus))
        self.register_outputs({"uids": [one.uid for one in dashboards]})


def config_map(name: str) -> str:
    """The name of the ConfigMap of the dashboard `name`."""
    return f"dashboard-{name}"


def render(dashboard: Dashboard) -> str:
    """The dashboard as JSON on one line; the same dashboard gives the same text."""
    made = (
        Builder(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags(["estate"])
        .readonly()
        .time("now-1h", "now")
        .refresh("30s")
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("namespace", dashboard.source))
    )
    if dashboard.pods:
        metric, _, matchers = dashboard.source.rstrip("}").partition("{")
        chosen = ", ".join(filter(None, (matchers, HERE)))
        made = made.with_variable(_variable("pod", f"{metric}{{{chosen}}}"))
    for title, panels in dashboard.rows():
        made = made.with_row(Row(title))
        for panel in panels:
            made = made.with_panel(_panel(panel))
    return json.dumps(made.build(), cls=JSONEncoder, sort_keys=True, separators=(",", ":"))


def _variable(name: str, source: str) -> QueryVariable:
    return (
        QueryVariable(name)
        .query(f"label_values({source}, {name})")
        .datasource(_DATASOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".+")
    )


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel:
    made: stat.Panel | timeseries.Panel
    if panel.kind == "stat":
        made = stat.Panel().span(4).height(4).thresholds(_thresholds(panel))
    else:
        made = timeseries.Panel().span(12).height(8).fill_opacity(10)
    made = made.title(panel.title).description(panel.description).unit(panel.unit)
    made = made.datasource(_DATASOURCE)
    for index, (legend, expression) in enumerate(panel.queries.items()):
        query = prometheus.Dataquery().expr(expression).legend_format(legend)
        query = query.ref_id(chr(ord("A") + index)).datasource(_DATASOURCE)
        made = made.with_target(query.instant() if panel.kind == "stat" else query.range())
    return made


def _thresholds(panel: Panel) -> ThresholdsConfig:
    steps = [Threshold(color="green" if panel.red_below is None else "red")]
    if panel.red_below is not None:
        steps.append(Threshold(value=panel.red_below, color="green"))
    if panel.red_from is not None:
        steps.append(Threshold(value=panel.red_from, color="red"))
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _check(dashboards: Sequence[Dashboard], prometheus: Mapping[str, JsonValue]) -> Check:
    proved = next(one for one in dashboards if one.name == PROVED)
    # As after an upgrade that gives a series another name.
    broken = render(proved).replace(_SERIES, f"{_SERIES}_before")
    return Check(
        id="monitoring.dashboards",
        title="every query of every dashboard is answered with a value",
        probe="prometheus_dashboards",
        args={
            **prometheus,
            "labels": dict[str, JsonValue](LABEL),
            "dashboards": {one.uid: one.namespace for one in dashboards},
        },
        fault=settings_fault(
            proved.namespace, config_map(proved.name), {f"{proved.uid}.json": broken}
        ),
    )
