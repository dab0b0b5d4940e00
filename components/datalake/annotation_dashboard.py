"""Annotation's dashboard: its own series (services/annotation/metrics.py)."""

from __future__ import annotations

from components.dashboards import PODS, Dashboard, graph, quiet, stat
from components.datalake.annotation_config import AnnotationConfig
from components.datalake.annotation_rules import silence_s


def annotation_dashboard(name: str, namespace: str, config: AnnotationConfig) -> Dashboard:
    """Of one deployment."""
    differs = f"max by (dataset, kind) (annotation_differences{{{PODS}}})"
    return Dashboard(
        name=name,
        title="Annotation",
        description="Dataset versions to Supervisely, and finished annotations back.",
        namespace=namespace,
        source='up{container="annotation"}',
        pods=True,
        alerts="Annotation.+",
        health=[
            stat(
                "Replicas that answer",
                "One is declared; two would fetch the same annotations twice.",
                quiet(f'count(up{{{PODS}, container="annotation"}} == 1)'),
                red_below=1,
            ),
            stat(
                "Last run left something undone",
                "The pod's log says what; the next run tries again.",
                f"max(annotation_run_failed{{{PODS}}})",
                red_from=1,
            ),
            stat(
                "Since the last run's end",
                "A run begins every so often, and is stopped when it takes too long.",
                f"time() - max(annotation_run_ended_timestamp_seconds{{{PODS}}})",
                "s",
                red_from=silence_s(config),
            ),
            stat(
                "Differences",
                "Images or labels that are not the same there and here; `reconcile` names them.",
                quiet(f"sum({differs})"),
                red_from=1,
            ),
        ],
        traffic=[
            graph(
                "Images by state",
                "Of each version: those whose labels are finished, and the others.",
                "short",
                {
                    "{{dataset}} {{state}}": quiet(
                        f"max by (dataset, state) (annotation_images{{{PODS}}})"
                    )
                },
            ),
        ],
        saturation=[
            graph(
                "Duration of the last run",
                f"It is stopped after {config.longest_s} s; many versions make it long.",
                "s",
                {"{{pod}}": f"annotation_run_seconds{{{PODS}}}"},
            ),
        ],
        errors=[
            graph(
                "Runs by result in an hour",
                "Failed ones left something undone, stopped ones took too long.",
                "short",
                {
                    "{{result}}": quiet(
                        f"sum by (result) (increase(annotation_runs_total{{{PODS}}}[1h]))"
                    )
                },
            ),
            graph(
                "Steps that the last run could not do",
                "By version.",
                "short",
                {
                    "{{dataset}} {{step}}": quiet(
                        f"max by (dataset, step) (annotation_failed{{{PODS}}}) > 0"
                    )
                },
            ),
            graph(
                "Differences by kind",
                "After the last run, of each version.",
                "short",
                {"{{dataset}} {{kind}}": quiet(f"{differs} > 0")},
            ),
        ],
    )
