"""kill -9 of one OSD while objects are put: a copy is missing, and only health may show it."""

from __future__ import annotations

from collections.abc import Callable

from rehearsal.drills.harness import Drill, Scene, pod_process
from rehearsal.health import CEPH

_POD = ("datalake", "ceph-osd-1")


def health(scene: Scene) -> str:
    """What Ceph says of itself, asked in the manager's pod: `HEALTH_WARN 1 osds down; ...`."""
    return scene.kubectl(*CEPH).strip()


def _strike(scene: Scene) -> tuple[str, Callable[[], bool]]:
    pod = scene.pod(*_POD)
    osd = pod_process(scene.rehearsal, pod, "ceph-osd", lambda one: one.name() == "ceph-osd")
    osd.kill()
    named = False

    def whole() -> bool:
        """Health has to name the OSD first, else nobody would have known."""
        nonlocal named
        now = health(scene)
        named = named or "osds down" in now or "osd down" in now
        return named and now == "HEALTH_OK" and scene.pod_ready_again(*_POD, pod)

    return f"{_POD[1]}: kill -9 of its ceph-osd, process {osd.pid}", whole


def _observe(scene: Scene) -> Callable[[], dict[str, str]]:
    return lambda: {"health": health(scene) or "no answer"}


DRILL = Drill(
    id="ceph-osd",
    title="kill -9 of an OSD while objects are put; no client may see an error",
    writers=("s3",),
    # Writes wait until the monitors, told by the other OSDs, have marked it down.
    target_s=20.0,
    strike=_strike,
    observe=_observe,
    clients_may_fail=False,
    profile="lake",
)
