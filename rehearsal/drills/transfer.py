"""kill -9 of tusd and of the service beside it, in both replicas, while images come in."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from components.datalake.transfer_config import NAMESPACE
from rehearsal.drills.harness import Drill, Scene, pod_process

_BETWEEN_S = 4.0
_PODS = ("transfer-0", "transfer-1")


def _is_tusd(process: psutil.Process) -> bool:
    return process.name() == "tusd"


def _is_service(process: psutil.Process) -> bool:
    return "services.transfer" in process.cmdline()


_CHOSEN: dict[str, Callable[[psutil.Process], bool]] = {"tusd": _is_tusd, "service": _is_service}
_BLOWS = (
    ("transfer-0", "tusd"),
    ("transfer-1", "service"),
    ("transfer-1", "tusd"),
    ("transfer-0", "service"),
)


def kill(scene: Scene, name: str, what: str) -> tuple[str, Callable[[], bool]]:
    """Kill -9 of `tusd` or `service` in a pod; what was killed, and whether the pod is back."""
    pod = scene.pod(NAMESPACE, name)
    pod_process(scene.rehearsal, pod, what, _CHOSEN[what]).kill()
    scene.notes.append((time.monotonic(), f"kill -9: {what} of {name}"))
    return f"{what} of {name}", lambda: scene.pod_ready_again(NAMESPACE, name, pod)


def _strike(scene: Scene) -> tuple[str, Callable[[], bool]]:
    before = {name: scene.pod(NAMESPACE, name) for name in _PODS}
    killed = []
    for number, (pod, what) in enumerate(_BLOWS):
        if number:
            time.sleep(_BETWEEN_S)
        killed.append(kill(scene, pod, what)[0])

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
