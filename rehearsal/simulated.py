"""What can be shown where every node is simulated: the scheduler, the claims, the admission."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rehearsal import workloads
from rehearsal.inside import Check, Row
from rehearsal.kube import Api, has_condition
from rehearsal.rehearsal import Rehearsal


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
    # `up`, `status` and `doctor` give the whole reason; a row has room for its beginning.
    why = f"no container runs here: {rehearsal.required().reason.partition(';')[0]}"
    return found + [Row(check["id"], check["title"], "skipped", why) for check in checks]


def _timed(id_: str, title: str, ask: Callable[[], tuple[bool, str]]) -> Row:
    began = time.monotonic()
    ok, detail = ask()
    ms = round((time.monotonic() - began) * 1000)
    return Row(id_, title, "passed" if ok else "failed", detail, ms)


def _nodes(api: Api) -> list[Row]:
    def ask() -> tuple[bool, str]:
        nodes = api.items("v1", "Node")
        bad = [node["metadata"]["name"] for node in nodes if not has_condition(node, "Ready")]
        words = f"not Ready: {', '.join(bad)}" if bad else f"{len(nodes)} nodes"
        return bool(nodes) and not bad, words

    return [_timed("simulated.nodes", "every simulated node is Ready", ask)]


def _workloads(api: Api) -> list[Row]:
    return [
        Row(
            f"simulated.{one.kind.lower()}",
            f"{one.kind} {one.namespace}/{one.name} is scheduled and runs",
            "passed" if one.complete else "failed",
            one.detail,
        )
        for one in workloads.workloads(api)
    ]


def _claims(api: Api) -> list[Row]:
    spaces = workloads.namespaces(api)

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
