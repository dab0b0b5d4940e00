"""Alert rules about annotation; promtool checks them in tests/contract."""

from __future__ import annotations

from typing import Any

from components.datalake.annotation_config import AnnotationConfig
from components.workload import alert


def annotation_rules(name: str, namespace: str, config: AnnotationConfig) -> list[dict[str, Any]]:
    """Alert rules of the service's own metrics (services/annotation/metrics.py)."""
    pods = f'namespace="{namespace}", pod=~"{name}-.+"'
    # One run that fails is done again by the next.
    twice = 2 * config.every_s
    return [
        alert(
            "AnnotationDown",
            f'(count(up{{{pods}, container="annotation"}} == 1) or vector(0)) == 0',
            "nobody sends images to Supervisely, or fetches what is annotated there",
            for_s=600,
            severity="warning",
        ),
        alert(
            "AnnotationFails",
            f"max(annotation_run_failed{{{pods}}}) > 0",
            "run after run leaves something undone: the log of the annotation pod says what",
            for_s=twice,
            severity="warning",
        ),
        alert(
            "AnnotationStandsStill",
            f"time() - max(annotation_run_ended_timestamp_seconds{{{pods}}}) > {silence_s(config)}",
            "no run has come to an end for too long: see the log of the annotation pod",
            for_s=60,
            severity="warning",
        ),
        alert(
            "AnnotationDiffers",
            f"max by (dataset, kind) (annotation_differences{{{pods}}}) > 0",
            "{{ $labels.dataset }}: {{ $labels.kind }} in Supervisely, run after run; "
            "services.annotation reconcile names them",
            for_s=twice,
            severity="warning",
        ),
    ]


def silence_s(config: AnnotationConfig) -> int:
    """From the end of one run to the end of the next, at the most, and a little more."""
    return config.every_s + config.longest_s + 300
