"""The sidecar of a Triton: what it brings, what it refuses, and what it leaves as it is."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

from model_repo import triton as layout
from model_repo.oci import NoAnswer, NotThere, OciError
from model_repo.signing import Unsigned
from model_repo.version import ModelVersion
from services.serving import metrics, server
from services.serving import sync as module
from services.serving.model import Assigned, Version
from services.serving.sync import Sync, assigned_to, gate_of
from services.serving.triton import TritonTimeout
from tests.unit.model_repo.test_repository import KEY, OTHER
from tests.unit.services.serving.site import Site, assigned, is_, rest, state, until

OTHER_SHAPE = [{"name": "image", "datatype": "FP32", "shape": [-1, 16, 16]}]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried at once."""
    monkeypatch.setattr(module, "_RETRY_S", 0.0)
    monkeypatch.setattr(module, "_AGAIN_S", 0.0)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has got no answer is tried at once, what was refused is not."""
    monkeypatch.setattr(module, "_RETRY_S", 0.0)


def served(site: Site) -> dict[int, bytes]:
    return site.triton.served.get("digits", {})


def gate(sync: Sync, one: Version) -> str | None:
    found = state(sync, one)
    return found.refusal.gate if found and found.refusal else None


def serving(site: Site, *versions: Version) -> Sync:
    sync = site.sync()
    sync.assign(assigned(*versions))
    until(sync, is_(sync, versions[-1], "ready"))
    return sync


def test_what_is_assigned_is_served(site: Site) -> None:
    one = site.add(1)
    sync = site.sync()
    sync.round()
    assert not sync.ready(), "it does not know yet what is assigned"
    sync.assign(assigned(one))
    assert not sync.ready()
    until(sync, is_(sync, one, "ready"))
    assert served(site) == {1: b"graph 1"}
    assert sync.ready() and sync.status().triton
    for _ in range(3):
        sync.round()
    assert site.triton.loads == [("digits", (1,))], "once is enough"


def test_the_next_version_comes_beside_the_former_and_then_alone(site: Site) -> None:
    one, two = site.add(1), site.add(2)
    sync = serving(site, one)
    sync.assign(assigned(one, two))
    until(sync, is_(sync, two, "ready"))
    assert served(site) == {1: b"graph 1", 2: b"graph 2"}
    sync.assign(assigned(two))
    until(sync, lambda: served(site) == {2: b"graph 2"})
    rest(sync)
    assert len(list((site.root / "versions" / "digits").iterdir())) == 1
    assert {one.name for one in (site.root / "repository" / "digits").iterdir()} == {
        "config.pbtxt",
        "2",
    }


def test_unsigned_is_refused_and_never_pulled(site: Site) -> None:
    one, two = site.add(1), site.unsigned(2)
    sync = serving(site, one)
    sync.assign(assigned(one, two))
    until(sync, is_(sync, two, "refused"))
    assert gate(sync, two) == "signature"
    assert served(site) == {1: b"graph 1"} and sync.ready()
    assert is_(sync, one, "ready")()
    assert len(list((site.root / "versions" / "digits").iterdir())) == 1


@pytest.mark.usefixtures("quick")
def test_a_key_that_is_trusted_again_is_found(site: Site) -> None:
    one = site.unsigned(1)
    sync = site.sync()
    sync.assign(assigned(one))
    until(sync, is_(sync, one, "refused"))
    site.trust(OTHER)
    until(sync, is_(sync, one, "ready"))


def test_an_altered_blob_is_refused_by_its_digest(site: Site) -> None:
    one = site.add(1)
    site.registry.spoil = lambda path, content: (
        content.replace(b"graph", b"grape") if "/blobs/" in path else content
    )
    sync = site.sync()
    sync.assign(assigned(one))
    until(sync, is_(sync, one, "refused"))
    assert gate(sync, one) == "digest"
    assert not site.triton.loads and not sync.ready()
    assert not list((site.root / "versions" / "digits").iterdir()), "half a version is nowhere"


def test_another_number_than_assigned_is_refused(site: Site) -> None:
    one = site.add(1)
    wrong = Version(version=3, digest=one.digest)
    sync = site.sync()
    sync.assign(assigned(wrong))
    until(sync, is_(sync, wrong, "refused"))
    assert gate(sync, wrong) == "digest" and not site.triton.loads


@pytest.mark.usefixtures("soon")
def test_a_registry_that_is_away_is_asked_again(site: Site) -> None:
    one, two = site.add(1), site.add(2)
    sync = serving(site, one)
    site.registry.token = "nobody has it"
    sync.assign(assigned(one, two))
    until(sync, is_(sync, two, "refused"))
    assert gate(sync, two) == "registry"
    for _ in range(5):
        rest(sync)
    assert site.triton.loads == [("digits", (1,))], "what is served is not loaded again for it"
    site.registry.token = None
    until(sync, is_(sync, two, "ready"))
    assert served(site) == {1: b"graph 1", 2: b"graph 2"}


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("file", ["signing.pub", "password"])
def test_what_the_sidecar_itself_lacks_says_nothing_of_a_version(site: Site, file: str) -> None:
    one = site.add(1)
    content = (site.root / file).read_bytes()
    (site.root / file).write_bytes(b"\xff no key")
    sync = site.sync()
    sync.assign(assigned(one))
    until(sync, is_(sync, one, "refused"))
    assert gate(sync, one) == "registry"
    (site.root / file).write_bytes(content)
    until(sync, is_(sync, one, "ready"))


@pytest.mark.usefixtures("soon")
def test_a_password_that_is_renewed_is_taken_without_a_restart(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ECR's tokens are, which end after 12 hours."""
    one, two = site.add(1), site.add(2)
    sync = serving(site, one)
    answer = site.registry.answer
    renewed = base64.b64encode(b"reader:renewed").decode()

    def expired(
        method: str, path: str, said: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if said != f"Basic {renewed}":
            words = "Your authorization token has expired. Reauthenticate and try again."
            errors = {"errors": [{"code": "DENIED", "message": words}]}
            return 403, {}, json.dumps(errors).encode()
        return answer(method, path, said, body)

    monkeypatch.setattr(site.registry, "answer", expired)
    sync.assign(assigned(one, two))
    until(sync, is_(sync, two, "refused"))
    found = state(sync, two)
    assert found and found.refusal and found.refusal.gate == "registry"
    assert "403 DENIED: Your authorization token has expired" in found.refusal.why
    assert served(site) == {1: b"graph 1"} and sync.ready(), "what is served goes on"
    # As the kubelet does it: another file under the same name.
    (site.root / "fresh").write_text("renewed\n")
    (site.root / "fresh").replace(site.root / "password")
    until(sync, is_(sync, two, "ready"))


def test_what_does_not_load_takes_nothing_away(site: Site) -> None:
    one, two = site.add(1), site.add(2)
    sync = serving(site, one)
    site.triton.spoiled = {b"graph 2"}
    sync.assign(assigned(one, two))
    until(sync, is_(sync, two, "refused"))
    found = state(sync, two)
    assert found and found.refusal and found.refusal.gate == "load"
    assert "no such op" in found.refusal.why
    rest(sync)
    assert served(site) == {1: b"graph 1"} and is_(sync, one, "ready")() and sync.ready()
    assert site.triton.loads == [("digits", (1,)), ("digits", (1, 2))]
    # The folder is again what Triton serves: a process of it may be begun anew.
    assert not (site.root / "repository" / "digits" / "2").exists()


def test_a_triton_that_has_just_begun_serves_the_former_without_a_broken_one(site: Site) -> None:
    one, two = site.add(1), site.add(2)
    site.triton.spoiled = {b"graph 2"}
    sync = site.sync()
    sync.assign(assigned(one, two))
    until(sync, is_(sync, one, "ready"))
    assert gate(sync, two) == "load" and sync.ready()
    assert served(site) == {1: b"graph 1"}


@pytest.mark.usefixtures("quick")
def test_what_did_not_load_is_tried_again_as_long_as_it_is_assigned(site: Site) -> None:
    one = site.add(1)
    site.triton.spoiled = {b"graph 1"}
    sync = site.sync()
    sync.assign(assigned(one))
    until(sync, is_(sync, one, "refused"))
    site.triton.spoiled = set()
    until(sync, is_(sync, one, "ready"))


def test_within_a_minute_what_did_not_load_is_not_tried_again(site: Site) -> None:
    one = site.add(1)
    site.triton.spoiled = {b"graph 1"}
    sync = site.sync()
    sync.assign(assigned(one))
    until(sync, is_(sync, one, "refused"))
    for _ in range(5):
        rest(sync)
    assert len(site.triton.loads) == 1


@pytest.mark.usefixtures("soon")
def test_a_triton_that_dies_while_it_loads_refuses_nothing(site: Site) -> None:
    one = site.add(1)

    def die() -> None:
        site.triton.during_load = lambda: None
        raise ConnectionAbortedError

    site.triton.during_load = die
    sync = site.sync()
    sync.assign(assigned(one))
    until(sync, is_(sync, one, "ready"))
    assert len(site.triton.loads) == 2


@pytest.mark.usefixtures("soon")
def test_a_version_that_ends_triton_again_is_refused(site: Site) -> None:
    one, two = site.add(1), site.add(2)
    sync = serving(site, one)

    def die() -> None:
        if site.triton.loads[-1] != ("digits", (1,)):
            site.triton.served = {}
            raise ConnectionAbortedError

    site.triton.during_load = die
    sync.assign(assigned(one, two))
    until(sync, is_(sync, two, "refused"))
    assert gate(sync, two) == "load"
    until(sync, is_(sync, one, "ready"))
    assert served(site) == {1: b"graph 1"}
    assert site.triton.loads.count(("digits", (1, 2))) == 2


@pytest.mark.usefixtures("soon")
def test_a_load_that_takes_too_long_is_nobody_s_death(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = site.add(1)
    turns = iter(range(5))

    def slow() -> None:
        time.sleep(0.2 if next(turns) < 3 else 0.0)

    monkeypatch.setattr("services.serving.triton.LOAD_S", 0.1)
    site.triton.during_load = slow
    sync = site.sync()
    sync.assign(assigned(one))
    until(sync, is_(sync, one, "ready"))
    assert len(site.triton.loads) >= 2


@pytest.mark.usefixtures("soon")
def test_a_triton_that_begins_anew_is_given_everything_again(site: Site) -> None:
    one = site.add(1)
    sync = serving(site, one)
    site.triton.stop()
    sync.round()
    assert not sync.ready() and not sync.status().triton
    assert is_(sync, one, "waiting")()
    site.triton.start()
    sync.round()
    assert not sync.ready(), "it answers, and has no model yet"
    until(sync, is_(sync, one, "ready"))
    assert sync.ready() and served(site) == {1: b"graph 1"}


def test_a_sidecar_that_begins_anew_finds_what_is_served(site: Site) -> None:
    one, two = site.add(1), site.add(2)
    serving(site, one)
    left = site.root / "versions" / "digits" / ".half.0a1b"
    left.mkdir()
    gone = site.root / "versions" / "gone" / "x"
    gone.mkdir(parents=True)
    site.triton.served["stranger"] = {1: b""}
    site.registry.asked.clear()
    sync = site.sync()
    sync.assign(assigned(one, two))
    sync.round()
    assert sync.ready(), "requests come all the while"
    until(sync, is_(sync, two, "ready"))
    until(sync, lambda: set(site.triton.served) == {"digits"} and not gone.exists())
    rest(sync)
    assert not left.exists()
    assert len([path for _, path, _ in site.registry.asked if "/blobs/" in path]) < 20


def test_files_that_are_not_what_was_pulled_are_pulled_again(site: Site) -> None:
    one = site.add(1)
    serving(site, one)
    (file,) = (site.root / "versions" / "digits").glob("*/model.onnx")
    file.write_bytes(b"grape 1")
    sync = site.sync()
    sync.assign(assigned(one))
    until(sync, is_(sync, one, "ready"))
    assert served(site) == {1: b"graph 1"}


def test_a_number_that_comes_back_with_other_content(site: Site) -> None:
    one = site.add(1)
    again = site.add(1, b"graph one")
    assert one.digest != again.digest
    sync = serving(site, one)
    seen: list[str] = []

    def look() -> None:
        found = state(sync, again)
        assert found is not None and sync.ready()
        seen.append(found.state)

    site.triton.during_load = look
    sync.assign(assigned(again))
    until(sync, is_(sync, again, "ready"))
    assert seen == ["loading"], "ready is the content before"
    assert served(site) == {1: b"graph one"}


def test_a_number_that_comes_back_with_content_that_does_not_load(site: Site) -> None:
    one, again = site.add(1), site.add(1, b"graph one")
    sync = serving(site, one)
    site.triton.spoiled = {b"graph one"}
    sync.assign(assigned(again))
    until(sync, is_(sync, again, "refused"))
    rest(sync)
    assert served(site) == {1: b"graph 1"} and sync.ready()
    link = site.root / "repository" / "digits" / "1" / "model.onnx"
    assert link.read_bytes() == b"graph 1"


def test_two_contracts_are_not_served_by_one_configuration(site: Site) -> None:
    one, two = site.add(1, golden=False), site.add(2, golden=False, inputs=OTHER_SHAPE)
    sync = serving(site, one)
    sync.assign(assigned(one, two))
    until(sync, is_(sync, two, "ready"))
    assert served(site) == {2: b"graph 2"} and sync.ready()
    sync.assign(assigned(one))
    until(sync, is_(sync, one, "ready"))
    assert served(site) == {1: b"graph 1"}


def test_what_no_configuration_can_serve_is_refused_with_the_reason(site: Site) -> None:
    fixed = [{"name": "image", "datatype": "FP32", "shape": [7, 8, 8]}]
    one = site.add(1, golden=False, inputs=fixed)
    sync = site.sync()
    sync.assign(assigned(one))
    until(sync, is_(sync, one, "refused"))
    found = state(sync, one)
    assert found and found.refusal and found.refusal.gate == "load"
    assert "the first dimension is the batch's" in found.refusal.why


def test_what_nobody_expected_ends_neither_the_loop_nor_other_models(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = site.add(1), site.add(1, name="other")
    real = layout.configuration

    def broken(version: ModelVersion, *rest: Any, **more: Any) -> str:
        if version.name == "digits":
            raise RuntimeError("a mistake")
        return real(version, *rest, **more)

    monkeypatch.setattr(layout, "configuration", broken)
    sync = site.sync()
    sync.assign({**assigned(one), **assigned(other, name="other")})
    until(sync, is_(sync, other, "ready", "other"))
    until(sync, is_(sync, one, "refused"))
    found = state(sync, one)
    assert found and found.refusal and "RuntimeError: a mistake" in found.refusal.why
    assert any(record.exc_info for record in caplog.records)


def test_what_is_assigned_no_more_is_unloaded_and_its_files_go(site: Site) -> None:
    one, other = site.add(1), site.add(1, name="other")
    sync = site.sync()
    sync.assign({**assigned(one), **assigned(other, name="other")})
    until(sync, lambda: len(site.triton.served) == 2)
    rest(sync)
    sync.assign(assigned(one))
    until(sync, lambda: set(site.triton.served) == {"digits"})
    rest(sync)
    for place in ("repository", "versions"):
        assert [entry.name for entry in (site.root / place).iterdir()] == ["digits"]
    unloads = "/v2/repository/models/other/unload"
    for _ in range(3):
        rest(sync)
    assert site.triton.asked[unloads] == 1
    assert sync.ready()
    # And it may come back.
    sync.assign({**assigned(one), **assigned(other, name="other")})
    until(sync, is_(sync, other, "ready", "other"))


def test_an_assignment_that_changes_while_one_is_loaded(site: Site) -> None:
    one, two, three = site.add(1), site.add(2), site.add(3)
    sync = serving(site, one)
    goes_on, begun = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert goes_on.wait(10)

    site.triton.during_load = wait
    sync.assign(assigned(one, two))
    until(sync, begun.is_set)
    sync.assign(assigned(one, three))
    began = time.monotonic()
    for _ in range(5):
        sync.round()
    assert time.monotonic() - began < 2, "a round waits for nobody"
    assert is_(sync, three, "loading")() and sync.ready()
    site.triton.during_load = lambda: None
    goes_on.set()
    until(sync, is_(sync, three, "ready"))
    rest(sync)
    assert served(site) == {1: b"graph 1", 3: b"graph 3"}
    assert len(list((site.root / "versions" / "digits").iterdir())) == 2


def test_another_way_of_serving_is_loaded_in_place(site: Site) -> None:
    one = site.add(1)
    sync = serving(site, one)
    sync.assign(assigned(one, max_batch_size=4))
    until(sync, lambda: len(site.triton.loads) == 2)
    rest(sync)
    assert "max_batch_size: 4" in (site.root / "repository/digits/config.pbtxt").read_text()


def test_a_model_that_is_added_does_not_unready_a_pod(site: Site) -> None:
    one, other = site.add(1), site.add(1, b"graph other", name="other")
    sync = serving(site, one)
    site.triton.spoiled = {b"graph other"}
    sync.assign({**assigned(one), **assigned(other, name="other")})
    until(sync, is_(sync, other, "refused", "other"))
    assert sync.ready(), "it serves what it served"
    # One that begins with both would answer for the other that there is no such model.
    again = site.sync()
    again.assign({**assigned(one), **assigned(other, name="other")})
    until(again, is_(again, one, "ready"))
    until(again, is_(again, other, "refused", "other"))
    again.round()
    assert not again.ready()
    # A canary's version is there to be tried: what can't be served holds up no other's trial.
    canary = site.sync("canary")
    canary.assign({**assigned(one), **assigned(other, name="other")})
    canary.round()
    assert not canary.ready()
    until(canary, is_(canary, other, "refused", "other"))
    until(canary, canary.ready)


@pytest.mark.usefixtures("soon")
def test_a_canary_that_a_version_hangs_begins_anew_without_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, goes_on = site.add(2), threading.Event()

    def hang() -> None:
        goes_on.wait(20)

    monkeypatch.setattr("services.serving.triton.LOAD_S", 0.2)
    site.triton.during_load = hang
    sync = site.sync("canary")
    sync.assign(assigned(two))
    for _ in range(module._DEATHS):
        until(sync, lambda: not sync.alive() and site.triton.loads)
        assert not (site.root / "repository" / "digits").exists()
        loads = len(site.triton.loads)
        for _ in range(5):
            sync.round()
        assert len(site.triton.loads) == loads, "it is told nothing more"
        site.triton.stop()  # as the kubelet does, and too soon for anybody to see that it is away
        site.triton.start()
        until(sync, sync.alive)
    until(sync, is_(sync, two, "refused"))
    assert gate(sync, two) == "load"
    goes_on.set()


def test_a_canary_that_does_not_let_go_of_a_version_begins_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(self: object, model: str) -> None:
        raise TritonTimeout("Triton does not answer within 20 s")

    two = site.add(2)
    sync = site.sync("canary")
    sync.assign(assigned(two))
    until(sync, is_(sync, two, "ready"))
    monkeypatch.setattr("services.serving.triton.Triton.unload", hangs)
    sync.assign({})
    until(sync, lambda: not sync.alive())
    assert not (site.root / "repository" / "digits").exists()
    monkeypatch.undo()
    site.triton.stop()
    site.triton.start()
    until(sync, sync.ready)


def test_a_model_that_is_lost_unreadies_the_pod(site: Site) -> None:
    one = site.add(1)
    sync = serving(site, one)
    site.triton.served = {}
    sync.round()
    assert not sync.ready()


def test_a_canary_that_begins_in_a_rollout_is_ready_when_it_has_the_version(site: Site) -> None:
    one = site.add(1)
    sync = site.sync("canary")
    sync.round()
    assert not sync.ready()
    sync.assign({})
    sync.round()
    assert sync.ready(), "nothing is being rolled out"
    sync.assign(assigned(one))
    sync.round()
    assert not sync.ready()
    until(sync, is_(sync, one, "ready"))
    until(sync, sync.ready)
    site.triton.stop()
    sync.round()
    assert not sync.ready()


@pytest.mark.parametrize("index", ["{", [1], {"a": 1}, [{"state": "READY", "version": "1"}]])
def test_an_index_that_is_none(site: Site, index: object) -> None:
    one = site.add(1)
    sync = serving(site, one)
    site.triton.index = index
    sync.round()
    assert not sync.ready()
    site.triton.index = None
    sync.round()
    assert sync.ready()


def test_what_is_measured_is_no_more_ready_when_triton_is_away(site: Site) -> None:
    one = site.add(1)
    sync = serving(site, one)
    metric = metrics.READY.labels("digits", "1")
    assert metric._value.get() == 1
    site.triton.stop()
    sync.round()
    assert metrics.READY.labels("digits", "1")._value.get() == 0


def document(*models: Assigned) -> str:
    return json.dumps([one.model_dump(mode="json") for one in models])


def test_what_is_assigned_to_a_track_and_pool(site: Site) -> None:
    one = Version(version=1, digest="sha256:" + "0" * 64)
    (here,) = assigned(one).values()
    (there,) = assigned(one, name="other", pool="gpu").values()
    data = {"stable": document(here, there), "canary": document()}
    assert assigned_to(data, site.settings()) == {"digits": here}
    assert assigned_to(data, site.settings("canary")) == {}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"stable": "[]"},
        {"stable": "[]", "canary": "{"},
        {"stable": "[]", "canary": "null"},
        {"stable": "[]", "canary": "[]", "more": "[]"},
        {"stable": '[{"name": "digits", "versions": [], "serving": {}, "new": 1}]', "canary": "[]"},
    ],
)
def test_what_is_no_assignment_is_no_order_to_serve_nothing(
    site: Site, data: dict[str, str]
) -> None:
    with pytest.raises(ValueError):
        assigned_to(data, site.settings())


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (Unsigned("a", "b"), "signature"),
        (NotThere("a", "b", 404), "digest"),
        (OciError("a", "is no JSON object"), "digest"),
        (NoAnswer("a", "broke off"), "registry"),
        (OciError("a", "503 come later", 503), "registry"),
        (OciError("a", "401", 401), "registry"),
        (OciError("a", "403 DENIED: the token has expired", 403), "registry"),
        (OSError("no space left"), "registry"),
    ],
)
def test_gates(error: Exception, wanted: str) -> None:
    assert gate_of(error) == wanted


