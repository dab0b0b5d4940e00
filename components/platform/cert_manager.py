"""cert-manager: issues and rotates every TLS certificate of the estate."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

from components.checks import ExpectedPods
from components.flows import Pods, asks_api, called_by_api, scraped
from components.model import Image, Resources
from components.platform.certificate_dashboard import certificate_dashboard
from components.platform.certificate_rules import certificate_rules
from components.platform.config import CertManagerConfig
from components.platform.release import Object, annotate, apply_release
from components.workload import Component, pod_monitor, prometheus_rule, waive

NAMESPACE = "platform"
"""The release manifests are rendered for this namespace (RBAC and webhooks name it)."""

PROGRAMS = {
    "cert-manager": "controller",
    "cert-manager-webhook": "webhook",
    "cert-manager-cainjector": "cainjector",
}
"""Deployment -> program; the image of each is `cert_manager_<program>`."""


_METRICS_PORT, _WEBHOOK_PORT = 9402, 10250  # of the release manifests


class CertManager(Component):
    """cert-manager in namespace `platform`.

    `ready` holds the resources after which its API takes objects: webhook answering, its CA
    injected. `objects` is the release manifest (stacks read it; a component reads no file).
    """

    ready: Sequence[pulumi.Resource]

    def __init__(
        self,
        name: str,
        config: CertManagerConfig,
        *,
        images: Mapping[str, Image],
        objects: Sequence[Object],
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:platform:CertManager", name, opts)
        self.ready = apply_release(
            objects,
            self,
            transform=lambda body: vendored(body, config, images),
            protect_crds=config.protect,
        )
        for deployment, program in PROGRAMS.items():
            pods = Pods(
                name=deployment,
                namespace=NAMESPACE,
                selector={
                    "app.kubernetes.io/instance": "cert-manager",
                    "app.kubernetes.io/component": program,
                },
            )
            self.expected_pods.append(
                ExpectedPods(
                    name=deployment,
                    namespace=NAMESPACE,
                    selector=pods.selector,
                    count=1,
                    resources=getattr(config, program),
                )
            )
            self.flows.append(asks_api(pods))
            if program == "webhook":
                self.flows.append(called_by_api(pods, _WEBHOOK_PORT))
            if program == "controller" and monitors is not None:
                self.flows.append(scraped(pods, _METRICS_PORT))
        if monitors is not None:
            self._monitor(monitors)
        self.register_outputs({"namespace": NAMESPACE})

    def _monitor(self, depends_on: Sequence[pulumi.Resource]) -> None:
        opts = self.child(depends_on=list(depends_on))
        selector = {
            "app.kubernetes.io/instance": "cert-manager",
            "app.kubernetes.io/component": "controller",
        }
        waived = {"encryption": "names and dates of certificates, which are public by themselves"}
        # Its series name the namespace of a certificate by the same label as the scrape its own.
        endpoint = {"port": "http-metrics", "honorLabels": True}
        pod_monitor("cert-manager", NAMESPACE, selector, [endpoint], opts, waived=waived)
        prometheus_rule(
            "cert-manager",
            NAMESPACE,
            certificate_rules(NAMESPACE),
            opts,
        )
        self.dashboards.append(certificate_dashboard("cert-manager", NAMESPACE))


def vendored(body: Object, config: CertManagerConfig, images: Mapping[str, Image]) -> Object:
    """One object of the vendored manifest with what the estate sets on top of the release."""
    body = copy.deepcopy(body)
    kind, name = body["kind"], body["metadata"]["name"]
    if kind == "Deployment":
        pod = body["spec"]["template"]["spec"]
        _harden(pod, PROGRAMS[name], config, images)
        waived = {
            "checkov.CKV_K8S_38": "works on the API: issues, injects or keeps its own certificate"
        }
        if PROGRAMS[name] == "webhook":
            waived["kube-score.deployment-replicas"] = (
                "certificates are renewed weeks ahead; a new one can wait for a restart's seconds"
            )
        if "livenessProbe" not in pod["containers"][0]:
            waived["probes"] = "1.11 gives it neither metrics nor health; losing its lease ends it"
        body = annotate(body, waive(waived))
    elif kind == "ClusterRole" and name == "cert-manager-cainjector":
        body = annotate(body, waive({"checkov.CKV_K8S_155": "injecting CAs into them is its work"}))
    elif kind.endswith("WebhookConfiguration"):
        # Objects are refused until cainjector has written the CA here: whoever creates a
        # certificate depends on this configuration, so it counts as made only then.
        body = annotate(
            body, {"pulumi.com/waitFor": "jsonpath={.webhooks[0].clientConfig.caBundle}"}
        )
    elif kind == "Service":
        # Readiness is awaited on the deployments; waiting for endpoints again costs seconds.
        body = annotate(body, {"pulumi.com/skipAwait": "true"})
    return body


def _harden(
    pod: dict[str, Any], program: str, config: CertManagerConfig, images: Mapping[str, Image]
) -> None:
    resources: Resources = getattr(config, program)
    container = pod["containers"][0]
    # By digest like every image, or not at all: without ACME issuers the solver is never started.
    solver = "--acme-http01-solver-image="
    arguments = [one for one in container.get("args", []) if not one.startswith(solver)]
    if program == "controller" and "cert_manager_acmesolver" in images:
        arguments.append(f"{solver}{images['cert_manager_acmesolver'].ref}")
    container["args"] = arguments
    container["image"] = images[f"cert_manager_{program}"].ref
    # The rehearsal's images have no entry point of their own; upstream's is this same path.
    container["command"] = [f"/app/cmd/{program}/{program}"]
    container["resources"] = resources.quantities()
    container["securityContext"] |= {"readOnlyRootFilesystem": True, "runAsNonRoot": True}
    pod["securityContext"] |= {"runAsUser": 1000, "runAsGroup": 1000}
    # Metrics are the only sign of health that a program may have; the release's own probes win.
    if any(port["name"] == "http-metrics" for port in container.get("ports", [])):
        metrics = {"httpGet": {"path": "/metrics", "port": _METRICS_PORT, "scheme": "HTTP"}}
        alive = {**metrics, "periodSeconds": 20, "timeoutSeconds": 5, "failureThreshold": 6}
        container.setdefault("readinessProbe", {**metrics, "periodSeconds": 2, "timeoutSeconds": 2})
        container.setdefault("livenessProbe", alive)
