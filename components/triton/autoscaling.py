"""As many replicas of a pool as keep requests out of its queue, by KEDA."""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi_kubernetes.apiextensions import CustomResource

from components.monitoring.monitoring import PROMETHEUS_URL
from components.triton.config import NAMESPACE, Autoscaling
from components.triton.pods import Seat
from components.workload import meta

_WINDOW = "2m"
_POLL_S = 15
_STEP_S = 60


def scaled_object(
    seat: Seat, namespace: pulumi.Input[str], opts: pulumi.ResourceOptions
) -> CustomResource:
    """The ScaledObject of a seat that is scaled; Pulumi waits until KEDA has taken it."""
    scaling = seat.pool.autoscaling
    assert scaling is not None
    return CustomResource(
        f"{seat.name}-scaled",
        api_version="keda.sh/v1alpha1",
        kind="ScaledObject",
        metadata=meta(
            seat.name, namespace, seat.selector, {"pulumi.com/waitFor": "condition=Ready"}
        ),
        spec=spec(seat, scaling),
        opts=opts,
    )


def spec(seat: Seat, scaling: Autoscaling) -> dict[str, Any]:
    """Replicas between the pool's own and the most, which rise and fall with the time in queue.

    The number wanted is replicas * time / threshold (an HPA's target of type Value): the time is a
    mean over all of them, not a sum that they share.
    """
    return {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": seat.name},
        "pollingInterval": _POLL_S,
        "minReplicaCount": seat.replicas,
        "maxReplicaCount": scaling.max_replicas,
        "advanced": {
            "horizontalPodAutoscalerConfig": {
                "name": seat.name,
                "behavior": {
                    # A replica loads its models before it helps: twice as many at most, then look.
                    "scaleUp": {
                        "stabilizationWindowSeconds": 0,
                        "selectPolicy": "Max",
                        "policies": [
                            {"type": "Percent", "value": 100, "periodSeconds": _STEP_S},
                            {"type": "Pods", "value": 1, "periodSeconds": _STEP_S},
                        ],
                    },
                    # KEDA's own cooldownPeriod is for the way to zero alone.
                    "scaleDown": {
                        "stabilizationWindowSeconds": scaling.cooldown_s,
                        "selectPolicy": "Max",
                        "policies": [{"type": "Pods", "value": 1, "periodSeconds": _STEP_S}],
                    },
                },
            }
        },
        "triggers": [
            {
                "type": "prometheus",
                "name": "queue",
                "metricType": "Value",
                # KEDA verifies it by the estate's authority, which its operator is given (keda.py).
                "metadata": {
                    "serverAddress": PROMETHEUS_URL,
                    "query": queue_us(seat.pool.name),
                    "threshold": str(scaling.queue_us),
                    # Without an answer nothing is known: replicas stay as many as they are.
                    "ignoreNullValues": "false",
                },
            }
        ],
    }


def queue_us(pool: str) -> str:
    """PromQL: mean microseconds that a request of the pool's stable pods waits; 0 without any.

    Without series, as when nothing was scraped, there is no result, which is not the same.
    """
    here = f'namespace="{NAMESPACE}", pool="{pool}", track="stable"'
    waited = f"sum(rate(nv_inference_queue_duration_us{{{here}}}[{_WINDOW}]))"
    answered = f"sum(rate(nv_inference_request_success{{{here}}}[{_WINDOW}]))"
    return f"{waited} / clamp_min({answered}, 0.000001)"
