"""Pools of Triton on GPUs, whole or in slices, and those that grow with their queue."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks
from pulumi.runtime.stack import wait_for_rpcs
from pydantic import ValidationError

from components.authority import Authority
from components.model import Image
from components.model_repository.repository import ModelRepository
from components.triton.autoscaling import queue_us
from components.triton.config import TritonConfig
from components.triton.rules import serving_rules
from components.triton.serving import Serving
from tests.promql import series
from tests.unit.components.datalake.test_postgres_resources import Recorder, plain

POOLS: list[dict[str, Any]] = [
    {"name": "cpu", "autoscaling": {"max_replicas": 6, "queue_us": 5000, "cooldown_s": 120}},
    {"name": "plain", "native": True},
    {
        "name": "gpu",
        "native": True,
        "runtime_class": "nvidia",
        "resources": {"gpus": 2},
    },
    {"name": "slice", "native": True, "mig": "1g.10gb"},
]
GPU, SLICE = "nvidia.com/gpu", "nvidia.com/mig-1g.10gb"


def image(key: str) -> Image:
    return Image(repository=f"registry.example/{key}", tag="1", digest="sha256:" + "a" * 64)


class Watching(mocks.MockMonitor):
    """Keeps which fields of a resource are left to others."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self.ignored: dict[str, list[str]] = {}

    def RegisterResource(self, request: Any) -> Any:
        self.ignored[request.name] = list(request.ignoreChanges)
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]


