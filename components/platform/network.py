"""Default deny in every namespace, and a NetworkPolicy per workload with its declared flows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s
from pydantic import JsonValue

from components.checks import Check, Fault, ObjectRef
from components.flows import API_SERVER, OUTSIDE, PROMETHEUS, Flow, Pods
from components.platform.config import NetworkConfig
from components.workload import Component, labels, meta

_Peer = k8s.networking.v1.NetworkPolicyPeerArgs
_Port = k8s.networking.v1.NetworkPolicyPortArgs

_DNS = Pods(name="dns", namespace="kube-system", selector={"k8s-app": "kube-dns"})
# The pods' own ports: 53 nearly everywhere, 5353 where the server is not root.
_DNS_PORTS = (53, 5353)


class Network(Component):
    """The network policies of the estate's namespaces.

    A workload's policy holds all flows from and to it. What no component declared is denied, but
    for DNS. A cluster without a policy engine stores them and lets everything through: the checks
    `network.allowed` and `network.denied` say which it is.
    """

    def __init__(
        self,
        name: str,
        config: NetworkConfig,
        *,
        namespaces: Mapping[str, pulumi.Output[str]],
        flows: Sequence[Flow],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:platform:Network", name, opts)
        self._config, self._namespaces = config, namespaces
        made = [self._of_workload(pods, flows) for pods in workloads(flows)]
        made += [self._dns(namespace) for namespace in namespaces]
        for namespace in namespaces:
            # Made last and deleted first: what is allowed has no moment in which it is denied.
            self._policy("default-deny", namespace, {}, [], [], depends_on=made)
        self._declare_checks(flows)
        self.register_outputs({})

    def _of_workload(self, pods: Pods, flows: Sequence[Flow]) -> pulumi.Resource:
        ingress = [
            k8s.networking.v1.NetworkPolicyIngressRuleArgs(
                from_=self._peers(flow.source), ports=self._reached(flow)
            )
            for flow in flows
            if flow.target == pods
        ]
        egress = [
            k8s.networking.v1.NetworkPolicyEgressRuleArgs(
                to=self._peers(flow.target), ports=self._reached(flow)
            )
            for flow in flows
            if flow.source == pods
        ]
        return self._policy(pods.name, pods.namespace, pods.selector, ingress, egress)

    def _dns(self, namespace: str) -> pulumi.Resource:
        rule = k8s.networking.v1.NetworkPolicyEgressRuleArgs(
            to=self._peers(_DNS), ports=[*_ports(_DNS_PORTS, "UDP"), *_ports(_DNS_PORTS)]
        )
        return self._policy("dns", namespace, {}, None, [rule])

    def _policy(
        self,
        name: str,
        namespace: str,
        selector: Mapping[str, str],
        ingress: list[k8s.networking.v1.NetworkPolicyIngressRuleArgs] | None,
        egress: list[k8s.networking.v1.NetworkPolicyEgressRuleArgs],
        depends_on: Sequence[pulumi.Resource] = (),
    ) -> pulumi.Resource:
        return k8s.networking.v1.NetworkPolicy(
            f"{namespace}-{name}",
            metadata=meta(name, self._namespaces[namespace], labels(name)),
            spec=k8s.networking.v1.NetworkPolicySpecArgs(
                pod_selector=k8s.meta.v1.LabelSelectorArgs(match_labels=dict(selector) or None),
                policy_types=["Egress"] if ingress is None else ["Ingress", "Egress"],
                # The API server stores no empty list, so it would come back as a change.
                ingress=ingress or None,
                egress=egress or None,
            ),
            opts=self.child(depends_on=list(depends_on)),
        )

    def _reached(self, flow: Flow) -> list[k8s.networking.v1.NetworkPolicyPortArgs]:
        # Some engines judge before the API's Service is translated to its address, some after.
        own = [self._config.api_server_port] if flow.target == API_SERVER else []
        return [*_ports(sorted({*flow.ports, *flow.spare, *own})), *_ports(flow.udp, "UDP")]

    def _peers(self, end: Pods | str) -> list[k8s.networking.v1.NetworkPolicyPeerArgs]:
        if isinstance(end, Pods):
            selector = k8s.meta.v1.LabelSelectorArgs
            return [
                _Peer(
                    namespace_selector=selector(
                        match_labels={"kubernetes.io/metadata.name": end.namespace}
                    ),
                    pod_selector=selector(match_labels=dict(end.selector)),
                )
            ]
        cidrs = {API_SERVER: self._config.api_server_cidrs, OUTSIDE: ["0.0.0.0/0"]}[end]
        return [_Peer(ip_block=k8s.networking.v1.IPBlockArgs(cidr=cidr)) for cidr in cidrs]

    def _declare_checks(self, flows: Sequence[Flow]) -> None:
        declared: list[JsonValue] = [flow.model_dump(mode="json") for flow in flows]
        between = [flow.target for flow in flows if isinstance(flow.source, Pods)]
        lasting = [end for end in between if isinstance(end, Pods) and end.lasting]
        if not lasting:
            return
        # What is scraped by Prometheus can miss it for as long as a proof takes.
        scraped = [f.target for f in flows if f.source == PROMETHEUS and f.target in lasting]
        victim = next(end for end in [*scraped, *lasting] if isinstance(end, Pods))
        target = ObjectRef(
            api_version="networking.k8s.io/v1",
            kind="NetworkPolicy",
            namespace=victim.namespace,
            name=victim.name,
        )
        closed: dict[str, JsonValue] = {"ingress": []}
        # Both sides must agree on a connection between pods; the node needs only this one.
        open_: dict[str, JsonValue] = {"egress": [{}]}
        for check, title, rules in (
            ("allowed", "every declared flow is let through", closed),
            ("denied", "no other connection of a workload is", open_),
        ):
            self.checks.append(
                Check(
                    id=f"network.{check}",
                    title=title,
                    probe=f"network_{check}",
                    args={"flows": declared},
                    fault=Fault(target=target, patch={"spec": rules}),
                )
            )


def workloads(flows: Iterable[Flow]) -> list[Pods]:
    """The pods at either end of the flows, each once, sorted.

    Raises ValueError when two of them share a namespace and a name, and with it a policy's name.
    """
    found: dict[tuple[str, str], Pods] = {}
    for flow in flows:
        for end in (flow.source, flow.target):
            if isinstance(end, Pods) and found.setdefault((end.namespace, end.name), end) != end:
                raise ValueError(
                    f"flows: two different workloads are called {end.namespace}/{end.name}; "
                    "give one another name"
                )
    return [found[key] for key in sorted(found)]


def _ports(
    ports: Iterable[int], protocol: str = "TCP"
) -> list[k8s.networking.v1.NetworkPolicyPortArgs]:
    return [_Port(port=port, protocol=protocol) for port in ports]
