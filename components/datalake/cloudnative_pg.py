"""CloudNativePG: the operator that runs PostgreSQL, from its pinned release manifest."""

from __future__ import annotations

import base64
import copy
from collections.abc import Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import ExpectedPods
from components.dashboards import operator_dashboard
from components.datalake.operators_config import CloudNativePgConfig
from components.flows import Pods, asks_api, called_by_api, scraped
from components.model import Image
from components.platform.release import Manifest, Object, annotate, apply_release
from components.workload import (
    Component,
    alert,
    certificate,
    meta,
    pod_monitor,
    prometheus_rule,
    service_dns,
    waive,
)

MANIFEST = "cloudnative-pg-1.30.0"
"""Vendored release beside components/manifests/vendor.py; stacks read it."""

NAMESPACE = "platform"
RELEASE_NAMESPACE = "cnpg-system"
DEPLOYMENT = "cnpg-controller-manager"
WEBHOOK_SERVICE = "cnpg-webhook-service"
WEBHOOK_SECRET = "cnpg-webhook-tls"
SELECTOR = {"app.kubernetes.io/name": "cloudnative-pg"}
PODS = Pods(name=DEPLOYMENT, namespace=NAMESPACE, selector=SELECTOR)

_METRICS_PORT, _WEBHOOK_PORT = 8080, 9443  # of the release manifest
_WEBHOOK_FOLDER = "/run/secrets/estate/webhook"


