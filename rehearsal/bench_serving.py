"""`./estate bench serving`: what the gateway costs, what batching gains, how soon a model serves.

The gateway's cost is measured against the same Triton processes, asked at their pods' own port: the
model, its configuration and the caches are then the same, and what differs is the gateway with its
TLS. Requests go to all replicas in turn both ways. Both ways are asked at the same time, each half
an interval after the other, so that whatever else the machine does meets both alike: in turns of
their own the same ways differed by more than is wanted. A generator that is late (p99) tells that
the tail is the machine's: then nothing is judged.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rehearsal import bench, console, provenance
from rehearsal.access import INFERENCE
from rehearsal.clients import exclusive
from rehearsal.drills.harness import need_green
from rehearsal.drills.serving import SETTLE_S, Stage, declare, stage
from rehearsal.errors import EstateError
from rehearsal.load import Load
from rehearsal.load_figures import Plan, Result
from rehearsal.serving_state import Delivery
from services.serving.model import Version

GATEWAY, DIRECT = "gateway", "direct"
WITH, WITHOUT = "batching", "no batching"
TRITON_HTTP = 8000
P50_MS, P99_RATIO, SERVED_S = 0.3, 1.1, 15.0
"""Wanted: the gateway's addition to the median, its 99th percentile against Triton's own, and the
time from `model add` to the first answer."""
RATE, TURN_S, PAIRS = 100.0, 20.0, 8
"""Of each way; seconds of a turn; how many turns."""
CLIENTS, SATURATED_S, BATCHING_ROUNDS = 32, 10.0, 2
ADDED = 3  # versions, one after another
TAIL = 5.0
"""Triton's own p99 to its p50, above which the machine makes the tail."""
_PAUSE_S = 1.0
_AHEAD_S = 2.0  # until both loads of a pair begin: they open their connections meanwhile
_LOOK_S = 0.5


@dataclass(frozen=True)
class Turn:
    """One turn of a way."""

    way: str
    result: Result

    def json_object(self) -> dict[str, Any]:
        """Plain JSON, without the seconds."""
        found = self.result.json_object()
        return {"way": self.way, **{key: found[key] for key in _KEPT}}


_KEPT = ("sent", "ok", "failed", "per_s", "latency", "lateness", "late", "cpu_share")


def order(ways: Sequence[str], rounds: int) -> list[str]:
    """Each round there and back (A B B A), so that a drift of the machine meets all alike."""
    return [*ways, *reversed(ways)] * rounds


def pairs(
    load: Load,
    model: str,
    ways: Mapping[str, tuple[str, ...]],
    count: int = PAIRS,
    rate: float = RATE,
    seconds: float = TURN_S,
) -> list[dict[str, Turn]]:
    """Turns of all ways at the same time, their requests alternating; which begins changes."""
    found = []
    for number in range(count):
        names = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
        begin = time.monotonic() + _AHEAD_S
        for place, way in enumerate(names):
            starts_at = begin + place / len(names) / rate
            plan = Plan(model, ways[way], "http", rate, seconds, starts_at=starts_at)
            load.start(f"{way}-{number}", plan)
        found.append({way: _turn(load, way, number) for way in ways})
        time.sleep(_PAUSE_S)
    return found


def turns(
    load: Load,
    ways: Sequence[str],
    rounds: int,
    plan_of: Callable[[str], Plan],
    prepare: Callable[[str], None] = lambda _: None,
) -> list[Turn]:
    """Every way's turns, one after another."""
    found: list[Turn] = []
    for number, way in enumerate(order(ways, rounds)):
        prepare(way)
        time.sleep(_PAUSE_S)
        load.start(f"{way}-{number}", plan_of(way))
        found.append(_turn(load, way, number))
    return found


def _turn(load: Load, way: str, number: int) -> Turn:
    """Its end. Raises EstateError when a request failed: there is nothing to compare."""
    result = load.result(f"{way}-{number}", 120)
    if not result.all_ok:
        words = next(iter(result.errors), str(result.failed))
        raise EstateError(f"bench: turn {number} ({way})", f"requests failed: {words}", "")
    return Turn(way, result)


