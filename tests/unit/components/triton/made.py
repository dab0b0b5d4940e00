"""Serving under Pulumi's mocks: two pools, one of them on slices of GPUs and scaled."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pulumi
from pulumi.runtime.stack import wait_for_rpcs

from components.authority import Authority
from components.flows import Pods
from components.model import Image
from components.model_repository.repository import ModelRepository
from components.triton.config import TritonConfig
from components.triton.serving import Serving
from model_repo.declared import Desired, Rollout
from model_repo.declared import Serving as Served
from tests.unit.components.datalake.test_postgres_resources import Recorder, plain

REGISTRY = "https://model-registry.serving.svc.cluster.local:5001"
CONFIG = TritonConfig.model_validate(
    {
        "pools": [
            {"name": "cpu"},
            {
                "name": "gpu",
                "native": True,
                "mig": "1g.10gb",
                "response_cache_mib": 0,
                "rate_limiter": True,
                "canary_replicas": 2,
                "autoscaling": {"max_replicas": 5},
            },
        ]
    }
)
MODELS = [
    Desired(
        name=name,
        version=version,
        digest="sha256:" + str(version) * 64,
        serving=Served(pool=pool, max_batch_size=7),
        rollout=Rollout(),
    )
    for name, version, pool in (("large", 3, "gpu"), ("digits", 2, "cpu"))
]


def image(key: str) -> Image:
    return Image(repository=f"registry.example/{key}", tag="1", digest="sha256:" + "a" * 64)


class Made:
    """The objects of the component, and the component."""

    def __init__(self) -> None:
        recorder = Recorder()
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        pulumi.runtime.set_mocks(recorder, preview=False)
        self.registry = Pods(name="registry", namespace="serving", selector={"app": "registry"})
        self.component = Serving(
            "serving",
            CONFIG,
            namespace="serving",
            image=image("triton"),
            native_image=image("native"),
            service_image=image("serving"),
            proxy_image=image("haproxy"),
            repository=ModelRepository(
                publish_url=pulumi.Output.from_input("https://elsewhere:5000"),
                read_url=pulumi.Output.from_input(REGISTRY),
                secrets={
                    "publisher": "model-registry-publisher",
                    "reader": "model-registry-reader",
                },
                ready=(),
                pods=self.registry,
            ),
            models=MODELS,
            authority=Authority(),
            monitors=[],
        )
        loop.run_until_complete(wait_for_rpcs())
        loop.close()
        self.objects: list[dict[str, Any]] = [plain(item) for item in recorder.made]

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found = [o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        assert len(found) == 1, f"{len(found)} objects are {kind}/{name}"
        return found[0]

    def names(self, kind: str) -> set[str]:
        return {one["metadata"]["name"] for one in self.objects if one["kind"] == kind}

    def pod(self, deployment: str) -> dict[str, Any]:
        spec: dict[str, Any] = self.get("Deployment", deployment)["spec"]["template"]["spec"]
        return spec

    def container(self, deployment: str, name: str) -> dict[str, Any]:
        (found,) = [one for one in self.pod(deployment)["containers"] if one["name"] == name]
        return dict(found)

    def mounts(self, deployment: str, name: str) -> dict[str, str]:
        """Volume -> path, with a mark where it may be written."""
        return {
            one["name"]: one["mountPath"] + ("" if one.get("readOnly") else " rw")
            for one in self.container(deployment, name)["volumeMounts"]
        }


@functools.cache
def made() -> Made:
    """Once for all tests."""
    return Made()
