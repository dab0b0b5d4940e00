"""Alert rules about the model registry; promtool checks them in tests/contract."""

from __future__ import annotations

from typing import Any

from components.datalake.backup_job import age
from components.workload import alert


def model_repository_rules(name: str, namespace: str) -> list[dict[str, Any]]:
    """Alert rules of one registry; metrics are HAProxy's, whatever is behind it."""
    pods = f'namespace="{namespace}", pod=~"{name}-[0-9]+"'

    def none_up(door: str) -> str:
        up = f'haproxy_server_status{{{pods}, proxy="{door}", state="UP"}}'
        return f"(count({up} == 1) or vector(0)) == 0"

    answers = f'haproxy_frontend_http_responses_total{{{pods}, proxy=~"publish|read"'

    def rate(code: str) -> str:
        return f'sum(rate({answers}, code="{code}"}}[10m]))'

    return [
        alert(
            "ModelRegistryDown",
            none_up("read"),
            "nobody can read models: what starts now finds none to serve",
            for_s=60,
        ),
        alert(
            "ModelRegistryTakesNothing",
            none_up("publish"),
            "no version of a model can be added; those that are there are read",
            for_s=120,
            severity="warning",
        ),
        alert(
            "ModelRegistryFails",
            f'sum(rate({answers}, code="5xx"}}[5m])) > 0',
            "the registry answers with errors of its own: is its disk full? See its pod's log",
            for_s=120,
            severity="warning",
        ),
        alert(
            "ModelRegistryRefuses",
            # Asking without a password first, as some clients do, doubles requests and no more.
            f"{rate('4xx')} > 10 * {rate('2xx')} and {rate('4xx')} > 1",
            "almost all requests are refused: a wrong password somewhere, or somebody tries them",
            for_s=300,
            severity="warning",
        ),
    ]


def ecr_rules(cron_job: str, namespace: str, *, late_h: int = 9) -> list[dict[str, Any]]:
    """Alerts about the CronJob that renews the token of ECR, by kube-state-metrics.

    A token is good for 12 hours and renewed every 4: after `late_h` two runs have failed, and three
    hours are left.
    """
    here = f'namespace="{namespace}"'
    return [
        alert(
            "ModelRegistryTokenOld",
            f"{age(cron_job, here)} > {late_h * 3600}",
            f"the reader's token of ECR is older than {late_h} h and ends after 12: then no model "
            f"is brought any more; see the Jobs of {cron_job}",
            for_s=300,
        ),
        alert(
            "ModelRegistryTokenUnknown",
            f'absent(kube_cronjob_created{{{here}, cronjob="{cron_job}"}})',
            "nobody tells how old the reader's token of ECR is; see kube-state-metrics",
            for_s=1800,
            severity="warning",
        ),
    ]
