"""kill -9 of the FerretDB replica that serves, under a client that writes documents."""

from __future__ import annotations

from collections.abc import Callable

import psutil

from components.datalake.mongodb_config import PORT
from rehearsal.drills.harness import Drill, Scene, pod_processes
from rehearsal.errors import EstateError

_NAMESPACE, _SELECTOR = "datalake", "app.kubernetes.io/name=mongodb"


def _sessions(process: psutil.Process) -> int:
    """Clients' connections to this process."""
    return sum(
        one.laddr.port == PORT and one.status == psutil.CONN_ESTABLISHED
        for one in process.net_connections("tcp")
    )


def _strike(scene: Scene) -> tuple[str, Callable[[], bool]]:
    path = scene.api.path("v1", "Pod", _NAMESPACE)
    pods = scene.api.request("GET", path, query={"labelSelector": _SELECTOR})["items"]
    serving = [
        (_sessions(process), pod, process)
        for pod in pods
        for process in pod_processes(scene.rehearsal, pod)
        if process.name() == "ferretdb"
    ]
    if not serving:
        raise EstateError("FerretDB", "no process found", "run: ./estate up --profile lake")
    # The Service keeps the connections of a client together: the others would not be missed.
    sessions, pod, process = max(serving, key=lambda one: one[0])
    process.kill()
    name = pod["metadata"]["name"]
    return (
        f"{name}, which had {sessions} connections: kill -9 of process {process.pid}",
        lambda: scene.pod_ready_again(_NAMESPACE, name, pod),
    )


DRILL = Drill(
    id="mongodb",
    title="kill -9 of the FerretDB replica that serves; its clients go to the other",
    writers=("mongodb",),
    # Until the endpoint is gone and the client's next heartbeat, or the container is back.
    target_s=10.0,
    strike=_strike,
    profile="lake",
)
