"""The pipeline's dashboard: its own series (services/pipeline/metrics.py)."""

from __future__ import annotations

from components.dashboards import HERE, Dashboard, graph, quiet, stat
from components.datalake.pipeline_config import PipelineConfig


def pipeline_dashboard(name: str, namespace: str, config: PipelineConfig) -> Dashboard:
    """Of one deployment. Its counts are gauges, read from the catalogue: they survive restarts."""
    images, runs = f"pipeline_images{{{HERE}", f"pipeline_runs{{{HERE}"
    beats = "pipeline_daemon_heartbeat_timestamp_seconds"
    return Dashboard(
        name=name,
        title="Pipeline",
        description="Images from the topic to the catalogue, and Dagster's runs.",
        namespace=namespace,
        source="pipeline_looked_timestamp_seconds",
        alerts="Pipeline.+",
        health=[
            stat(
                "Images that wait",
                "More than it takes: raise `parallel`, or see failed runs.",
                f"sum(max by (topic) (pipeline_lag{{{HERE}}}))",
                red_from=config.lag_images + 1,
            ),
            stat(
                "Images in 15 minutes",
                "None, while images wait: see Dagster's runs.",
                f"sum(delta({images}}}[15m]))",
            ),
            stat(
                "Failed runs in 30 minutes",
                "Dagster's pages have their logs.",
                quiet(f'sum(delta({runs}, status="failure"}}[30m]))'),
                red_from=3,
            ),
            stat(
                "Since the daemon's last sign",
                "It looks for new images.",
                f'time() - max({beats}{{{HERE}, daemon="sensor"}})',
                "s",
                red_from=180,
            ),
            stat(
                "Age of these numbers",
                "Old ones: do PostgreSQL and Kafka answer?",
                f"time() - max(pipeline_looked_timestamp_seconds{{{HERE}}})",
                "s",
                red_from=180,
            ),
        ],
        traffic=[
            graph(
                "Images in the catalogue",
                "By what became of them.",
                "short",
                {"{{state}}": f"max by (state) ({images}}})"},
            ),
        ],
        saturation=[
            graph(
                "Images that wait",
                "Messages of each topic that are not stored yet.",
                "short",
                {"{{topic}}": f"max by (topic) (pipeline_lag{{{HERE}}})"},
            ),
            graph(
                "Runs at work or waiting",
                "Many that wait: raise `parallel`.",
                "short",
                {
                    "{{status}}": quiet(
                        f'sum by (status) ({runs}, status=~"queued|not_started|starting|started"}})'
                    )
                },
            ),
        ],
        errors=[
            graph(
                "Quarantined images",
                "By reason, since ever.",
                "short",
                {"{{reason}}": quiet(f"max by (reason) (pipeline_quarantined{{{HERE}}})")},
            ),
            graph(
                "Failed runs",
                "By job, as long as Dagster keeps them.",
                "short",
                {"{{job}}": quiet(f'sum by (job) ({runs}, status="failure"}})')},
            ),
        ],
    )
