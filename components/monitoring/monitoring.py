"""Prometheus and Alertmanager of the estate, run by prometheus-operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource
from pydantic import JsonValue

from components.authority import Authority
from components.checks import Check, ExpectedPods, Fault, ObjectRef, SecretKeyRef, scale_to
from components.flows import OUTSIDE, Flow, Pods, asks_api, scraped
from components.flows import PROMETHEUS as PROMETHEUS_PODS
from components.model import Image
from components.monitoring import alertmanager, prometheus
from components.monitoring.config import MonitoringConfig
from components.monitoring.dashboard import monitoring_dashboard
from components.monitoring.prometheus_operator import GROUP, NAMESPACE
from components.monitoring.prometheus_operator import NAME as OPERATOR
from components.monitoring.rules import rules
from components.workload import (
    MONITOR_LABELS,
    Component,
    by_https,
    certificate,
    checksum,
    disruption_budget,
    granted,
    labels,
    meta,
    pod_monitor,
    prometheus_rule,
    service_account,
    service_dns,
    waive,
)

PROMETHEUS = "prometheus"
ALERTMANAGER = "alertmanager"


class Monitoring(Component):
    """Prometheus scrapes what carries `release: estate` in `watched`; Alertmanager tells people.

    `prometheus_url` and `alertmanager_url` hold inside the cluster (TLS by the estate's CA; the
    certificates also say `localhost`, for the gateway).
    """

    prometheus_url: pulumi.Output[str]
    alertmanager_url: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        config: MonitoringConfig,
        *,
        namespace: pulumi.Input[str],
        watched: Sequence[str],
        images: Mapping[str, Image],
        operator: Sequence[pulumi.Resource],
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:monitoring:Monitoring", name, opts)
        self._config, self._namespace = config, namespace
        self._operator = list(operator)
        tls = {
            service: certificate(
                f"{service}-tls",
                namespace,
                [*service_dns(service, NAMESPACE), "localhost"],
                self.child(depends_on=list(issuer)),
                issuer=authority.issuer,
            )
            for service in (PROMETHEUS, ALERTMANAGER)
        }
        alerting = self._alertmanager(images["alertmanager"], tls[ALERTMANAGER])
        scraping = self._prometheus(images["prometheus"], watched, tls[PROMETHEUS], authority)
        self._monitor()
        self.prometheus_url = scraping.id.apply(lambda _: _url(PROMETHEUS, prometheus.PORT))
        self.alertmanager_url = alerting.id.apply(lambda _: _url(ALERTMANAGER, alertmanager.PORT))
        self._declare_pods()
        self._declare_flows()
        self._declare_checks(list(watched))
        self.register_outputs(
            {"prometheus_url": self.prometheus_url, "alertmanager_url": self.alertmanager_url}
        )

    def _alertmanager(self, image: Image, tls: pulumi.Resource) -> CustomResource:
        config = self._config.alertmanager
        settings = k8s.core.v1.Secret(
            f"{ALERTMANAGER}-config",
            metadata=meta(f"{ALERTMANAGER}-config", self._namespace, labels(ALERTMANAGER)),
            string_data={"alertmanager.yaml": alertmanager.configuration(config)},
            opts=self.child(),
        )
        account = service_account(ALERTMANAGER, self._namespace, self.child())
        self._service(ALERTMANAGER, alertmanager.PORT)
        if config.replicas > 1:
            self._budget(ALERTMANAGER)
        return self._resource(
            "Alertmanager",
            ALERTMANAGER,
            alertmanager.spec(config, image, ALERTMANAGER),
            [settings, account, tls],
        )

    def _prometheus(
        self, image: Image, watched: Sequence[str], tls: pulumi.Resource, authority: Authority
    ) -> CustomResource:
        config = self._config.prometheus
        account = k8s.core.v1.ServiceAccount(
            PROMETHEUS,
            metadata=meta(PROMETHEUS, self._namespace, labels(PROMETHEUS)),
            opts=self.child(),
        )
        grants = [grant for namespace in watched for grant in self._grant(namespace)]
        self._service(PROMETHEUS, prometheus.PORT)
        if config.replicas > 1:
            self._budget(PROMETHEUS)
        return self._resource(
            "Prometheus",
            PROMETHEUS,
            prometheus.spec(
                config,
                image,
                PROMETHEUS,
                alertmanager=ALERTMANAGER,
                namespace=NAMESPACE,
                spread=self._config.spread,
            ),
            [account, tls, *grants],
            # The operator copies what targets are verified with, and looks at it when this changes.
            {"estate.dev/trust": checksum(authority.bundle)},
        )

    def _resource(
        self,
        kind: str,
        name: str,
        spec: Mapping[str, object],
        depends_on: Sequence[pulumi.Resource],
        annotations: Mapping[str, pulumi.Input[str]] | None = None,
    ) -> CustomResource:
        return CustomResource(
            name,
            api_version=f"{GROUP}/v1",
            kind=kind,
            metadata=meta(
                name,
                self._namespace,
                labels(name),
                annotations={"pulumi.com/waitFor": "condition=Available", **(annotations or {})},
            ),
            spec=dict(spec),
            opts=self.child(
                depends_on=[*self._operator, *depends_on], protect=self._config.protect
            ),
        )

    def _service(self, name: str, port: int) -> None:
        k8s.core.v1.Service(
            name,
            metadata=meta(
                name,
                self._namespace,
                labels(name),
                {
                    "pulumi.com/skipAwait": "true",
                    **waive({"kube-score.service-targets-pod": "an operator makes these pods"}),
                },
            ),
            spec=k8s.core.v1.ServiceSpecArgs(
                # The labels that the operator gives to the pods.
                selector={"app.kubernetes.io/name": name, name: name},
                ports=[k8s.core.v1.ServicePortArgs(name="web", port=port, target_port="web")],
            ),
            opts=self.child(),
        )

    def _budget(self, name: str) -> None:
        disruption_budget(
            name, self._namespace, {"app.kubernetes.io/name": name, name: name}, self.child()
        )

    def _grant(self, namespace: str) -> list[pulumi.Resource]:
        """Prometheus finds targets in `namespace`, and reads nothing else there."""
        rule = k8s.rbac.v1.PolicyRuleArgs
        read = ["get", "list", "watch"]
        return granted(
            PROMETHEUS,
            namespace,
            [
                rule(api_groups=[""], resources=["services", "pods"], verbs=read),
                rule(api_groups=["discovery.k8s.io"], resources=["endpointslices"], verbs=read),
            ],
            self.child(),
            labelled=labels(PROMETHEUS),
            account_namespace=NAMESPACE,
            resource=f"{PROMETHEUS}-{namespace}",
        )

    def _monitor(self) -> None:
        opts = self.child(depends_on=self._operator)
        for name in (PROMETHEUS, ALERTMANAGER):
            pod_monitor(
                name,
                self._namespace,
                {"app.kubernetes.io/name": name, name: name},
                [{"port": "web", **by_https(f"{name}.{NAMESPACE}.svc.cluster.local")}],
                opts,
            )
        prometheus_rule("monitoring", self._namespace, rules(NAMESPACE), opts)
        self.dashboards.append(monitoring_dashboard("monitoring", NAMESPACE))

    def _declare_pods(self) -> None:
        for name, part in (
            (PROMETHEUS, self._config.prometheus),
            (ALERTMANAGER, self._config.alertmanager),
        ):
            self.expected_pods.append(
                ExpectedPods(
                    name=name,
                    namespace=NAMESPACE,
                    selector={"app.kubernetes.io/name": name, name: name},
                    count=part.replicas,
                    resources=part.resources,
                    spread=self._config.spread,
                    claims=[part.storage.size_gib],
                )
            )

    def _declare_flows(self) -> None:
        alerting = Pods(
            name=ALERTMANAGER,
            namespace=NAMESPACE,
            selector={"app.kubernetes.io/name": ALERTMANAGER, ALERTMANAGER: ALERTMANAGER},
        )
        self.flows += [
            asks_api(PROMETHEUS_PODS),
            # It scrapes itself, or rather the other replicas do.
            scraped(PROMETHEUS_PODS, prometheus.PORT),
            # Alerts go there, and its metrics come from there, at one port.
            scraped(alerting, alertmanager.PORT),
        ]
        if self._config.alertmanager.replicas > 1:
            mesh = [alertmanager.MESH_PORT]
            self.flows.append(Flow(source=alerting, target=alerting, ports=mesh, udp=mesh))
        ports = {
            url.port or {"http": 80, "https": 443}[url.scheme]
            for webhook in self._config.alertmanager.webhooks
            for url in (urlsplit(webhook.url),)
        }
        if ports:
            self.flows.append(Flow(source=alerting, target=OUTSIDE, ports=sorted(ports)))

    def _declare_checks(self, watched: list[str]) -> None:
        url: dict[str, JsonValue] = {
            **asked(),
            "namespaces": list(watched),
            "labels": dict(MONITOR_LABELS),
        }
        self.checks += [
            Check(
                id="prometheus.targets",
                title="every monitor has targets, and all of them are up",
                probe="prometheus_targets",
                args=url,
                # One target vanishes, and nothing that another check asks.
                fault=scale_to(0, "Deployment", NAMESPACE, OPERATOR),
            ),
            Check(
                id="prometheus.rules",
                title="the alert rules of every component are loaded and evaluated",
                probe="prometheus_rules",
                args=url,
                fault=Fault(
                    target=ObjectRef(
                        api_version=f"{GROUP}/v1",
                        kind="Prometheus",
                        namespace=NAMESPACE,
                        name=PROMETHEUS,
                    ),
                    patch={"spec": {"ruleSelector": {"matchLabels": {"release": "nobody"}}}},
                ),
            ),
            Check(
                id="alertmanager.alert",
                title="a test alert is accepted and listed",
                probe="alertmanager_alert",
                args={"url": _url(ALERTMANAGER, alertmanager.PORT), "ca": _ca(ALERTMANAGER)},
                fault=scale_to(0, "Alertmanager", NAMESPACE, ALERTMANAGER, f"{GROUP}/v1"),
            ),
        ]


PROMETHEUS_URL = f"https://{PROMETHEUS}.{NAMESPACE}.svc.cluster.local:{prometheus.PORT}"
"""As pods find it; without a login, by TLS of the estate's authority."""


def asked() -> dict[str, JsonValue]:
    """How a probe asks Prometheus: its address, and what its certificate is verified with."""
    return {"url": PROMETHEUS_URL, "ca": _ca(PROMETHEUS)}


def _url(service: str, port: int) -> str:
    return f"https://{service}.{NAMESPACE}.svc.cluster.local:{port}"


def _ca(service: str) -> dict[str, JsonValue]:
    return SecretKeyRef(namespace=NAMESPACE, secret=f"{service}-tls", key="ca.crt").arg()
