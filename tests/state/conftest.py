"""Two kinds of tests of the running state.

With ESTATE_CHECKS set (by `estate verify`, inside a rehearsal's namespaces): test_checks.py and
test_hosts.py, whose results go to ESTATE_RESULTS as rows. Without: test_rehearsal.py, which brings
a rehearsal up, does everything to it that is promised, and takes it down; test_without_root.py, the
same for what a user without root gets; test_rehearse.py and test_bench_engine.py, which need no
real node.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.state.probes import one_line

INSIDE = "ESTATE_CHECKS" in os.environ
_OUTSIDE = [
    *("test_bench_engine.py", "test_interruptions.py", "test_rehearsal.py", "test_rehearse.py"),
    "test_without_root.py",
]
collect_ignore = _OUTSIDE if INSIDE else ["test_checks.py", "test_hosts.py"]

_rows: dict[str, dict[str, Any]] = {}


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark that makes a test a row of `estate verify`."""
    config.addinivalue_line("markers", "row(id, title): a row of `estate verify`")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the rows that were asked for."""
    wanted = json.loads(os.environ.get("ESTATE_IDS", "null"))
    if not INSIDE or wanted is None:
        return
    kept = [item for item in items if (row := _row(item)) and row[0] in wanted]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _row(item: pytest.Item) -> tuple[str, str] | None:
    mark = item.get_closest_marker("row")
    return None if mark is None else (str(mark.args[0]), str(mark.args[1]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Keep each test's outcome as a row; a failed fixture is its test's failure."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    row = _row(item)
    if row is not None and (report.when == "call" or report.outcome != "passed"):
        properties = dict(report.user_properties)
        detail = str(properties.get("detail", ""))
        if report.failed and call.excinfo is not None:
            # After the first line come pytest's own words about the operands of an assert.
            words = one_line((str(call.excinfo.value) or "no message").splitlines()[0])
            known = isinstance(call.excinfo.value, AssertionError | pytest.fail.Exception)
            detail = words if known else f"{call.excinfo.typename}: {words}"
        elif report.skipped and call.excinfo is not None:
            detail = one_line(call.excinfo.value)
        ms = properties.get("ms", round(report.duration * 1000))
        values = {"id": row[0], "title": row[1], "state": report.outcome}
        _rows[row[0]] = {**values, "detail": detail, "ms": ms}
    return report  # type: ignore[return-value]


def pytest_sessionfinish() -> None:
    """Write the rows for `estate verify`."""
    if INSIDE and "ESTATE_RESULTS" in os.environ:
        rows = {"rows": list(_rows.values())}
        Path(os.environ["ESTATE_RESULTS"]).write_text(json.dumps(rows), encoding="utf-8")
