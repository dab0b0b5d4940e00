"""What can be shown where every node is simulated: the scheduler, the claims, the admission."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rehearsal.inside import Check, Row
from rehearsal.kube import Api
from rehearsal.rehearsal import Rehearsal

_WORKLOADS = (("apps/v1", "Deployment"), ("apps/v1", "StatefulSet"), ("batch/v1", "Job"))


def rows(
    rehearsal: Rehearsal, api: Api, checks: Sequence[Check], settle_s: float = 0.0
) -> list[Row]:
    """Rows for nodes, workloads and claims of the estate, and the checks that were not run."""
    deadline = time.monotonic() + settle_s
    while True:
        found = [*_nodes(api), *_workloads(api), *_claims(api)]
        if time.monotonic() >= deadline or all(row.state == "passed" for row in found):
            break
        time.sleep(1)
    why = f"no container runs here: {rehearsal.required().reason}"
    return found + [Row(check["id"], check["title"], "skipped", why) for check in checks]


def _estates(api: Api) -> set[str]:
    """The estate's namespaces."""
    spaces = api.items("v1", "Namespace", labelSelector="app.kubernetes.io/part-of=estate")
    return {space["metadata"]["name"] for space in spaces}


def _timed(id_: str, title: str, ask: Callable[[], tuple[bool, str]]) -> Row:
    began = time.monotonic()
    ok, detail = ask()
    ms = round((time.monotonic() - began) * 1000)
    return Row(id_, title, "passed" if ok else "failed", detail, ms)


def _nodes(api: Api) -> list[Row]:
    def ask() -> tuple[bool, str]:
        nodes = api.items("v1", "Node")
        bad = [node["metadata"]["name"] for node in nodes if not _condition(node, "Ready")]
        words = f"not Ready: {', '.join(bad)}" if bad else f"{len(nodes)} nodes"
        return bool(nodes) and not bad, words

    return [_timed("simulated.nodes", "every simulated node is Ready", ask)]


def _condition(body: Mapping[str, Any], kind: str) -> bool:
    conditions = body.get("status", {}).get("conditions", [])
    return any(entry["type"] == kind and entry["status"] == "True" for entry in conditions)


def _workloads(api: Api) -> list[Row]:
    found = []
    spaces = _estates(api)
    for api_version, kind in _WORKLOADS:
        for body in api.items(api_version, kind):
            metadata = body["metadata"]
            if metadata["namespace"] not in spaces:
                continue
            name = f"{metadata['namespace']}/{metadata['name']}"
            ok, detail = _complete(kind, body)
            title = f"{kind} {name} is scheduled and runs"
            state = "passed" if ok else "failed"
            found.append(Row(f"simulated.{kind.lower()}", title, state, detail))  # type: ignore[arg-type]
    return found


def _complete(kind: str, body: Mapping[str, Any]) -> tuple[bool, str]:
    status = body.get("status", {})
    if kind == "Job":
        pods = int(status.get("ready", 0)) + int(status.get("succeeded", 0))
        return pods > 0 or _condition(body, "Complete"), f"{pods} pods"
    wanted, ready = int(body["spec"].get("replicas", 1)), int(status.get("readyReplicas", 0))
    return ready == wanted, f"{ready} of {wanted} pods ready"


def _claims(api: Api) -> list[Row]:
    spaces = _estates(api)

    def ask() -> tuple[bool, str]:
        claims = [
            claim
            for claim in api.items("v1", "PersistentVolumeClaim")
            if claim["metadata"]["namespace"] in spaces
        ]
        bad = [
            f"{claim['metadata']['namespace']}/{claim['metadata']['name']}"
            for claim in claims
            if claim.get("status", {}).get("phase") != "Bound"
        ]
        return not bad, f"not bound: {', '.join(bad)}" if bad else f"{len(claims)} claims bound"

    return [_timed("simulated.claims", "every claim is bound", ask)]
