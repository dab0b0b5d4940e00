"""The controller: what it writes, in which order, and from what it goes on when it begins anew."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from model_repo.declared import Rollout, Serving, Step
from services.serving import controller as module
from services.serving import server
from services.serving.cluster import Pod
from services.serving.controller import Controller
from services.serving.gateway import Gateway, GatewayError, State, Time, Trust
from services.serving.model import (
    Assigned,
    Declared,
    PodStatus,
    Progress,
    Seen,
    Track,
    Version,
    VersionStatus,
)
from services.serving.rollout import DRAIN_S
from services.serving.settings import ControlSettings
from services.serving.world import LiveWorld, Seat
from tests.unit.services.serving.site import Site
from tests.unit.services.serving.test_world import Asked, settings

Maps = dict[str, dict[str, str]]
STATE, ASSIGNMENTS, TRAFFIC = "serving-state", "serving-assignments", "serving-traffic"
STEP = Rollout(steps=(Step(weight=25, for_s=2),), min_requests=0, max_wait_s=1, max_latency_ms=9e3)


class FakeCluster:
    """ConfigMaps and pods; the pods have what is assigned to them at once."""

    def __init__(self) -> None:
        self.maps: Maps = {}
        self.writes: list[str] = []
        self.away = False
        self.fails: set[str] = set()
        self.gateways = ["10.0.0.1", "10.0.0.2"]
        self.unready: set[str] = set()

    def declare(self, one: Version, name: str = "digits", **serving: Any) -> None:
        declared = Declared(
            name=name,
            version=one.version,
            digest=one.digest,
            serving=Serving(**serving),
            rollout=STEP,
        )
        self.maps[f"model-{name}"] = {"model.json": declared.document()}

    def _ask(self) -> None:
        if self.away:
            raise OSError("connection refused")

    def config_map(self, name: str) -> dict[str, str] | None:
        self._ask()
        return self.maps.get(name)

    def write_config_map(self, name: str, data: dict[str, str]) -> None:
        self._ask()
        if name in self.fails:
            raise OSError(f"{name}: conflict")
        self.writes.append(name)
        self.maps[name] = dict(data)

    def labelled(self, label: str) -> Maps:
        self._ask()
        assert label == "estate.dev/model"
        return {name: data for name, data in self.maps.items() if name.startswith("model-")}

    def pods(self, selector: str) -> list[Pod]:
        self._ask()
        if selector == "app=gateway":
            return [Pod(one, one, one not in self.unready, "", "") for one in self.gateways]
        assert selector == "estate.dev/track"
        tracks: Sequence[Track] = ("stable", "canary")
        return [Pod(one, "127.0.0.1", True, "cpu", one) for one in tracks]

    def look(self, _: ControlSettings, pods: Sequence[Pod]) -> list[Seat]:
        assignments = self.maps.get(ASSIGNMENTS, {"stable": "[]", "canary": "[]"})
        return [
            Seat(
                pod,
                PodStatus(
                    triton=True,
                    models={
                        one["name"]: {
                            version["version"]: VersionStatus(
                                digest=version["digest"], state="ready"
                            )
                            for version in one["versions"]
                        }
                        for one in json.loads(assignments[pod.track])
                    },
                ),
                "",
            )
            for pod in pods
        ]

    def state(self, name: str = "digits") -> Progress:
        return Progress.model_validate_json(self.maps[STATE][name])

    def assigned(self, track: Track, name: str = "digits") -> list[int]:
        found = [Assigned.model_validate(one) for one in json.loads(self.maps[ASSIGNMENTS][track])]
        return [v.version for one in found if one.name == name for v in one.versions]


class Run:
    """Seconds that go by, a round in each."""

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site, self.cluster, self.now = site, FakeCluster(), 1000.0
        self.shared: dict[str, list[dict[str, int]]] = defaultdict(list)
        self.pools: dict[str, str] = {}
        self.deaf: set[str] = set()
        self.counted: dict[str, dict[str, Seen]] = {}
        clock = SimpleNamespace(time=lambda: self.now, monotonic=lambda: self.now)
        monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(module, "look", self.cluster.look)
        monkeypatch.setattr(Trust, "refresh", lambda _: None)
        run = self

        def share(
            self: Gateway, weights: dict[str, int], pools: dict[str, str], state: State | None
        ) -> None:
            if self.address in run.deaf:
                raise GatewayError(f"{self.address}: timed out")
            assert run.cluster.maps[STATE], "it is written before anybody is told"
            run.shared[self.address].append(dict(weights))
            run.pools = dict(pools)

        def state(self: Gateway) -> State:
            if self.address in run.deaf:
                raise GatewayError(f"{self.address}: timed out")
            return State(run.counted.get(self.address, {}), {})

        def times(self: Gateway) -> list[Time]:
            if self.address in run.deaf:
                raise GatewayError(f"{self.address}: timed out")
            return []

        monkeypatch.setattr(Gateway, "times", times)
        monkeypatch.setattr(Gateway, "share", share)
        monkeypatch.setattr(Gateway, "state", state)
        self.begin()

    def begin(self) -> None:
        """A controller that has just begun."""
        self.woken = threading.Event()
        self.controller = Controller(
            settings(self.site),
            self.cluster,  # type: ignore[arg-type]
            self.woken.set,
        )
        self.controller.begin()

    def step(self) -> Progress:
        self.now += 1
        self.controller.read()
        self.controller.round()
        return self.cluster.state()

    def until(self, true: Callable[[Progress], bool], most: int = 400) -> Progress:
        for _ in range(most):
            at = self.step()
            if true(at):
                return at
            phases = {json.loads(text)["phase"] for text in self.cluster.maps[STATE].values()}
            if phases & {"verifying", "golden"}:
                time.sleep(0.01)  # work of a thread
        raise AssertionError(at)

    def serving(self, one: Version) -> None:
        self.cluster.declare(one)
        self.until(lambda at: at.stable == one and at.phase == "idle")


@pytest.fixture
def run(site: Site, monkeypatch: pytest.MonkeyPatch) -> Run:
    Asked(site)
    return Run(site, monkeypatch)


def test_from_a_declaration_to_all_requests(run: Run) -> None:
    one, two = run.site.add(1), run.site.add(2)
    run.serving(one)
    assert run.cluster.assigned("stable") == [1] and run.cluster.assigned("canary") == []
    run.cluster.declare(two)
    run.until(lambda at: at.phase == "canary")
    assert run.cluster.assigned("stable") == [1] and run.cluster.assigned("canary") == [2]
    assert {weights[-1]["digits"] for weights in run.shared.values()} == {25}
    assert run.cluster.maps[TRAFFIC] == {"weights.map": "digits 25\n", "pools.map": "digits cpu\n"}
    assert run.pools == {"digits": "cpu"}
    run.until(lambda at: at.phase == "idle")
    assert run.cluster.state().stable == two
    assert run.cluster.assigned("stable") == [2] and run.cluster.assigned("canary") == []
    assert set(run.shared) == set(run.cluster.gateways)
    assert {weights[-1]["digits"] for weights in run.shared.values()} == {0}


def test_what_need_not_wait_does_not(run: Run) -> None:
    """A step that was taken is followed by the next round at once; so is the end of work."""
    run.serving(run.site.add(1))
    run.woken.clear()
    run.step()
    assert not run.woken.is_set(), "nothing happens"
    run.cluster.declare(run.site.add(2))
    assert run.step().phase == "verifying"
    phase = ""
    while phase != "loading":
        assert run.woken.wait(5), phase
        run.woken.clear()
        phase = run.step().phase
    assert run.woken.is_set()


def test_the_state_is_written_before_what_follows_from_it(run: Run) -> None:
    run.cluster.declare(run.site.add(1))
    run.step()
    assert run.cluster.writes == [STATE, ASSIGNMENTS, TRAFFIC]
    run.cluster.fails = {STATE}
    before = dict(run.cluster.maps)
    with pytest.raises(OSError):
        run.until(lambda at: at.phase == "loading")
    assert run.cluster.maps == before, "nobody was told of what is not known"
    run.cluster.fails = set()
    run.until(lambda at: at.phase == "idle" and at.stable is not None)


def test_nothing_new_is_not_written_but_what_was_deleted_comes_back(run: Run) -> None:
    run.serving(run.site.add(1))
    run.cluster.writes = []
    for _ in range(20):
        run.step()
    before = dict(run.cluster.maps)
    for name in (STATE, ASSIGNMENTS, TRAFFIC):
        del run.cluster.maps[name]
    run.cluster.maps[ASSIGNMENTS] = {"stable": "[]", "canary": "[]"}
    run.cluster.maps[STATE] = {"digits": Progress().model_dump_json()}
    for _ in range(31):
        run.step()
    assert run.cluster.maps == before
    assert len(run.cluster.writes) <= 6


PHASES = ("verifying", "loading", "golden", "canary", "promoting", "draining")


@pytest.mark.parametrize("phase", PHASES)
def test_a_controller_that_begins_anew_goes_on(run: Run, phase: str) -> None:
    one, two = run.site.add(1), run.site.add(2)
    run.serving(one)
    run.cluster.declare(two)
    run.until(lambda at: at.phase == phase)
    before = {name: run.cluster.maps[name] for name in (STATE, ASSIGNMENTS, TRAFFIC)}
    run.begin()
    assert {name: run.cluster.maps[name] for name in before} == before
    stable = []

    def done(at: Progress) -> bool:
        stable.append(run.cluster.assigned("stable"))
        return at.phase == "idle"

    run.until(done)
    assert run.cluster.state().stable == two
    assert all(stable), "there was always something to serve"


def test_without_its_state_what_is_assigned_is_served_on(run: Run) -> None:
    one, two = run.site.add(1), run.site.add(2)
    run.serving(one)
    run.cluster.declare(two)
    run.until(lambda at: at.phase == "promoting")
    assert run.cluster.assigned("stable") == [1, 2] or run.cluster.state().phase == "promoting"
    del run.cluster.maps[STATE]
    run.begin()
    at = run.step()
    assert at.stable == one and run.cluster.assigned("stable") == [1]
    run.until(lambda at: at.stable == two and at.phase == "idle")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        (STATE, {"digits": "{"}, "serving-state: digits: is no state of a rollout: mend it, or"),
        (STATE, {"digits": '{"weight": 200}'}, "weight: Input should be less than"),
        (ASSIGNMENTS, {"stable": "[]"}, "serving-assignments: is no list of models by track"),
        (ASSIGNMENTS, {"stable": "[]", "canary": "["}, "mend it, or delete it"),
    ],
)
def test_what_was_written_and_cannot_be_read_is_not_guessed(
    run: Run, name: str, data: dict[str, str], words: str
) -> None:
    run.cluster.maps[name] = data
    with pytest.raises(ValueError) as caught:
        run.begin()
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert "200" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "{}", '{"name": "digits", "version": 2, "new": 1}'])
@pytest.mark.parametrize("anew", [False, True])
def test_a_declaration_that_makes_no_sense_changes_nothing(
    run: Run, text: str, anew: bool, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = run.site.add(1), run.site.add(1, name="other")
    run.cluster.declare(other, "other")
    run.serving(one)
    run.until(lambda _: run.cluster.state("other").phase == "idle")
    run.cluster.maps["model-digits"] = {"model.json": text}
    assert run.controller is not None
    if anew:
        run.begin()
    for _ in range(5):
        run.step()
    assert run.cluster.state().stable == one and run.cluster.assigned("stable") == [1]
    assert run.cluster.assigned("stable", "other") == [1]
    assert run.pools == {"digits": "cpu", "other": "cpu"}
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert any("ConfigMap model-digits: model.json" in line for line in said)
    run.cluster.declare(one)
    run.step()
    assert run.cluster.state().phase == "idle"


def test_a_declaration_that_is_gone_takes_the_model_away(run: Run) -> None:
    one, other = run.site.add(1), run.site.add(1, name="other")
    run.cluster.declare(other, "other")
    run.serving(one)
    run.until(lambda _: run.cluster.state("other").phase == "idle")
    del run.cluster.maps["model-other"]
    run.step()
    assert set(run.cluster.maps[STATE]) == {"digits"}
    assert run.cluster.assigned("stable", "other") == []
    assert all(set(weights[-1]) == {"digits"} for weights in run.shared.values())
    # It comes back as a new one.
    run.cluster.declare(other, "other")
    run.until(lambda _: run.cluster.state("other").stable == other)


def test_a_mistake_in_one_model_does_not_hold_up_another(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = run.site.add(1), run.site.add(1, name="other")
    run.serving(one)
    real = LiveWorld.verify

    def broken(self: Any, declared: Declared, served: Version | None) -> Any:
        if declared.name == "other":
            raise RuntimeError("a mistake")
        return real(self, declared, served)

    monkeypatch.setattr(LiveWorld, "verify", broken)
    run.cluster.declare(other, "other")
    two = run.site.add(2)
    run.cluster.declare(two)
    run.until(lambda at: at.stable == two and at.phase == "idle")
    assert run.cluster.state("other").phase == "verifying"
    assert any(record.exc_info for record in caplog.records)


def canary(run: Run) -> Version:
    one, two = run.site.add(1), run.site.add(2)
    run.serving(one)
    run.cluster.declare(two)
    run.until(lambda at: at.phase == "canary")
    return two


def test_a_gateway_that_is_away_ends_no_step_and_makes_no_failures(run: Run) -> None:
    old = {"digits/canary": Seen(requests=1000, failures=700)}
    run.counted = dict.fromkeys(run.cluster.gateways, old)
    two = canary(run)
    run.deaf = {"10.0.0.2"}
    for _ in range(60):
        assert run.step().phase == "canary"
    run.deaf = set()
    run.until(lambda at: at.phase == "idle")
    assert run.cluster.state().stable == two


def test_a_gateway_that_takes_no_requests_is_not_waited_for(run: Run) -> None:
    two = canary(run)
    run.deaf = run.cluster.unready = {"10.0.0.2"}
    run.until(lambda at: at.phase == "idle", most=30)
    assert run.cluster.state().stable == two


def test_two_gateways_are_counted_together_and_a_version_taken_back(run: Run) -> None:
    run.counted = {one: {"digits/canary": Seen(requests=50)} for one in run.cluster.gateways}
    canary(run)
    run.counted["10.0.0.1"] = {"digits/canary": Seen(requests=60)}
    run.counted["10.0.0.2"] = {"digits/canary": Seen(requests=70, failures=2)}
    at = run.step()
    assert at.phase == "draining" and at.refused and at.refused.gate == "errors"
    assert at.refused.why.startswith("2 of 30 requests failed")
    assert {weights[-1]["digits"] for weights in run.shared.values()} == {0}
    assert run.cluster.assigned("canary") == [2], "it answers what was on its way"
    for _ in range(int(DRAIN_S) + 1):
        run.step()
    assert run.cluster.assigned("canary") == []


def test_a_gateway_that_was_not_told_keeps_the_version_there(run: Run) -> None:
    canary(run)
    run.counted["10.0.0.1"] = {"digits/canary": Seen(requests=60, failures=60)}
    run.deaf = {"10.0.0.2"}
    run.until(lambda at: at.phase == "draining")
    for _ in range(30):
        run.step()
        assert run.cluster.assigned("canary") == [2]
    run.deaf = set()
    run.until(lambda at: at.phase == "idle", most=5)


def test_without_its_certificate_it_judges_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise FileNotFoundError("tls.crt")

    canary(run)
    monkeypatch.setattr(Trust, "refresh", missing)
    for _ in range(30):
        assert run.step().phase == "canary"


def test_no_gateway_at_all_sends_nobody_anything(run: Run) -> None:
    run.cluster.gateways = []
    two = canary(run)
    run.until(lambda at: at.phase == "idle", most=30)
    assert run.cluster.state().stable == two


class Ended(BaseException):
    """Of the loop, by the test."""


def test_the_loop_outlives_what_it_meets(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = run.site.add(1)
    run.cluster.declare(one)
    run.cluster.away = True
    cluster, routes, rounds = run.cluster, dict[str, Any](), list[tuple[int, str]]()

    class Event:
        def set(self) -> None: ...
        def clear(self) -> None: ...
        def wait(self, _: float) -> None:
            time.sleep(0.005)
            run.now += 1
            rounds.append(routes["/readyz"]())
            if len(rounds) == 2:
                cluster.away = False
                cluster.maps[STATE] = {"digits": "{"}
            elif len(rounds) == 4:
                del cluster.maps[STATE]
                monkeypatch.setattr(Controller, "_assignments", mistake)
            elif len(rounds) == 6:
                monkeypatch.setattr(Controller, "_assignments", real)
            elif len(rounds) > 6 and cluster.state().stable == one:
                raise Ended

    def mistake(_: Controller) -> dict[str, str]:
        raise RuntimeError("a mistake")

    real = Controller._assignments
    monkeypatch.setattr(module, "Cluster", lambda _: cluster)
    monkeypatch.setattr(cluster, "watching", lambda *_, **__: None, raising=False)
    monkeypatch.setattr(module, "threading", SimpleNamespace(Event=Event))
    monkeypatch.setattr(server, "serve", lambda _, given: routes.update(given))
    with pytest.raises(Ended):
        module.run(settings(run.site))
    assert [status for status, _ in rounds[:6]] == [503] * 6
    assert rounds[-1] == (200, "ready\n") and routes["/healthz"]()[0] == 200
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "Kubernetes API: connection refused" in said
    assert "ConfigMap serving-state: digits: is no state of a rollout" in said
    run.now += 301
    assert routes["/healthz"]()[0] == 503
