"""`./estate bench engine`: what Pulumi costs beside kubectl, on many objects and simulated nodes.

The same objects are brought up and taken away three times, one after another, on a control plane of
its own: by kubectl, by Pulumi as a rehearsal runs it, by Pulumi as a kept environment does; without
the estate's policies, which these bare objects do not keep (they take 1.5 ms an object). Every
clock runs from the start of the process to the moment a watch sees the last Deployment available,
or the namespace gone.
"""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import yaml

from rehearsal import addons, console, paths, provenance
from rehearsal.errors import EstateError
from rehearsal.kube import Api, ApiError, Object, has_condition
from rehearsal.pulumi import Pulumi
from rehearsal.rehearsal import Rehearsal
from rehearsal.scale.objects import COUNT_VARIABLE, NAMESPACE, nodes, objects
from rehearsal.up import find_tools

NAME = "bench-engine"
STACK = "scale"
WANTED = {"rehearsed up": 1.5, "kept up": 3.0, "rehearsed destroy": 2.0, "kept destroy": 2.0}
"""Ratios to kubectl's clock; of `up` and of a namespace delete."""

_KEPT = {"ESTATE_SIMULATED": "", "ESTATE_REHEARSE": "", "PULUMI_SKIP_CHECKPOINTS": "false"}
_LIMIT_S = 900
_OPEN_S = 20


@dataclass(frozen=True)
class Clock:
    """One way to bring up or take away: seconds by the watch, of the process, and its CPU."""

    seconds: float
    process_s: float
    cpu_s: float
    load_1min: float


def run(count: int, out: Path | None) -> int:
    """Measure with `count` Deployments and ConfigMaps; 0 when every clock could be taken."""
    provenance.writable(out)
    found = find_tools("simulated", offline=False)
    with control_plane(found, count) as rehearsal:
        log = rehearsal.folder / "logs" / "engine.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as progress:
            clocks = _clocks(rehearsal, found["kubectl"], count, progress)
    figures = {name: round(value, 2) for name, value in ratios(clocks).items()}
    _show(count, clocks, figures)
    provenance.write(
        out,
        "bench engine",
        deployments=count,
        config_maps=count,
        pulumi=str(found["pulumi"]),
        clocks={name: asdict(clock) for name, clock in clocks.items()},
        ratios=figures,
        wanted=WANTED,
    )
    return 0


@contextmanager
def control_plane(found: Mapping[str, Path], count: int) -> Iterator[Rehearsal]:
    """A control plane with room for the pods; taken away at the end."""
    rehearsal = Rehearsal(NAME)
    with rehearsal.locked():
        if rehearsal.folder.exists():
            rehearsal.destroy()  # of a killed run
            rehearsal = Rehearsal(NAME)
        try:
            console.step("control plane and simulated nodes")
            rehearsal.prepare("simulated", "the engine's bench: nothing runs", None, STACK)
            rehearsal.link_tools(found)
            rehearsal.start_control_plane(found)
            rehearsal.apply(found, addons.nodes(nodes(count)))
            yield rehearsal
        finally:
            console.step("taking it away")
            rehearsal.destroy()


def program(rehearsal: Rehearsal, count: int, progress: IO[str], *, kept: bool) -> Pulumi:
    """Pulumi on the objects: as `rehearse` runs it, or with checkpoints and awaits (`kept`)."""
    own = {COUNT_VARIABLE: str(count), "PYTHONPATH": str(paths.root())}
    project = Path(__file__).parent / "scale"
    return Pulumi(rehearsal, progress, project=project, variables=own | (_KEPT if kept else {}))


