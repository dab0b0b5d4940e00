"""kill -9 of one broker's Java process while every partition is written with acks=all."""

from __future__ import annotations

import time
from collections.abc import Callable

from rehearsal.drills.harness import Drill, Scene, pod_process

_POD = ("datalake", "kafka-1")


def kill(scene: Scene) -> tuple[str, Callable[[], bool]]:
    """Kill -9 of one broker; what was killed, and whether its pod is back."""
    pod = scene.pod(*_POD)
    broker = pod_process(
        scene.rehearsal, pod, "java", lambda process: "kafka.Kafka" in process.cmdline()
    )
    broker.kill()
    text = f"broker {_POD[1]}: kill -9 of its java, process {broker.pid}"
    return text, lambda: scene.pod_ready_again(*_POD, pod)


def _strike(scene: Scene) -> tuple[str, Callable[[], bool]]:
    text, back = kill(scene)

    def whole() -> bool:
        seen = [
            text
            for at, text in scene.notes
            if at > scene.broken_at and text.startswith("kafka: in-sync replicas")
        ]
        # A broker that was back before it left any in-sync set leaves no note.
        in_sync = seen[-1].endswith(": 3") if seen else time.monotonic() > scene.broken_at + 15
        return in_sync and back()

    return text, whole


DRILL = Drill(
    id="kafka-broker",
    title="kill -9 of a Kafka broker under acks=all; worst partition's gap",
    writers=("kafka",),
    # A broker's session (6 s, kafka_files.py), the election, the client's new metadata: 6.5 s were
    # seen on an idle machine, 12.1 s on one with a load of 25 on 2 cores.
    target_s=15.0,
    strike=_strike,
)
