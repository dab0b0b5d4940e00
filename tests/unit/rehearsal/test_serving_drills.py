"""Drills of serving without a rehearsal: what the controller says, and how a drill judges."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from rehearsal import drill, serving_drills, serving_state
from rehearsal.drills import serving, serving_delivery, serving_kill
from rehearsal.drills.serving import Outcome, Publisher, Stage, all_ready, declared_again, is_stable
from rehearsal.drills.serving_delivery import BROKEN, Case, judge_broken, judge_promote
from rehearsal.drills.serving_kill import judge_kill
from rehearsal.drills.serving_models import KINDS
from rehearsal.errors import EstateError, UsageError
from rehearsal.kube import ApiError
from rehearsal.load_figures import Plan, Result, Sent, Tally
from rehearsal.rehearsal import Rehearsal
from rehearsal.serving_state import parse
from services.serving import model
from services.serving.model import Refused, Version
from tests.unit.rehearsal.conftest import Folders


def digest(word: str) -> str:
    return f"sha256:{word.encode().hex().ljust(64, '0')}"


ONE, TWO = Version(version=1, digest=digest("1")), Version(version=2, digest=digest("2"))


# -- what the controller says ----------------------------------------------------------------------


def said(**changes: Any) -> str:
    value = {
        "stable": {"version": 1, "digest": digest("1")},
        "candidate": None,
        "weight": 0,
        "phase": "idle",
        "since": 1.0,
        "refused": None,
    }
    return json.dumps({**value, **changes})


def refusal(version: int, digest: str, gate: str = "signature") -> dict[str, Any]:
    return {"version": version, "digest": digest, "gate": gate, "why": "no", "at": 5.0}


def test_a_delivery_is_read() -> None:
    candidate = {"version": 2, "digest": digest("2")}
    found = parse(said(candidate=candidate, weight=5, phase="canary"))
    assert (found.stable, found.candidate, found.refused) == (ONE, TWO, None)
    assert found.words == "canary, stable 1, 2 at 5 %"
    assert parse(said(stable=None)).words == "idle, stable none"


def test_what_was_refused_is_read_with_its_gate() -> None:
    found = parse(said(refused=refusal(2, digest("2"))))
    assert found.refused == Refused(
        version=2, digest=digest("2"), gate="signature", why="no", at=5.0
    )
    assert found.words == "idle, stable 1; 2 refused, signature: no"


def test_it_is_what_the_controller_writes() -> None:
    digests = [f"sha256:{digit * 64}" for digit in "12"]
    versions = [model.Version(version=at, digest=one) for at, one in enumerate(digests, 1)]
    refused = model.Refused(gate="golden", why="no", version=2, digest=digests[1], at=5.0)
    written = model.Progress(stable=versions[0], candidate=versions[1], refused=refused)
    found = parse(written.model_dump_json())
    assert found.stable == Version(version=1, digest=digests[0])
    assert found.refused == refused and refused.which == versions[1]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"stable": 1}', said(stable={"version": 1}), said(refused={"at": 1})]
)
def test_what_is_no_state_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


class FakeApi:
    """ConfigMaps by name, and pods."""

    def __init__(self, **config_maps: dict[str, str]) -> None:
        self.config_maps = {name.replace("_", "-"): data for name, data in config_maps.items()}
        self.pods: list[dict[str, Any]] = []

    def path(self, *parts: str | None) -> str:
        return str(parts[-1])

    def get(self, path: str) -> dict[str, Any] | None:
        data = self.config_maps.get(path)
        return None if data is None else {"data": data}

    def merge(self, path: str, patch: dict[str, Any]) -> None:
        self.config_maps[path] |= patch["data"]

    def request(self, *_: object) -> dict[str, Any]:
        return {"items": self.pods}


def declaration(**changes: Any) -> str:
    value = {"name": "digits-onnx", "version": 1, "digest": digest("1")}
    return json.dumps({**value, "serving": {"pool": "cpu"}, "rollout": {}, **changes})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    made = FakeApi(model_digits_onnx={"model.json": declaration()}, serving_state={})
    monkeypatch.setattr(serving, "Api", lambda *_, **__: made)
    monkeypatch.setattr(serving_state, "Api", lambda *_, **__: made)
    return made


def declared(api: FakeApi) -> Any:
    return json.loads(api.config_maps["model-digits-onnx"]["model.json"])


def test_a_drill_declares_and_leaves_what_was_declared(api: FakeApi, folders: Folders) -> None:
    rehearsal = Rehearsal("one")

    def drilled() -> None:
        with declared_again(rehearsal, "digits-onnx"):
            serving.declare(rehearsal, "digits-onnx", 2, "sha256:2", {"pool": "gpu"})
            assert declared(api)["version"] == 2 and declared(api)["serving"] == {"pool": "gpu"}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drilled()
    assert declared(api) == json.loads(declaration())


def test_a_model_that_nobody_declared_is_named(api: FakeApi, folders: Folders) -> None:
    with pytest.raises(EstateError, match="model other: is not declared"):
        serving.declare(Rehearsal("one"), "other", 1, "sha256:1")


def test_only_a_served_model_is_drilled(api: FakeApi, folders: Folders) -> None:
    made = Rehearsal("one")
    made.prepare("node", "", None)
    with pytest.raises(EstateError, match="serves no models"):
        serving_state.served(made, "digits-onnx")
    made.add_profiles(["serving"])
    with pytest.raises(EstateError, match="is not served"):
        serving_state.served(made, "digits-onnx")
    api.config_maps["serving-state"]["digits-onnx"] = said(stable=None, phase="loading")
    with pytest.raises(EstateError, match="is not served yet: loading, stable none"):
        serving_state.served(made, "digits-onnx")
    api.config_maps["serving-state"]["digits-onnx"] = said()
    assert serving_state.served(made, "digits-onnx").stable == ONE


@pytest.mark.parametrize(
    "name, stable",
    [
        ("triton-cpu-stable-7c9-x", True),
        ("triton-gpu-a-stable-7c9-x", True),
        ("triton-cpu-canary-7c9-x", False),
        ("inference-7c9-x", False),
        ("triton-stable-canary-7c9-x", False),
    ],
)
def test_the_pods_of_the_stable_track(name: str, stable: bool) -> None:
    assert is_stable(name) is stable


# -- how it judges ---------------------------------------------------------------------------------


def result(
    *answers: str, seconds: float = 70.0, kind: str = "ok", again: int = 0, rate: float = 10.0
) -> Result:
    """One request a second, each answered by the version that is named."""
    requests = []
    for at, version in enumerate(answers):
        one = Sent(float(at), float(at), at + 0.01, version=version, first_ended=at + 0.01)
        if at < again:
            one.first = "status"
            one.attempts = 2
        requests.append(one)
    if kind != "ok":
        requests.append(Sent(1.0, 1.0, 1.5, kind="timeout", first="timeout", first_ended=1.5))
    return Tally(Plan("digits", (), rate=rate), 0.0, requests).result(seconds, 0.0)


TIMES: dict[str, float | None] = {"promoted after s": 30.0, "rolled back after s": 31.0}


@pytest.mark.parametrize(
    "changed, times, wrong",
    [
        ({}, TIMES, None),
        ({"kind": "timeout"}, TIMES, "1 of 5 failed (timeout 1)"),
        ({"seconds": 20.0}, TIMES, "20 s under load, 60 s wanted"),
        ({"answers": ["1", "1"]}, TIMES, "version 2 never answered"),
        ({"answers": ["1", "2", "3", "1"]}, TIMES, "answered by 3"),
        ({"answers": ["1", "2"]}, TIMES, "begins and ends with"),
        ({"answers": []}, TIMES, "nothing was sent"),
        ({}, {**TIMES, "promoted after s": None}, "never promoted"),
    ],
)
def test_promoting_is_judged(
    changed: dict[str, Any], times: dict[str, float | None], wrong: str | None
) -> None:
    given = dict(changed)
    one = result(*given.pop("answers", ["1", "1", "2", "1"]), **given)
    found = judge_promote({"http": one}, times, (1, 2))
    assert (found == []) if wrong is None else any(wrong in line for line in found)


def case(**changes: Any) -> Case:
    fields: dict[str, Any] = {
        "kind": "slow",
        "what": "w",
        "version": 5,
        "expected": ("latency",),
        "gate": "latency",
        "reason": "latency: 300 ms",
        "stopped_s": 3.0,
        "recovered": True,
    }
    return Case(**{**fields, **changes})


@pytest.mark.parametrize(
    "changes, answers, wrong",
    [
        ({}, "111", None),
        ({"gate": None}, "111", "slow: nothing stopped it"),
        ({"gate": "golden"}, "111", "slow: stopped by golden, not latency"),
        ({"recovered": False}, "111", "not as it is declared again"),
        ({}, "151", "answered by 5, not by 1 alone"),
    ],
)
def test_broken_versions_are_judged(
    changes: dict[str, Any], answers: str, wrong: str | None
) -> None:
    one = case(**changes)
    found = judge_broken({"http": result(*answers)}, [one], 1)
    assert (found == []) if wrong is None else any(wrong in line for line in found)
    assert one.met is (not changes)


@pytest.mark.parametrize(
    "given, in_flight, recovered, wrong",
    [
        ({"again": 2}, 2, 9.0, None),
        ({"again": 0}, 0, 9.0, None),
        ({"again": 3}, 2, 9.0, "3 failed at first, 2 were in flight"),
        ({"again": 1, "kind": "timeout"}, 9, 9.0, "1 of 4 failed"),
        ({"again": 1}, 2, None, "not all replicas"),
    ],
)
def test_a_kill_is_judged(
    given: dict[str, Any], in_flight: int, recovered: float | None, wrong: str | None
) -> None:
    found = judge_kill({"http": result(*"111", **given)}, {"http": in_flight}, recovered)
    assert (found == []) if wrong is None else any(wrong in line for line in found)


def test_the_replicas_are_all_that_were_there() -> None:
    def pod(ready: bool) -> dict[str, Any]:
        status = "True" if ready else "False"
        return {"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": status}]}}

    assert all_ready([pod(True), pod(True)], 2)
    assert not all_ready([pod(True), pod(False)], 2) and not all_ready([pod(True)], 2)


# -- a drill under way -----------------------------------------------------------------------------


class FakeLoad:
    """Lets no time pass; each look moves the controller's story on."""

    def __init__(self, results: dict[str, Result]) -> None:
        self.known: list[Version] = []
        self.started: list[Plan] = []
        self._results = results

    def listen(self, _: float) -> None:
        """Nothing is to be heard."""

    def know(self, version: Version) -> None:
        self.known.append(version)

    def start(self, _: str, plan: Plan) -> None:
        self.started.append(plan)

    def end(self, key: str) -> Result:
        return self._results[key]