class CloudNativePgOperator(Component):
    """The operator in namespace `platform`, its webhook's certificate issued by cert-manager.

    `ready` holds the resources after which a `Cluster` is accepted. `objects` is the vendored
    manifest `MANIFEST`; `issuer` what the estate's CA issuer hangs on.
    """

    ready: Sequence[pulumi.Resource]

    def __init__(
        self,
        name: str,
        config: CloudNativePgConfig,
        *,
        namespace: pulumi.Input[str],
        image: Image,
        objects: Sequence[Object],
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:CloudNativePgOperator", name, opts)
        tls = certificate(
            WEBHOOK_SECRET,
            namespace,
            service_dns(WEBHOOK_SERVICE, NAMESPACE),
            self.child(depends_on=list(issuer)),
            issuer=authority.issuer,
        )
        made: list[Manifest] = apply_release(
            objects,
            self,
            transform=lambda body: vendored(body, config, image, authority.bundle),
            depends_on=[tls],
            protect_crds=config.protect,
        )
        self.ready = made
        self.expected_pods.append(
            ExpectedPods(
                name=DEPLOYMENT,
                namespace=NAMESPACE,
                selector=SELECTOR,
                count=config.replicas,
                resources=config.resources,
            )
        )
        self.flows += [asks_api(PODS), called_by_api(PODS, _WEBHOOK_PORT)]
        if monitors is not None:
            self.flows.append(scraped(PODS, _METRICS_PORT))
        if config.replicas > 1:
            self._budget(namespace)
        if monitors is not None:
            self._monitor(namespace, monitors)
        self.register_outputs({"namespace": NAMESPACE})

    def _budget(self, namespace: pulumi.Input[str]) -> None:
        k8s.policy.v1.PodDisruptionBudget(
            DEPLOYMENT,
            metadata=meta(DEPLOYMENT, namespace, SELECTOR),
            spec=k8s.policy.v1.PodDisruptionBudgetSpecArgs(
                max_unavailable=1,
                selector=k8s.meta.v1.LabelSelectorArgs(match_labels=SELECTOR),
            ),
            opts=self.child(),
        )

    def _monitor(self, namespace: pulumi.Input[str], depends_on: Sequence[pulumi.Resource]) -> None:
        opts = self.child(depends_on=list(depends_on))
        waived = {"encryption": "counters of the operator's own work, nothing of a database"}
        endpoints = [{"port": "metrics"}]
        pod_monitor("cloudnative-pg", namespace, SELECTOR, endpoints, opts, waived=waived)
        prometheus_rule(
            "cloudnative-pg",
            namespace,
            [
                alert(
                    "CloudNativePgOperatorDown",
                    f'absent(up{{namespace="{NAMESPACE}", job=~".*cloudnative-pg"}} == 1)',
                    "no CloudNativePG operator answers: a failed primary is not replaced",
                    for_s=60,
                ),
                alert(
                    "CloudNativePgReconcileErrors",
                    "sum by (controller) (rate(controller_runtime_reconcile_errors_total"
                    f'{{namespace="{NAMESPACE}", job=~".*cloudnative-pg"}}[5m])) > 0.1',
                    "CloudNativePG controller {{ $labels.controller }} keeps failing; see its log",
                    for_s=600,
                    severity="warning",
                ),
            ],
            opts,
        )
        self.dashboards.append(
            operator_dashboard(
                "cloudnative-pg",
                NAMESPACE,
                "CloudNativePG",
                alerts="CloudNativePg.+",
                description="The operator of PostgreSQL.",
            )
        )


def vendored(
    body: Object, config: CloudNativePgConfig, image: Image, bundle: pulumi.Input[str]
) -> Object:
    """One object of the release with what the estate sets on top of it.

    `bundle` is what the API server trusts when it calls the webhook.
    """
    body = relocate(copy.deepcopy(body), RELEASE_NAMESPACE, NAMESPACE)
    kind, name = body["kind"], body["metadata"]["name"]
    if kind == "Deployment" and name == DEPLOYMENT:
        body["spec"]["replicas"] = config.replicas
        _harden(body["spec"]["template"]["spec"], config, image)
        waived = {"checkov.CKV_K8S_38": "an operator works on the API"}
        if config.replicas == 1:
            waived["kube-score.deployment-replicas"] = (
                "a failover waits for its restart; cloudnative_pg.replicas gives it standbys"
            )
        body = annotate(body, waive(waived))
    elif kind == "ClusterRole" and name == "cnpg-manager":
        # Of use only to an operator that makes its own CA (see WEBHOOK_CERT_DIR below).
        body["rules"] = [
            rule
            for rule in body["rules"]
            if rule.get("apiGroups") != ["admissionregistration.k8s.io"]
        ]
    elif kind.endswith("WebhookConfiguration"):
        # Not injected by cainjector: that would trust a new authority alone while the operator
        # still presents a certificate of the former one, for as long as its mount takes to follow.
        encoded = pulumi.Output.from_input(bundle).apply(
            lambda pem: base64.b64encode(pem.encode()).decode()
        )
        for hook in body["webhooks"]:
            hook["clientConfig"]["caBundle"] = encoded
    elif kind == "Service":
        # The deployment is awaited; waiting for its endpoints again costs seconds.
        body = annotate(body, {"pulumi.com/skipAwait": "true"})
    return body


def relocate(body: Object, source: str, target: str) -> Object:
    """The object with every mention of namespace `source` replaced, wherever a release has one."""
    metadata = body["metadata"]
    if metadata.get("namespace") == source:
        metadata["namespace"] = target
    for subject in body.get("subjects", []):
        if subject.get("namespace") == source:
            subject["namespace"] = target
    for hook in body.get("webhooks", []):
        service = hook["clientConfig"].get("service", {})
        if service.get("namespace") == source:
            service["namespace"] = target
    return body


def _harden(pod: dict[str, Any], config: CloudNativePgConfig, image: Image) -> None:
    container = pod["containers"][0]
    container["image"] = image.ref
    container["imagePullPolicy"] = "IfNotPresent"
    container["resources"] = config.resources.quantities()
    container["securityContext"] |= {"runAsNonRoot": True}
    for variable in container["env"]:
        if variable["name"] == "OPERATOR_IMAGE_NAME":
            # Every instance copies the manager from this image: by digest like everything else.
            variable["value"] = image.ref
    container["env"] += [
        # With this set the operator makes no CA of its own and patches no webhook: cert-manager
        # issues and cainjector injects (controller.go: the folder's files are named as OLM does).
        {"name": "WEBHOOK_CERT_DIR", "value": _WEBHOOK_FOLDER},
        # A standby whose primary vanished without a word notices after this many milliseconds
        # (default 5000), and until then nobody is elected. Since policies are enforced that is
        # the rule: the connection of a primary deleted by force times out where it was closed
        # before. Probably the address of a pod whose object is gone belongs to nobody, and what
        # the standby acknowledges is dropped; no trace of the packets was taken. The kernel
        # answers here, not a process, so a busy node is no reason for more.
        {"name": "STANDBY_TCP_USER_TIMEOUT", "value": "2000"},
    ]
    container["startupProbe"] |= {"periodSeconds": 1, "failureThreshold": 60}
    container["readinessProbe"] |= {"periodSeconds": 5, "timeoutSeconds": 3}
    container["livenessProbe"] |= {"periodSeconds": 15, "timeoutSeconds": 5, "failureThreshold": 4}
    for mount in container["volumeMounts"]:
        if mount["name"] == "webhook-certificates":
            mount["mountPath"] = _WEBHOOK_FOLDER
            mount["readOnly"] = True
    for volume in pod["volumes"]:
        if volume["name"] == "webhook-certificates":
            volume["secret"] = {
                "secretName": WEBHOOK_SECRET,
                "items": [
                    {"key": "tls.crt", "path": "apiserver.crt"},
                    {"key": "tls.key", "path": "apiserver.key"},
                ],
                "defaultMode": 0o440,
            }
    # The key is readable by the group only; the release relies on world-readable 0644.
    pod["securityContext"] |= {"fsGroup": 10001}
