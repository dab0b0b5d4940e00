"""Mosquitto's pod deleted by force under QoS 1, with a subscriber whose session is kept."""

from __future__ import annotations

from collections.abc import Callable

from rehearsal.drills.harness import Drill, Scene

_POD = ("realtime", "mosquitto-0")


def _strike(scene: Scene) -> tuple[str, Callable[[], bool]]:
    before = scene.pod(*_POD)
    scene.delete_by_force(*_POD)
    return (
        f"{_POD[1]}: pod deleted by force",
        lambda: scene.pod_ready_again(*_POD, before),
    )


DRILL = Drill(
    id="mosquitto",
    title="Mosquitto's pod deleted by force under QoS 1; what was accepted is delivered",
    writers=("mqtt",),
    # One replica: its outage is a pod's start, and the clients' second between attempts.
    target_s=15.0,
    strike=_strike,
)
