"""kill -9 of the FerretDB replica that serves, under a client that writes documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from components.datalake.mongodb_config import PORT
from rehearsal.drills.harness import Drill, Scene, pod_processes
from rehearsal.errors import EstateError

_ESTABLISHED = "01"
_NAMESPACE, _SELECTOR = "datalake", "app.kubernetes.io/name=mongodb"


def sessions(tables: Iterable[str]) -> int:
    """Connections of clients in /proc/net/tcp and tcp6, whose addresses and states are in hex."""
    rows = (line.split() for table in tables for line in table.splitlines()[1:])
    ours = f":{PORT:04X}"
    return sum(row[1].endswith(ours) and row[3] == _ESTABLISHED for row in rows)


def _of_pod(process: psutil.Process) -> int:
    # The process's own network namespace, which is its pod's.
    folder = Path(f"/proc/{process.pid}/net")
    return sessions((folder / table).read_text() for table in ("tcp", "tcp6"))


def _strike(scene: Scene) -> tuple[str, Callable[[], bool]]:
    path = scene.api.path("v1", "Pod", _NAMESPACE)
    pods = scene.api.request("GET", path, query={"labelSelector": _SELECTOR})["items"]
    serving = [
        (_of_pod(process), pod, process)
        for pod in pods
        for process in pod_processes(scene.rehearsal, pod)
        if process.name() == "ferretdb"
    ]
    if not serving:
        raise EstateError("FerretDB", "no process found", "run: ./estate up --profile lake")
    # The Service keeps the connections of a client together: the others would not be missed.
    count, pod, process = max(serving, key=lambda one: one[0])
    process.kill()
    name = pod["metadata"]["name"]
    return (
        f"{name}, which had {count} connections: kill -9 of process {process.pid}",
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
