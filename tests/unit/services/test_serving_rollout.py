"""The rollout of a model, against a world that the test decides."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from model_repo.declared import Rollout, Serving, Step
from services.serving.model import Declared, Phase, Progress, Refusal, Seen, Track, Version
from services.serving.rollout import (
    DRAIN_S,
    LOAD_S,
    PENDING,
    RETRY_S,
    Latency,
    Loaded,
    Verdict,
    advance,
    assigned,
    judged,
)

ROLLOUT = Rollout(
    steps=(Step(weight=5, for_s=10), Step(weight=50, for_s=10)),
    min_requests=20,
    max_wait_s=30,
    max_error_rate=0.01,
    max_latency_ms=100.0,
)


def version(number: int) -> Version:
    return Version(version=number, digest=f"sha256:{number:064d}")


def declared(number: int, rollout: Rollout = ROLLOUT) -> Declared:
    one = version(number)
    return Declared(
        name="digits-onnx",
        version=number,
        digest=one.digest,
        serving=Serving(),
        rollout=rollout,
    )


@dataclass
class FakeWorld:
    verdict: Verdict = None
    at_golden: Verdict = None
    pods: dict[Track, Loaded] = field(
        default_factory=lambda: {"stable": Loaded(2, 2), "canary": Loaded(1, 1)}
    )
    counts: Seen = field(default_factory=Seen)
    beside: Seen = field(default_factory=Seen)
    latencies: dict[Track, Latency] = field(
        default_factory=lambda: {"stable": Latency(100, 2.0), "canary": Latency(100, 2.0)}
    )
    verified: int = 0
    weights_known: bool = True

    def verify(self, declared: Declared, served: Version | None) -> Verdict:
        self.verified += 1
        return self.verdict

    def told(self) -> bool:
        return self.weights_known

    def loaded(self, track: Track, declared: Declared, version: Version) -> Loaded:
        return self.pods[track]

    def golden(self, declared: Declared) -> Verdict:
        return self.at_golden

    def seen(self, track: Track, declared: Declared) -> Seen:
        return self.counts if track == "canary" else self.beside

    def latency(self, track: Track, declared: Declared, since: float) -> Latency:
        return self.latencies[track]


class Run:
    """Seconds that go by, with what is declared and the world."""

    def __init__(self, at: Progress | None = None) -> None:
        self.at, self.world, self.now = at or Progress(), FakeWorld(), 1000.0
        self.declared = declared(1)

    def step(self, seconds: float = 1.0) -> Progress:
        self.now += seconds
        self.at = advance(self.declared, self.at, self.world, self.now)
        return self.at

    def until(self, phase: Phase, most: int = 200) -> Progress:
        for _ in range(most):
            if self.at.phase == phase:
                return self.at
            self.step()
        raise AssertionError(f"{self.at.phase}, never {phase}: {self.at}")


def serving(number: int) -> Run:
    run = Run(Progress(stable=version(number)))
    run.declared = declared(number)
    return run


def test_the_first_version_is_served_after_its_golden_set_without_a_canary() -> None:
    run = Run()
    phases = []
    for _ in range(12):
        phases.append(run.step().phase)
    assert phases[:5] == ["verifying", "loading", "golden", "promoting", "draining"]
    assert run.at.stable == version(1)
    assert run.at.phase == "idle" and run.at.candidate is None


def test_a_new_version_gets_its_share_step_by_step_and_then_everything() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.until("canary")
    shares = []
    while run.at.phase == "canary":
        run.world.counts = Seen(requests=run.world.counts.requests + 10)
        shares.append(run.at.weight)
        assert run.at.stable == version(1)
        run.step()
    assert sorted(set(shares)) == [5, 50]
    assert shares.count(5) == pytest.approx(10, abs=1)
    assert run.at.phase == "promoting"
    assert run.at.weight == 50  # until every stable pod has it
    run.until("idle")
    assert run.at.stable == version(2)
    assert run.at.before == (version(1),)
    assert run.at.weight == 0


def test_while_it_is_promoted_both_versions_are_assigned_and_then_the_new_one() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.world.pods["stable"] = Loaded(1, 2)
    run.until("canary")
    tracks = assigned(run.declared, run.at)
    assert tracks["stable"] and tracks["stable"].versions == (version(1),)
    assert tracks["canary"] and tracks["canary"].versions == (version(2),)
    run.until("promoting")
    for _ in range(5):
        run.step()
    tracks = assigned(run.declared, run.at)
    assert tracks["stable"] and tracks["stable"].versions == (version(1), version(2))
    run.world.pods["stable"] = Loaded(2, 2)
    run.step()
    assert run.at.phase == "draining" and run.at.weight == 0
    tracks = assigned(run.declared, run.at)
    assert tracks["stable"] and tracks["stable"].versions == (version(2),)
    # Requests that the canary has are answered first.
    assert tracks["canary"] and tracks["canary"].versions == (version(2),)
    assert run.step(DRAIN_S).phase == "idle"
    assert assigned(run.declared, run.at)["canary"] is None


def test_back_to_a_version_that_was_served_needs_no_canary_but_its_golden_set() -> None:
    run = Run(Progress(stable=version(2), before=(version(1),)))
    run.declared = declared(1)
    weights = set()
    while run.at.stable != version(1):
        run.step()
        weights.add(run.at.weight)
    assert weights == {0}
    assert run.at.before == (version(2),)


@pytest.mark.parametrize("gate", ["signature", "digest", "contract"])
def test_what_does_not_verify_is_never_assigned(gate: str) -> None:
    run = serving(1)
    run.declared = declared(2)
    run.world.verdict = Refusal(gate=gate, why="because")  # type: ignore[arg-type]
    for _ in range(30):
        run.step()
        tracks = assigned(run.declared, run.at)
        assert tracks["stable"] and tracks["stable"].versions == (version(1),)
        assert run.at.weight == 0
        assert tracks["canary"] is None
    assert run.at.stable == version(1)
    assert run.at.refused and run.at.refused.gate == gate
    assert run.world.verified == 1


def test_a_registry_that_does_not_answer_is_asked_again() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.world.verdict = Refusal(gate="registry", why="no answer")
    for _ in range(int(RETRY_S) * 3):
        run.step()
    assert 2 <= run.world.verified <= 4
    run.world.verdict = None
    run.until("canary")


def test_what_does_not_load_is_refused_before_traffic() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.world.pods["canary"] = Loaded(0, 1, Refusal(gate="load", why="no such op"))
    run.until("draining")
    assert run.at.refused and run.at.refused.gate == "load"
    run.until("idle")
    assert run.at.stable == version(1)


def test_what_never_gets_ready_is_refused_in_the_end() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.world.pods["canary"] = Loaded(0, 0)
    run.until("draining", most=int(LOAD_S) + 20)
    assert run.at.refused and "0 of 0 pods" in run.at.refused.why


@pytest.mark.parametrize("gate", ["golden", "latency"])
def test_the_golden_set_is_asked_before_traffic(gate: str) -> None:
    run = serving(1)
    run.declared = declared(2)
    run.world.at_golden = Refusal(gate=gate, why="wrong")  # type: ignore[arg-type]
    weights = set()
    for _ in range(30):
        weights.add(run.step().weight)
    assert weights == {0}
    assert run.at.refused and run.at.refused.gate == gate


def test_failures_of_the_canary_take_it_back_at_once() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.until("canary")
    run.world.counts = Seen(requests=10, failures=1)
    run.step()
    assert run.at.phase == "draining" and run.at.weight == 0
    assert run.at.refused and run.at.refused.gate == "errors"
    run.until("idle")
    for _ in range(60):
        assert run.step().phase == "idle"
    assert run.at.stable == version(1)


def test_a_refused_version_is_tried_again_when_another_was_declared_meanwhile() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.world.verdict = Refusal(gate="signature", why="unsigned")
    run.until("verifying")
    run.until("idle")
    run.declared = declared(1)
    run.step()
    assert run.at.refused is None
    run.declared, run.world.verdict = declared(2), None
    run.until("canary")


def test_what_is_not_answered_yet_is_waited_for() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.world.verdict = run.world.at_golden = PENDING
    assert {run.step().phase for _ in range(300)} == {"verifying"}
    run.world.verdict = None
    run.until("golden")
    assert {run.step().phase for _ in range(300)} == {"golden"}
    run.world.at_golden = None
    run.until("canary")


def test_nobody_is_asked_the_golden_set_before_all_pods_have_it_again() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.until("golden")
    for none in (Loaded(0, 0), Loaded(1, 2)):
        run.world.pods["canary"] = none
        assert run.step().phase == "golden"
    run.world.pods["canary"] = Loaded(2, 2)
    assert run.step().phase == "canary"


def test_pods_that_were_not_there_in_time_are_waited_for_again() -> None:
    run = Run()
    run.world.pods["canary"] = Loaded(0, 0)
    run.until("draining", most=int(LOAD_S) + 20)
    assert run.at.refused and run.at.refused.again
    run.until("idle")
    run.world.pods["canary"] = Loaded(1, 1)
    run.until("promoting", most=int(RETRY_S) + 10)


def test_what_a_pod_refused_is_not_tried_again() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.world.pods["canary"] = Loaded(0, 1, Refusal(gate="load", why="no such op"))
    run.until("draining")
    run.world.pods["canary"] = Loaded(1, 1)
    run.until("idle")
    assert {run.step().phase for _ in range(300)} == {"idle"}


def test_a_version_is_there_until_no_gateway_sends_it_requests() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.until("canary")
    run.world.counts = Seen(requests=10, failures=3)
    run.step()
    run.world.weights_known = False
    for _ in range(60):
        assert run.step().phase == "draining"
        assert assigned(run.declared, run.at)["canary"] is not None
    run.world.weights_known = True
    assert run.step().phase == "idle"


def test_a_step_does_not_end_before_the_gateways_have_its_weight() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.until("canary")
    run.world.weights_known = False
    for _ in range(200):
        assert (run.step().phase, run.at.step) == ("canary", 0)
    run.world.counts = Seen(requests=100, errors=2)  # of which Triton tells
    assert run.step().phase == "draining"
    assert run.at.refused and run.at.refused.gate == "errors"


def test_failures_of_before_are_not_this_step_s_and_hide_none() -> None:
    base = Seen(requests=100, failures=7, errors=0)
    assert Seen(requests=120, failures=7, errors=3).since(base).failed == 3
    assert Seen(requests=120, failures=7, errors=0).since(base).failed == 0
    assert Seen(requests=5, failures=1).since(base) == Seen(requests=5, failures=1)


def test_who_takes_the_declaration_back_ends_the_canary() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.until("canary")
    run.declared = declared(1)
    run.step()
    assert run.at.phase == "draining" and run.at.weight == 0
    run.until("idle")
    assert run.at.stable == version(1) and run.at.refused is None


def test_a_step_waits_for_requests_but_not_for_ever() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.until("canary")
    began = run.now
    while run.at.step == 0:
        run.step()
    assert run.now - began == pytest.approx(10 + ROLLOUT.max_wait_s, abs=2)


def test_counters_that_begin_anew_are_no_negative_requests() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.world.counts = Seen(requests=1000, failures=7)
    run.until("canary")
    run.world.counts = Seen(requests=30, failures=0)  # the gateway was restarted
    run.step(11)
    assert run.at.phase == "canary" and run.at.step == 1


def test_a_controller_that_begins_anew_goes_on_where_it_was() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.until("canary")
    again = Run(Progress.model_validate_json(run.at.model_dump_json()))
    again.declared, again.now = run.declared, run.now
    again.until("idle")
    assert again.at.stable == version(2)


def test_without_steps_the_golden_set_is_all_that_is_asked() -> None:
    run = serving(1)
    run.declared = declared(2, Rollout(steps=()))
    run.until("promoting")
    assert run.at.weight == 0


@pytest.mark.parametrize(
    ("seen", "canary", "served", "gate"),
    [
        (Seen(requests=100, failures=1), Latency(100, 2.0), Latency(100, 2.0), None),
        (Seen(requests=100, failures=2), Latency(100, 2.0), Latency(100, 2.0), "errors"),
        (Seen(requests=0, failures=1), Latency(), Latency(100, 2.0), "errors"),
        (Seen(requests=100), Latency(100, 101.0), Latency(100, 99.0), "latency"),
        (Seen(requests=100), Latency(100, 60.0), Latency(100, 20.0), "latency"),
        (Seen(requests=100), Latency(100, 60.0), Latency(100, 40.0), None),
        (Seen(requests=100), Latency(100, 60.0), Latency(3, 1.0), None),  # against too few
        (Seen(requests=100), Latency(100, 50.0), Latency(100, 1.0), None),  # noise
        (Seen(requests=100), Latency(19, 500.0), Latency(100, 1.0), None),  # too few to judge
        (Seen(requests=100), Latency(), Latency(), None),
    ],
)
def test_what_is_judged(seen: Seen, canary: Latency, served: Latency, gate: str | None) -> None:
    refusal = judged(ROLLOUT, seen, Seen(requests=1000), canary, served)
    assert (refusal.gate if refusal else None) == gate


def test_clients_that_send_what_nobody_can_read_keep_no_version_away() -> None:
    seen = Seen(requests=100, failures=5)
    none = Latency()
    refusal = judged(ROLLOUT, seen, Seen(requests=1000, failures=0), none, none)
    assert refusal and refusal.gate == "errors"
    assert judged(ROLLOUT, seen, Seen(requests=1000, failures=50), none, none) is None
    # Of a few a rate says nothing.
    assert judged(ROLLOUT, seen, Seen(requests=10, failures=5), none, none) is not None
    worse = Seen(requests=100, failures=30)
    assert judged(ROLLOUT, worse, Seen(requests=1000, failures=50), none, none) is not None


def test_a_step_does_not_end_while_a_pod_of_the_canary_is_away() -> None:
    run = serving(1)
    run.declared = declared(2)
    run.until("canary")
    run.world.pods["canary"] = Loaded(0, 1)
    for _ in range(30):
        assert run.step().phase == "canary" and run.at.step == 0
    run.world.pods["canary"] = Loaded(1, 1)
    run.world.counts = Seen(requests=100)
    run.until("idle")
    assert run.at.stable == version(2)


def test_two_slow_requests_alone_are_no_percentile() -> None:
    assert Latency.of([1.0] * 18 + [500.0] * 2) == Latency(20, 1.0)
    assert Latency.of([1.0] * 17 + [500.0] * 3) == Latency(20, 500.0)
    assert Latency.of([1.0] * 980 + [500.0] * 20) == Latency(1000, 500.0)
    assert Latency.of([1.0] * 991 + [500.0] * 9) == Latency(1000, 1.0)
    assert Latency.of([500.0] * 2) == Latency(2, 0.0)