class FakePublisher:
    def __init__(self) -> None:
        self.signed: list[str] = []
        self.number = 1

    def add(self, kind: str, source: str) -> tuple[Version, dict[str, str]]:
        self.number += 1
        made = Version(version=self.number, digest=digest(kind))
        return made, {"model.onnx": "sha256:0"}

    def sign(self, digest: str) -> None:
        self.signed.append(digest)


class Story(FakeApi):
    """A controller that promotes what is good, and stops the others by the gates given."""

    def __init__(self, gates: dict[str, str]) -> None:
        super().__init__(model_digits_onnx={"model.json": declaration()}, serving_state={})
        self._gates = gates
        self._stable: dict[str, Any] = {"version": 1, "digest": digest("1")}
        self._tell(json.loads(declaration()))

    def merge(self, path: str, patch: dict[str, Any]) -> None:
        super().merge(path, patch)
        self._tell(declared(self))

    def _tell(self, wanted: dict[str, Any]) -> None:
        known = {digest(kind): kind for kind in ("1", *KINDS)}
        gate = self._gates.get(known.get(wanted["digest"], "else"))
        if gate is None:
            self._stable = {key: wanted[key] for key in ("version", "digest")}
            text = said(stable=self._stable)
        else:
            refused = refusal(wanted["version"], wanted["digest"], gate)
            text = said(stable=self._stable, refused=refused)
        self.config_maps["serving-state"]["digits-onnx"] = text


