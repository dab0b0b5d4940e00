"""kill -9 of tusd and of the service beside it, in both replicas, while images come in."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from components.datalake.transfer_config import NAMESPACE
from rehearsal.drills.harness import Drill, Scene, pod_processes
from rehearsal.errors import EstateError

_BETWEEN_S = 4.0
_PODS = ("transfer-0", "transfer-1")


def _is_tusd(process: psutil.Process) -> bool:
    return process.name() == "tusd"


def _is_service(process: psutil.Process) -> bool:
    return "services.transfer" in process.cmdline()


_BLOWS: tuple[tuple[str, str, Callable[[psutil.Process], bool]], ...] = (
    ("transfer-0", "tusd", _is_tusd),
    ("transfer-1", "service", _is_service),
    ("transfer-1", "tusd", _is_tusd),
    ("transfer-0", "service", _is_service),
)


def _strike(scene: Scene) -> tuple[str, Callable[[], bool]]:
    before = {name: scene.pod(NAMESPACE, name) for name in _PODS}
    killed = []
    for number, (pod, what, chosen) in enumerate(_BLOWS):
        if number:
            time.sleep(_BETWEEN_S)
        found = [one for one in pod_processes(scene.rehearsal, before[pod]) if chosen(one)]
        if len(found) != 1:
            raise EstateError(f"pod {pod}", f"{len(found)} {what} found", "run: ./estate status")
        found[0].kill()
        killed.append(f"{what} of {pod}")
        scene.notes.append((time.monotonic(), f"kill -9: {killed[-1]}"))

    def whole() -> bool:
        return all(scene.pod_ready_again(NAMESPACE, pod, before[pod]) for pod in _PODS)

    return f"kill -9 of {', '.join(killed)}", whole


DRILL = Drill(
    id="transfer",
    title="kill -9 of tusd and its service while images come in, 200 MB cut three times among them",
    writers=("images", "large-images"),
    # Of the large ones: one upload of 200 MB and its way to Kafka, cut and killed meanwhile.
    target_s=90.0,
    strike=_strike,
)
