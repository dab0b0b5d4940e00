"""Alert rules about the pipeline; promtool checks them in tests/contract."""

from __future__ import annotations

from typing import Any

from components.datalake.pipeline_config import PipelineConfig
from components.workload import alert


def pipeline_rules(namespace: str, config: PipelineConfig) -> list[dict[str, Any]]:
    """Alert rules of the pipeline's own metrics (services/pipeline/metrics.py)."""
    here = f'namespace="{namespace}"'
    lag = f"sum(max by (topic) (pipeline_lag{{{here}}}))"
    return [
        alert(
            "PipelineLags",
            f"{lag} > {config.lag_images}",
            "more images wait for the pipeline than it takes; raise parallel, or see failed runs",
            for_s=900,
            severity="warning",
        ),
        alert(
            "PipelineStandsStill",
            # What is stored does not grow, and something waits.
            f"{lag} > 0 and on() sum(changes(pipeline_images{{{here}}}[15m])) == 0",
            "images wait, and none has been stored for a quarter of an hour: see Dagster's runs",
            for_s=300,
        ),
        alert(
            "PipelineRunsFail",
            f'sum(delta(pipeline_runs{{{here}, status="failure"}}[30m])) > 2',
            "runs of the pipeline fail again and again; Dagster's pages have their logs",
            for_s=60,
            severity="warning",
        ),
        alert(
            "PipelineDaemonSilent",
            f'time() - max(pipeline_daemon_heartbeat_timestamp_seconds{{{here}, daemon="sensor"}})'
            " > 180",
            "Dagster's daemon looks for no new images",
            for_s=120,
        ),
        alert(
            "PipelineMetricsStale",
            f"time() - max(pipeline_looked_timestamp_seconds{{{here}}}) > 180 "
            f"or absent(pipeline_looked_timestamp_seconds{{{here}}})",
            "nobody counts what the pipeline does: do PostgreSQL and Kafka answer?",
            for_s=300,
            severity="warning",
        ),
        alert(
            "PipelineQuarantines",
            f'sum(increase(pipeline_images{{{here}, state="quarantined"}}[1h])) > '
            f"0.1 * sum(increase(pipeline_images{{{here}}}[1h]))",
            "more than a tenth of the images is quarantined: their reasons are in the catalogue",
            for_s=600,
            severity="warning",
        ),
    ]
