"""Probe of annotation: what its last run left undone, as its own metrics say it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.state.probes import ProbeContext, probe


@probe("annotation_run")
def annotation_run(ctx: ProbeContext, *, url: str, ca: Mapping[str, Any], silence_s: int) -> str:
    """A run has ended since the service began, not long ago, and left nothing undone."""
    file = Path(ctx.tmp, "ca.crt")
    file.write_bytes(ctx.secret(ca))
    answer = requests.get(url, verify=str(file), timeout=15)
    assert answer.status_code == 200, f"{url} answers {answer.status_code}"
    samples = [
        sample
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    ]

    def value(name: str) -> float:
        found = [sample.value for sample in samples if sample.name == name]
        assert found, f"no metric {name}"
        return sum(found)

    assert any(one.name == "annotation_runs_total" for one in samples), "no run has ended yet"
    undone = [
        f"{one.labels['step']} of {one.labels['dataset']}"
        for one in samples
        if one.name == "annotation_failed" and one.value
    ]
    assert not value("annotation_run_failed"), (
        f"the last run could not do: {', '.join(undone) or 'anything'}; the pod's log says why"
    )
    since = time.time() - value("annotation_run_ended_timestamp_seconds")
    assert since <= silence_s, f"the last run ended {since:.0f} s ago"
    return f"{value('annotation_runs_total'):.0f} runs, the last {since:.0f} s ago"
