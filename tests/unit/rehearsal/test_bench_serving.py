"""The bench of serving without a rehearsal: its turns, its sums, its words."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from rehearsal import bench_serving, cli
from rehearsal.bench_serving import (
    DIRECT,
    GATEWAY,
    WITH,
    WITHOUT,
    Turn,
    gain,
    judged,
    order,
    overhead,
    pairs,
    rows,
    served,
    turns,
)
from rehearsal.errors import EstateError
from rehearsal.load_figures import Plan, Result, Sent, Tally
from rehearsal.rehearsal import Rehearsal
from tests.unit.rehearsal.conftest import Folders


def result(ms: float = 1.0, *, tail: float = 0.0, late: float = 0.0, count: int = 100) -> Result:
    """`count` requests in a second, the last two of which take `tail` more."""
    requests = []
    for at in range(count):
        due = at / count
        took = ms / 1000 + (tail / 1000 if at >= count - 2 else 0)
        began = due + late / 1000
        requests.append(Sent(due, began, due + took, version="1", first_ended=due + took))
    return Tally(Plan("digits", ()), 0.0, requests).result(1.0, 0.1)


class FakeLoad:
    """Answers each load at once by the next result."""

    def __init__(self, *results: Result) -> None:
        self.started: list[tuple[str, Plan]] = []
        self._results = list(results)

    def start(self, key: str, plan: Plan) -> None:
        self.started.append((key, plan))

    def result(self, *_: object) -> Result:
        return self._results.pop(0) if len(self._results) > 1 else self._results[0]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_serving, "_PAUSE_S", 0.0)


def test_turns_go_there_and_back() -> None:
    assert order(("a", "b"), 2) == ["a", "b", "b", "a", "a", "b", "b", "a"]


def test_ways_of_a_pair_alternate_request_by_request_and_who_begins_changes() -> None:
    load: Any = FakeLoad(result())
    ways = {GATEWAY: ("https://g",), DIRECT: ("http://a", "http://b")}
    found = pairs(load, "digits", ways, count=2, rate=100.0, seconds=5.0)
    assert [set(pair) for pair in found] == [set(ways)] * 2
    begins = [(key.split("-")[0], plan.starts_at) for key, plan in load.started]
    assert [way for way, _ in begins] == [GATEWAY, DIRECT, DIRECT, GATEWAY]
    for first, second in (begins[:2], begins[2:]):
        assert first[1] is not None and second[1] is not None
        assert second[1] - first[1] == pytest.approx(0.005)
        assert first[1] > time.monotonic() - 1
    assert {plan.targets for _, plan in load.started} == set(ways.values())


def test_a_failed_request_ends_the_bench() -> None:
    bad = Tally(Plan("digits", ()), 0.0, [Sent(0.0, 0.0)]).result(1.0, 0.0)
    load: Any = FakeLoad(bad)
    with pytest.raises(EstateError, match=r"turn 0 \(a\): requests failed: no answer"):
        turns(load, ("a",), 1, lambda _: Plan("digits", ()))


def pair(gateway: Result, direct: Result) -> dict[str, Turn]:
    return {GATEWAY: Turn(GATEWAY, gateway), DIRECT: Turn(DIRECT, direct)}


def test_the_gateways_cost_is_the_median_of_pairs() -> None:
    found = overhead(
        [
            pair(result(1.2, tail=2), result(1.0, tail=2)),
            pair(result(1.25, tail=2), result(1.0, tail=2)),
            # A minute in which the machine did something else meets both.
            pair(result(9.3, tail=90), result(9.0, tail=90)),
        ]
    )
    assert found["p50_added_ms"] == {"value": 0.25, "wanted": 0.3, "met": True}
    assert found["p99_ratio"]["met"] is True
    assert len(found["turns"]) == 6 and found["turns"][0]["way"] == GATEWAY
    assert json.dumps(found)


def test_what_is_missed_is_missed() -> None:
    found = overhead([pair(result(1.5, tail=3), result(1.0, tail=1))])
    assert found["p50_added_ms"]["met"] is False and found["p99_ratio"]["met"] is False
    lines = judged({"overhead": found})
    assert lines[0].endswith("0.5, at most 0.3 wanted: missed by 0.20")
    assert lines[1].endswith("2.25, at most 1.1 wanted: missed by 1.15")


def test_a_late_generator_judges_nothing() -> None:
    found = overhead([pair(result(1.1, late=5), result(1.0))])
    assert found["generator_late"] and found["p99_ratio"]["met"] is None
    assert "not judged" in judged({"overhead": found})[0]


@pytest.mark.parametrize("tail, said", [(1.0, False), (20.0, True)])
def test_a_tail_that_the_machine_makes_is_named(
    tail: float, said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    made = result(1.0, tail=tail)
    bench_serving.show({"overhead": overhead([pair(made, made)])})
    assert ("hides what the gateway adds" in capsys.readouterr().err) is said


def test_batching_gains_what_the_medians_say() -> None:
    found = gain(
        [
            *(Turn(WITH, result(count=count)) for count in (300, 330, 10)),
            *(Turn(WITHOUT, result(count=count)) for count in (100, 150, 151)),
        ]
    )
    assert found["per_s"] == {WITH: 300.0, WITHOUT: 150.0} and found["gain"] == 2.0


def test_served_is_the_median_first_answer() -> None:
    rounds = [
        {"first_answer_s": first, "promoted_s": 30.0, "in_registry_s": 1.0, "failed": 0}
        for first in (9.0, 16.0, 11.0)
    ]
    found = served(rounds)
    assert found["first_answer_s"] == {"value": 11.0, "wanted": 15.0, "met": True}
    assert served(rounds[1:2])["first_answer_s"]["met"] is False


def test_the_table_has_what_was_measured() -> None:
    figures = {
        "overhead": overhead([pair(result(1.2), result(1.0))]),
        "batching": gain([Turn(WITH, result()), Turn(WITHOUT, result())]),
        "added": served([{"first_answer_s": 9.0, "promoted_s": 30.0}]),
    }
    shown = dict(rows(figures))
    assert shown["p50, through the gateway / Triton itself"] == "1.20 / 1.00 ms"
    assert shown["p50 added by the gateway"] == "0.20 ms"
    assert shown["dynamic batching's gain"] == "x 1.00"
    assert shown["model add to the first answer"] == "9.0 s"
    assert rows({}) == [] and judged({}) == []


def test_simulated_nodes_are_refused(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    Rehearsal("sim").prepare("simulated", "no root", None)
    assert cli.main(["bench", "serving", "--name", "sim"]) == 1
    assert "real node" in capsys.readouterr().err