def test_a_connection_that_breaks_off_is_the_registry_s(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = site.add(1)
    real = requests.Response.iter_content

    def cut(self: requests.Response, *rest: object) -> object:
        if "/blobs/" in self.url:
            raise requests.ConnectionError("reset by peer")
        return real(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(requests.Response, "iter_content", cut)
    sync = site.sync()
    sync.assign(assigned(one))
    until(sync, is_(sync, one, "refused"))
    assert gate(sync, one) == "registry"


class FakeCluster:
    def __init__(self, answers: list[Callable[[], dict[str, str] | None]]) -> None:
        self.answers = answers
        self.watched: dict[str, str] = {}

    def __call__(self, namespace: str) -> FakeCluster:
        assert namespace == "serving"
        return self

    def watching(self, changed: Callable[[], None], **selector: str) -> None:
        self.watched = selector

    def config_map(self, name: str) -> dict[str, str] | None:
        assert name == "serving-assignments"
        return (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])()


def test_the_loop_outlives_what_it_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away() -> dict[str, str] | None:
        raise OSError("no API")

    one = site.add(1)
    (mine,) = assigned(one).values()
    good = {"stable": document(mine), "canary": "[]"}
    cluster = FakeCluster([away, lambda: None, dict, lambda: {"stable": "x"}, lambda: good])
    rounds: list[str] = []
    routes: dict[str, Callable[[], tuple[int, str]]] = {}
    real = Sync.round

    def counted(self: Sync) -> None:
        real(self)
        rounds.append(routes["/readyz"]()[1].strip())
        if len(cluster.answers) == 1 and rounds[-1] == "ready":
            raise SystemExit
        if len(rounds) == 2:
            raise RuntimeError("a mistake")

    monkeypatch.setattr(module, "Cluster", cluster)
    monkeypatch.setattr(server, "serve", lambda _, given: routes.update(given))
    monkeypatch.setattr(Sync, "round", counted)
    monkeypatch.setattr(module, "_READ_S", 0.05)
    monkeypatch.setattr(module, "_EVERY_S", 0.06)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(SystemExit):
        module.run(site.settings())
    assert cluster.watched == {"field_selector": "metadata.name=serving-assignments"}
    assert served(site) == {1: b"graph 1"} and rounds[0] == "not ready"
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert any("no API" in line for line in said)
    assert any("stable: Field required" in line for line in said)
    assert routes["/healthz"]() == (200, "alive\n")
    assert json.loads(routes["/status"]()[1])["models"]["digits"]["1"]["state"] == "ready"


def test_a_file_of_two_trusted_keys_takes_either(site: Site) -> None:
    one = site.unsigned(1)
    site.trust(KEY, OTHER)
    sync = site.sync()
    sync.assign(assigned(one))
    until(sync, is_(sync, one, "ready"))
