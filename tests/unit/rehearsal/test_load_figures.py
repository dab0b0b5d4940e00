"""When requests are due, and what the figures of a load are made of."""

from __future__ import annotations

import json
import math
from itertools import islice, pairwise
from typing import Any

import pytest

from rehearsal.load_figures import Plan, Result, Sent, Spread, Tally, percentile, schedule

PLAN = Plan("digits", ("http://x",), rate=100.0, seconds=2.0)


def sent(due: float, took: float, **more: Any) -> Sent:
    made = Sent(due, due + 0.001, due + took, **more)
    made.first_ended, made.first = made.ended, made.kind
    return made


def tally(*requests: Sent, plan: Plan = PLAN) -> Tally:
    return Tally(plan, 100.0, list(requests))


def test_even_arrivals_keep_the_rate_to_the_end() -> None:
    due = list(schedule(Plan("digits", (), rate=30.0, seconds=3600.0)))
    assert len(due) == 108_000
    assert due[-1] == pytest.approx(3600 - 1 / 30)


def test_independent_arrivals_are_the_same_for_a_seed() -> None:
    def arrivals(seed: int) -> list[float]:
        return list(schedule(Plan("digits", (), rate=200.0, seconds=50, poisson=True, seed=seed)))

    due = arrivals(1)
    assert due == arrivals(1) != arrivals(2)
    assert len(due) == pytest.approx(10_000, rel=0.05)
    gaps = [b - a for a, b in pairwise(due)]
    # Exponential: the deviation is as large as the mean, even arrivals have none.
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert deviation == pytest.approx(mean, rel=0.1)


def test_without_an_end_it_goes_on() -> None:
    assert len(list(islice(schedule(Plan("digits", (), rate=1e6)), 5000))) == 5000


@pytest.mark.parametrize("percent, value", [(0, 1.0), (50, 2.0), (75, 3.0), (99, 4.0), (100, 4.0)])
def test_percentiles_are_values_that_were(percent: float, value: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], percent) == value


def test_of_nothing_there_is_no_percentile() -> None:
    assert math.isnan(percentile([], 50))
    assert math.isnan(Spread.of([]).max)


def test_latency_counts_from_the_moment_a_request_was_due() -> None:
    late = Sent(due=100.0, began=100.5, ended=100.6, first_ended=100.6)
    result = tally(late).result(101.0, 0.0)
    assert result.latency.p50 == 600.0
    assert result.lateness.p99 == 500.0 and result.late


def test_what_failed_is_counted_by_kind_and_not_in_the_latency() -> None:
    result = tally(
        sent(100.0, 0.01, version="1", track="stable"),
        sent(100.1, 0.02, version="2", track="canary"),
        sent(100.2, 0.03, kind="wrong", version="2", error="version 2: off"),
        sent(101.3, 5.0, kind="timeout", error="no answer in 5 s"),
    ).result(102.0, 0.5)
    assert (result.sent, result.ok) == (4, 2)
    assert result.failed == {"wrong": 1, "timeout": 1}
    assert result.versions == {"1": 1, "2": 2} and result.tracks == {"stable": 1, "canary": 1}
    assert result.latency.max == 20.0
    assert result.first_s == {"1": 0.01, "2": 0.12}
    assert result.cpu_share == 0.25 and not result.all_ok
    first, second = result.timeline
    assert (first.at, first.sent, first.ok, first.failed) == (0, 3, 2, 1)
    assert first.versions == {"1": 1, "2": 2}
    assert (second.at, second.failed, second.versions) == (1, 1, {})


def test_what_has_no_answer_at_the_end_has_timed_out() -> None:
    result = tally(Sent(100.0, 100.0)).result(103.0, 0.0)
    assert result.failed == {"timeout": 1} and result.first_failed == {"timeout": 1}


def test_nothing_sent_is_not_all_well() -> None:
    assert not tally().result(101.0, 0.0).all_ok


def test_what_was_sent_again_is_counted_apart() -> None:
    again = sent(100.0, 0.2, attempts=2, version="1", error="HTTP 502")
    again.first, again.first_ended = "status", 100.1
    lost = sent(100.5, 0.2, attempts=2, kind="status", error="HTTP 502")
    lost.first, lost.first_ended = "status", 100.6
    result = tally(again, lost, sent(100.7, 0.01, version="1")).result(101.0, 0.0)
    assert result.first_failed == {"status": 2} and result.retried == 1
    assert result.failed == {"status": 1} and result.errors == {"HTTP 502": 2}


def test_in_flight_is_what_had_begun_and_no_first_answer() -> None:
    found = tally(
        sent(99.0, 0.5),  # answered before
        sent(99.9, 0.5),
        Sent(99.95, 99.96),  # never answered
        sent(100.002, 0.5),  # begun while the process was taken apart
        sent(100.2, 0.5),  # begun after
    )
    assert found.in_flight(100.0, 100.0) == 2
    assert found.in_flight(100.0, 100.1) == 3


def test_a_second_is_the_same_while_it_runs_and_in_the_end() -> None:
    made = tally(*(sent(100.0 + at / 100, 0.01, version="1") for at in range(250)))
    assert made.second(1) == made.result(103.0, 0.0).timeline[1]


def test_a_result_survives_the_wire() -> None:
    result = tally(sent(100.0, 0.01, version="1")).result(101.0, 0.1)
    assert Result.of(json.loads(json.dumps(result.json_object()))) == result
    assert Plan.of(json.loads(json.dumps(PLAN.json_object()))) == PLAN
