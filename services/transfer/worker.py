"""From a finished upload to its receipt, by hooks at once and by sweeps for what hooks lost.

The order makes it at-least-once: events first, the receipt after Kafka's acknowledgement. Killed
between the two, the upload has no receipt, and the next sweep of any replica does it again.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from services.events import ImageReceived
from services.transfer import metrics
from services.transfer.judge import judged
from services.transfer.publish import Event, Publisher
from services.transfer.settings import Limits
from services.transfer.store import TIME_DIGITS, Finished, Store, first_id

_log = logging.getLogger("transfer")
_SKEW_S = 600
"""By how much the clocks of those who name uploads may differ."""
SETTLE_S = 15.0
"""How long an upload is left to its hook before a sweep takes it."""


class Worker:
    """Threads that finish uploads, and one that sweeps."""

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        limits: Limits,
        *,
        threads: int = 2,
        sweep_s: float = 30,
        window_h: int = 168,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._publisher, self._limits = store, publisher, limits
        self._threads, self._sweep_s, self._clock = threads, sweep_s, clock
        self._waiting: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._known: set[str] = set()
        self._lock = threading.Lock()
        self._running: list[threading.Thread] = []
        self._ended = threading.Event()
        self._window_s = window_h * 3600
        # All that is older is finished and has its receipt.
        self._since = first_id(clock() - self._window_s)

    def start(self) -> None:
        """Begin, with a sweep."""
        for number in range(self._threads):
            self._run(self._work, f"worker-{number}")
        self._run(self._keep_sweeping, "sweep")

    def _run(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._running.append(thread)
        thread.start()

    def stop(self) -> None:
        """End the threads, when what waits is done."""
        self._ended.set()
        for _ in range(self._threads):
            self._waiting.put(None)
        for thread in self._running:
            thread.join()

    def add(self, upload_id: str, found_by: str = "hook") -> None:
        """Have an upload finished soon; one that waits already is not added twice."""
        with self._lock:
            if upload_id in self._known:
                return
            self._known.add(upload_id)
        metrics.WAITING.inc()
        self._waiting.put((upload_id, found_by))

    def _work(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            upload_id, found_by = waiting
            metrics.WAITING.dec()
            began = time.monotonic()
            try:
                if self.finish(upload_id):
                    metrics.UPLOADS.labels(found_by).inc()
                    metrics.SECONDS.observe(time.monotonic() - began)
            except Exception as error:  # whatever it was, the next sweep tries again
                metrics.FAILURES.inc()
                _log.warning("upload %s: %s: %s", upload_id, type(error).__name__, error)
            finally:
                with self._lock:
                    self._known.discard(upload_id)

    def finish(self, upload_id: str) -> bool:
        """Judge, tell, and write the receipt; False when there is nothing to do."""
        if self._store.receipt(upload_id) is not None:
            return False
        stored = self._store.stat(upload_id)
        upload = self._store.upload(upload_id)
        if stored is None or upload is None:
            return False
        events = judged(
            upload,
            stored.length,
            stored.modified.astimezone(UTC),
            lambda: self._store.open(upload.key),
            self._limits,
        )
        self._publisher.publish(events)
        bad = [event for event in events if not isinstance(event, ImageReceived)]
        if len(events) == 1 and bad:
            self._store.quarantine(upload.key, bad[0].reason)
        self._store.write_receipt(upload_id, receipt(upload_id, events, self._clock()))
        metrics.BYTES.inc(stored.length)
        for event in events:
            metrics.IMAGES.labels(*_state(event)).inc()
        return True

    def _keep_sweeping(self) -> None:
        while not self._ended.is_set():
            try:
                self.sweep()
            except Exception as error:  # the store may be away for a while
                _log.warning("sweep: %s: %s", type(error).__name__, error)
            self._ended.wait(self._sweep_s)

    def sweep(self) -> list[str]:
        """Add every finished upload without a receipt that its hook had time for; their names.

        One that has all its bytes and was not completed, because tusd died then, is completed.
        """
        began = self._clock()
        since = self._since
        have = set(self._store.receipts(since))
        # Listed after the receipts: one that was written meanwhile costs a look, not a loss.
        finished, unfinished = self._store.uploads(since)
        without = [one for one in finished if one.id not in have]
        open_ = [one[:TIME_DIGITS] for one in (*(one.id for one in without), *unfinished)]
        self._since = max(
            first_id(began - self._window_s), min([first_id(began - _SKEW_S), *open_])
        )
        due = [one.id for one in without if self._left_over(one, began)]
        due += [one for one in unfinished if self._store.complete(one, began - SETTLE_S)]
        for upload_id in due:
            self.add(upload_id, "sweep")
        metrics.UNRECEIPTED.set(len(due))
        metrics.UNFINISHED.set(len(unfinished))
        metrics.SWEPT_AT.set(self._clock())
        return due

    @staticmethod
    def _left_over(one: Finished, now: float) -> bool:
        return now - one.modified.timestamp() > SETTLE_S


def _state(event: Event) -> tuple[str, str]:
    if isinstance(event, ImageReceived):
        return "received", ""
    return "quarantined", event.reason


def receipt(upload_id: str, events: Sequence[Event], now: float) -> str:
    """What a receipt says, as JSON: how many of each, and every image with its state."""
    return json.dumps(
        {
            "upload_id": upload_id,
            "told_at": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
            "counts": dict(Counter(_state(event)[0] for event in events)),
            "images": [
                {
                    "name": event.name,
                    "member": event.member,
                    "sha256": event.sha256,
                    "length": event.length,
                    "state": _state(event)[0],
                    **(
                        {}
                        if isinstance(event, ImageReceived)
                        else {"reason": event.reason, "detail": event.detail}
                    ),
                }
                for event in events
            ],
        }
    )
