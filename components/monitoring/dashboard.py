"""The dashboard of monitoring itself: Prometheus' and Alertmanager's own series."""

from __future__ import annotations

from components.dashboards import HERE, Dashboard, graph, quiet, rate, stat

_ALERTS = (
    "TargetDown|ScrapePoolEmpty|RuleEvaluationFails|Prometheus.+|Alertmanager.+"
    "|AlertsNotDelivered|NotificationsFail"
)
"""All but Watchdog, which fires always."""


def monitoring_dashboard(name: str, namespace: str) -> Dashboard:
    """Of what scrapes, judges and tells."""
    prometheus, alertmanager = f"prometheus_%s{{{HERE}}}", f"alertmanager_%s{{{HERE}}}"
    storage = " + ".join(
        f"sum(increase({prometheus % f'tsdb_{what}_total'}[3h]))"
        for what in ("compactions_failed", "wal_corruptions")
    )

    return Dashboard(
        name=name,
        title="Monitoring",
        description="What scrapes, judges and tells: Prometheus and Alertmanager.",
        namespace=namespace,
        source="prometheus_config_last_reload_successful",
        alerts=_ALERTS,
        health=[
            stat(
                "Targets down",
                "Of all parts; Prometheus' page Targets has their errors.",
                quiet("count(up == 0)"),
                red_from=1,
            ),
            stat(
                "Monitors that find nobody",
                "A monitor whose selector meets no pod watches nobody.",
                quiet(
                    "count(max by (scrape_job) (prometheus_sd_discovered_targets"
                    f'{{{HERE}, name="scrape"}}) == 0)'
                ),
                red_from=1,
            ),
            stat(
                "Prometheus took its configuration",
                "0: it goes on with the old one; see its log.",
                f"min({prometheus % 'config_last_reload_successful'})",
                red_below=1,
            ),
            stat(
                "Alertmanager took its configuration",
                "0: it goes on with the old one; see its log.",
                f"min({alertmanager % 'config_last_reload_successful'})",
                red_below=1,
            ),
            stat(
                "Alertmanagers found",
                "With none alerts go nowhere.",
                f"max({prometheus % 'notifications_alertmanagers_discovered'})",
                red_below=1,
            ),
            stat(
                "Storage failures in 3 hours",
                "Prometheus cannot keep what it scrapes: look at its volume.",
                storage,
                red_from=1,
            ),
        ],
        traffic=[
            graph(
                "Samples",
                "What Prometheus takes in.",
                "ops",
                {"samples": rate(prometheus % "tsdb_head_samples_appended_total")},
            ),
            graph(
                "Alerts in Alertmanager",
                "By state; suppressed ones are silenced or inhibited.",
                "short",
                {"{{state}}": f"sum by (state) ({alertmanager % 'alerts'})"},
            ),
            graph(
                "Notifications",
                "By kind of receiver.",
                "ops",
                {"{{integration}}": rate(alertmanager % "notifications_total", "integration")},
            ),
        ],
        saturation=[
            graph(
                "Series in memory",
                "They decide how much memory Prometheus needs.",
                "short",
                {"series": f"sum({prometheus % 'tsdb_head_series'})"},
            ),
            graph(
                "Storage",
                "Blocks and log on the claim; what is old is dropped before it is full.",
                "bytes",
                {
                    "blocks": f"sum({prometheus % 'tsdb_storage_blocks_bytes'})",
                    "log": f"sum({prometheus % 'tsdb_wal_storage_size_bytes'})",
                },
            ),
            graph(
                "Slowest scrapes",
                "A scrape that lasts as long as its interval is lost.",
                "s",
                {"{{job}}": "topk(5, max by (job) (scrape_duration_seconds))"},
            ),
        ],
        errors=[
            graph(
                "Rules that cannot be evaluated",
                "By group; Prometheus' page Rules has the errors.",
                "ops",
                {
                    "{{rule_group}}": rate(
                        prometheus % "rule_evaluation_failures_total", "rule_group"
                    )
                },
            ),
            graph(
                "Alerts not delivered",
                "To Alertmanager, and by Alertmanager to receivers.",
                "ops",
                {
                    "to {{alertmanager}}": rate(
                        prometheus % "notifications_errors_total", "alertmanager"
                    ),
                    "by {{integration}}": rate(
                        alertmanager % "notifications_failed_total", "integration"
                    ),
                },
            ),
        ],
    )
