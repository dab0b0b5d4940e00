from __future__ import annotations

import math
import time

from rehearsal.drills.postgres_failover import Acknowledged, first_line, observer, outage


def rows(*times: float) -> list[Acknowledged]:
    return [Acknowledged(at, row) for row, at in enumerate(times)]


def test_outage_is_the_longest_gap_after_the_deletion() -> None:
    assert outage(rows(1.0, 2.0, 3.0, 9.5, 9.6), killed=2.9) == 6.5


def test_a_gap_that_began_before_counts_from_the_deletion() -> None:
    assert outage(rows(1.0, 9.0), killed=4.0) == 5.0


def test_a_slow_start_before_the_deletion_does_not_count() -> None:
    assert outage(rows(0.0, 50.0, 50.1, 50.3), killed=50.05) == 50.3 - 50.1


def test_nothing_acknowledged_afterwards_is_an_endless_outage() -> None:
    assert math.isinf(outage(rows(1.0, 2.0), killed=3.0))


def test_observer_records_changes_and_survives_errors() -> None:
    answers = iter(
        [
            {"primary": "a"},
            {"primary": "a"},
            ConnectionError("refused\ndetails"),
            {"primary": "b"},
        ]
    )

    def observe() -> dict[str, str]:
        answer = next(answers, {"primary": "b"})
        if isinstance(answer, Exception):
            raise answer
        return answer

    with observer(observe) as events:
        time.sleep(0.8)
    assert [what for _, what in events] == ["observer: refused", "primary: b"]


def test_errors_are_counted_by_their_first_line() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
