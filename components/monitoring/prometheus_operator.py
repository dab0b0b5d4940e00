"""prometheus-operator: definitions of monitors and rules, and what turns them into Prometheus."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

from components.checks import ExpectedPods
from components.flows import Pods, asks_api, scraped
from components.model import Image
from components.monitoring.config import PrometheusOperatorConfig
from components.platform.release import Object, annotate, apply_release
from components.workload import TRUST_CONFIG_MAP, Component, pod_monitor, waive

MANIFEST = "prometheus-operator-0.93.1"
"""Vendored release beside components/manifests/vendor.py; stacks read it."""

NAMESPACE = "monitoring"
RELEASE_NAMESPACE = "default"
NAME = "prometheus-operator"
SELECTOR = {
    "app.kubernetes.io/component": "controller",
    "app.kubernetes.io/name": NAME,
}
GROUP = "monitoring.coreos.com"


class PrometheusOperator(Component):
    """The operator in namespace `monitoring`.

    `definitions` are the CRDs: every other component's monitors and rules depend on them and
    on nothing else, so that they need not wait for the operator. `ready` adds the operator.
    """

    definitions: Sequence[pulumi.Resource]
    ready: Sequence[pulumi.Resource]

    def __init__(
        self,
        name: str,
        config: PrometheusOperatorConfig,
        *,
        namespace: pulumi.Input[str],
        watched: Sequence[str],
        images: Mapping[str, Image],
        objects: Sequence[Object],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:monitoring:PrometheusOperator", name, opts)
        definitions = [body for body in objects if body["kind"] == _DEFINITION]
        others = [body for body in objects if body["kind"] not in (_DEFINITION, *_REPLACED)]
        self.definitions = apply_release(definitions, self, protect_crds=config.protect)
        self.ready = apply_release(
            [*others, *roles(watched)],
            self,
            transform=lambda body: vendored(body, config, watched, images),
            depends_on=self.definitions,
        )
        self.expected_pods.append(
            ExpectedPods(
                name=NAME,
                namespace=NAMESPACE,
                selector=SELECTOR,
                count=1,
                resources=config.resources,
            )
        )
        pods = Pods(name=NAME, namespace=NAMESPACE, selector=SELECTOR)
        self.flows += [asks_api(pods), scraped(pods, _METRICS_PORT)]
        pod_monitor(
            NAME,
            namespace,
            SELECTOR,
            [{"port": "http"}],
            self.child(depends_on=list(self.definitions)),
            # It starts before the authority that would issue its certificate.
            waived={"encryption": "counters of the operator's own work, nothing that is scraped"},
        )
        self.register_outputs({"namespace": NAMESPACE})


_METRICS_PORT = 8080  # of the release manifest
_DEFINITION = "CustomResourceDefinition"
_REPLACED = ("ClusterRole", "ClusterRoleBinding")
"""The release's role may do everything with every Secret of the cluster; `roles` is narrower."""

_ALL = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]
_READ = ["get", "list", "watch"]


