"""The configuration of serving: each refusal names the key, its value, and the way out."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from components.triton.config import TritonConfig, TritonPool

POOL: dict[str, Any] = {"name": "cpu"}
GPU: dict[str, Any] = {"name": "gpu", "native": True, "mig": "1g.10gb"}


def refused(model: Any, values: dict[str, Any]) -> list[tuple[str, Any, str]]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    found = []
    for one in caught.value.errors():
        several = one.get("ctx", {}).get("problems")
        found += [(p["key"], p["value"], p["allowed"]) for p in several or ()]
        if several is None:
            found.append((".".join(map(str, one["loc"])), one["input"], one["msg"]))
    return found


@pytest.mark.parametrize(
    ("values", "key", "value", "words"),
    [
        (
            {**GPU, "resources": {**TritonPool(name="a").resources.model_dump(), "gpus": 1}},
            "mig",
            "1g.10gb",
            "leave one of mig and resources.gpus out",
        ),
        ({**GPU, "native": False}, "native", False, "set it"),
        ({**POOL, "runtime_class": "nvidia"}, "runtime_class", "nvidia", "leave it out"),
        (
            {**POOL, "shared_memory_mib": 4000},
            "resources.memory_limit_mib",
            4096,
            "at least 4320: shared memory and response cache are part of it",
        ),
        (
            {**POOL, "replicas": 4, "autoscaling": {"max_replicas": 4}},
            "autoscaling.max_replicas",
            4,
            "above replicas (4), from which it rises",
        ),
        ({**POOL, "mig": "8g.80gb"}, "mig", "8g.80gb", "String should match pattern"),
        ({**POOL, "replicas": 0}, "replicas", 0, "greater than or equal to 1"),
        ({**POOL, "name": "Cpu"}, "name", "Cpu", "String should match pattern"),
        ({**POOL, "more": 1}, "more", 1, "Extra inputs are not permitted"),
    ],
)
def test_a_pool_that_is_refused(values: dict[str, Any], key: str, value: Any, words: str) -> None:
    ((found, given, said),) = refused(TritonPool, values)
    assert (found, given) == (key, value)
    assert words in said


def test_all_that_is_wrong_is_said_at_once() -> None:
    values = {**POOL, "runtime_class": "nvidia", "response_cache_mib": 8192}
    keys = [key for key, _, _ in refused(TritonPool, values)]
    assert keys == ["runtime_class", "resources.memory_limit_mib"]


def test_pools_have_names_of_their_own() -> None:
    ((key, value, words),) = refused(TritonConfig, {"pools": [POOL, GPU, POOL]})
    assert (key, value) == ("pools", ["cpu", "gpu", "cpu"])
    assert "name each pool differently" in words
    ((key, _, _),) = refused(TritonConfig, {"pools": []})
    assert key == "pools"


def test_what_needs_no_word() -> None:
    config = TritonConfig()
    (pool,) = config.pools
    assert (pool.name, pool.gpu, config.autoscaled) == ("cpu", False, False)
    assert TritonPool.model_validate(GPU).gpu
