"""What every manifest of every environment must carry, beyond the policies (test_policies)."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.platform.cert_manager import PROGRAMS
from components.platform.namespaces import AUTOSCALING, GPUS, NAMESPACES, PRIVILEGED, STORAGE
from components.workload import MONITOR_LABELS
from configs import versions
from tests.rendering import SECRET, WORKLOADS, Rendered, pulled, render
from tests.state.probes import find

CONFIGS = Path(versions.__file__).parent
ENVIRONMENTS = sorted(file.name.split(".")[1] for file in CONFIGS.glob("Pulumi.*.yaml"))


@pytest.fixture(scope="module")
def local() -> Rendered:
    return render("local")


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return render(request.param)


def _pods(rendered: Rendered) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for body in rendered.objects(*WORKLOADS):
        yield body["kind"], body["metadata"]["name"], body["spec"]["template"]["spec"]


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def test_the_core_is_there(local: Rendered) -> None:
    names = {name for _, name, _ in _pods(local)}
    assert {"cert-manager", "cert-manager-webhook", "mosquitto", "kafka", "pgpool"} <= names
    assert local.names("Namespace") == sorted(NAMESPACES)
    assert "postgres" in local.names("Cluster")


def test_an_environment_that_pulls_runs_upstream_by_digest(local: Rendered) -> None:
    """Every image of it is versions.toml's; cert-manager's is the newest, with its own manifest."""
    pinned = {image.ref for image in pulled().values()}
    onprem = render("onprem")
    used = {container["image"] for _, _, pod in _pods(onprem) for container in _containers(pod)}
    used |= {body["spec"]["imageName"] for body in onprem.objects("Cluster")}
    used |= {body["spec"]["image"] for body in onprem.objects("Prometheus", "Alertmanager")}
    operator = onprem.object("Deployment", "strimzi-cluster-operator")["spec"]["template"]["spec"]
    told = [env.get("value", "") for env in operator["containers"][0]["env"]]
    used |= {ref for value in told for ref in re.findall(r"quay\.io/\S+", value)}
    members = onprem.object("MongoDBCommunity", "mongodb")["spec"]["statefulSet"]["spec"]
    used |= {one["image"] for one in _containers(members["template"]["spec"])}
    used |= {
        one["image"]
        for body in onprem.objects("CronJob")
        for one in _containers(body["spec"]["jobTemplate"]["spec"]["template"]["spec"])
    }
    assert used <= pinned, sorted(used - pinned)
    repositories = {ref.partition(":")[0] for ref in used}
    assert "quay.io/jetstack/cert-manager-controller" in repositories
    assert len(repositories) == 38
    for name, program in PROGRAMS.items():
        entry = versions.declared()[f"cert_manager_{program}"]
        for rendered, tag in ((onprem, entry.tag), (local, entry.built)):
            deployment = rendered.object("Deployment", name)
            assert deployment["metadata"]["labels"]["app.kubernetes.io/version"] == tag
            image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
            assert image.startswith(f"{entry.repository}:{tag}@sha256:")


def test_what_is_rehearsed_has_the_names_of_what_is_pulled(local: Rendered) -> None:
    """The same objects of a component, whichever release of it runs."""
    onprem = render("onprem")
    # Of what no rehearsal runs: the archive's plugin, kube-state-metrics, annotation, KEDA, DCGM.
    alone = {"barman-cloud-server-tls", "barman-cloud-client-tls", "kube-state-metrics-tls"}
    alone |= {"annotation-tls", "keda-operator-tls", "keda-metrics-apiserver-tls"}
    alone |= {"dcgm-exporter-tls"}
    for kind in ("Certificate", "ClusterIssuer", "Issuer", "Cluster", "Prometheus", "Alertmanager"):
        assert set(onprem.names(kind)) - alone <= set(local.names(kind)), kind


def test_two_namespaces_alone_are_privileged() -> None:
    """Rook's, for its disks, and DCGM's, for the kubelet's socket."""
    levels = {
        body["metadata"]["name"]: body["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for body in render("onprem").objects("Namespace")
    }
    assert {name for name, level in levels.items() if level != "restricted"} == set(PRIVILEGED)


def test_every_namespaced_object_lies_in_a_declared_namespace(rendered: Rendered) -> None:
    for body in rendered.objects():
        namespace = body["metadata"].get("namespace")
        if (body["kind"], body["metadata"]["name"]) == ("RoleBinding", "keda-auth-reader"):
            # Every API server behind the API server reads there whose certificate it shows.
            assert namespace == "kube-system"
            continue
        known = (*NAMESPACES, STORAGE, GPUS, AUTOSCALING)
        assert namespace is None or namespace in known, body["metadata"]


def test_every_container_takes_the_image_that_is_there_and_says_what_runs(
    rendered: Rendered,
) -> None:
    for kind, name, pod in _pods(rendered):
        for container in _containers(pod):
            where = (kind, name, container["name"])
            assert container.get("imagePullPolicy") == "IfNotPresent", where
            # Images made for the rehearsal have no entry point.
            assert container["command"], where


def test_replicas_are_spread(rendered: Rendered) -> None:
    for body in rendered.objects("Deployment", "StatefulSet"):
        if body["spec"].get("replicas", 1) > 1:
            spec = body["spec"]["template"]["spec"]
            assert spec["topologySpreadConstraints"], body["metadata"]["name"]


def test_only_secrets_are_secret(rendered: Rendered) -> None:
    """A property that is secret as a whole cannot be read in a preview."""
    hidden = [
        f"{body['kind']} {body['metadata']['name']}: {key}"
        for body in rendered.objects()
        for key, value in body.items()
        if body["kind"] != "Secret" and isinstance(value, dict) and SECRET in value
    ]
    assert not hidden


def test_every_monitor_and_rule_is_selected_by_prometheus(rendered: Rendered) -> None:
    found = rendered.objects("PodMonitor", "ServiceMonitor", "PrometheusRule")
    assert {"postgres", "cert-manager"} <= {b["metadata"]["name"] for b in found}
    for body in found:
        assert MONITOR_LABELS.items() <= body["metadata"]["labels"].items(), body["metadata"]


def test_a_monitor_scrapes_a_port_that_its_pods_have(rendered: Rendered) -> None:
    for monitor in rendered.objects("PodMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"].items()
        pods = [
            body["spec"]["template"]
            for body in rendered.objects("Deployment", "StatefulSet", "DaemonSet")
            if selector <= body["spec"]["template"]["metadata"]["labels"].items()
        ]
        if not pods:
            continue  # pods that an operator makes
        ports = {
            port.get("name")
            for pod in pods
            for container in pod["spec"]["containers"]
            for port in container.get("ports", [])
        }
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert endpoint["port"] in ports, monitor["metadata"]["name"]


def test_checks_have_distinct_ids_and_faults_hit_declared_objects(rendered: Rendered) -> None:
    ids = [check["id"] for check in rendered.checks]
    assert len(ids) == len(set(ids))
    assert {"cert-manager.issue", "postgres.write-read"} & set(ids)
    faults = [json.dumps(check["fault"], sort_keys=True) for check in rendered.checks]
    assert len(faults) == len(set(faults)), "two checks are broken by the same fault"
    for check in rendered.checks:
        target = check["fault"]["target"]
        assert target["name"] in rendered.names(target["kind"]), (check["id"], target)


def test_the_probe_of_every_check_exists_and_takes_its_arguments(rendered: Rendered) -> None:
    for check in rendered.checks:
        probe = find(check["probe"])
        assert probe is not None, check["id"]
        inspect.signature(probe).bind(None, **check["args"])


def test_expected_pods_match_their_workloads(rendered: Rendered) -> None:
    for expected in rendered.expected_pods:
        for body in rendered.objects("Deployment", "StatefulSet"):
            labels = body["spec"]["template"]["metadata"]["labels"]
            if body["metadata"]["namespace"] == expected["namespace"] and (
                expected["selector"].items() <= labels.items()
            ):
                assert body["spec"].get("replicas", 1) == expected["count"], expected["name"]