class Made:
    def __init__(self) -> None:
        recorder = Recorder()
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self.monitor = Watching(recorder)
        pulumi.runtime.set_mocks(recorder, preview=False, monitor=self.monitor)
        url = pulumi.Output.from_input("https://model-registry.serving.svc.cluster.local:5001")
        self.component = Serving(
            "serving",
            TritonConfig.model_validate({"pools": POOLS}),
            namespace="serving",
            image=image("own"),
            native_image=image("native"),
            service_image=image("service"),
            proxy_image=image("haproxy"),
            repository=ModelRepository(
                publish_url=url, read_url=url, secrets={"reader": "model-registry-reader"}, ready=()
            ),
            models=[],
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

    def pod(self, seat: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get("Deployment", f"triton-{seat}")["spec"]["template"]["spec"]
        return found

    def triton(self, seat: str) -> dict[str, Any]:
        found: dict[str, Any] = self.pod(seat)["containers"][0]
        assert found["name"] == "triton"
        return found


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    yield Made()


@pytest.mark.parametrize("track", ["stable", "canary"])
def test_whole_gpus_are_asked_for_by_tritons_container_alone(made: Made, track: str) -> None:
    resources = made.triton(f"gpu-{track}")["resources"]
    assert resources["requests"][GPU] == resources["limits"][GPU] == "2"
    sync = made.pod(f"gpu-{track}")["containers"][1]
    assert not any(key.startswith("nvidia.com/") for key in sync["resources"]["limits"])


@pytest.mark.parametrize("track", ["stable", "canary"])
def test_one_slice_is_asked_for_and_no_whole_gpu(made: Made, track: str) -> None:
    resources = made.triton(f"slice-{track}")["resources"]
    assert resources["requests"][SLICE] == resources["limits"][SLICE] == "1"
    assert GPU not in resources["limits"]
    assert resources["limits"]["memory"] == "4096Mi", "what else it asks for stays"


def test_pods_with_a_gpu_go_to_its_nodes_and_no_others_do(made: Made) -> None:
    for seat in ("gpu-stable", "gpu-canary", "slice-stable"):
        pod = made.pod(seat)
        assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
        assert pod["tolerations"] == [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    for seat in ("cpu-stable", "plain-canary"):
        pod = made.pod(seat)
        assert pod.get("nodeSelector") is None and pod.get("tolerations") is None
    assert made.pod("gpu-stable")["runtimeClassName"] == "nvidia"
    assert made.pod("slice-stable").get("runtimeClassName") is None


def test_a_pod_that_asks_for_no_gpu_is_given_none(made: Made) -> None:
    """NVIDIA's image asks for all of a node by its environment."""
    void = [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]
    assert made.triton("plain-stable")["env"] == void
    assert made.triton("gpu-stable").get("env") is None


def test_native_pools_run_nvidias_image_and_their_sidecars_know(made: Made) -> None:
    for seat, wanted in (("cpu", "own"), ("plain", "native"), ("gpu", "native")):
        assert made.triton(f"{seat}-stable")["image"] == image(wanted).ref
    settings = {
        pool: made.get("ConfigMap", f"triton-{pool}-stable-config")["data"]["settings.json"]
        for pool in ("cpu", "plain", "gpu")
    }
    assert '"native":false,"gpu":false' in settings["cpu"]
    assert '"native":true,"gpu":false' in settings["plain"]
    assert '"native":true,"gpu":true' in settings["gpu"]


def test_a_native_pool_without_its_image_is_refused() -> None:
    given: Any = dict.fromkeys(("image", "service_image", "proxy_image"), image("own"))
    given |= {"namespace": "serving", "models": [], "authority": Authority(), "repository": None}
    config = TritonConfig.model_validate({"pools": [{"name": "plain", "native": True}]})
    with pytest.raises(ValueError, match="pool plain is native: give native_image"):
        Serving("serving", config, **given)


def test_keda_scales_the_served_pods_of_the_pools_that_say_so(made: Made) -> None:
    scaled = [one for one in made.objects if one["kind"] == "ScaledObject"]
    assert [one["metadata"]["name"] for one in scaled] == ["triton-cpu-stable"]
    spec = scaled[0]["spec"]
    assert spec["scaleTargetRef"]["name"] == "triton-cpu-stable"
    assert made.get("Deployment", "triton-cpu-stable")
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 6)
    behaviour = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] == 120
    (trigger,) = spec["triggers"]
    assert trigger["metricType"] == "Value", "a mean is not shared by the replicas"
    assert trigger["metadata"]["threshold"] == "5000"
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert trigger["metadata"]["serverAddress"].startswith("https://prometheus.monitoring.svc")


def test_its_deployment_begins_with_the_least_and_leaves_the_number_to_keda(made: Made) -> None:
    assert made.get("Deployment", "triton-cpu-stable")["spec"]["replicas"] == 2
    assert made.monitor.ignored["triton-cpu-stable"] == ["spec.replicas"]
    for name in ("triton-cpu-canary", "triton-gpu-stable", "inference"):
        assert made.monitor.ignored[name] == []


def test_the_query_is_of_labels_that_the_monitor_gives(made: Made) -> None:
    monitor = made.get("PodMonitor", "triton-cpu-stable")
    given = {
        one["targetLabel"]: one["replacement"]
        for one in monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]
    }
    query = queue_us("cpu")
    for label, value in given.items():
        assert f'{label}="{value}"' in query
    assert series(query) == {"nv_inference_queue_duration_us", "nv_inference_request_success"}


def test_a_pool_that_cannot_grow_any_more_has_an_alert() -> None:
    names = {
        rule["alert"]
        for rule in serving_rules("serving", TritonConfig.model_validate({"pools": POOLS}))
    }
    assert {name for name in names if "Full" in name} == {"ServingPoolFullCpu"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"native": True, "mig": "1g.10gb", "resources": {"gpus": 1}}, "mig and resources.gpus"),
        ({"mig": "1g.10gb"}, "in Triton's own backends alone"),
        ({"resources": {"gpus": 1}}, "in Triton's own backends alone"),
        ({"runtime_class": "nvidia"}, "for a pool with mig or resources.gpus"),
        ({"native": True, "mig": "10gb"}, "String should match pattern"),
        ({"autoscaling": {"max_replicas": 2}}, "above replicas"),
        ({"autoscaling": {"max_replicas": 3, "cooldown_s": 7200}}, "less than or equal to 3600"),
    ],
)
def test_what_does_not_agree_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TritonConfig.model_validate({"pools": [{"name": "a", **change}]})
