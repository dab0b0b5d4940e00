from __future__ import annotations

import hashlib

from services.collect.device import Outbox
from services.collect.messages import Acknowledgement, Readings, Rejection


def sequences(payloads: list[bytes]) -> list[list[int]]:
    return [[one.sequence for one in Readings.from_bytes(body).readings] for body in payloads]


def filled(count: int, **options: int) -> Outbox:
    outbox = Outbox("d", 7, **options)
    for at in range(count):
        outbox.add(at, {"t": float(at)})
    return outbox


def told(upto: int, resend_from: int | None = None, boot: int = 7) -> bytes:
    return Acknowledgement(schema=1, boot=boot, upto=upto, resend_from=resend_from).to_bytes()


def test_each_is_sent_once_until_it_is_late() -> None:
    outbox = filled(3, batch=2)
    assert sequences(outbox.due(0)) == [[1, 2], [3]]
    assert outbox.due(4) == []
    assert sequences(outbox.due(6)) == [[1, 2], [3]]
    # It waits longer each time.
    assert outbox.due(12) == []
    assert sequences(outbox.due(17)) == [[1, 2], [3]]


def test_what_is_acknowledged_goes() -> None:
    outbox = filled(3)
    outbox.due(0)
    outbox.answered(told(2), 1)
    assert (outbox.oldest, outbox.held) == (3, 1)
    outbox.answered(told(9, boot=6), 1)
    assert outbox.held == 1
    outbox.answered(b"?", 1)
    outbox.answered(told(3), 1)
    assert (outbox.oldest, outbox.held, outbox.due(99)) == (4, 0, [])


def test_it_goes_back_once_when_it_is_asked_to() -> None:
    outbox = filled(5)
    outbox.due(0)
    outbox.answered(told(1, resend_from=2), 2)
    assert sequences(outbox.due(2)) == [[2], [3], [4], [5]]
    outbox.answered(told(1, resend_from=2), 2.5)
    assert outbox.due(2.5) == []


def test_it_sends_no_more_than_its_window() -> None:
    outbox = filled(10, window=4)
    assert sequences(outbox.due(0)) == [[1], [2], [3], [4]]
    outbox.answered(told(2), 0)
    assert sequences(outbox.due(0)) == [[5], [6]]


def test_a_full_memory_gives_up_the_oldest_and_says_so() -> None:
    outbox = filled(10, keep=3)
    assert (outbox.given_up, outbox.oldest) == (7, 8)
    (first, *_) = outbox.due(0)
    assert Readings.from_bytes(first).oldest == 8


def test_what_is_dead_is_not_sent_again() -> None:
    outbox = filled(4, batch=2)
    first, _ = outbox.due(0)
    digest = hashlib.sha256(first).hexdigest()
    rejection = Rejection(schema=1, rejected=digest, reason="invalid", detail="")
    outbox.answered(rejection.to_bytes(), 1)
    assert (outbox.rejected, outbox.oldest) == (2, 3)
    assert sequences(outbox.due(9)) == [[3, 4]]