def roles(watched: Sequence[str]) -> list[Object]:
    """What the operator may do: workloads in its own namespace, monitors in those watched.

    Elsewhere it reads no Secret: a monitor takes its CA from the ConfigMap that every namespace
    has, and that is the one object beside monitors which the operator gets there.
    """
    monitors = [
        {
            "apiGroups": [GROUP],
            "resources": [
                "podmonitors",
                "servicemonitors",
                "probes",
                "prometheusrules",
            ],
            "verbs": _READ,
        },
        {
            "apiGroups": [GROUP],
            "resources": [
                "podmonitors/status",
                "servicemonitors/status",
                "probes/status",
                "prometheusrules/status",
            ],
            "verbs": ["get", "patch", "update"],
        },
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": [TRUST_CONFIG_MAP],
            "verbs": ["get"],
        },
    ]
    own = [
        {
            "apiGroups": [GROUP],
            "resources": [
                "prometheuses",
                "prometheuses/finalizers",
                "prometheuses/status",
                "alertmanagers",
                "alertmanagers/finalizers",
                "alertmanagers/status",
                "alertmanagerconfigs",
                "alertmanagerconfigs/status",
            ],
            "verbs": ["get", "list", "watch", "patch", "update"],
        },
        {"apiGroups": ["apps"], "resources": ["statefulsets"], "verbs": _ALL},
        {"apiGroups": [""], "resources": ["configmaps", "secrets"], "verbs": _ALL},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "delete"]},
        {
            "apiGroups": [""],
            "resources": ["services", "services/finalizers"],
            "verbs": ["get", "create", "update", "delete"],
        },
    ]
    cluster = [
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": _READ},
        {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": ["get"]},
        # The operator asks for this one without naming a namespace.
        {
            "apiGroups": ["events.k8s.io"],
            "resources": ["events"],
            "verbs": ["create", "patch"],
        },
    ]
    made = _role("ClusterRole", NAME, None, cluster)
    for namespace in sorted({*watched, NAMESPACE}):
        made += _role("Role", f"{NAME}-monitors", namespace, monitors)
    return made + _role("Role", NAME, NAMESPACE, own)


def _role(kind: str, name: str, namespace: str | None, rules: Sequence[Object]) -> list[Object]:
    metadata: Object = {"name": name, "labels": dict(SELECTOR)}
    if namespace is not None:
        metadata["namespace"] = namespace
    group = "rbac.authorization.k8s.io"
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": kind,
            "metadata": metadata,
            "rules": [copy.deepcopy(rule) for rule in rules],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": f"{kind}Binding",
            "metadata": copy.deepcopy(metadata),
            "roleRef": {"apiGroup": group, "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
        },
    ]


def vendored(
    body: Object,
    config: PrometheusOperatorConfig,
    watched: Sequence[str],
    images: Mapping[str, Image],
) -> Object:
    """One object of the release with what the estate sets on top of it."""
    body = copy.deepcopy(body)
    if body["metadata"].get("namespace") == RELEASE_NAMESPACE:
        body["metadata"]["namespace"] = NAMESPACE
    if body["kind"] == "Deployment":
        _harden(body["spec"]["template"]["spec"], config, watched, images)
        waived = {
            "checkov.CKV_K8S_38": "an operator works on the API",
            "kube-score.deployment-replicas": "Prometheus goes on without it; a new rule can wait",
        }
        body = annotate(body, waive(waived))
    elif body["kind"] == "Service":
        body = annotate(body, {"pulumi.com/skipAwait": "true"})
    return body


def _harden(
    pod: dict[str, Any],
    config: PrometheusOperatorConfig,
    watched: Sequence[str],
    images: Mapping[str, Image],
) -> None:
    reloader = config.reloader_resources.quantities()
    container = pod["containers"][0]
    container["image"] = images["prometheus_operator"].ref
    container["imagePullPolicy"] = "IfNotPresent"
    container["command"] = ["/bin/operator"]
    container["args"] = [
        f"--prometheus-config-reloader={images['prometheus_config_reloader'].ref}",
        f"--config-reloader-cpu-request={reloader['requests']['cpu']}",
        f"--config-reloader-cpu-limit={reloader['limits'].get('cpu', '0')}",
        f"--config-reloader-memory-request={reloader['requests']['memory']}",
        f"--config-reloader-memory-limit={reloader['limits']['memory']}",
        # 0.93.1 probes the reloader by plain HTTP also where its port speaks TLS.
        "--enable-config-reloader-probes=false",
        # Without these it lists Secrets of the whole cluster; see `roles`.
        f"--namespaces={','.join(sorted({*watched, NAMESPACE}))}",
        f"--prometheus-instance-namespaces={NAMESPACE}",
        f"--alertmanager-instance-namespaces={NAMESPACE}",
        f"--alertmanager-config-namespaces={NAMESPACE}",
        f"--thanos-ruler-instance-namespaces={NAMESPACE}",
        "--disable-unmanaged-prometheus-configuration=true",
    ]
    container["resources"] = config.resources.quantities()
    container["securityContext"] |= {"runAsNonRoot": True}
    health = {"httpGet": {"path": "/healthz", "port": "http"}}
    container["startupProbe"] = {**health, "periodSeconds": 1, "failureThreshold": 60}
    container["readinessProbe"] = {**health, "periodSeconds": 5, "timeoutSeconds": 3}
    container["livenessProbe"] = {
        **health,
        "periodSeconds": 20,
        "timeoutSeconds": 5,
        "failureThreshold": 4,
    }
