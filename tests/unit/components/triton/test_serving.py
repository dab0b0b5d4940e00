"""Who may do what around serving: roles, certificates, flows; and that checks can fail."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from components.checks import Check
from components.flows import Flow
from model_repo.declared import Desired
from services.serving.model import ASSIGNMENTS, STATE, TRAFFIC, Declared
from tests.unit.components.triton.made import CONFIG, MODELS, made

SERVERS = [f"triton-{pool}-{track}" for pool in ("cpu", "gpu") for track in ("stable", "canary")]


def rules(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = made().get("Role", name)["rules"]
    return found


def test_a_sidecar_reads_one_config_map_and_nothing_else() -> None:
    # The name counts for list and watch, too: the client asks with this very name.
    assert rules("triton") == [
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": [ASSIGNMENTS],
            "verbs": ["get", "list", "watch"],
        }
    ]


def test_the_controller_changes_its_own_config_maps_alone() -> None:
    read, create, update, pods = rules("serving-controller")
    assert read == {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "verbs": ["get", "list", "watch"],
    }
    assert create == {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}
    assert update == {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": [ASSIGNMENTS, STATE, TRAFFIC],
        "verbs": ["update"],
    }
    assert pods == {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}


def test_roles_are_given_to_their_own_accounts() -> None:
    assert made().names("Role") == made().names("RoleBinding") == {"triton", "serving-controller"}
    assert not made().names("ClusterRole") and not made().names("ClusterRoleBinding")
    for name in ("triton", "serving-controller"):
        binding = made().get("RoleBinding", name)
        assert binding["roleRef"] == {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role",
            "name": name,
        }
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": name, "namespace": "serving"}
        ]
    for name in SERVERS:
        assert made().pod(name)["serviceAccountName"] == "triton"


def test_certificates() -> None:
    def spec(name: str) -> dict[str, Any]:
        found: dict[str, Any] = made().get("Certificate", name)["spec"]
        return found

    assert made().names("Certificate") == {"triton-tls", "inference-tls", "serving-controller-tls"}
    assert spec("triton-tls")["dnsNames"] == ["triton.serving.svc.cluster.local"]
    assert "inference.serving.svc.cluster.local" in spec("inference-tls")["dnsNames"]
    # The gateway's runtime API takes whoever has this name: nobody else may have it.
    assert spec("serving-controller-tls")["commonName"] == "serving-controller"
    assert "client auth" in spec("serving-controller-tls")["usages"]
    for name in ("triton-tls", "inference-tls"):
        assert spec(name).get("commonName") != "serving-controller"
        assert "client auth" not in spec(name).get("usages", [])


Shown = tuple[str, str, tuple[int, ...]]


def flow(one: Flow) -> Shown:
    def name(end: Any) -> str:
        return end if isinstance(end, str) else end.name

    return name(one.source), name(one.target), tuple(one.ports)


def test_flows_are_these() -> None:
    wanted: set[Shown] = {
        ("serving-controller", "api-server", (443,)),
        ("serving-controller", "registry", (5001,)),
        ("serving-controller", "inference", (9998,)),
        ("prometheus", "inference", (8405,)),
        ("prometheus", "serving-controller", (8081,)),
    }
    for name in SERVERS:
        each: set[Shown] = {
            (name, "api-server", (443,)),
            (name, "registry", (5001,)),
            ("inference", name, (8000, 8001)),
            ("serving-controller", name, (8000, 8002, 8080)),
            ("prometheus", name, (8002, 8080)),
        }
        wanted |= each
    found = [flow(one) for one in made().component.flows]
    assert len(found) == len(set(found)) and set(found) == wanted


def test_pods_are_expected_as_they_are_declared() -> None:
    found = {one.name: one.count for one in made().component.expected_pods}
    assert found == {
        "triton-cpu-stable": 2,
        "triton-cpu-canary": 1,
        "triton-gpu-stable": 2,
        "triton-gpu-canary": 2,
        "inference": 2,
        "serving-controller": 1,
    }
    for one in made().component.expected_pods:
        labels = made().get("Deployment", one.name)["spec"]["template"]["metadata"]["labels"]
        assert one.selector.items() <= labels.items()
        assert made().get("Deployment", one.name)["spec"]["replicas"] == one.count


def test_metrics_are_read_with_the_names_of_their_certificates() -> None:
    for name in SERVERS:
        plain, tls = made().get("PodMonitor", name)["spec"]["podMetricsEndpoints"]
        assert plain["port"] == "metrics" and plain.get("scheme", "http").lower() == "http"
        assert tls["port"] == "sync" and tls["scheme"] == "https"
        assert tls["tlsConfig"]["serverName"] == "triton.serving.svc.cluster.local"
        _, pool, track = name.split("-")
        for endpoint in (plain, tls):
            labels = {one["targetLabel"]: one["replacement"] for one in endpoint["relabelings"]}
            assert labels == {"pool": pool, "track": track}


# -- checks and their faults -------------------------------------------------------------------


def checks() -> dict[str, Check]:
    return {one.id: one for one in made().component.checks}


def patched(check: Check) -> str:
    (text,) = check.fault.patch["data"].values()  # type: ignore[union-attr]
    assert isinstance(text, str)
    return text


def test_these_are_checked() -> None:
    assert set(checks()) == {
        "serving.control",
        "serving.runtime",
        "serving.answers",
        "serving.grpc",
        "serving.rollouts",
    }
    assert checks()["serving.answers"].args["models"] == {"large": 3, "digits": 2}


@pytest.mark.parametrize("name", ["control", "runtime", "answers", "grpc"])
def test_a_fault_of_the_gateway_changes_its_configuration(name: str) -> None:
    check = checks()[f"serving.{name}"]
    target = made().get("ConfigMap", check.fault.target.name)
    assert check.fault.target.name == "inference-config"
    assert patched(check) != target["data"]["haproxy.cfg"]
    assert check.fault.restart == "app.kubernetes.io/name=inference"
    labels = made().get("Deployment", "inference")["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "inference"
    others = [patched(one) for one in checks().values() if one.id != check.id]
    assert patched(check) not in others


def test_each_fault_breaks_what_its_check_is_about() -> None:
    real = made().get("ConfigMap", "inference-config")["data"]["haproxy.cfg"]
    assert "return status 403" in real
    assert "return status 403" not in patched(checks()["serving.control"])
    assert "verify required" in real and "ssl_c_s_dn(CN)" in real
    opened = patched(checks()["serving.runtime"])
    assert "verify required" not in opened and "ssl_c_s_dn(CN)" not in opened
    servers = r"server-template \S+ \d+ \S+:8000 "
    assert len(re.findall(servers + "check", real)) == 2 * len(CONFIG.pools)
    assert not re.findall(servers + "check", patched(checks()["serving.answers"]))
    assert " proto h2 " in real and " proto h2 " not in patched(checks()["serving.grpc"])


def test_the_fault_of_rollouts_is_a_declaration_that_the_controller_takes() -> None:
    """One that is none changes nothing, and the check would stay green."""
    fault = checks()["serving.rollouts"].fault
    assert fault.target.name == "model-digits"
    (first,) = [one for one in MODELS if one.name == "digits"]
    broken = Declared.model_validate_json(patched(checks()["serving.rollouts"]))
    assert broken.digest == "sha256:" + "0" * 64 != first.digest
    # In its own pool and as it is served: nothing of what is served changes for it.
    assert broken.serving == first.serving
    assert Desired.parse(json.dumps(json.loads(broken.model_dump_json())), "it")


def test_the_maps_of_a_gateway_that_starts_are_the_controllers() -> None:
    volumes = {one["name"]: one for one in made().pod("inference")["volumes"]}
    assert volumes["traffic"]["configMap"] == {"name": TRAFFIC, "optional": True}


def test_a_pool_that_is_scaled_keeps_the_number_that_the_queue_has_given_it() -> None:
    assert made().names("ScaledObject") == {"triton-gpu-stable"}
    spec = made().get("ScaledObject", "triton-gpu-stable")["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 5)
    assert spec["scaleTargetRef"]["name"] == "triton-gpu-stable"
    text = made().get("ConfigMap", "inference-config")["data"]["haproxy.cfg"]
    # Slots for all of them, and for those that are being replaced.
    assert re.search(r"server-template stable 7 triton-gpu-stable\.", text)
