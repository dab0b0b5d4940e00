"""Alert rules about serving; promtool checks them in tests/contract."""

from __future__ import annotations

from typing import Any

from components.triton.autoscaling import queue_us
from components.triton.config import TritonConfig
from components.workload import alert


def serving_rules(namespace: str, config: TritonConfig) -> list[dict[str, Any]]:
    """Metrics are Triton's, HAProxy's, and those of services/serving/metrics.py."""
    here = f'namespace="{namespace}"'
    requests = f"sum by (model) (rate(nv_inference_request_success{{{here}}}[5m]))"
    failures = f"sum by (model) (rate(nv_inference_request_failure{{{here}}}[5m]))"
    found: list[dict[str, Any]] = []
    for pool in config.pools:
        servers = f'haproxy_backend_active_servers{{{here}, proxy="{pool.name}-stable-http"}}'
        found += [
            alert(
                f"ServingPoolDown{_camel(pool.name)}",
                f"(max({servers}) or vector(0)) == 0",
                f"no Triton of pool {pool.name} answers: its models are not served",
                for_s=30,
            ),
            alert(
                f"ServingReplicasMissing{_camel(pool.name)}",
                f"(max({servers}) or vector(0)) < {pool.replicas}",
                f"fewer than {pool.replicas} Tritons of pool {pool.name} take requests",
                for_s=120,
                severity="warning",
            ),
        ]
        if pool.autoscaling is not None:
            most, queue = pool.autoscaling.max_replicas, pool.autoscaling.queue_us
            found.append(
                alert(
                    f"ServingPoolFull{_camel(pool.name)}",
                    f"max({servers}) >= {most} and on () ({queue_us(pool.name)}) > {queue}",
                    f"pool {pool.name} has all {most} replicas that it may have, and requests wait "
                    "all the same: raise max_replicas, or make its models quicker",
                    for_s=600,
                    severity="warning",
                )
            )
    return [
        *found,
        alert(
            "ServingModelRefused",
            f"max by (model) (serving_model_refused{{{here}}}) == 1",
            "the declared version of {{ $labels.model }} is not served; ConfigMap serving-state "
            "says which gate refused it, and why",
            for_s=30,
        ),
        alert(
            "ServingRolloutHangs",
            f"time() - max by (model) (serving_phase_timestamp_seconds{{{here}, "
            'phase=~"verifying|loading|golden|promoting"}) > 600',
            "the rollout of {{ $labels.model }} goes no further: see the log of serving-controller",
            for_s=60,
            severity="warning",
        ),
        alert(
            "ServingControllerStopped",
            f"time() - (max(serving_round_timestamp_seconds{{{here}}}) or vector(0)) > 60",
            "nobody watches rollouts; what is served goes on as it is",
            for_s=60,
        ),
        alert(
            "ServingFails",
            f"{failures} > 0.01 * ({requests} + {failures})",
            "Triton cannot answer more than 1 % of the requests for {{ $labels.model }}",
            for_s=120,
        ),
        alert(
            "ServingGatewayFails",
            f'sum(rate(haproxy_frontend_http_responses_total{{{here}, proxy="inference", '
            f'code="5xx"}}[5m])) > 0.01 * sum(rate(haproxy_frontend_http_responses_total{{{here}, '
            'proxy="inference"}[5m]))',
            "more than 1 % of all inference requests fail at the gateway",
            for_s=120,
        ),
        alert(
            "ServingQueues",
            f"sum by (model) (rate(nv_inference_queue_duration_us{{{here}}}[5m])) > "
            f"20000 * {requests}",
            "requests for {{ $labels.model }} wait more than 20 ms on average: more replicas or "
            "instances",
            for_s=300,
            severity="warning",
        ),
    ]


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))
