"""The proof of the `host.*` rows: pods that break one rule each, and that no other row names.

They run in a namespace of their own without Pod Security, which in the estate's own namespaces
would not let them in.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from configs import versions
from rehearsal import inside, journal, kube
from rehearsal.errors import EstateError
from rehearsal.inside import Row
from rehearsal.kube import Api, ApiError, Object
from rehearsal.prove import GREEN_S, RED_S, Proof, journal_file
from rehearsal.rehearsal import Rehearsal

NAMESPACE = "estate-proof"
_USER = 65534
_BROKEN = {
    "host.non-root": "as-root",
    "host.secret-files": "open-file",
    "host.sockets": "open-port",
}
"""Row -> the pod that must turn it red."""


def of_hosts(rehearsal: Rehearsal, api: Api, wanted: Sequence[str]) -> list[Proof]:
    """Break what each wanted row looks at; each must be red and name its own pod only."""
    if not wanted:
        return []
    try:
        return _of_hosts(rehearsal, api, wanted)
    except (ApiError, EstateError) as error:
        return [Proof(row, None, None, " ".join(str(error).split())[:240]) for row in wanted]


def _of_hosts(rehearsal: Rehearsal, api: Api, wanted: Sequence[str]) -> list[Proof]:
    image = versions.rehearsal(rehearsal.folder / "images.json")["busybox"].ref
    space, *others = _objects(image)
    _wait(api, 0)  # for what an interrupted proof left, which may be going still
    before = _ask(rehearsal, wanted)
    notes = journal.Journal(journal_file(rehearsal))
    broken = time.monotonic()
    notes.add(NAMESPACE, journal.making(space))
    try:
        for body in (space, *others):
            api.request("POST", api.path_of(body).rpartition("/")[0], body)
        _wait(api, len(_BROKEN))
        red = _ask(rehearsal, wanted)
        red_s = time.monotonic() - broken
    finally:
        ended = time.monotonic()
        journal.restore(api, journal.making(space))
        notes.drop(NAMESPACE)
    _wait(api, 0)
    green = _ask(rehearsal, wanted)
    green_s = time.monotonic() - ended
    return [_proof(row, before[row], red[row], green[row], red_s, green_s) for row in wanted]


def _proof(id_: str, before: Row, red: Row, green: Row, red_s: float, green_s: float) -> Proof:
    if before.state != "passed":
        return Proof(id_, None, None, f"red before anything was broken: {before.detail}")
    named = [pod for pod in _BROKEN.values() if f"{NAMESPACE}/{pod}" in red.detail]
    if red.state != "failed" or named != [_BROKEN[id_]]:
        return Proof(id_, None, green_s, f"cannot fail: {red.state}, {red.detail}"[:240])
    if green.state != "passed":
        return Proof(id_, red_s, None, f"not green again: {green.detail}"[:240])
    return Proof(id_, red_s, green_s, red.detail)


def _ask(rehearsal: Rehearsal, wanted: Sequence[str]) -> dict[str, Row]:
    found = {row.id: row for row in inside.run_tests(rehearsal, [], wanted, 0.0)}
    return {row: found.get(row, Row(row, "", "failed", "its test did not run")) for row in wanted}


def _wait(api: Api, pods: int) -> None:
    """Until the proof's pods are ready, or with none of them the namespace is gone."""
    deadline = time.monotonic() + (RED_S if pods else GREEN_S)
    space = api.path("v1", "Namespace", None, NAMESPACE)
    while time.monotonic() < deadline:
        if pods:
            found = api.request("GET", api.path("v1", "Pod", NAMESPACE))["items"]
            if sum(kube.ready(pod) for pod in found) == pods:
                return
        elif api.get(space) is None:
            return
        time.sleep(0.3)
    what = "its pods do not start" if pods else "it does not go away"
    raise EstateError(f"namespace {NAMESPACE}", what, f"kubectl get events -n {NAMESPACE}")


def _objects(image: str) -> list[Object]:
    """The namespace first. Each pod is as the estate's are, but for one thing."""
    labels = {"app.kubernetes.io/part-of": "estate"}
    meta = {"namespace": NAMESPACE}
    secret = [{"name": "secret", "secret": {"secretName": "proof", "defaultMode": 0o666}}]
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": labels},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "proof", **meta},
            "stringData": {"proof": "no secret"},
        },
        _pod("as-root", image, user=0),
        _pod("open-file", image, volumes=secret),
        _pod("open-port", image, command=["busybox", "nc", "-ll", "-p", "9999", "-e", "true"]),
    ]


def _pod(
    name: str,
    image: str,
    *,
    user: int = _USER,
    command: Sequence[str] = ("busybox", "sleep", "3600"),
    volumes: Sequence[dict[str, Any]] = (),
) -> Object:
    mounts = [{"name": volume["name"], "mountPath": f"/{volume['name']}"} for volume in volumes]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsUser": user, "runAsGroup": _USER},
            "volumes": list(volumes),
            "containers": [
                {"name": "proof", "image": image, "command": list(command), "volumeMounts": mounts}
            ],
        },
    }
