"""Every check that a component declares, asked of the running estate."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.state.asking import Asking
from tests.state.probes import api, read_checks

CHECKS = read_checks(Path(os.environ["ESTATE_CHECKS"]))
SETTLE_S = float(os.environ.get("ESTATE_SETTLE", "0"))


@pytest.fixture(scope="module")
def asking(request: pytest.FixtureRequest) -> Asking:
    marks = [item.get_closest_marker("row") for item in request.session.items]
    wanted = {mark.args[0] for mark in marks if mark is not None}
    folder = Path(os.environ["TMPDIR"])
    chosen = [check for check in CHECKS if check["id"] in wanted]
    return Asking(chosen, folder, api(), SETTLE_S)


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=check["id"], marks=pytest.mark.row(check["id"], check["title"]))
        for check in CHECKS
    ],
)
def test_check(
    check: dict[str, Any], asking: Asking, record_property: Callable[[str, object], None]
) -> None:
    result = asking.answers[check["id"]].result()
    record_property("detail", result.detail)
    record_property("ms", result.ms)
    if not result.ok:  # no `assert`: pytest would add its own words to the probe's
        pytest.fail(result.detail, pytrace=False)
