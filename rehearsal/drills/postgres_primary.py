"""The PostgreSQL primary lost under writes through Pgpool: deleted by force, or paused."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import psutil

from rehearsal.drills.harness import Drill, Event, Scene, log_times, pod_processes
from rehearsal.errors import EstateError
from rehearsal.kube import Object

_NAMESPACE, _CLUSTER = "datalake", "postgres"
_OPERATOR_WORDS = ("failover", "Failover", "isn't healthy", "switchover", "target primary")
_PAUSE_S = 45.0
"""Longer than a kubelet waits for a primary that hangs, and than the operator does."""
_INSTANCE_WORDS = (
    "romote",  # promote, Promote, promoted
    "new timeline",
    "archive recovery complete",
    "ready to accept connections",
    "terminating walreceiver",
    "could not receive data from WAL stream",
)


def _cluster(scene: Scene) -> Object:
    path = scene.api.path("postgresql.cnpg.io/v1", "Cluster", _NAMESPACE, _CLUSTER)
    found = scene.api.get(path)
    if found is None:
        raise EstateError(f"Cluster {_NAMESPACE}/{_CLUSTER}", "is not there", "run: ./estate up")
    status: Object = found.get("status", {})
    return status


def _healthy(status: Object) -> bool:
    return bool(status.get("currentPrimary")) and (
        status.get("readyInstances") == status.get("instances")
    )


def _primary(scene: Scene) -> Object:
    """The primary's pod, when all is well. Raises EstateError."""
    before = _cluster(scene)
    if not _healthy(before):
        raise EstateError(
            f"Cluster {_NAMESPACE}/{_CLUSTER}",
            f"{before.get('readyInstances', 0)} of {before.get('instances')} instances are ready",
            "wait until ./estate verify is green",
        )
    return scene.pod(_NAMESPACE, str(before["currentPrimary"]))


def _whole(scene: Scene, pod: Object) -> bool:
    """Whether the pod that was the primary runs anew, and the cluster has all its instances."""
    name = str(pod["metadata"]["name"])
    return scene.pod_ready_again(_NAMESPACE, name, pod) and _healthy(_cluster(scene))


def _delete(scene: Scene) -> tuple[str, Callable[[], bool]]:
    pod = _primary(scene)
    name = str(pod["metadata"]["name"])
    scene.delete_by_force(_NAMESPACE, name)
    return f"primary {name}: pod deleted by force", lambda: _whole(scene, pod)


def _pause(scene: Scene) -> tuple[str, Callable[[], bool]]:
    pod = _primary(scene)
    paused = pod_processes(scene.rehearsal, pod)
    for process in paused:
        with contextlib.suppress(psutil.NoSuchProcess):  # a probe's, which has ended
            process.suspend()
    over = time.monotonic() + _PAUSE_S

    def whole() -> bool:
        if time.monotonic() < over:
            return False
        for process in paused:
            # psutil compares start times: whoever took the id of one that ended is left alone.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        return _whole(scene, pod)

    name = pod["metadata"]["name"]
    return f"primary {name}: {len(paused)} processes paused for {_PAUSE_S:.0f} s", whole


def _observe(scene: Scene) -> Callable[[], dict[str, str]]:
    """Where each step of a failover shows: processes, status, lease, endpoint."""
    api, primary = scene.api, str(_cluster(scene).get("currentPrimary"))
    processes = pod_processes(scene.rehearsal, scene.pod(_NAMESPACE, primary))
    lease_path = api.path("coordination.k8s.io/v1", "Lease", _NAMESPACE, _CLUSTER)
    slices_path = api.path("discovery.k8s.io/v1", "EndpointSlice", _NAMESPACE)

    def observe() -> dict[str, str]:
        now = _cluster(scene)
        lease = api.get(lease_path) or {}
        slices = api.request(
            "GET",
            slices_path,
            query={"labelSelector": f"kubernetes.io/service-name={_CLUSTER}-rw"},
        )
        ready = sorted(
            endpoint.get("targetRef", {}).get("name", "?")
            for item in slices["items"]
            for endpoint in item.get("endpoints") or []
            if endpoint.get("conditions", {}).get("ready")
        )
        alive = any(process.is_running() for process in processes)
        return {
            "old primary's processes": "run" if alive else "ended",
            "operator's target": str(now.get("targetPrimary")),
            "promoted": str(now.get("currentPrimary")),
            "phase": str(now.get("phase")),
            "ready instances": str(now.get("readyInstances", 0)),
            "lease holder": str(lease.get("spec", {}).get("holderIdentity")),
            "write endpoint": ", ".join(ready) or "none",
        }

    return observe


def _explain(scene: Scene) -> list[Event]:
    """What the operator and the new primary logged about it."""
    since = f"--since={int(time.monotonic() - scene.broken_at) + 2}s"
    offset = time.monotonic() - time.time()
    primary = str(_cluster(scene).get("currentPrimary"))
    instance = scene.kubectl("logs", "-n", _NAMESPACE, primary, "-c", "postgres", since)
    operator = ""
    for pod in scene.api.items("v1", "Pod", labelSelector="app.kubernetes.io/name=cloudnative-pg"):
        operator += scene.kubectl(
            "logs", "-n", pod["metadata"]["namespace"], pod["metadata"]["name"], since
        )
    return [
        *((at, f"operator: {text}") for at, text in log_times(operator, _OPERATOR_WORDS, offset)),
        *((at, f"{primary}: {text}") for at, text in log_times(instance, _INSTANCE_WORDS, offset)),
    ]


PAUSED = Drill(
    id="postgres-paused",
    title="the PostgreSQL primary's processes paused until given up, under writes through Pgpool",
    writers=("postgres",),
    target_s=50.0,
    strike=_pause,
    observe=_observe,
    explain=_explain,
)

PRIMARY = Drill(
    id="postgres-primary",
    title="the PostgreSQL primary's pod deleted by force, under writes through Pgpool",
    writers=("postgres",),
    target_s=10.0,
    strike=_delete,
    observe=_observe,
    explain=_explain,
)
