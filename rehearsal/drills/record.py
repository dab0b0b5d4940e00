"""What writers and visitors share: counting, a file that changes at once, a patient producer."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from confluent_kafka import Producer

from rehearsal import clients
from rehearsal.access import Access


class Record:
    """What was acknowledged: when, which, on which lane (a partition; one lane otherwise)."""

    def __init__(self, writer: str) -> None:
        self.writer = writer
        self.acknowledged: list[tuple[float, int, int]] = []
        self.attempts = 0
        self.errors: Counter[str] = Counter()
        self.failed = 0

    def acknowledge(self, item: int, lane: int = 0) -> None:
        """Note an acknowledgement that came now."""
        self.acknowledged.append((time.monotonic(), item, lane))

    def note(self, text: str) -> None:
        """Tell the caller at once what the writer saw, for the timeline."""
        clients.emit("note", writer=self.writer, at=time.monotonic(), text=text)

    def error(self, error: object, *, surfaced: bool = True) -> None:
        """Count an error by its first line; `surfaced`: the library gave it to the application."""
        self.failed += surfaced
        lines = str(error).strip().splitlines()
        self.errors[lines[0][:160] if lines else type(error).__name__] += 1

    def summary(self, stored: set[int]) -> dict[str, Any]:
        """Plain JSON; `acks` are (seconds of the monotonic clock, lane)."""
        accepted = {item for _, item, _ in self.acknowledged}
        return {
            "attempts": self.attempts,
            "acknowledged": len(accepted),
            "stored": len(stored),
            "lost": sorted(accepted - stored)[:100],
            "lost_count": len(accepted - stored),
            "failed": self.failed,
            "errors": dict(self.errors.most_common(5)),
            "acks": [(at, lane) for at, _, lane in self.acknowledged],
        }


def producer(access: Access, record: Record) -> Producer:
    """A producer with acks=all whose own retries last a minute.

    Of what it notices by itself only a certificate that does not verify counts as surfaced: it
    tries again elsewhere and would hide it. A broker that is away is what retries are for.
    """
    return Producer(
        access.kafka_options(
            "verify",
            acks="all",
            enable_idempotence=True,
            linger_ms=2,
            delivery_timeout_ms=60_000,
            request_timeout_ms=5_000,
            socket_timeout_ms=6_000,
            topic_metadata_refresh_interval_ms=2_000,
        ),
        error_cb=lambda error: record.error(
            error.str(), surfaced="certificate verify failed" in error.str()
        ),
    )
