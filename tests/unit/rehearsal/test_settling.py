"""How long `up` waits for red checks: not for one that stays red."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from rehearsal.kube import Api
from services.serving.model import Progress
from tests.state import asking, probes
from tests.state.probes import Final, ProbeContext, serving

DIGEST = "sha256:" + "a" * 64
FAR_S = 60.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_AGAIN_S", 0.02), ("FINAL_S", 0.3), ("STILL_S", 1.5)):
        monkeypatch.setattr(asking, name, value)


def green(seconds: float = 0.0) -> Callable[[ProbeContext], str]:
    """A probe that is green after so long."""
    began = time.monotonic()

    def ask(_: ProbeContext) -> str:
        assert time.monotonic() - began >= seconds, "not yet"
        return "good"

    return ask


def final(_: ProbeContext) -> str:
    raise Final("refused for good")


def ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settle_s: float = FAR_S, **asked: Any
) -> tuple[dict[str, probes.Result], float]:
    """The last answers, and after how long all of them were there."""
    for name, function in asked.items():
        monkeypatch.setitem(probes.PROBES, name, function)
    checks = [{"id": name, "probe": name, "args": {}} for name in asked]
    began = time.monotonic()
    found = asking.Asking(checks, tmp_path, cast(Api, None), settle_s)
    answers = {name: one.result(FAR_S) for name, one in found.answers.items()}
    return answers, time.monotonic() - began


def test_a_red_that_stays_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, seconds = ask(tmp_path, monkeypatch, one=green(), two=final)
    assert answers["one"].ok and not answers["two"].ok
    assert answers["two"].final and answers["two"].detail == "refused for good"
    assert seconds < 1.5


def test_the_others_are_waited_for_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, seconds = ask(tmp_path, monkeypatch, one=green(0.9), two=final)
    assert answers["one"].ok and seconds >= 0.9


def test_what_waits_for_the_final_one_itself_is_given_up_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, seconds = ask(tmp_path, monkeypatch, one=green(FAR_S), two=final)
    assert not answers["one"].ok and answers["one"].detail.startswith("not yet")
    assert 1.5 <= seconds < 10


def test_a_final_answer_may_be_of_what_was_declared_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()

    def old(_: ProbeContext) -> str:
        passed = time.monotonic() - began
        if passed < 0.15:
            raise Final("of the one before")
        assert passed > 0.8, "verifying"
        return "good"

    answers, _ = ask(tmp_path, monkeypatch, one=old)
    assert answers["one"].ok


def test_any_other_red_has_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, seconds = ask(tmp_path, monkeypatch, 2.0, one=green(), two=green(FAR_S))
    assert not answers["two"].ok and not answers["two"].final and seconds > 1.8


class Controller:
    """ConfigMap `serving-state` of one model, whose version 1 is served and 2 was refused."""

    def __init__(self, **refusal: Any) -> None:
        stable = {"version": 1, "digest": DIGEST}
        refused = {"version": 2, "digest": DIGEST, "at": 1.0, **refusal}
        at = Progress.model_validate({"stable": stable, "refused": refused})
        self.state = {"digits-onnx": at.model_dump_json()}

    def config_map(self, *_: str) -> dict[str, str]:
        return self.state


def said(controller: Controller, version: int = 2) -> AssertionError:
    with pytest.raises(AssertionError) as found:
        serving.rollouts(cast(ProbeContext, controller), {"digits-onnx": version})
    return found.value


def test_a_version_that_was_refused_for_good_is_final() -> None:
    error = said(Controller(gate="golden", why="scores differ " + "x" * 400))
    assert isinstance(error, Final)
    words = probes.one_line(error)
    assert words.startswith(
        "digits-onnx: version 2 is refused for good, gate golden: scores differ"
    )
    assert words.endswith("(./estate model promote or rollback), then ./estate up")


@pytest.mark.parametrize(
    "refusal", [{"gate": "registry"}, {"gate": "load", "passing": True}], ids=json.dumps
)
def test_what_is_tried_again_is_waited_for(refusal: dict[str, Any]) -> None:
    assert not isinstance(said(Controller(why="away", **refusal)), Final)


def test_the_refusal_of_another_version_than_the_declared_one_passes() -> None:
    assert not isinstance(said(Controller(gate="golden", why="differs"), 3), Final)
