"""KEDA: what it may, whom it trusts, and what of its release is changed."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pulumi
import pytest
from pulumi.runtime.stack import wait_for_rpcs

from components.authority import Authority
from components.flows import PROMETHEUS
from components.manifests.vendor import patched
from components.model import Image
from components.platform.config import KedaConfig
from components.platform.keda import ADAPTER, MANIFEST, OPERATOR, PODS, Keda
from configs import versions
from policies import model
from stacks.context import manifest
from tests.policies import broken
from tests.unit.components.datalake.test_postgres_resources import Recorder, plain

IMAGES = {
    key: Image(repository=f"registry.example/{key}", tag="1", digest="sha256:" + "a" * 64)
    for key in ("keda", "keda_adapter")
}


class Made:
    def __init__(self) -> None:
        recorder = Recorder()
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        pulumi.runtime.set_mocks(recorder, preview=False)
        self.component = Keda(
            "keda",
            KedaConfig(),
            namespace="autoscaling",
            scaled={"serving": "serving"},
            images=IMAGES,
            objects=manifest(MANIFEST),
            authority=Authority(bundle="CERTIFICATES"),
            monitors=[],
        )
        loop.run_until_complete(wait_for_rpcs())
        loop.close()
        self.objects: list[dict[str, Any]] = [plain(item) for item in recorder.made]

    def kind(self, kind: str) -> dict[tuple[str | None, str], dict[str, Any]]:
        return {
            (one["metadata"].get("namespace"), one["metadata"]["name"]): one
            for one in self.objects
            if one["kind"] == kind
        }

    def pod(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.kind("Deployment")["autoscaling", name]["spec"]["template"]
        spec: dict[str, Any] = found["spec"]
        return spec


@pytest.fixture(scope="module")
def made() -> Made:
    return Made()


def rights(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_release_that_runs_is_the_one_that_is_vendored() -> None:
    entries = versions.declared()
    assert {entries[key].tag for key in IMAGES} == {MANIFEST.removeprefix("keda-")}


def test_it_reads_no_secret_but_those_of_its_own_namespace(made: Made) -> None:
    found = {
        (where, resource)
        for kind in ("Role", "ClusterRole")
        for where, role in made.kind(kind).items()
        for _, resource, _ in rights(role)
        if resource in ("secrets", "*")
    }
    assert found == {(("autoscaling", OPERATOR), "secrets")}


def test_it_changes_what_is_scaled_and_nothing_else_there(made: Made) -> None:
    changed = {
        (group, resource)
        for group, resource, verb in rights(made.kind("Role")["serving", OPERATOR])
        if verb not in ("get", "list", "watch")
    }
    assert {one for one in changed if "keda.sh" not in one[0]} == {
        ("autoscaling", "horizontalpodautoscalers"),
        ("apps", "deployments/scale"),
        ("", "events"),
        ("events.k8s.io", "events"),
    }
    assert all(
        verb in ("get", "list", "watch")
        for _, _, verb in rights(made.kind("Role")["serving", ADAPTER])
    )
    assert set(made.kind("Role")) == {
        ("serving", OPERATOR),
        ("serving", ADAPTER),
        ("autoscaling", OPERATOR),
    }


def test_the_controller_of_replicas_reads_the_one_metric_that_there_is(made: Made) -> None:
    name = "keda-external-metrics-reader"
    resources = {resource for _, resource, _ in rights(made.kind("ClusterRole")[None, name])}
    assert resources == {"s0-prometheus"}
    (subject,) = made.kind("ClusterRoleBinding")[None, name]["subjects"]
    assert subject["name"] == "horizontal-pod-autoscaler"


def test_both_are_restricted_and_by_digest(made: Made) -> None:
    subjects = [model.Subject(one, protect=True) for one in made.objects]
    assert not broken(subjects)


def test_certificates_are_the_estates_and_none_is_made_by_keda(made: Made) -> None:
    for name in PODS:
        (secret,) = [
            one["secret"]["secretName"] for one in made.pod(name)["volumes"] if "secret" in one
        ]
        certificate = made.kind("Certificate")["autoscaling", secret]["spec"]
        assert {"server auth", "client auth"} <= set(certificate["usages"])
        assert f"{name}.autoscaling.svc" in certificate["dnsNames"], "as the API server asks for it"
    operator = made.pod(OPERATOR)["containers"][0]
    assert "--enable-cert-rotation=false" in operator["args"]
    adapter = made.pod(ADAPTER)["containers"][0]
    assert not any(word.startswith("--client-ca-file") for word in adapter["args"])


def test_the_api_server_trusts_the_estates_authority(made: Made) -> None:
    ((_, service),) = made.kind("APIService").items()
    assert base64.b64decode(service["spec"]["caBundle"]).decode() == "CERTIFICATES"
    assert service["spec"]["service"]["namespace"] == "autoscaling"
    assert not service["spec"].get("insecureSkipTLSVerify")


def test_the_operator_verifies_prometheus_by_the_authority(made: Made) -> None:
    pod = made.pod(OPERATOR)
    (volume,) = [one["name"] for one in pod["volumes"] if "configMap" in one]
    (mount,) = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == volume]
    assert f"--ca-dir={mount['mountPath']}" in pod["containers"][0]["args"]


def test_it_watches_what_is_scaled_alone(made: Made) -> None:
    for name in PODS:
        env = {one["name"]: one.get("value") for one in made.pod(name)["containers"][0]["env"]}
        assert env["WATCH_NAMESPACE"] == "serving"


def test_its_connections_are_declared(made: Made) -> None:
    flows = made.component.flows
    assert any(f.source == PODS[OPERATOR] and f.target == PROMETHEUS for f in flows)
    assert any(f.source == PODS[ADAPTER] and f.target == PODS[OPERATOR] for f in flows)
    assert any(f.source == "api-server" and f.target == PODS[ADAPTER] for f in flows)


def test_a_releases_own_patches_are_applied() -> None:
    body = {"a": {"b": [{"c": ["x"], "d": 1}]}}
    steps: list[dict[str, Any]] = [
        {"op": "add", "path": "/a/b/0/c/-", "value": "y"},
        {"op": "remove", "path": "/a/b/0/d"},
        {"op": "add", "path": "/a/e", "value": 3},
    ]
    assert patched(body, steps) == {"a": {"b": [{"c": ["x", "y"]}], "e": 3}}
    with pytest.raises(KeyError, match="only add and remove"):
        patched(body, [{"op": "move", "path": "/a", "value": 1}])
    with pytest.raises(KeyError):
        patched(body, [{"op": "remove", "path": "/a/b/0/d"}])


def test_the_vendored_definitions_have_those_patches() -> None:
    definitions = {
        one["metadata"]["name"]: one["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for one in manifest(MANIFEST)
        if one["kind"] == "CustomResourceDefinition"
    }
    spec = definitions["scaledobjects.keda.sh"]["properties"]["spec"]["properties"]
    behaviour = spec["advanced"]["properties"]["horizontalPodAutoscalerConfig"]["properties"][
        "behavior"
    ]["properties"]
    assert behaviour["scaleDown"]["properties"]["stabilizationWindowSeconds"]["maximum"] == 3600
    jobs = definitions["scaledjobs.keda.sh"]["properties"]["spec"]["properties"]
    assert "metricType" not in jobs["triggers"]["items"]["properties"]
