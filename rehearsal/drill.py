"""`./estate drill`: break something for real, under writes; measure the outage, count the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.markup import escape

from rehearsal import console, provenance, serving_drills
from rehearsal.clients import exclusive
from rehearsal.drills import (
    ceph_osd,
    interruptions,
    kafka_broker,
    mongodb,
    mosquitto,
    pipeline,
    postgres_primary,
    processes,
    restore,
    rotation,
    transfer,
)
from rehearsal.drills.harness import Drill, Result, need_green, perform
from rehearsal.errors import EstateError, UsageError
from rehearsal.rehearsal import Rehearsal

DRILLS: dict[str, Drill] = {
    drill.id: drill
    for drill in (
        kafka_broker.DRILL,
        postgres_primary.PRIMARY,
        postgres_primary.PAUSED,
        mosquitto.DRILL,
        mongodb.DRILL,
        ceph_osd.DRILL,
        processes.API_SERVER,
        processes.KUBELET,
        rotation.CERTIFICATES,
        rotation.AUTHORITY,
        transfer.DRILL,
        pipeline.DRILL,
    )
}


OWN: dict[
    str, tuple[str, Callable[[int, int, Callable[[interruptions.Round], None]], None], int]
] = {
    "interruptions": (
        "`up` killed at random moments; the next one converges",
        interruptions.interruptions,
        20,
    ),
    "rounds": ("up, destroy, up; destroy with the API server dead", interruptions.rounds, 5),
}
"""Drills on a simulated rehearsal that they make: title, function, how many rounds by default."""

IMAGES = "images"
_IMAGES_TITLE = "images; tusd, pipeline and a broker killed; each is accounted for"


def choose(which: Sequence[str]) -> list[Drill]:
    """The drills named, in the order of the list; `all` names every one. Raises UsageError."""
    unknown = [name for name in which if name not in (*DRILLS, "all")]
    if unknown:
        own = (*OWN, IMAGES, restore.NAME, *serving_drills.DRILLS)
        if unknown[0] in own:
            raise UsageError(
                "drill", unknown[0], f"it runs alone, none beside it: ./estate drill {unknown[0]}"
            )
        alone = ", ".join(own)
        choices = f"choose from: {', '.join(DRILLS)}, all; or one of {alone} alone"
        raise UsageError("drill", unknown[0], choices)
    return [drill for drill in DRILLS.values() if drill.id in which or "all" in which]


def run(
    name: str,
    which: list[str],
    out: Path | None,
    count: int | None = None,
    seed: int | None = None,
) -> int:
    """Run drills one after another, or list them; 0 when every target was met."""
    if len(which) == 1 and which[0] in OWN:
        return _run_own(which[0], out, count, 1 if seed is None else seed)
    if which == [IMAGES]:
        return _run_images(name, out, count, seed)
    if which and set(which) <= set(serving_drills.DRILLS):
        _none_taken(count, seed)
        return _run_serving(name, which, out)
    if which == [restore.NAME]:
        _none_taken(count, seed)
        provenance.writable(out)
        console.step(f"drill {restore.NAME}: {restore.TITLE}")
        return restore.run(name, out)
    chosen = choose(which)
    _none_taken(count, seed)
    if not chosen:
        console.table(
            "Drills",
            ("drill", "what it does", "target"),
            [
                (drill.id, drill.title, f"{drill.target_s:.0f} s, 0 lost")
                for drill in DRILLS.values()
            ]
            + [(IMAGES, f"2,000 {_IMAGES_TITLE}", "each once, none lost")]
            + [(restore.NAME, restore.TITLE, "0 differences")]
            + [(one.id, one.title, one.wanted) for one in serving_drills.DRILLS.values()]
            + [(key, title, "converges, nothing left over") for key, (title, _, _) in OWN.items()],
        )
        console.say("run one: ./estate drill NAME, or all of them: ./estate drill all")
        return 0
    rehearsal = _real(name)
    chosen = _present(chosen, rehearsal, named=which)
    provenance.writable(out)
    results: list[Result] = []
    with _green(rehearsal):
        for drill in chosen:
            console.step(f"drill {drill.id}: {drill.title}")
            results.append(perform(drill, rehearsal, lambda text: console.say(f"  {text}")))
            _show(results[-1])
            # After each: what was measured stays when a later one is interrupted.
            provenance.write(out, "drill", drills=[result.json_object() for result in results])
            if not results[-1].green:
                console.warn(f"not green after {drill.id}; the drills after it are left out")
                break
    _summary(results)
    return 0 if len(results) == len(chosen) and all(result.met for result in results) else 1


def _none_taken(count: int | None, seed: int | None) -> None:
    """Refuse options of other drills. Raises UsageError."""
    for option, value in (("--count", count), ("--seed", seed)):
        if value is not None:
            takers = ", ".join((*OWN, IMAGES))
            raise UsageError(option, value, f"leave it out: only the drills {takers} take it")


def _real(name: str) -> Rehearsal:
    """The rehearsal, which runs something. Raises EstateError."""
    rehearsal = Rehearsal(name)
    if rehearsal.required().mode != "node":
        raise EstateError(
            "drill",
            f"rehearsal {name} has simulated nodes only, on which nothing runs",
            "it needs a real node: see ./estate doctor for what this machine lacks",
        )
    return rehearsal


@contextmanager
def _green(rehearsal: Rehearsal) -> Iterator[None]:
    """Nobody else measures on it, and all is well before. Raises EstateError."""
    with exclusive(rehearsal, "drill"):
        need_green(rehearsal)
        yield


def _lacks(drill: str, profile: str, rehearsal: Rehearsal) -> UsageError:
    way_out = f"bring its part: ./estate up --name {rehearsal.name} --profile {profile}"
    return UsageError("drill", drill, way_out)


def _run_images(name: str, out: Path | None, count: int | None, seed: int | None) -> int:
    """The drill of all images; 0 when each is accounted for."""
    from rehearsal.drills import images  # NumPy and Pillow: not for every drill

    number = images.check_count(count)
    rehearsal = _real(name)
    if images.PROFILE not in rehearsal.required().profiles:
        raise _lacks(IMAGES, images.PROFILE, rehearsal)
    provenance.writable(out)
    with _green(rehearsal):
        console.step(f"drill {IMAGES}: {number:,} {_IMAGES_TITLE}")
        result = images.perform(rehearsal, number, seed, lambda text: console.say(f"  {text}"))
        provenance.write(out, f"drill {IMAGES}", **result.json_object())
        images.show(result)
    return 0 if result.met else 1


def _run_serving(name: str, which: Sequence[str], out: Path | None) -> int:
    """Drills of serving, one after another; 0 when all was as it must be in each."""
    rehearsal = _real(name)
    if serving_drills.PROFILE not in rehearsal.required().profiles:
        raise _lacks(which[0], serving_drills.PROFILE, rehearsal)
    provenance.writable(out)
    found: list[serving_drills.Outcome] = []
    with _green(rehearsal):
        for one in (drill for key, drill in serving_drills.DRILLS.items() if key in which):
            console.step(f"drill {one.id}: {one.title}")
            found.append(serving_drills.perform(one, rehearsal, _say))
            serving_drills.show(found[-1])
            provenance.write(out, "drill", drills=[outcome.json_object() for outcome in found])
            if not found[-1].green:
                console.warn(f"not green after {one.id}; the drills after it are left out")
                break
    return 0 if len(found) == len(set(which)) and all(outcome.met for outcome in found) else 1


def _say(text: str) -> None:
    console.say(f"  {escape(text)}")


def _present(drills: Sequence[Drill], rehearsal: Rehearsal, named: Sequence[str]) -> list[Drill]:
    """Those whose profile is there. Raises UsageError for one that was named."""
    found = []
    for drill in drills:
        if drill.profile in rehearsal.required().profiles:
            found.append(drill)
        elif drill.id in named:
            raise _lacks(drill.id, drill.profile, rehearsal)
        else:
            console.say(f"drill {drill.id} is left out: no profile {drill.profile} here")
    return found


def _run_own(which: str, out: Path | None, count: int | None, seed: int) -> int:
    """A drill on a rehearsal that it makes and takes away; 0 when nothing was wrong."""
    title, drill, usual = OWN[which]
    provenance.writable(out)
    if count is not None and not 1 <= count <= 1000:
        raise UsageError("--count", count, "choose a number from 1 to 1000")
    found: list[interruptions.Round] = []

    def done(one: interruptions.Round) -> None:
        found.append(one)
        console.say(
            f"  {one.what}: then {one.up_s:.0f} s; {'; '.join(one.wrong) or 'nothing wrong'}"
        )

    console.step(f"drill {which}: {title}")
    drill(count or usual, seed, done)
    rows = [
        (
            number,
            one.what,
            "" if one.killed_after_s is None else f"{one.killed_after_s:.1f} s",
            f"{one.up_s:.0f} s",
            "; ".join(one.wrong) or "nothing",
        )
        for number, one in enumerate(found, 1)
    ]
    console.table(title, ("round", "what", "killed after", "then took", "wrong"), rows)
    figures = [one.json_object() for one in found]
    provenance.write(out, f"drill {which}", seed=seed, rounds=figures)
    bad = sum(bool(one.wrong) for one in found)
    console.say(f"[{'red' if bad else 'green'}]{len(found) - bad} converged, {bad} not[/]")
    return 1 if bad else 0


def _show(result: Result) -> None:
    console.table(
        f"{result.drill}: {result.broke}",
        ("writer", "acknowledged", "lost", "errors", "longest outage"),
        [
            (one.writer, one.acknowledged, one.lost, one.failed, f"{one.outage_s:.2f} s")
            for one in result.writers
        ],
    )
    console.table("", ("after", "event"), [(f"{at:.2f} s", what) for at, what in result.timeline])
    for one in result.writers:
        if one.lost:
            console.warn(f"{one.writer} lost: {', '.join(map(str, one.lost_items[:20]))}")
        if one.failed:
            console.warn(f"{one.writer} failed: {one.errors}")


def _summary(results: Sequence[Result]) -> None:
    console.table(
        "Drills",
        (
            "drill",
            "acknowledged",
            "lost",
            "outage",
            "target",
            "whole again",
            "repair",
            "load",
            "met",
        ),
        [
            (
                result.drill,
                result.acknowledged,
                result.lost,
                f"{result.outage_s:.2f} s",
                f"{result.target_s:.0f} s",
                "never" if result.recovery_s is None else f"{result.recovery_s:.1f} s",
                result.repair,
                result.load_1min,
                "yes" if result.met else "no",
            )
            for result in results
        ],
    )
