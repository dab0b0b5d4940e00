"""kill -9 of the API server, and of the kubelet: what runs must go on, `up` repairs."""

from __future__ import annotations

from collections.abc import Callable

from rehearsal.drills.harness import Drill, Scene, sandbox_process

# Nothing of the data's path asks either of them; what a write waits here is the load of `up`.
_TARGET_S = 2.0
_WRITERS = ("mqtt", "kafka", "postgres")


def _kill(name: str) -> Callable[[Scene], tuple[str, None]]:
    def strike(scene: Scene) -> tuple[str, None]:
        process = sandbox_process(scene.rehearsal, name)
        process.kill()
        return f"{name}: kill -9 of process {process.pid}", None

    return strike


API_SERVER = Drill(
    id="api-server",
    title="kill -9 of the Kubernetes API server; messages and rows go on, `up` repairs",
    writers=_WRITERS,
    target_s=_TARGET_S,
    strike=_kill("kube-apiserver"),
)

KUBELET = Drill(
    id="kubelet",
    title="kill -9 of the kubelet; messages and rows go on, `up` repairs",
    writers=_WRITERS,
    target_s=_TARGET_S,
    strike=_kill("kubelet"),
)