def _clocks(rehearsal: Rehearsal, kubectl: Path, count: int, progress: IO[str]) -> dict[str, Clock]:
    api = Api(rehearsal.kubeconfig)
    manifest = rehearsal.folder / "scale.yaml"
    manifest.write_text(yaml.safe_dump_all(objects(count)))

    def kubectl_run(*arguments: str) -> bool:
        done = subprocess.run(
            [str(kubectl), *arguments],
            env=rehearsal.environment(),
            stdout=progress,
            stderr=progress,
            check=False,
        )
        return done.returncode == 0

    rehearsed = program(rehearsal, count, progress, kept=False)
    kept = program(rehearsal, count, progress, kept=True)
    rehearsed.select()
    ways: dict[str, tuple[Callable[[], bool], Callable[[], bool]]] = {
        "kubectl": (
            lambda: kubectl_run("apply", "--server-side", "-f", str(manifest)),
            lambda: kubectl_run("delete", "namespace", NAMESPACE, "--wait=false"),
        ),
        "rehearsed": (lambda: rehearsed.up(refresh=False), rehearsed.destroy),
        "kept": (lambda: kept.up(refresh=False), kept.destroy),
    }
    clocks = {}
    for name, (up, destroy) in ways.items():
        console.step(f"{name}: up")
        clocks[f"{name} up"] = _clock(
            f"{name} up", up, lambda opened: _all_available(api, count, opened)
        )
        console.step(f"{name}: destroy")
        clocks[f"{name} destroy"] = _clock(
            f"{name} destroy", destroy, lambda opened: _gone(api, opened)
        )
    return clocks


def _clock(name: str, work: Callable[[], bool], watch: Callable[[threading.Event], float]) -> Clock:
    """Run `work` beside `watch`, which says that it sees, and returns when it saw the end."""
    seen: list[float | Exception] = []
    opened = threading.Event()

    def look() -> None:
        try:
            seen.append(watch(opened))
        except Exception as error:
            seen.append(error)

    load = os.getloadavg()[0]
    watcher = threading.Thread(target=look, name="watch", daemon=True)
    watcher.start()
    opened.wait(_OPEN_S)
    cpu, began = _cpu_of_children(), time.monotonic()
    if not work():
        raise EstateError(name, "failed", f"see {paths.state(NAME) / 'logs' / 'engine.log'}")
    ended = time.monotonic()
    spent = _cpu_of_children() - cpu
    watcher.join(_LIMIT_S)
    at = seen[0] if seen else TimeoutError(f"nothing seen within {_LIMIT_S} s")
    if isinstance(at, Exception):
        raise EstateError(name, str(at)[:200], "run it again")
    return Clock(round(at - began, 2), round(ended - began, 2), round(spent, 2), round(load, 2))


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _all_available(api: Api, count: int, opened: threading.Event) -> float:
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
    done: set[str] = set()
    with api.watching(path, _LIMIT_S) as events:
        opened.set()
        for event in events:
            if event["type"] in ("ADDED", "MODIFIED") and _available(event["object"]):
                done.add(event["object"]["metadata"]["name"])
                if len(done) == count:
                    return time.monotonic()
    raise ApiError(0, f"{len(done)} of {count} Deployments available after {_LIMIT_S} s")


def _available(deployment: Object) -> bool:
    status, replicas = deployment.get("status", {}), deployment["spec"]["replicas"]
    return has_condition(deployment, "Available") and status.get("availableReplicas") == replicas


def _gone(api: Api, opened: threading.Event) -> float:
    query = {"fieldSelector": f"metadata.name={NAMESPACE}"}
    with api.watching("/api/v1/namespaces", _LIMIT_S, **query) as events:
        opened.set()
        for event in events:
            if event["type"] == "DELETED":
                return time.monotonic()
    raise ApiError(0, f"namespace {NAMESPACE} is there after {_LIMIT_S} s")


def ratios(clocks: Mapping[str, Clock]) -> dict[str, float]:
    """Each of Pulumi's clocks to kubectl's."""
    return {
        name: clocks[name].seconds / clocks[f"kubectl {name.split()[1]}"].seconds for name in WANTED
    }


def judged(ratio: float, wanted: float) -> str:
    """What a ratio is against the wanted one, in words."""
    return "met" if ratio <= wanted else f"missed by {ratio - wanted:.2f}"


def _show(count: int, clocks: Mapping[str, Clock], figures: Mapping[str, float]) -> None:
    console.table(
        f"{count} Deployments of 2 replicas and {count} ConfigMaps",
        ("what", "seconds", "process", "its CPU", "load"),
        [
            (name, *(f"{value:.1f}" for value in asdict(clock).values()))
            for name, clock in clocks.items()
        ],
    )
    for name, ratio in figures.items():
        wanted = WANTED[name]
        words = f"{name}: x {ratio:.2f} of kubectl's, x {wanted:.1f} wanted: "
        console.say(words + judged(ratio, wanted))
