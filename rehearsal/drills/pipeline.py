"""kill -9 of the pipeline in the middle of a run, while images go on arriving."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil

from rehearsal import paths
from rehearsal.drills.harness import Drill, Scene, pod_processes
from rehearsal.errors import EstateError

IMAGES = 500
SAMPLES = "drill-samples"
_NAMESPACE, _SELECTOR = "datalake", "app.kubernetes.io/name=pipeline"
_RUN_S = 120.0
"""How long it may take until a run is under way: the sensor looks every 10 s."""


def folder() -> Path:
    """Where the images of a drill are."""
    return paths.cache() / "pipeline" / SAMPLES


def _prepare() -> None:
    """New images for every drill: the old ones would all be duplicates."""
    from rehearsal import samples  # NumPy and Pillow: not for every drill

    paths.ensure(paths.cache() / "pipeline", "cache")
    for left in folder().glob("*"):
        left.unlink()
    samples.write(folder(), IMAGES, seed=int(time.time()), large=False)


def _server(scene: Scene) -> tuple[str, psutil.Process, list[psutil.Process]]:
    """The pod, the process that serves the code, and those of the runs under way."""
    path = scene.api.path("v1", "Pod", _NAMESPACE)
    pods = scene.api.request("GET", path, query={"labelSelector": _SELECTOR})["items"]
    for pod in pods:
        for process in pod_processes(scene.rehearsal, pod):
            try:
                words = process.cmdline()
            except psutil.Error:
                continue
            if "grpc" in words and "api" in words:
                children = process.children(recursive=True)
                runs = [one for one in children if any("spawn_main" in w for w in one.cmdline())]
                return str(pod["metadata"]["name"]), process, runs
    raise EstateError("pipeline", "its process is not found", "run: ./estate up --profile lake")


def kill_in_run(scene: Scene) -> tuple[str, Callable[[], bool]]:
    """Kill -9 of the code's server and its runs, some seconds into the next run."""
    deadline = time.monotonic() + _RUN_S
    while True:
        name, server, runs = _server(scene)
        if runs:
            break
        if time.monotonic() > deadline:
            text = f"no run began in {_RUN_S:.0f} s"
            raise EstateError("pipeline", text, "see the pages of Dagster: ./estate status")
        time.sleep(0.2)
    time.sleep(4)  # into the run: it imports Dagster first
    pod = scene.pod(_NAMESPACE, name)
    scene.broken_at = time.monotonic()
    for process in (server, *runs):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return (
        f"{name}: kill -9 of the code's server, process {server.pid}, and {len(runs)} of a run",
        lambda: scene.pod_ready_again(_NAMESPACE, name, pod),
    )


DRILL = Drill(
    id="pipeline",
    title=f"kill -9 of the pipeline in a run of {IMAGES} images; none lost, none twice",
    writers=("pipeline",),
    # Senders have to do with Kafka and S3 only: they must notice nothing.
    target_s=5.0,
    strike=kill_in_run,
    clients_may_fail=False,
    profile="lake",
    prepare=_prepare,
)
