"""What the controller asks of registry, pods and gateways, and how it counts what they say."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from model_repo.declared import Rollout, Serving
from model_repo.golden import Golden
from services.serving import world as module
from services.serving.cluster import Pod
from services.serving.gateway import Time
from services.serving.model import (
    Declared,
    PodStatus,
    Refusal,
    Seen,
    Track,
    Version,
    VersionStatus,
)
from services.serving.rollout import Latency, Loaded, Pending, Verdict
from services.serving.settings import ControlSettings
from services.serving.triton import Triton, TritonTimeout
from services.serving.world import Counters, Jobs, LiveWorld, Seat, answers, counted, verified
from tests.unit.model_repo.test_golden import values
from tests.unit.services.serving.site import SERVER, Site
from tests.unit.services.serving.test_triton import METRICS

GOLDEN = Golden.model_validate(values())
SCORES: list[float] = values()["outputs"][0]["data"]


def declare(one: Version, name: str = "digits", **rollout: Any) -> Declared:
    return Declared(
        name=name,
        version=one.version,
        digest=one.digest,
        serving=Serving(max_batch_size=rollout.pop("max_batch_size", 32)),
        rollout=Rollout(**rollout),
    )


ANY = declare(Version(version=2, digest="sha256:" + "0" * 64))


class Asked:
    """A model that answers the golden set, and may be told to do otherwise."""

    def __init__(self, site: Site) -> None:
        self.off, self.after_s, self.batches = 0.0, 0.0, list[int]()
        self.most = 32
        site.triton.infer = self

    def __call__(self, request: Any) -> tuple[int, Any]:
        (image,) = request["inputs"]
        rows = image["shape"][0]
        self.batches.append(rows)
        if rows > self.most:
            return 400, {"error": f"inference request batch-size must be <= {self.most}"}
        time.sleep(self.after_s)
        second = image["data"][-1] == 1 and rows == 1
        data = SCORES[10:] if second else SCORES[: 10 * rows]
        data = [one + self.off for one in data]
        shape = [rows, 10]
        outputs = [{"name": "scores", "datatype": "FP32", "shape": shape, "data": data}]
        return 200, {"model_version": "2", "outputs": outputs}


@pytest.fixture
def asked(site: Site) -> Asked:
    return Asked(site)


def ask(site: Site, declared: Declared = ANY) -> Refusal | None:
    return answers(Triton(site.triton.url), declared, GOLDEN)


def test_who_answers_the_golden_set(site: Site, asked: Asked) -> None:
    assert ask(site) is None
    assert asked.batches == [2, 1, 1, 1, 1, 1]
    assert set(site.triton.asked) == {"/v2/models/digits/versions/2/infer"}


def test_in_batches_that_the_model_takes(site: Site, asked: Asked) -> None:
    asked.most = 1
    assert ask(site, declare(ANY.wanted, max_batch_size=1)) is None
    refusal = ask(site)
    assert refusal and refusal.gate == "golden" and "must be <= 1" in refusal.why


def test_wrong_answers(site: Site, asked: Asked) -> None:
    asked.off = 0.1
    refusal = ask(site)
    assert refusal and refusal.gate == "golden" and not refusal.again
    assert "scores: 20 of 20 differ" in refusal.why


def test_answers_that_come_late(site: Site, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    asked.after_s = 0.05
    refusal = ask(site, declare(ANY.wanted, max_latency_ms=20.0))
    assert refusal and refusal.gate == "latency" and "max_latency_ms is 20" in refusal.why
    assert ask(site, declare(ANY.wanted, max_latency_ms=5000.0)) is None

    def never(*_: object) -> None:
        raise TritonTimeout("Triton does not answer within 20 s")

    monkeypatch.setattr(Triton, "infer", never)
    refusal = ask(site)
    assert refusal and refusal.gate == "latency" and "within 20 s" in refusal.why


def test_one_slow_answer_is_no_slow_model(site: Site, asked: Asked) -> None:
    def slow_once(request: Any) -> tuple[int, Any]:
        asked.after_s = 0.3 if len(asked.batches) == 2 else 0.0
        return asked(request)

    site.triton.infer = slow_once
    assert ask(site, declare(ANY.wanted, max_latency_ms=150.0)) is None


def test_a_pod_that_goes_away_meanwhile_says_nothing_of_the_version(site: Site) -> None:
    site.triton.stop()
    refusal = ask(site)
    assert refusal and refusal.gate == "golden" and refusal.again


# -- verified ---------------------------------------------------------------------------------


def test_a_version_passes(site: Site) -> None:
    one, two = site.add(1), site.add(2)
    assert verified(site.access, declare(two), None) is None
    assert verified(site.access, declare(two), one) is None


def gate(refusal: Verdict) -> str | None:
    assert not isinstance(refusal, Pending)
    return refusal.gate if refusal else None


def test_what_stops_a_version(site: Site) -> None:
    one = site.add(1)
    assert gate(verified(site.access, declare(site.unsigned(2)), one)) == "signature"
    assert gate(verified(site.access, declare(site.add(3, golden=False)), one)) == "golden"
    renamed = Version(version=9, digest=one.digest)
    assert gate(verified(site.access, declare(renamed), None)) == "digest"
    nowhere = Version(version=9, digest="sha256:" + "9" * 64)
    assert gate(verified(site.access, declare(nowhere), None)) == "digest"
    two = site.add(2)
    site.registry.spoil = lambda path, content: (
        content.replace(b"graph 2", b"grape 2") if "/blobs/" in path else content
    )
    assert gate(verified(site.access, declare(two), one)) == "digest"
    site.registry.spoil = lambda _path, content: content
    site.registry.token = "nobody has it"
    assert gate(verified(site.access, declare(two), one)) == "registry"
    site.registry.token = None
    (site.root / "signing.pub").write_text("none")
    assert gate(verified(site.access, declare(two), one)) == "registry"
    (site.root / "signing.pub").unlink()
    assert gate(verified(site.access, declare(two), one)) == "registry"


SMALLER = [{"name": "scores", "datatype": "FP64", "shape": [-1, 10]}]


def test_another_contract_than_the_served_versions(site: Site) -> None:
    one = site.add(1, golden=False, outputs=SMALLER)
    two = site.add(2)
    refusal = verified(site.access, declare(two), one)
    assert refusal and refusal.gate == "contract"
    assert refusal.why == "output scores is FP32 [-1, 10], not FP64 [-1, 10]"
    assert verified(site.access, declare(two, allow_new_contract=True), one) is None


def test_a_served_version_that_the_registry_has_lost(site: Site) -> None:
    lost = Version(version=1, digest="sha256:" + "1" * 64)
    two = site.add(2)
    refusal = verified(site.access, declare(two), lost)
    assert refusal and refusal.gate == "contract" and "allow_new_contract" in refusal.why
    assert verified(site.access, declare(two, allow_new_contract=True), lost) is None


# -- what pods say ----------------------------------------------------------------------------


def settings(site: Site) -> ControlSettings:
    return ControlSettings(
        namespace="serving",
        registry=site.access,
        triton_port=site.triton.port,
        metrics_port=site.triton.port,
        sync_port=1,
        sync_name="triton",
        gateway_selector="app=gateway",
        gateway_port=2,
        gateway_name="gateway",
        pools=("cpu",),
        ca=site.root / "ca.crt",
        client_certificate=site.root / "tls.crt",
        client_key=site.root / "tls.key",
        server=SERVER,
    )


def seat(
    one: Version | None,
    state: Any = "ready",
    *,
    track: Track = "stable",
    ready: bool = True,
    refusal: Refusal | None = None,
    metrics: str | None = "",
    name: str = "a",
) -> Seat:
    status = None
    if one is not None:
        said = VersionStatus(digest=one.digest, state=state, refusal=refusal)
        status = PodStatus(triton=True, models={"digits": {one.version: said}})
    return Seat(Pod(name, "127.0.0.1", ready, "cpu", track), status, metrics)


def live(
    site: Site, *seats: Seat, counters: Counters | None = None, times: Sequence[Time] = ()
) -> LiveWorld:
    return LiveWorld(settings(site), seats, counters or Counters(), Jobs(), times, told=True)


def test_which_pods_have_a_version(site: Site) -> None:
    two = ANY.wanted
    other = Version(version=2, digest="sha256:" + "f" * 64)
    refused = Refusal(gate="load", why="no such op")
    for seats, wanted in (
        ([], Loaded(0, 0)),
        ([seat(two), seat(two)], Loaded(2, 2)),
        ([seat(two), seat(two, "loading")], Loaded(1, 2)),
        # With other content under the number, it is not this one.
        ([seat(two), seat(other)], Loaded(1, 2)),
        ([seat(two), seat(other, "refused", refusal=refused)], Loaded(1, 2)),
        ([seat(two), seat(two, "refused", refusal=refused)], Loaded(1, 2, refused)),
        # A pod that only begins is not waited for; one that serves and does not answer is.
        ([seat(two), seat(None, ready=False)], Loaded(1, 1)),
        ([seat(two), seat(None)], Loaded(1, 2)),
        ([seat(two), seat(two, track="canary")], Loaded(1, 1)),
    ):
        assert live(site, *seats).loaded("stable", ANY, two) == wanted
    starting = seat(None, track="canary", ready=False)
    assert live(site, starting).loaded("canary", ANY, two) == Loaded(0, 1)


def test_pods_of_another_pool_are_nobody_s(site: Site) -> None:
    elsewhere = dataclasses.replace(seat(ANY.wanted).pod, pool="gpu")
    found = live(site, dataclasses.replace(seat(ANY.wanted), pod=elsewhere))
    assert found.loaded("stable", ANY, ANY.wanted) == Loaded(0, 0)


def test_requests_of_this_step_alone_are_its_latency(site: Site) -> None:
    times = [Time("other/canary", 200.0, 900), Time("digits-onnx/stable", 200.0, 7)]
    times += [Time("digits-onnx/canary", 100.0 + second, second) for second in range(100)]
    model = declare(ANY.wanted, "digits-onnx")
    world = live(site, times=times)
    assert world.latency("canary", model, 49.0) == Latency(100, 97.0)
    assert world.latency("canary", model, 149.0) == Latency(50, 97.0)
    assert world.latency("stable", model, 0.0) == Latency(1)


def test_a_pod_is_asked_for_metrics_though_its_sidecar_is_silent(site: Site) -> None:
    site.triton.metrics = METRICS
    (site.root / "ca.crt").write_text("none")
    (found,) = module.look(settings(site), [seat(None).pod])
    assert found.status is None and found.metrics == METRICS
    site.triton.metrics = 'nv_inference_request_failure{model="a'
    (found,) = module.look(settings(site), [seat(None).pod])
    assert found.metrics is None, "nobody reads half of them"
    assert module.look(settings(site), []) == []


# -- counters ---------------------------------------------------------------------------------


def test_counters_begin_with_the_first_look() -> None:
    counters = Counters()
    counters.add({"a": {"m": Seen(requests=1000, failures=7)}})
    assert counters["m"] == Seen()
    counters.add({"a": {"m": Seen(requests=1010, failures=8)}})
    assert counters["m"] == Seen(requests=10, failures=1)


def test_a_gateway_that_is_away_or_begins_anew_makes_no_failures() -> None:
    counters = Counters()
    counters.add({"a": {"m": Seen(requests=1000, failures=7)}, "b": {"m": Seen(requests=10)}})
    counters.add({"b": {"m": Seen(requests=20)}})
    assert counters["m"] == Seen(requests=10)
    counters.add({"a": {"m": Seen(requests=1001, failures=7)}, "b": {"m": Seen(requests=20)}})
    assert counters["m"] == Seen(requests=11)
    counters.add({"a": {"m": Seen(requests=3, failures=1)}, "b": {}})
    assert counters["m"] == Seen(requests=14, failures=1)
    # A new one has counted since it began, which may be long ago.
    counters.add({"c": {"m": Seen(requests=500, failures=5)}})
    assert counters["m"] == Seen(requests=14, failures=1)
    # And a key that a known one has not had before is new.
    counters.add({"c": {"m": Seen(requests=500, failures=5), "n": Seen(requests=2, failures=2)}})
    assert counters["n"] == Seen(requests=2, failures=2)


def test_failures_by_grpc_are_triton_s(site: Site) -> None:
    counters = Counters()
    model = declare(ANY.wanted, "digits-onnx")

    def look(number: int) -> None:
        line = 'reason="OTHER",version="2"} '
        text = METRICS.replace(f"{line}2", f"{line}{number}")
        seats = [seat(None, track="canary", metrics=text), seat(None, metrics=text, name="b")]
        gateway = {"gateway": {"digits-onnx/canary": Seen(requests=50, failures=7)}}
        counters.add({**gateway, **counted(seats)})

    look(2)
    world = live(site, counters=counters)
    base = world.seen("canary", model)
    look(5)
    assert world.seen("canary", model).since(base).failed == 3


# -- work that takes long ---------------------------------------------------------------------


def until(jobs: Jobs, key: str, work: Any) -> Verdict:
    for _ in range(500):
        found = jobs.ask(key, work)
        if not isinstance(found, Pending):
            return found
        time.sleep(0.01)
    raise AssertionError("never")


def test_work_is_done_once_and_told_once() -> None:
    done = threading.Event()
    jobs, goes_on, calls = Jobs(done.set), threading.Event(), list[int]()

    def work() -> Refusal | None:
        calls.append(1)
        goes_on.wait(5)
        return Refusal(gate="golden", why="wrong")

    for _ in range(3):
        assert isinstance(jobs.ask("a", work), Pending)
        jobs.tidy()
    assert not done.is_set()
    goes_on.set()
    assert done.wait(5)
    found = until(jobs, "a", work)
    assert isinstance(found, Refusal) and found.why == "wrong" and len(calls) == 1
    until(jobs, "a", work)
    assert len(calls) == 2, "asked again, it is done again"


def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    jobs = Jobs()
    jobs.ask("a", lambda: Refusal(gate="golden", why="of before"))
    jobs.tidy()
    jobs.tidy()
    assert until(jobs, "a", lambda: None) is None


def test_verify_and_golden_do_not_hold_up_a_round(site: Site, asked: Asked) -> None:
    one = site.add(2)
    world = live(site, seat(one, track="canary"))
    questions: list[Callable[[], Verdict]] = [
        lambda: world.verify(declare(one), None),
        lambda: world.golden(declare(one)),
    ]
    for what in questions:
        found = what()
        assert isinstance(found, Pending)
        for _ in range(500):
            if not isinstance(found := what(), Pending):
                break
            time.sleep(0.01)
        assert found is None
    assert asked.batches[0] == 2
