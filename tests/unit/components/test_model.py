"""What containers of one pod ask for, and how replicas are kept apart."""

from __future__ import annotations

import pytest

from components.model import Resources, Spread, together, topology_spread


def asks(**more: int | None) -> Resources:
    values = {"cpu_request_m": 10, "memory_request_mib": 16, "memory_limit_mib": 32, **more}
    return Resources.model_validate(values)


def test_containers_of_a_pod_ask_for_their_sum() -> None:
    assert together(asks(gpus=2, cpu_limit_m=50), asks(gpus=1, cpu_limit_m=20)) == Resources(
        cpu_request_m=20,
        cpu_limit_m=70,
        memory_request_mib=32,
        memory_limit_mib=64,
        gpus=3,
    )
    assert together(asks(cpu_limit_m=50), asks()).cpu_limit_m is None


@pytest.mark.parametrize(
    ("spread", "replicas", "domains"),
    [
        ("require-zones", 1, 1),
        ("require-zones", 2, 2),
        ("require", 5, 3),
        ("prefer", 5, None),
    ],
)
def test_three_replicas_want_three_zones(
    spread: Spread, replicas: int, domains: int | None
) -> None:
    (constraint,) = topology_spread(spread, {"app": "one"}, replicas)
    assert constraint.get("minDomains") == domains
    assert constraint["labelSelector"] == {"matchLabels": {"app": "one"}}
