"""Whether the estate's workloads have all their pods, as the Kubernetes API says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rehearsal.kube import Api, Object, has_condition, ready

_KINDS = (
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
    ("batch/v1", "Job"),
)


@dataclass(frozen=True)
class Workload:
    """What makes pods of the estate (one of `_KINDS`), and how many of them it has."""

    kind: str
    namespace: str
    name: str
    complete: bool
    detail: str


def namespaces(api: Api) -> set[str]:
    """The estate's namespaces."""
    spaces = api.items("v1", "Namespace", labelSelector="app.kubernetes.io/part-of=estate")
    return {space["metadata"]["name"] for space in spaces}


def workloads(api: Api) -> list[Workload]:
    """The estate's workloads. Raises ApiError."""
    spaces = namespaces(api)
    found = []
    for api_version, kind in _KINDS:
        for body in api.items(api_version, kind):
            metadata = body["metadata"]
            if metadata["namespace"] in spaces:
                complete, detail = _complete(kind, body)
                found.append(
                    Workload(kind, metadata["namespace"], metadata["name"], complete, detail)
                )
    return found


def _complete(kind: str, body: Mapping[str, Any]) -> tuple[bool, str]:
    status = body.get("status", {})
    if kind == "Job":
        pods = int(status.get("ready", 0)) + int(status.get("succeeded", 0))
        return pods > 0 or has_condition(body, "Complete"), f"{pods} pods"
    if kind == "DaemonSet":
        wanted, have = (
            int(status.get(key, 0)) for key in ("desiredNumberScheduled", "numberReady")
        )
        return 0 < wanted == have, f"{have} of {wanted} pods ready"
    wanted, have = int(body["spec"].get("replicas", 1)), int(status.get("readyReplicas", 0))
    return have == wanted, f"{have} of {wanted} pods ready"


def unready(api: Api) -> tuple[int, list[str]]:
    """The number of the estate's pods, and what lacks: pods with a reason, workloads with a count.

    Pods that ended well need not be ready. Raises ApiError.
    """
    spaces = namespaces(api)
    pods = [pod for pod in api.items("v1", "Pod") if pod["metadata"]["namespace"] in spaces]
    running = [pod for pod in pods if pod.get("status", {}).get("phase") != "Succeeded"]
    lacking = [f"{_where(pod)}: {_reason(pod)}" for pod in running if not ready(pod)]
    lacking += [
        f"{one.namespace}/{one.name}: {one.detail}" for one in workloads(api) if not one.complete
    ]
    return len(running), lacking


def reasons(api: Api, kind: str, namespace: str, name: str) -> str:
    """Why pods of a workload lack, in the words of the scheduler or of admission; "" if neither.

    Raises ApiError.
    """
    told = []
    for pod in api.items("v1", "Pod"):
        metadata = pod["metadata"]
        owners = [_workload(owner) for owner in metadata.get("ownerReferences", [])]
        if metadata["namespace"] == namespace and (kind, name) in owners:
            told += [
                str(condition["message"])
                for condition in pod.get("status", {}).get("conditions", [])
                if condition["type"] == "PodScheduled" and condition["status"] == "False"
            ]
    for event in api.items("v1", "Event", fieldSelector="type=Warning,reason=FailedCreate"):
        about = event["involvedObject"]
        if about["namespace"] == namespace and _workload(about) == (kind, name):
            told.append(str(event["message"]))
    return told[-1] if told else ""


def _workload(owner: Object) -> tuple[str, str]:
    """Kind and name of what declares the pods of an owner: a Deployment has ReplicaSets between."""
    if owner["kind"] == "ReplicaSet":
        return "Deployment", owner["name"].rpartition("-")[0]
    return owner["kind"], owner["name"]


def _where(body: Object) -> str:
    return f"{body['metadata']['namespace']}/{body['metadata']['name']}"


def _reason(pod: Object) -> str:
    """Why a pod is not ready, in Kubernetes' own words."""
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    return next(_reasons(pod.get("status", {})), "not Ready")


def _reasons(status: Mapping[str, Any]) -> Iterator[str]:
    for container in [
        *status.get("initContainerStatuses", []),
        *status.get("containerStatuses", []),
    ]:
        for state in ("waiting", "terminated"):
            told = container.get("state", {}).get(state) or {}
            if told.get("reason", "Completed") != "Completed":
                yield str(told["reason"])
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            yield str(condition.get("reason", "not scheduled"))
