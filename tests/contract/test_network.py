"""What the rendered NetworkPolicies let through, judged as Kubernetes defines them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from components.flows import Flow, Pods
from components.platform.namespaces import NAMESPACES
from configs.schema import load
from rehearsal import paths, sandbox
from tests.contract.test_manifests import ENVIRONMENTS
from tests.rendering import Rendered, render


@dataclass(frozen=True)
class End:
    """A pod by what policies see of it."""

    namespace: str
    labels: Mapping[str, str]


def lets_through(policies: list[dict[str, Any]], source: End, target: End, port: int) -> bool:
    """Whether a TCP connection between two pods is allowed on both sides."""
    sides = (
        ("Egress", "egress", "to", source, target),
        ("Ingress", "ingress", "from", target, source),
    )
    for kind, rules, peers, own, other in sides:
        selecting = [
            policy["spec"]
            for policy in policies
            if policy["metadata"]["namespace"] == own.namespace
            and kind in policy["spec"]["policyTypes"]
            and _matches(policy["spec"].get("podSelector"), own.labels)
        ]
        if selecting and not any(
            any(_is_peer(peer, other) for peer in rule[peers])
            and any(one["port"] == port and one["protocol"] == "TCP" for one in rule["ports"])
            for spec in selecting
            for rule in spec.get(rules) or ()
        ):
            return False
    return True


def _matches(selector: dict[str, Any] | None, labels: Mapping[str, str]) -> bool:
    return ((selector or {}).get("matchLabels") or {}).items() <= labels.items()


def _is_peer(peer: dict[str, Any], end: End) -> bool:
    return "podSelector" in peer and (
        _matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": end.namespace})
        and _matches(peer["podSelector"], end.labels)
    )


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return render(request.param)


def flows(rendered: Rendered) -> list[Flow]:
    (check,) = [check for check in rendered.checks if check["id"] == "network.allowed"]
    return [Flow.model_validate(flow) for flow in check["args"]["flows"]]


def test_the_declared_flows_are_let_through_and_no_others(rendered: Rendered) -> None:
    policies = rendered.objects("NetworkPolicy")
    between = [
        f for f in flows(rendered) if isinstance(f.source, Pods) and isinstance(f.target, Pods)
    ]
    declared = {
        (f.source.namespace, f.source.name, f.target.namespace, f.target.name, port)
        for f in between
        if isinstance(f.source, Pods) and isinstance(f.target, Pods)
        for port in (*f.ports, *f.spare)
    }
    ends = {
        (end.namespace, end.name): End(end.namespace, end.selector)
        for flow in flows(rendered)
        for end in (flow.source, flow.target)
        if isinstance(end, Pods)
    }
    ports = {key[4] for key in declared}
    found = {
        (*source, *target, port)
        for source in ends
        for target in ends
        for port in ports
        if lets_through(policies, ends[source], ends[target], port)
    }
    assert found == declared


def test_a_pod_that_nobody_declared_reaches_dns_alone(rendered: Rendered) -> None:
    policies = rendered.objects("NetworkPolicy")
    dns = End("kube-system", {"k8s-app": "kube-dns"})
    for namespace in NAMESPACES:
        stranger = End(namespace, {"app": "stranger"})
        assert lets_through(policies, stranger, dns, 53)
        assert not lets_through(policies, stranger, dns, 9153)
        for flow in flows(rendered):
            if isinstance(flow.target, Pods):
                target = End(flow.target.namespace, flow.target.selector)
                assert not lets_through(policies, stranger, target, flow.ports[0]), flow.target.name


def test_every_expected_pod_has_a_policy_of_its_own(rendered: Rendered) -> None:
    for expected in rendered.expected_pods:
        assert any(
            selector.items() <= expected["selector"].items()
            for policy in rendered.objects("NetworkPolicy")
            if policy["metadata"]["namespace"] == expected["namespace"]
            and (selector := (policy["spec"].get("podSelector") or {}).get("matchLabels"))
        ), expected["name"]


def test_prometheus_reaches_every_port_that_a_monitor_names(rendered: Rendered) -> None:
    policies = rendered.objects("NetworkPolicy")
    prometheus = End(
        "monitoring", {"app.kubernetes.io/name": "prometheus", "prometheus": "prometheus"}
    )
    for monitor in rendered.objects("PodMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        endpoints = monitor["spec"]["podMetricsEndpoints"]
        names = {endpoint["port"] for endpoint in endpoints if "port" in endpoint}
        for body in rendered.objects("Deployment", "StatefulSet"):
            template = body["spec"]["template"]
            labels = template["metadata"]["labels"]
            if not selector.items() <= labels.items():
                continue
            for container in template["spec"]["containers"]:
                for port in container.get("ports", []):
                    if port.get("name") in names:
                        target = End(body["metadata"]["namespace"], labels)
                        reached = lets_through(policies, prometheus, target, port["containerPort"])
                        assert reached, (monitor["metadata"]["name"], port)


def test_the_rehearsal_declares_its_own_node_as_the_api() -> None:
    network = load(paths.root() / "configs" / "Pulumi.local.yaml").network
    assert network.api_server_cidrs == [f"{sandbox.NODE_IP}/32"]