def overhead(found: Sequence[Mapping[str, Turn]]) -> dict[str, Any]:
    """What the gateway adds, by the medians of all pairs, beside what is wanted."""
    spread = [{way: turn.result.latency for way, turn in pair.items()} for pair in found]
    late = any(turn.result.late for pair in found for turn in pair.values())
    added = median(one[GATEWAY].p50 - one[DIRECT].p50 for one in spread)
    ratio = median(one[GATEWAY].p99 / one[DIRECT].p99 for one in spread)
    return {
        "p50_ms": {way: median(one[way].p50 for one in spread) for way in (GATEWAY, DIRECT)},
        "p99_ms": {way: median(one[way].p99 for one in spread) for way in (GATEWAY, DIRECT)},
        "p50_added_ms": _wanted(round(added, 3), P50_MS, judged=not late),
        "p99_ratio": _wanted(round(ratio, 3), P99_RATIO, judged=not late),
        "generator_late": late,
        "tail": round(median(one[DIRECT].p99 / one[DIRECT].p50 for one in spread), 1),
        "turns": [turn.json_object() for pair in found for turn in pair.values()],
    }


def _wanted(value: float, most: float, *, judged: bool = True) -> dict[str, Any]:
    """A figure beside the most that is wanted; `met` is None where it says nothing."""
    return {"value": value, "wanted": most, "met": value <= most if judged else None}


def gain(found: Sequence[Turn]) -> dict[str, Any]:
    """Throughput with and without dynamic batching."""
    rates = {
        way: median(turn.result.rate for turn in found if turn.way == way)
        for way in (WITH, WITHOUT)
    }
    return {
        "clients": CLIENTS,
        "per_s": {way: round(rate, 1) for way, rate in rates.items()},
        "gain": round(rates[WITH] / rates[WITHOUT], 2),
        "generator_cpu_share": max(turn.result.cpu_share for turn in found),
        "turns": [turn.json_object() for turn in found],
    }


