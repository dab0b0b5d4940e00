"""Every check that a component declares, asked of the running estate."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.state.probes import Result, api, read_checks, run_check

CHECKS = read_checks(Path(os.environ["ESTATE_CHECKS"]))
SETTLE_S = float(os.environ.get("ESTATE_SETTLE", "0"))
_AGAIN_S = 1.5  # between two tries of a red check
_THREADS = 12


class Asking:
    """All checks at once, each tried again until it is green or the time is over."""

    def __init__(self, checks: list[dict[str, Any]], folder: Path) -> None:
        self._api = api()
        self._folder = folder
        self._deadline = time.monotonic() + SETTLE_S
        self._red = {check["id"]: "no answer yet" for check in checks}
        self._changed = threading.Lock()
        self.answers: dict[str, Future[Result]] = {check["id"]: Future() for check in checks}
        self._todo: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        for check in checks:
            self._todo.put(check)
        for _ in range(min(_THREADS, len(checks))):
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            check = self._todo.get()
            result = run_check(check, self._folder, self._api)
            if result.ok or time.monotonic() + _AGAIN_S > self._deadline:
                self._note(check["id"], None)
                self.answers[check["id"]].set_result(result)
                continue
            self._note(check["id"], result.detail)
            threading.Timer(_AGAIN_S, self._todo.put, [check]).start()

    def _note(self, name: str, detail: str | None) -> None:
        """Tell `estate` what is still red."""
        with self._changed:
            if detail is None:
                self._red.pop(name, None)
            else:
                self._red[name] = detail
            if file := os.environ.get("ESTATE_WAITING"):
                partial = Path(file + ".partial")
                partial.write_text(json.dumps(self._red), encoding="utf-8")
                partial.replace(file)


@pytest.fixture(scope="module")
def asking(request: pytest.FixtureRequest) -> Asking:
    marks = [item.get_closest_marker("row") for item in request.session.items]
    wanted = {mark.args[0] for mark in marks if mark is not None}
    folder = Path(os.environ["TMPDIR"])
    return Asking([check for check in CHECKS if check["id"] in wanted], folder)


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
