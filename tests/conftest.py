"""The layers' table at the end of a run, and what every test may use."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from rehearsal import console

LAYERS = ("unit", "contract", "browser", "state", "edge")


def layer_of(path: str) -> str:
    """Return the folder below tests/ that a test's path or node id lies in."""
    parts = Path(path.partition("::")[0]).parts
    found = [part for before, part in pairwise(parts) if before == "tests"]
    return found[0] if found else "other"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in tests/state, tests/edge and tests/browser by its layer."""
    for item in items:
        layer = layer_of(str(item.path.relative_to(item.config.rootpath)))
        if layer in ("state", "edge", "browser"):
            item.add_marker(layer)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one row per layer; pytest's own closing line comes after it."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: dict[str, float] = defaultdict(float)
    for outcome, reports in terminalreporter.stats.items():
        for report in reports:
            if not isinstance(report, pytest.TestReport):
                continue
            layer = layer_of(report.nodeid)
            seconds[layer] += report.duration
            if outcome and (report.when == "call" or outcome in ("failed", "error", "skipped")):
                counts[layer]["failed" if outcome == "error" else outcome] += 1
    if not counts:
        return
    rows = []
    for layer in sorted(counts, key=lambda name: LAYERS.index(name) if name in LAYERS else 9):
        found = counts[layer]
        state = "failed" if found["failed"] else "passed" if found["passed"] else "skipped"
        numbers = [found["passed"], found["failed"], found["skipped"]]
        rows.append((layer, state, *numbers, f"{seconds[layer]:.1f} s"))
    terminalreporter.ensure_newline()
    columns = ["layer", "state", "passed", "failed", "skipped", "time"]
    console.table("", columns, rows)
