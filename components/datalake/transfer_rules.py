"""Alert rules about image transfer; promtool checks them in tests/contract."""

from __future__ import annotations

from typing import Any

from components.datalake.transfer_config import TransferConfig
from components.workload import alert


def transfer_rules(name: str, namespace: str, config: TransferConfig) -> list[dict[str, Any]]:
    """Alert rules of one deployment; metrics are HAProxy's, tusd's and the service's own."""
    pods = f'namespace="{namespace}", pod=~"{name}-[0-9]+"'
    own = f'{pods}, proxy="own", state="UP"'
    return [
        alert(
            "TransferReplicasMissing",
            f"(count(haproxy_server_status{{{own}}} == 1) or vector(0)) < {config.replicas}",
            f"fewer than {config.replicas} replicas of {name} take uploads",
            for_s=120,
            severity="warning",
        ),
        alert(
            "TransferDown",
            f"(count(haproxy_server_status{{{own}}} == 1) or vector(0)) == 0",
            "no replica takes uploads",
            for_s=60,
        ),
        alert(
            "TransferUploadsWait",
            f"max(transfer_unreceipted{{{pods}}}) > 0",
            "finished uploads are not told to Kafka: see the log of the container service",
            for_s=300,
        ),
        alert(
            "TransferDoesNotSweep",
            f"time() - min(transfer_swept_timestamp_seconds{{{pods}}}) > {config.sweep_s * 5 + 60}",
            "uploads whose hook is lost are not looked for: does the object store answer?",
            for_s=60,
            severity="warning",
        ),
        alert(
            "TransferFails",
            f"sum(rate(transfer_failures_total{{{pods}}}[5m])) > 0",
            "the object store or Kafka refuses what the service asks",
            for_s=300,
            severity="warning",
        ),
        alert(
            "TransferStoreFails",
            f'sum(rate(tusd_errors_total{{{pods}, status="500"}}[5m])) > 0',
            "tusd cannot keep what it gets: does the object store answer?",
            for_s=120,
        ),
        alert(
            "TransferQuarantines",
            f'sum(increase(transfer_images_total{{{pods}, state="quarantined"}}[15m])) > '
            f"0.1 * sum(increase(transfer_images_total{{{pods}}}[15m]))",
            "more than a tenth of the images is quarantined: see topic images.quarantined",
            for_s=60,
            severity="warning",
        ),
    ]