def staged(
    monkeypatch: pytest.MonkeyPatch, gates: dict[str, str], results: dict[str, Result]
) -> Stage:
    story: Any = Story(gates)
    monkeypatch.setattr(serving, "Api", lambda *_, **__: story)
    monkeypatch.setattr(Stage, "listen", lambda self, _: self.look())
    monkeypatch.setattr(serving_delivery, "_STOP_S", 0.2)

    @contextmanager
    def altered(*_: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(serving_delivery, "_altered", altered)
    load: Any = FakeLoad(results)
    publisher: Any = FakePublisher()
    return Stage(Rehearsal("one"), story, load, publisher, ONE, {}, lambda _: None)


RIGHT = {broken.kind: broken.gates[0] for broken in BROKEN if broken.kind != "missing"} | {
    "else": "digest"
}


def test_promote_and_back(monkeypatch: pytest.MonkeyPatch, folders: Folders) -> None:
    loads = {key: result(*"1121") for key in ("http", "grpc")}
    stage = staged(monkeypatch, {}, loads)
    outcome = serving_delivery.promote(stage)
    assert outcome.wrong == []
    # Until somebody has looked whether it is green, it is not met.
    assert [outcome.met, replace(outcome, green=True).met] == [False, True]
    assert [what for _, what in outcome.events if what.startswith("declare")] == [
        "declare version 2",
        "declare version 1",
    ]
    load: Any = stage.load
    assert {plan.rate for plan in load.started} == {200.0, 20.0}
    assert json.dumps(outcome.json_object())


def test_each_broken_version_is_declared_and_taken_back(
    monkeypatch: pytest.MonkeyPatch, folders: Folders
) -> None:
    stage = staged(monkeypatch, RIGHT, {key: result(*"111") for key in ("http", "grpc")})
    publisher: Any = stage.publisher
    outcome = serving_delivery.broken(stage)
    assert outcome.wrong == []
    cases = outcome.figures["cases"]
    assert [one["kind"] for one in cases] == [broken.kind for broken in BROKEN]
    assert all(one["met"] for one in cases)
    assert publisher.signed == [digest("unsigned")]
    assert serving_delivery.rows(outcome)[0][:2] == ("unsigned", "nobody signed it")


def test_a_version_that_nothing_stops_is_a_missed_drill(
    monkeypatch: pytest.MonkeyPatch, folders: Folders
) -> None:
    gates = {**RIGHT, "slow": "golden"}
    del gates["wrong-answers"]
    stage = staged(monkeypatch, gates, {key: result(*"111") for key in ("http", "grpc")})
    kinds = [one for one in BROKEN if one.kind in ("slow", "wrong-answers", "unsigned")]
    found = serving_delivery.broken(stage, kinds).wrong
    assert found == [
        "wrong-answers: nothing stopped it",
        "slow: stopped by golden, not latency (no)",
    ]


def test_what_can_be_broken_is_made_by_the_publisher() -> None:
    assert {broken.kind for broken in BROKEN} - {"missing"} == set(KINDS) - {"good"}
    assert all(set(broken.gates) <= set(get_args(model.Gate)) for broken in BROKEN)


def test_a_killed_process_is_waited_for_until_its_files_are_closed() -> None:
    running = subprocess.Popen(["sleep", "60"])
    threading.Timer(0.2, running.kill).start()
    began = time.monotonic()
    closed = serving_kill._closed(running.pid)
    assert 0.15 < closed - began < 5
    running.wait()  # a zombie until now


def test_one_replica_is_no_place_for_a_kill(
    monkeypatch: pytest.MonkeyPatch, folders: Folders
) -> None:
    stage = staged(monkeypatch, {}, {})
    with pytest.raises(EstateError, match=r"no two ready replicas \(none\)"):
        serving_kill.kill(stage)


def test_while_the_api_is_away_the_drill_looks_on(
    monkeypatch: pytest.MonkeyPatch, folders: Folders
) -> None:
    stage = staged(monkeypatch, {}, {})

    def away(*_: object) -> None:
        raise ApiError(0, "refused")

    monkeypatch.setattr(serving_state, "read", away)
    assert stage.look() is None
    assert stage.events[-1][1] == "observer: refused"


# -- the command -----------------------------------------------------------------------------------


def test_they_are_listed_and_run_beside_no_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert drill.run("nobody", [], None) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in serving_drills.DRILLS)
    with pytest.raises(UsageError, match="serving-kill; it runs alone"):
        drill.choose(["serving-kill", "kubelet"])
    with pytest.raises(UsageError, match="--count"):
        drill.run("nobody", ["serving-kill"], None, 3)


