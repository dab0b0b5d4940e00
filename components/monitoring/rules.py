"""Alert rules about monitoring itself and about every target; systems bring their own."""

from __future__ import annotations

from typing import Any

from components.workload import alert


def rules(namespace: str) -> list[dict[str, Any]]:
    """Rules of the group `monitoring`; `Watchdog` fires always and proves the chain."""
    here = f'namespace="{namespace}"'
    return [
        alert(
            "Watchdog",
            "vector(1)",
            "fires always; when it is missing in Alertmanager, alerts do not arrive",
            for_s=0,
            severity="none",
        ),
        alert(
            "TargetDown",
            "max by (namespace, job, pod) (up == 0)",
            "{{ $labels.pod }} of {{ $labels.job }} does not answer its scrape",
            for_s=120,
            severity="warning",
        ),
        alert(
            "ScrapePoolEmpty",
            f'max by (scrape_job) (prometheus_sd_discovered_targets{{{here}, name="scrape"}} == 0)',
            "nothing is found for {{ $labels.scrape_job }}: it watches nobody",
            for_s=300,
            severity="warning",
        ),
        alert(
            "RuleEvaluationFails",
            "sum by (rule_group) "
            f"(increase(prometheus_rule_evaluation_failures_total{{{here}}}[5m])) > 0",
            "{{ $labels.rule_group }} cannot be evaluated",
            for_s=300,
        ),
        alert(
            "PrometheusConfigurationRefused",
            f"min(prometheus_config_last_reload_successful{{{here}}}) == 0",
            "Prometheus goes on with its old configuration; see its log",
            for_s=120,
        ),
        alert(
            "AlertmanagerConfigurationRefused",
            f"min(alertmanager_config_last_reload_successful{{{here}}}) == 0",
            "Alertmanager goes on with its old configuration; see its log",
            for_s=120,
        ),
        alert(
            "PrometheusFindsNoAlertmanager",
            f"max(prometheus_notifications_alertmanagers_discovered{{{here}}}) < 1",
            "alerts go nowhere",
            for_s=120,
        ),
        alert(
            "AlertsNotDelivered",
            "sum by (alertmanager) "
            f"(rate(prometheus_notifications_errors_total{{{here}}}[5m])) > 0",
            "{{ $labels.alertmanager }} refuses alerts",
            for_s=300,
        ),
        alert(
            "NotificationsFail",
            "sum by (integration) "
            f"(rate(alertmanager_notifications_failed_total{{{here}}}[5m])) > 0",
            "receivers of {{ $labels.integration }} do not take notifications",
            for_s=300,
        ),
        alert(
            "PrometheusStorageFails",
            f"increase(prometheus_tsdb_compactions_failed_total{{{here}}}[3h]) > 0 or "
            f"increase(prometheus_tsdb_wal_corruptions_total{{{here}}}[3h]) > 0",
            "Prometheus cannot keep what it scrapes; look at its volume",
            for_s=60,
        ),
    ]
