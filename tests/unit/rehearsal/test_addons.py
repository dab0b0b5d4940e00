"""What a cluster has before anything is declared: DNS, storage, the simulated fleet."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from rehearsal import addons, sandbox

REFERENCES = {key: f"example.test/{key}:1@sha256:{'0' * 64}" for key in addons.IMAGES}
FAKE = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}


def objects(text: str) -> list[dict[str, Any]]:
    return [value for value in yaml.safe_load_all(text) if value]


@pytest.fixture
def installed() -> list[dict[str, Any]]:
    return objects(addons.manifests(REFERENCES, Path("/state/volumes")))


def test_every_manifest_is_an_object_with_a_name_and_no_place_left_open(
    installed: list[dict[str, Any]],
) -> None:
    for value in installed:
        assert {"apiVersion", "kind", "metadata"} <= set(value)
        assert value["metadata"]["name"]
    names = Counter(
        (o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in installed
    )
    assert max(names.values()) == 1
    kinds = {value["kind"] for value in installed}
    assert {"Deployment", "Service", "StorageClass", "ConfigMap", "ServiceAccount"} <= kinds


def test_every_image_comes_from_the_rehearsals_own(installed: list[dict[str, Any]]) -> None:
    text = json.dumps(installed)
    assert set(re.findall(r"example\.test/(\w+):1@sha256", text)) == set(addons.IMAGES) - {"pause"}
    for value in installed:
        if value["kind"] == "Deployment":
            for container in value["spec"]["template"]["spec"]["containers"]:
                assert container["image"] in REFERENCES.values()
                assert container["imagePullPolicy"] == "IfNotPresent"
                assert container["command"], "images of ours have no entrypoint"


def test_a_missing_image_is_not_passed_over() -> None:
    with pytest.raises(KeyError, match="busybox"):
        addons.manifests({key: "x" for key in REFERENCES if key != "busybox"}, Path("/v"))


def test_dns_answers_where_the_kubelet_sends_pods(installed: list[dict[str, Any]]) -> None:
    services = [value for value in installed if value["kind"] == "Service"]
    assert [s["spec"]["clusterIP"] for s in services] == [sandbox.DNS_SERVICE_IP]
    assert {port["port"] for port in services[0]["spec"]["ports"]} >= {53}


def test_the_default_storage_class_waits_for_its_pod(installed: list[dict[str, Any]]) -> None:
    (storage,) = [value for value in installed if value["kind"] == "StorageClass"]
    assert storage["metadata"]["name"] == "local-path"
    annotations = storage["metadata"]["annotations"]
    assert annotations["storageclass.kubernetes.io/is-default-class"] == "true"
    assert storage["volumeBindingMode"] == "WaitForFirstConsumer"
    maps = [value for value in installed if value["kind"] == "ConfigMap"]
    (settings,) = [value["data"] for value in maps if "config.json" in value["data"]]
    assert "/state/volumes" in json.dumps(json.loads(settings["config.json"]))
    assert yaml.safe_load(settings["helperPod.yaml"])["kind"] == "Pod"


def test_stand_ins_for_storage_parse() -> None:
    default = "storageclass.kubernetes.io/is-default-class"
    classes = [value for value in objects(addons.simulated()) if value["kind"] == "StorageClass"]
    assert [value["metadata"]["annotations"][default] for value in classes] == ["true"]
    for stage in objects(addons.stages()):
        assert stage["kind"] == "Stage" and stage["metadata"]["name"]


# -- the fleet -------------------------------------------------------------------------------------


@pytest.fixture
def fleet() -> list[dict[str, Any]]:
    return objects(addons.fleet())


def test_the_fleet_has_every_pool_by_its_count(fleet: list[dict[str, Any]]) -> None:
    pools = Counter(node["metadata"]["labels"]["estate.dev/pool"] for node in fleet)
    assert pools == {"cpu": 3, "gpu": 2, "edge-raspberry-pi": 4, "edge-jetson": 2}
    assert [node["metadata"]["name"] for node in fleet] == addons.fleet_names()


def test_every_simulated_node_is_kept_apart_from_the_real_one(fleet: list[dict[str, Any]]) -> None:
    for node in fleet:
        assert node["kind"] == "Node"
        assert FAKE in node["spec"]["taints"]
        assert node["metadata"]["annotations"]["kwok.x-k8s.io/node"] == "fake"
        assert node["metadata"]["labels"]["estate.dev/node"] == "simulated"
        assert node["metadata"]["labels"]["kubernetes.io/hostname"] == node["metadata"]["name"]


def test_capacities_are_quantities_and_all_of_them_can_be_used(
    fleet: list[dict[str, Any]],
) -> None:
    for node in fleet:
        capacity = node["status"]["capacity"]
        assert node["status"]["allocatable"] == capacity
        assert {"cpu", "memory", "ephemeral-storage", "pods"} <= set(capacity)
        for value in capacity.values():
            assert re.fullmatch(r"\d+(Gi|Mi)?", value), value


@pytest.mark.parametrize(
    ("pool", "gpus", "arch", "taint"),
    [
        ("cpu", None, "amd64", None),
        ("gpu", "4", "amd64", "nvidia.com/gpu"),
        ("edge-raspberry-pi", None, "arm64", "estate.dev/edge"),
        ("edge-jetson", "1", "arm64", "estate.dev/edge"),
    ],
)
def test_a_pool_has_its_devices_architecture_and_taint(
    fleet: list[dict[str, Any]], pool: str, gpus: str | None, arch: str, taint: str | None
) -> None:
    for node in fleet:
        labels = node["metadata"]["labels"]
        if labels["estate.dev/pool"] != pool:
            continue
        assert node["status"]["capacity"].get("nvidia.com/gpu") == gpus
        assert labels["kubernetes.io/arch"] == arch
        own = [entry["key"] for entry in node["spec"]["taints"] if entry != FAKE]
        assert own == ([taint] if taint else [])
        assert all(isinstance(value, str) for value in labels.values())


def test_zones_spread_over_the_racks(fleet: list[dict[str, Any]]) -> None:
    zones = {
        node["metadata"]["name"]: node["metadata"]["labels"].get("topology.kubernetes.io/zone")
        for node in fleet
    }
    assert [zones[f"cpu-{index}"] for index in range(3)] == ["rack-a", "rack-b", "rack-c"]
    assert zones["edge-jetson-0"] is None


def test_without_a_real_node_only_the_cpu_pool_takes_every_pod() -> None:
    for node in objects(addons.fleet(take_all=True)):
        cpu = node["metadata"]["labels"]["estate.dev/pool"] == "cpu"
        assert (FAKE in node["spec"]["taints"]) == (not cpu)
