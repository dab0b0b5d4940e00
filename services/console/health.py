"""Which backends answer: asked in the background, so that nobody waits for one that is away."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel

from services.console import metrics
from services.console.backends import Backend

_log = logging.getLogger("console")
State = Literal["unknown", "up", "down"]


class BackendState(BaseModel):
    """A backend as it was last asked; `since` is when it came into this state."""

    name: str
    state: State
    since: datetime
    milliseconds: int | None


class Health(BaseModel):
    """`ok`: every backend answers; `degraded`: some do; `down`: none does."""

    status: Literal["ok", "degraded", "down"]
    backends: list[BackendState]


@dataclass
class _Watched:
    backend: Backend
    state: BackendState


class Watch:
    """Asks every backend every few seconds, each in a thread of its own."""

    def __init__(self, backends: Sequence[Backend], every_s: float = 10) -> None:
        now = datetime.now(UTC)
        self._every = every_s
        self._watched = [
            _Watched(
                one, BackendState(name=one.name, state="unknown", since=now, milliseconds=None)
            )
            for one in backends
        ]
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to ask."""
        for one in self._watched:
            threading.Thread(target=self._run, args=(one,), daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def health(self) -> Health:
        """What is known now."""
        states = [one.state for one in self._watched]
        up = sum(one.state == "up" for one in states)
        if up == len(states):
            return Health(status="ok", backends=states)
        return Health(status="degraded" if up else "down", backends=states)

    def ready(self) -> bool:
        """Whether to send requests here: unless nothing at all answers this replica.

        One backend that is away is away for every replica; to take them all out would take away
        what does not need it.
        """
        return not self._watched or self.health().status != "down"

    def _run(self, watched: _Watched) -> None:
        while not self._stopped.is_set():
            self.ask(watched)
            self._stopped.wait(self._every)

    def ask(self, watched: _Watched) -> None:
        """Ask one backend once."""
        before, began, state = watched.state, time.monotonic(), "up"
        try:
            watched.backend.ping()
        except Exception as error:  # whatever a client raises: it is away
            state = "down"
            if before.state != "down":
                text = " ".join(str(error).split())
                _log.warning("%s is away: %s: %s", before.name, type(error).__name__, text)
        took = round((time.monotonic() - began) * 1000)
        if state == "up" and before.state != "up":
            _log.info("%s answers", before.name)
        since = before.since if before.state == state else datetime.now(UTC)
        watched.state = BackendState.model_validate(
            {"name": before.name, "state": state, "since": since, "milliseconds": took}
        )
        metrics.BACKEND_UP.labels(before.name).set(state == "up")
