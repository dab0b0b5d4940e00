"""Alert rules about the console; promtool checks them in tests/contract."""

from __future__ import annotations

from typing import Any

from components.console.config import ConsoleConfig
from components.workload import alert


def console_rules(name: str, namespace: str, config: ConsoleConfig) -> list[dict[str, Any]]:
    """Alert rules of one deployment."""
    pods = f'namespace="{namespace}", pod=~"{name}-.+"'
    up = f'up{{{pods}, container="console"}}'
    return [
        alert(
            "ConsoleDown",
            f"(count({up} == 1) or vector(0)) == 0",
            "no replica of the console runs",
            for_s=120,
        ),
        alert(
            "ConsoleReplicasMissing",
            f"(count({up} == 1) or vector(0)) < {config.replicas}",
            f"fewer than {config.replicas} replicas of the console run",
            for_s=300,
            severity="warning",
        ),
        alert(
            "ConsoleBackendAway",
            f"max by (backend) (console_backend_up{{{pods}}}) == 0",
            "no replica of the console reaches {{ $labels.backend }}",
            for_s=120,
            severity="warning",
        ),
        alert(
            "ConsoleFails",
            f'sum(rate(console_requests_total{{{pods}, status="500"}}[5m])) > 0',
            "the console fails by an error of its own: see its log",
            for_s=60,
            severity="warning",
        ),
        alert(
            "ConsoleSlow",
            "histogram_quantile(0.95, sum by (le) "
            f"(rate(console_request_seconds_bucket{{{pods}}}[5m]))) > 2.5",
            "one of twenty requests to the console takes more than 2.5 s",
            for_s=300,
            severity="warning",
        ),
    ]
