"""Dashboards as data: components declare them, `components.monitoring.grafana` writes them.

PromQL here may use `$namespace` and, where the dashboard has pods, `$pod`: what the reader chose.
What is empty while nothing is wrong goes through `quiet`, so that an empty panel always means that
a series is gone; the check `monitoring.dashboards` holds every query to that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from components.model import Model, Name

HERE = 'namespace=~"$namespace"'
"""Label matchers of what runs in the chosen namespace."""
PODS = f'{HERE}, pod=~"$pod"'
"""Label matchers of the chosen pods."""
Unit = Literal[
    "short",
    "percentunit",
    "bytes",
    "binBps",
    "ms",
    "s",
    "ops",
    "reqps",
    "mps",
    "celsius",
    "hertz",
    "watt",
]
"""Grafana's names of units: bytes by 1024, shares of 1, operations, requests, messages a second."""
RATE = "$__rate_interval"
"""Grafana's own window for `rate`: it follows the zoom and holds four scrapes at least."""


def rate(series: str, by: str = "") -> str:
    """PromQL: how fast counters grow, together or by labels."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({series}[{RATE}]))"


class Panel(Model):
    """Queries of one unit, legend -> PromQL; a legend may name labels, `{{pod}}`.

    `stat` shows the last value as a number, and red from `red_from` on or below `red_below`.
    """

    title: str = Field(min_length=1)
    description: str = Field(min_length=1, description="what is seen, and what to do about it")
    unit: Unit
    queries: dict[str, str] = Field(min_length=1)
    kind: Literal["stat", "timeseries"] = "timeseries"
    red_from: float | None = None
    red_below: float | None = None


class Dashboard(Model):
    """The dashboard of one part; its rows are the same everywhere, and health comes first.

    `source` is a series that the part has as long as it runs: its labels are the choices of
    `$namespace` and, with `pods`, of `$pod`. `alerts` is a pattern of the part's alerts, which the
    first panel counts. The names of its ConfigMap and its uid follow from `name`.
    """

    name: Name
    title: str = Field(min_length=1)
    description: str = Field(min_length=1)
    namespace: Name
    source: str = Field(min_length=1, description="a metric, with matchers if need be")
    pods: bool = False
    alerts: str = Field(min_length=1, description="regular expression over names of alerts")
    health: list[Panel] = Field(min_length=1)
    traffic: list[Panel] = Field(min_length=1)
    saturation: list[Panel] = Field(min_length=1)
    errors: list[Panel] = Field(min_length=1)

    @property
    def uid(self) -> str:
        """What links to it are made of, so it must never change."""
        return f"estate-{self.name}"

    def rows(self) -> Iterator[tuple[str, list[Panel]]]:
        """Title and panels of each row, in their order."""
        firing = f'sum(ALERTS{{alertstate="firing", alertname=~"{self.alerts}"}})'
        alerts = stat(
            "Firing alerts",
            "Alerts of this part that fire now; Alertmanager has their summaries.",
            quiet(firing),
            red_from=1,
        )
        yield "Health", [alerts, *self.health]
        yield "Traffic", self.traffic
        yield "Saturation", self.saturation
        yield "Errors", self.errors


def stat(
    title: str,
    description: str,
    query: str,
    unit: Unit = "short",
    *,
    red_from: float | None = None,
    red_below: float | None = None,
) -> Panel:
    """One number, which an alert judges too."""
    return Panel(
        title=title,
        description=description,
        unit=unit,
        queries={title: query},
        kind="stat",
        red_from=red_from,
        red_below=red_below,
    )


def graph(title: str, description: str, unit: Unit, queries: dict[str, str]) -> Panel:
    """Lines over time, legend -> PromQL."""
    return Panel(title=title, description=description, unit=unit, queries=queries)


def quiet(query: str) -> str:
    """A query whose series only come with the first event: zero until then."""
    # `on ()`: no line of zeroes beside those that are there.
    return f"{query} or on () vector(0)"


def quantile(share: float, buckets: str) -> str:
    """A quantile of a histogram's buckets over all pods; zero while nothing was observed."""
    found = f"histogram_quantile({share}, sum by (le) (rate({buckets}[{RATE}])))"
    return quiet(f"({found} >= 0)")


def operator_dashboard(
    name: str, namespace: str, title: str, *, alerts: str, description: str
) -> Dashboard:
    """The dashboard of an operator on controller-runtime, scraped by the PodMonitor `name`."""
    job = f'{HERE}, job=~".*{name}"'
    reconciled = "controller_runtime_reconcile"
    return Dashboard(
        name=name,
        title=title,
        description=description,
        namespace=namespace,
        source=f'up{{job=~".*{name}"}}',
        alerts=alerts,
        health=[
            stat(
                "Replicas that answer",
                "Without one nothing that is declared is made or mended.",
                quiet(f"count(up{{{job}}} == 1)"),
                red_below=1,
            )
        ],
        traffic=[
            graph(
                "Reconciliations",
                "How often each controller compares what is declared with what is.",
                "ops",
                {
                    "{{controller}}": "sum by (controller) "
                    f"(rate({reconciled}_total{{{job}}}[{RATE}]))"
                },
            )
        ],
        saturation=[
            graph(
                "Duration of reconciliations (95th percentile)",
                "Long ones wait for the API server, or for what the operator runs.",
                "s",
                {"95 %": quantile(0.95, f"{reconciled}_time_seconds_bucket{{{job}}}")},
            ),
        ],
        errors=[
            graph(
                "Failed reconciliations",
                "They are tried again; the operator's log has their reasons.",
                "ops",
                {
                    "{{controller}}": "sum by (controller) "
                    f"(rate({reconciled}_errors_total{{{job}}}[{RATE}]))"
                },
            )
        ],
    )
