"""Asking checks until they are green, the time is over, or waiting is of no use any more."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rehearsal.kube import Api
from tests.state.probes import Result, run_check

_AGAIN_S = 1.5  # between two tries of a red check
_THREADS = 12
FINAL_S = 5.0
"""How long all that is red has to be final: what was declared anew may not be looked at yet."""
STILL_S = 30.0
"""How long nothing may turn green beside a final one, for the rest to be waited for no more."""


class Asking:
    """All checks at once, each tried again until it is green or the time is over.

    The time is over early once a red one is final (`probes.Final`) and the others have settled.
    """

    def __init__(
        self, checks: list[dict[str, Any]], folder: Path, api: Api, settle_s: float
    ) -> None:
        self._api = api
        self._folder = folder
        self._deadline = time.monotonic() + settle_s
        self._red = {check["id"]: "no answer yet" for check in checks}
        self._final: set[str] = set()
        self._since = time.monotonic()
        """Since when the same ones are red, and final."""
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
            if self._last(result):
                self.answers[check["id"]].set_result(result)
                continue
            threading.Timer(_AGAIN_S, self._todo.put, [check]).start()

    def _last(self, result: Result) -> bool:
        """Note an answer, for `estate` too; whether its check is asked no more."""
        with self._changed:
            now = time.monotonic()
            if result.ok or result.final != (result.id in self._final):
                self._since = now
            if result.final:
                self._final.add(result.id)
            else:
                self._final.discard(result.id)
            still = FINAL_S if self._red.keys() <= self._final else STILL_S
            if self._final and now - self._since >= still:
                self._deadline = now  # for the others as well
            last = result.ok or now + _AGAIN_S > self._deadline
            if last:
                self._red.pop(result.id, None)
            else:
                self._red[result.id] = result.detail
            if file := os.environ.get("ESTATE_WAITING"):
                partial = Path(file + ".partial")
                partial.write_text(json.dumps(self._red), encoding="utf-8")
                partial.replace(file)
            return last
