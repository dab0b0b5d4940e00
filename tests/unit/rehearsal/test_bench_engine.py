"""The engine's bench, without an engine: its objects, its words, its exit."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from rehearsal import bench_engine, cli
from rehearsal.bench_engine import Clock, judged, ratios
from rehearsal.errors import EstateError
from rehearsal.scale.objects import nodes, objects


def clock(seconds: float) -> Clock:
    return Clock(seconds, seconds, 0.1, 1.0)


def test_every_deployment_has_its_config_map_and_room_for_its_pods() -> None:
    made = objects(7)
    kinds = [body["kind"] for body in made]
    assert kinds[0] == "Namespace"
    assert kinds.count("Deployment") == kinds.count("ConfigMap") == 7
    names = [(body["kind"], body["metadata"]["name"]) for body in made]
    assert len(set(names)) == len(names)
    for count in (1, 500, 2000):
        assert sum(pool.count for pool in nodes(count)) * 110 >= count * 2


def test_ratios_are_to_kubectls_clock_of_the_same_kind() -> None:
    clocks = {"kubectl up": clock(10), "kubectl destroy": clock(20)}
    clocks |= {name: clock(30) for name in bench_engine.WANTED}
    found = ratios(clocks)
    assert found["kept up"] == 3.0 and found["kept destroy"] == 1.5
    assert (judged(3.0, 3.0), judged(3.4, 3.0)) == ("met", "missed by 0.40")


def deployment(available: int, condition: str) -> dict[str, Any]:
    conditions = [{"type": "Available", "status": condition}]
    status = {"availableReplicas": available, "conditions": conditions}
    return {"spec": {"replicas": 2}, "status": status}


def test_available_is_all_replicas() -> None:
    assert bench_engine._available(deployment(2, "True"))
    assert not bench_engine._available(deployment(1, "True"))
    assert not bench_engine._available(deployment(2, "False"))
    assert not bench_engine._available({"spec": {"replicas": 2}})


def test_work_that_fails_ends_the_bench() -> None:
    def watch(opened: threading.Event) -> float:
        opened.set()
        return 1.0

    with pytest.raises(EstateError, match="kept up: failed"):
        bench_engine._clock("kept up", lambda: False, watch)


def test_what_is_measured_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "everything"]) == 2
    assert "use estate, engine or serving" in capsys.readouterr().err
