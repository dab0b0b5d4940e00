"""kill -9 of a serving Triton under load: only what it had in hand may fail, and be sent again."""

from __future__ import annotations

import contextlib
import os
import time

from rehearsal.drills.harness import pod_process
from rehearsal.drills.serving import SETTLE_S, Outcome, Stage, all_ready, failures
from rehearsal.errors import EstateError
from rehearsal.kube import Object, ready
from rehearsal.load_figures import Result

_PROGRAM, _CONTAINER = "tritonserver", "triton"
_AFTER_S = 10.0
_GONE_S = 10.0


def kill(stage: Stage) -> Outcome:
    """Kill one replica's tritonserver; the figures count from that moment."""
    before = stage.pods()
    if len(before) < 2 or not all(map(ready, before)):
        names = ", ".join(str(pod["metadata"]["name"]) for pod in before) or "none"
        raise EstateError(
            f"model {stage.model}", f"has no two ready replicas ({names})", "see: ./estate status"
        )
    stage.start(retry_connection=1)
    victim = before[0]
    name = str(victim["metadata"]["name"])
    process = pod_process(stage.rehearsal, victim, _PROGRAM, lambda one: one.name() == _PROGRAM)
    at = time.monotonic()
    process.kill()
    closed = _closed(process.pid)
    # What was sent before its sockets were closed was in its hands too.
    in_flight = stage.load.in_flight(at, closed)
    stage.note(
        f"kill -9 of {_PROGRAM} in {name}, process {process.pid}, its sockets closed after "
        f"{(closed - at) * 1000:.0f} ms; in flight: {in_flight}"
    )
    recovered: float | None = None
    while recovered is None and time.monotonic() < at + SETTLE_S:
        stage.listen(0.25)
        now = stage.pods()
        if all_ready(now, len(before)) and _containers(now) != _containers(before):
            recovered = round(time.monotonic() - at, 1)
            stage.note(f"{len(now)} replicas serve again")
    stage.listen(_AFTER_S)
    loads = stage.end()
    figures = {
        "replicas": len(before),
        "in_flight": in_flight,
        "sockets_closed_ms": round((closed - at) * 1000, 1),
        "first_failed": {key: sum(one.first_failed.values()) for key, one in loads.items()},
        "retried": {key: one.retried for key, one in loads.items()},
        "recovered_s": recovered,
    }
    wrong = judge_kill(loads, in_flight, recovered)
    return Outcome("serving-kill", "", loads, figures, stage.events, wrong)


def _closed(pid: int) -> float:
    """When a process that was killed has no file open any more; it may be a zombie long after."""
    deadline = time.monotonic() + _GONE_S
    with contextlib.suppress(OSError):
        while os.listdir(f"/proc/{pid}/fd") and time.monotonic() < deadline:
            time.sleep(0.001)
    return time.monotonic()


def _containers(pods: list[Object]) -> set[str]:
    """The containers of Triton, which are others after a restart."""
    return {
        str(state.get("containerID"))
        for pod in pods
        for state in pod.get("status", {}).get("containerStatuses", [])
        if state.get("name") == _CONTAINER
    }


def judge_kill(
    loads: dict[str, Result], in_flight: dict[str, int], recovered: float | None
) -> list[str]:
    """What is wrong: more failed at first than were under way, a second try failed, not whole."""
    wrong = failures(loads)
    for key, one in loads.items():
        failed, most = sum(one.first_failed.values()), in_flight[key]
        if failed > most:
            wrong.append(f"{key}: {failed} failed at first, {most} were in flight at the kill")
    if recovered is None:
        wrong.append("not all replicas served again")
    return wrong
