"""What a device must do, without its connection: keep, send, send again, forget.

The reference for firmware; load generators, probes and tests are devices by it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from pydantic import ValidationError

from services.collect.messages import (
    MOST_READINGS,
    Acknowledgement,
    Reading,
    Readings,
    Rejection,
)

_PATIENCE_S, _LONGEST_S = 5.0, 60.0
_BETWEEN_REWINDS_S = 1.0


class Outbox:
    """Readings of one boot until they are acknowledged; at most `keep`, then the oldest go."""

    def __init__(
        self,
        device: str,
        boot: int,
        *,
        keep: int = 10_000,
        window: int = 1000,
        batch: int = 1,
        first: int = 1,
    ) -> None:
        if not 1 <= batch <= MOST_READINGS:
            raise ValueError(f"batch is {batch}: 1 to {MOST_READINGS}")
        self._device, self._boot = device, boot
        self._keep, self._window, self._batch = keep, window, batch
        self._held: OrderedDict[int, Reading] = OrderedDict()
        self._next = self._to_send = first
        self._progress_at = self._rewound_at = float("-inf")
        self._patience_s = _PATIENCE_S
        self._sent: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """SHA-256 of a message that was sent -> its first and last sequence."""
        self.given_up = 0
        self.rejected = 0

    @property
    def oldest(self) -> int:
        """The first sequence that is not acknowledged."""
        return next(iter(self._held), self._next)

    @property
    def held(self) -> int:
        """How many are not acknowledged."""
        return len(self._held)

    def add(self, time_ms: int, values: dict[str, float]) -> int:
        """Keep a reading; its sequence."""
        sequence = self._next
        self._held[sequence] = Reading(sequence=sequence, time=time_ms, values=values)
        self._next += 1
        while len(self._held) > self._keep:
            self._held.popitem(last=False)
            self.given_up += 1
        return sequence

    def due(self, now: float) -> list[bytes]:
        """The payloads that are to be published now, in this order."""
        oldest = self.oldest
        if oldest >= self._to_send:
            self._progress_at = now  # nothing is out
        elif now - self._progress_at > self._patience_s:
            self._to_send, self._progress_at = oldest, now
            self._patience_s = min(self._patience_s * 2, _LONGEST_S)
        self._to_send = max(self._to_send, oldest)
        end = min(self._next, oldest + self._window)
        found = []
        readings: list[Reading] = []
        for sequence in range(self._to_send, end):
            # A message has readings that follow one another: one that was rejected is no more.
            if sequence in self._held:
                readings.append(self._held[sequence])
            if readings and (sequence not in self._held or len(readings) == self._batch):
                found.append(self._message(oldest, readings))
                readings = []
        if readings:
            found.append(self._message(oldest, readings))
        self._to_send = max(self._to_send, end)
        return found

    def answered(self, payload: bytes, now: float) -> None:
        """What the bridge says; what is no answer of it is nothing. Raises nothing."""
        try:
            answer = Acknowledgement.from_bytes(payload)
        except ValidationError:
            self._rejected(payload, now)
            return
        if answer.boot != self._boot:
            return  # retained, of a former life
        while self._held and self.oldest <= answer.upto:
            self._held.popitem(last=False)
            self._progress_at, self._patience_s = now, _PATIENCE_S
        again = answer.resend_from
        if again is None or again >= self._to_send or now - self._rewound_at < _BETWEEN_REWINDS_S:
            return  # what is on its way since is answered in the same words
        self._to_send, self._rewound_at = max(again, self.oldest), now

    def _message(self, oldest: int, readings: list[Reading]) -> bytes:
        payload = Readings(
            schema=1, device=self._device, boot=self._boot, oldest=oldest, readings=readings
        ).to_bytes()
        span = readings[0].sequence, readings[-1].sequence
        self._sent[hashlib.sha256(payload).hexdigest()] = span
        while len(self._sent) > self._window:
            self._sent.popitem(last=False)
        return payload

    def _rejected(self, payload: bytes, now: float) -> None:
        try:
            rejection = Rejection.from_bytes(payload)
        except ValidationError:
            return
        first, last = self._sent.pop(rejection.rejected, (1, 0))
        for sequence in range(first, last + 1):
            if self._held.pop(sequence, None) is not None:
                self.rejected += 1
                self._progress_at = now