def test_without_its_profile_it_says_what_to_bring(folders: Folders) -> None:
    Rehearsal("one").prepare("node", "", None)
    with pytest.raises(UsageError, match="up --name one --profile serving"):
        drill.run("one", ["serving-kill", "serving-promote"], None)


@pytest.mark.parametrize("name", list(serving_drills.DRILLS))
@pytest.mark.parametrize("good", [True, False])
def test_what_was_found_is_shown_and_written(
    name: str,
    good: bool,
    folders: Folders,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Rehearsal("one")
    made.prepare("node", "", None)
    made.add_profiles(["serving"])
    figures: dict[str, Any] = {"recovered_s": 9.0}
    if name == "serving-broken":
        figures = {"cases": [{**vars(case()), "met": True}]}
    wrong = [] if good else ["http: 1 of 3 failed"]
    loads = {key: result(*"121") for key in ("http", "grpc")}
    found = Outcome(name, "t", loads, figures, [(1.0, "x")], wrong, green=True)
    monkeypatch.setattr(drill, "need_green", lambda *_: None)
    monkeypatch.setattr(serving_drills, "perform", lambda *_: found)
    out = tmp_path / "out.json"
    assert drill.run("one", [name], out) == (0 if good else 1)
    assert json.loads(out.read_text())["drills"][0]["met"] is good
    text = capsys.readouterr()
    assert ("missed" in text.err) is not good
    assert "1 of 3 failed" in text.err or good


def test_the_publisher_asks_its_process() -> None:
    class Process:
        def __init__(self) -> None:
            self.sent: list[tuple[str, dict[str, Any]]] = []

        def send(self, command: str, **values: Any) -> None:
            self.sent.append((command, values))

        def wait_for(self, *_: object) -> dict[str, Any]:
            return {"made": {"version": 2, "digest": digest("2"), "files": {"a": "b"}}}

    process: Any = Process()
    assert Publisher(process).add("good", "sha256:1") == (TWO, {"a": "b"})
    assert process.sent == [("add", {"kind": "good", "source": "sha256:1"})]