def served(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """How soon an added version answers, beside what is wanted."""
    first = median(one["first_answer_s"] for one in rounds)
    return {
        "first_answer_s": _wanted(round(first, 2), SERVED_S),
        "promoted_s": round(median(one["promoted_s"] for one in rounds), 1),
        "rounds": list(rounds),
    }


def run(name: str, out: Path | None) -> int:
    """Measure a green rehearsal that serves models; 0 when every figure could be taken."""
    rehearsal = bench.real(name)
    provenance.writable(out)
    with exclusive(rehearsal, "bench"):
        need_green(rehearsal)
        with stage(rehearsal, lambda text: console.say(f"  {text}")) as scene:
            direct = targets(scene)
            figures: dict[str, Any] = {}
            try:
                console.step(f"the gateway beside {len(direct)} Tritons themselves, {RATE:g}/s")
                ways = {GATEWAY: (INFERENCE,), DIRECT: direct}
                figures["overhead"] = overhead(pairs(scene.load, scene.model, ways))
                console.step(f"{CLIENTS} clients, with dynamic batching and without")
                figures["batching"] = gain(_saturated(scene, direct))
                console.step("from model add to the first answer")
                figures["added"] = served(_added(scene))
            finally:
                # What was measured stays, whatever came after it.
                if figures:
                    show(figures)
                    provenance.write(out, "bench serving", figures=figures)
    return 0


def targets(scene: Stage) -> tuple[str, ...]:
    """The replicas' own addresses. Raises EstateError when there is none."""
    found = [pod["status"].get("podIP") for pod in scene.pods()]
    addresses = tuple(f"http://{address}:{TRITON_HTTP}" for address in found if address)
    if not addresses:
        raise EstateError("bench", f"no replica serves {scene.model}", "see: ./estate status")
    return addresses


def _saturated(scene: Stage, direct: tuple[str, ...]) -> list[Turn]:
    """Turns at the Tritons themselves, whose configuration changes between them."""
    plan = Plan(scene.model, direct, "http", seconds=SATURATED_S, closed=CLIENTS)
    now = ""

    def prepare(way: str) -> None:
        nonlocal now
        if way != now:
            wanted = scene.serving["dynamic_batching"] or {} if way == WITH else None
            batching = {**scene.serving, "dynamic_batching": wanted}
            declare(
                scene.rehearsal, scene.model, scene.source.version, scene.source.digest, batching
            )
            _await_batching(scene, direct, wanted is not None)
        now = way

    return turns(scene.load, (WITH, WITHOUT), BATCHING_ROUNDS, lambda _: plan, prepare)


def _await_batching(scene: Stage, direct: Sequence[str], wanted: bool) -> None:
    """Until every replica says that it batches, or does not. Raises EstateError."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        found = [scene.load.fetch(f"{one}/v2/models/{scene.model}/config") for one in direct]
        if all(one is not None and ("dynamic_batching" in one) is wanted for one in found):
            return
        time.sleep(_LOOK_S)
    what = "batches" if wanted else "stops batching"
    raise EstateError("bench", f"no replica {what} within {SETTLE_S:.0f} s of its declaration", "")


def _added(scene: Stage) -> list[dict[str, float]]:
    """Versions added and declared one after another, while requests are sent all the time."""
    # As it was declared: what batching left is put back first.
    declare(scene.rehearsal, scene.model, scene.source.version, scene.source.digest, scene.serving)
    rounds = []
    for number in range(ADDED):
        key = f"added-{number}"
        scene.load.start(key, Plan(scene.model, (INFERENCE,), "http", RATE))
        scene.listen(2.0)
        began = time.monotonic()
        made, _ = scene.publisher.add("good", scene.source.digest)
        in_registry = time.monotonic()
        scene.load.know(made)
        scene.declare(made)
        found = scene.wait(_ended(made))
        result = scene.load.end(key)
        first = result.first_s.get(str(made.version))
        if found is None or first is None or found[1].refused is not None:
            why = found[1].words if found else "not in time"
            raise EstateError(
                "bench", f"version {made.version} is not served: {why}", "see: ./estate status"
            )
        rounds.append(
            {
                "in_registry_s": round(in_registry - began, 2),
                "first_answer_s": round(result.began + first - began, 2),
                "promoted_s": round(found[0] - began, 2),
                "failed": result.sent - result.ok,
            }
        )
    return rounds


def _ended(made: Version) -> Callable[[Delivery], bool]:
    """Whether the rollout of a version has come to an end, good or bad."""
    return lambda now: now.refused is not None or (now.stable == made and now.candidate is None)


def rows(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures as a table: what, and the value with its unit."""
    found: list[tuple[str, str]] = []
    if cost := figures.get("overhead"):
        for name in ("p50_ms", "p99_ms"):
            pair = " / ".join(f"{cost[name][way]:.2f}" for way in (GATEWAY, DIRECT))
            found.append((f"{name[:3]}, through the gateway / Triton itself", f"{pair} ms"))
        found += [
            ("p50 added by the gateway", f"{cost['p50_added_ms']['value']:.2f} ms"),
            ("p99 against Triton's own", f"x {cost['p99_ratio']['value']:.2f}"),
        ]
    if batching := figures.get("batching"):
        pair = " / ".join(f"{batching['per_s'][way]:,.0f}" for way in (WITH, WITHOUT))
        found += [
            (f"{batching['clients']} clients, with dynamic batching / without", f"{pair} per s"),
            ("dynamic batching's gain", f"x {batching['gain']:.2f}"),
        ]
    if added := figures.get("added"):
        found += [
            ("model add to the first answer", f"{added['first_answer_s']['value']:.1f} s"),
            ("model add to all requests", f"{added['promoted_s']:.1f} s"),
        ]
    return found


def judged(figures: Mapping[str, Any]) -> list[str]:
    """What is wanted and whether it is met, in words."""
    lines = []
    for part, key, what in (
        ("overhead", "p50_added_ms", "p50 added by the gateway, ms"),
        ("overhead", "p99_ratio", "p99 against Triton's own"),
        ("added", "first_answer_s", "model add to the first answer, s"),
    ):
        with contextlib.suppress(KeyError):
            one = figures[part][key]
            said = {
                True: "met",
                False: f"missed by {one['value'] - one['wanted']:.2f}",
                None: "not judged, the generator was late",
            }[one["met"]]
            lines.append(f"{what}: {one['value']:g}, at most {one['wanted']:g} wanted: {said}")
    return lines


def show(figures: Mapping[str, Any]) -> None:
    """The table, and what is met."""
    console.table("Serving", ("what", "figure"), rows(figures))
    if figures.get("batching", {}).get("generator_cpu_share", 0) > 0.8:
        console.warn("the generator took most of a core: Triton may do more than it was asked")
    if (tail := figures.get("overhead", {}).get("tail", 0)) > TAIL:
        console.warn(
            f"Triton's own p99 is {tail:g} times its p50: the machine does something else as well, "
            "and hides what the gateway adds to p99"
        )
    for line in judged(figures):
        console.say(line)
