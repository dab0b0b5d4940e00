"""The drills of serving as `./estate drill` lists, runs and shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rehearsal import console, load
from rehearsal.drills import serving, serving_delivery, serving_kill
from rehearsal.drills.harness import is_green
from rehearsal.drills.serving import RATES, Outcome, Stage
from rehearsal.rehearsal import Rehearsal
from rehearsal.serving_state import PROFILE

__all__ = ["DRILLS", "PROFILE", "Outcome", "ServingDrill", "perform", "show"]


@dataclass(frozen=True)
class ServingDrill:
    """A drill under requests instead of writers."""

    id: str
    title: str
    wanted: str
    perform: Callable[[Stage], Outcome]


DRILLS = {
    one.id: one
    for one in (
        ServingDrill(
            "serving-promote",
            "a model version replaced by the next and taken back, under requests",
            "60 s, 0 failed",
            serving_delivery.promote,
        ),
        ServingDrill(
            "serving-broken",
            f"{len(serving_delivery.BROKEN)} kinds of broken versions declared, under requests",
            "each stopped by its gate, 0 failed",
            serving_delivery.broken,
        ),
        ServingDrill(
            "serving-kill",
            "kill -9 of one Triton under requests, which are sent again once",
            "only those in flight, none in the end",
            serving_kill.kill,
        ),
    )
}


def perform(drill: ServingDrill, rehearsal: Rehearsal, say: Callable[[str], None]) -> Outcome:
    """Do it, and wait for green. Raises EstateError."""
    with serving.stage(rehearsal, say) as stage:
        outcome = drill.perform(stage)
        began = stage.began
    say("waiting for green")
    green = is_green(rehearsal)
    events = [(round(at - began, 1), what) for at, what in outcome.events]
    return replace(outcome, title=drill.title, events=events, green=green)


def show(outcome: Outcome) -> None:
    """The tables: requests, who answered or which gate stopped what, when, and what is wrong."""
    console.table(
        f"{outcome.drill}: requests",
        ("load", "sent", "failed", "failed at first", "p50", "p99", "max", "versions"),
        [
            (
                f"{key}, {RATES[key]:g}/s",
                *(one.sent, one.sent - one.ok, sum(one.first_failed.values())),
                *(f"{value:.1f} ms" for value in (one.latency.p50, one.latency.p99)),
                f"{one.latency.max:.1f} ms",
                ", ".join(f"{version}: {count}" for version, count in one.versions.items()),
            )
            for key, one in outcome.loads.items()
        ],
    )
    rows = serving_delivery.rows(outcome)
    if "cases" in outcome.figures:
        columns: tuple[str, ...] = (
            *("broken version", "what is wrong with it", "number", "gate wanted", "stopped by"),
            *("after s", "met"),
        )
        console.table("Stopped", columns, rows)
    else:
        console.table("By HTTP, second by second", load.TIMELINE, rows)
        figures = [(key, value) for key, value in outcome.figures.items()]
        console.table("", ("figure", "value"), figures)
    console.table("", ("after", "event"), [(f"{at:.1f} s", what) for at, what in outcome.events])
    for one in outcome.loads.values():
        if one.late:
            console.warn(f"the generator was late by {one.lateness.p99:.1f} ms (p99), not Triton")
        for words, count in one.errors.items():
            console.warn(f"{count} x {words}")
    for words in outcome.wrong:
        console.warn(words)
    if not outcome.green:
        console.warn("not green afterwards: see logs/drill-verify.log of the rehearsal")
    console.say(f"{outcome.drill}: {'[green]met[/]' if outcome.met else '[red]missed[/]'}")
