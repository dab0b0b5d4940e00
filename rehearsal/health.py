"""What systems say of their own health: more than the readiness of their pods shows."""

from __future__ import annotations

import subprocess
from collections.abc import Collection

from rehearsal.rehearsal import Rehearsal

_NAMESPACE = "datalake"
CEPH = (
    *("exec", "--namespace", _NAMESPACE, "ceph-mgr-0", "--"),
    *("ceph", "-n", "mgr.a", "--connect-timeout", "5", "health"),
)
"""kubectl's arguments; the answer is `HEALTH_WARN 1 osds down; ...`."""
_POSTGRES = (
    *("get", "--namespace", _NAMESPACE, "clusters.postgresql.cnpg.io", "postgres"),
    *("--output", "jsonpath={.status.phase}"),
)
_ASKED = {"ceph": ("ceph-mgr-", CEPH), "postgres": ("postgres-", _POSTGRES)}
_ANSWER_S = 15


def told(rehearsal: Rehearsal, pods: Collection[str]) -> dict[str, str]:
    """By system, what it says; of those that have a pod among the names `pods`."""
    return {
        system: _answer(rehearsal, arguments)
        for system, (prefix, arguments) in _ASKED.items()
        if any(pod.startswith(prefix) for pod in pods)
    }


def _answer(rehearsal: Rehearsal, arguments: tuple[str, ...]) -> str:
    try:
        done = rehearsal.kubectl("--request-timeout=10s", *arguments, limit_s=_ANSWER_S)
    except subprocess.TimeoutExpired:
        return f"no answer in {_ANSWER_S} s"
    return done.stdout.strip() or f"no answer: {' '.join(done.stderr.split())[:200]}"
