"""What Prometheus may know of annotation: whether runs do their work, and what they found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import Counter, Gauge

from services.annotation.settings import Sent

RUNS = Counter("annotation_runs", "Runs by how they came to an end", ["result"])
"""done; failed: something could not be done; stopped: it took too long."""
RUN_FAILED = Gauge("annotation_run_failed", "1 when the last run left something undone")
RUN_SECONDS = Gauge("annotation_run_seconds", "How long the last run took")
ENDED_AT = Gauge(
    "annotation_run_ended_timestamp_seconds", "When the last run ended, or the service began"
)
FAILED = Gauge("annotation_failed", "1 where the last run could not do a step", ["dataset", "step"])
IMAGES = Gauge("annotation_images", "Images of a version as last fetched", ["dataset", "state"])
DIFFERENCES = Gauge(
    "annotation_differences", "What differed there and here after the last run", ["dataset", "kind"]
)

STEPS = ("send", "fetch", "reconcile")


def keep(found: Sequence[dict[str, Any]]) -> None:
    """What a run printed; a step that failed leaves the numbers of the last one that did not."""
    for one in found:
        version = Sent(name=one["name"], digest=one["digest"])
        for step in STEPS:
            FAILED.labels(version.dataset, step).set("failed" in one[step])
        if "failed" not in one["fetch"]:
            IMAGES.labels(version.dataset, "finished").set(one["fetch"]["images"])
            IMAGES.labels(version.dataset, "unfinished").set(one["fetch"]["unfinished"])
        if "failed" not in one["reconcile"]:
            for kind, which in one["reconcile"].items():
                if isinstance(which, list):
                    DIFFERENCES.labels(version.dataset, kind).set(len(which))
