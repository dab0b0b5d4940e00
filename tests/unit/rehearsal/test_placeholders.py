from __future__ import annotations

from typing import Any

import yaml

from components.checks import ExpectedPods
from components.model import Resources
from configs.schema import NodePool
from rehearsal import addons, placeholders
from rehearsal.kube import Object


def pods(**changes: Any) -> ExpectedPods:
    values: dict[str, Any] = {
        "name": "postgres",
        "namespace": "datalake",
        "selector": {"cluster": "postgres"},
        "count": 3,
        "resources": Resources(cpu_request_m=100, memory_request_mib=64, memory_limit_mib=64),
        "claims": [10],
    }
    return ExpectedPods(**{**values, **changes})


class Api:
    """A cluster with one StatefulSet."""

    def __init__(self, namespace: str, labels: dict[str, str]) -> None:
        metadata = {"namespace": namespace, "name": "x"}
        self._body = {"metadata": metadata, "spec": {"template": {"metadata": {"labels": labels}}}}

    def items(self, api_version: str, kind: str) -> list[Object]:
        return [self._body] if kind == "StatefulSet" else []


def missing(namespace: str, labels: dict[str, str]) -> list[ExpectedPods]:
    api: Any = Api(namespace, labels)
    return placeholders.missing(api, [pods().json_object(), pods(count=0).json_object()])


def test_only_pods_that_nobody_makes_get_a_stand_in() -> None:
    assert missing("datalake", {"cluster": "postgres", "more": "x"}) == []
    assert missing("datalake", {"cluster": "other"}) == [pods()]
    assert missing("elsewhere", {"cluster": "postgres"}) == [pods()]


def template(expected: ExpectedPods) -> dict[str, Any]:
    (body,) = placeholders.objects([expected], "image")
    assert body["spec"]["replicas"] == 3
    found: dict[str, Any] = body["spec"]["template"]["spec"]
    return found


def test_a_stand_in_asks_for_what_is_expected() -> None:
    (body,) = placeholders.objects([pods()], "image")
    container = body["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"] == pods().resources.quantities()
    claim = body["spec"]["volumeClaimTemplates"][0]["spec"]
    assert claim["resources"] == {"requests": {"storage": "10Gi"}}
    assert pods().selector.items() <= body["spec"]["template"]["metadata"]["labels"].items()


def test_it_is_kept_apart_as_declared() -> None:
    (spread,) = template(pods(spread="require-zones"))["topologySpreadConstraints"]
    assert spread["topologyKey"] == "topology.kubernetes.io/zone"
    assert spread["whenUnsatisfiable"] == "DoNotSchedule" and spread["minDomains"] == 3
    (spread,) = template(pods())["topologySpreadConstraints"]
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway" and "minDomains" not in spread
    rule = template(pods(spread="require", exclusive=True))["affinity"]["podAntiAffinity"]
    (term,) = rule["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    rule = template(pods(exclusive=True))["affinity"]["podAntiAffinity"]
    assert "preferredDuringSchedulingIgnoredDuringExecution" in rule


def test_gpus_are_asked_for_and_their_taint_is_tolerated() -> None:
    resources = Resources(cpu_request_m=1, memory_request_mib=4, memory_limit_mib=4, gpus=2)
    pod = template(pods(resources=resources))
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert "tolerations" not in template(pods())


def test_an_environments_nodes_have_its_sizes_zones_and_taints() -> None:
    values: dict[str, Any] = {"name": "gpu", "count": 3, "cpu": 8, "memory_gib": 64, "gpus": 4}
    pool = NodePool(**values, mig={"1g.10gb": 7}, zones=["a", "b"], labels={"x": "y"})
    runtime, *nodes = yaml.safe_load_all(addons.nodes([pool]))
    assert (runtime["kind"], runtime["metadata"]["name"]) == ("RuntimeClass", "nvidia")
    assert [node["metadata"]["name"] for node in nodes] == ["gpu-0", "gpu-1", "gpu-2"]
    zones = [node["metadata"]["labels"]["topology.kubernetes.io/zone"] for node in nodes]
    assert zones == ["a", "b", "a"]
    assert nodes[0]["status"]["capacity"] == {
        "cpu": "8",
        "memory": "64Gi",
        "ephemeral-storage": "100Gi",
        "pods": "110",
        "nvidia.com/gpu": "4",
        "nvidia.com/mig-1g.10gb": "7",
    }
    assert nodes[0]["metadata"]["labels"]["nvidia.com/gpu.present"] == "true"
    assert nodes[0]["metadata"]["labels"]["x"] == "y" and nodes[0]["spec"]["taints"] == []


def test_nodes_without_a_gpu_bring_nothing_of_nvidias() -> None:
    (node,) = yaml.safe_load_all(
        addons.nodes([NodePool(name="cpu", count=1, cpu=8, memory_gib=64)])
    )
    assert node["kind"] == "Node"
    assert not any("nvidia" in key for key in node["metadata"]["labels"])
    assert not any("nvidia" in key for key in node["status"]["capacity"])
