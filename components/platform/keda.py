"""KEDA: more replicas where a query to Prometheus says so, from its pinned release manifests.

It has a namespace of its own: the operator reads every Secret of the one that it runs in (it looks
for those of cluster-wide triggers there), and here that one holds nothing but its own certificate.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import ExpectedPods
from components.dashboards import HERE, Dashboard, graph, operator_dashboard, quiet, rate
from components.flows import PROMETHEUS, Flow, Pods, asks_api, called_by_api, scraped
from components.model import Image, topology_spread
from components.platform.config import KedaConfig
from components.platform.namespaces import AUTOSCALING
from components.platform.release import Manifest, Object, annotate, apply_release
from components.workload import (
    TRUST_CONFIG_MAP,
    Component,
    alert,
    certificate,
    disruption_budget,
    granted,
    meta,
    pod_monitor,
    prometheus_rule,
    service_account,
    service_dns,
    waive,
)

MANIFEST = "keda-2.20.2"
"""Vendored release beside components/manifests/vendor.py; stacks read it."""

NAMESPACE = AUTOSCALING
RELEASE_NAMESPACE = "keda"
OPERATOR, ADAPTER = "keda-operator", "keda-metrics-apiserver"
API_GROUP = "keda.sh"
PODS = {
    name: Pods(name=name, namespace=NAMESPACE, selector={"app": name})
    for name in (OPERATOR, ADAPTER)
}
"""The operator asks triggers, the adapter tells what they said to the API server."""
UID = 1000
_COMMANDS = {OPERATOR: "/keda", ADAPTER: "/keda-adapter"}
_METRICS_PORT, _SERVICE_PORT, _API_PORT = 8080, 9666, 6443  # of the release manifests
_PROMETHEUS_PORT = 9090
_CERTIFICATES, _AUTHORITY = "/certs", "/custom/ca"
_METRICS = ("s0-prometheus",)
"""What KEDA calls the first trigger of a ScaledObject; the estate's have one each."""
_RBAC = "rbac.authorization.k8s.io"
_rule = k8s.rbac.v1.PolicyRuleArgs
_READ = ["get", "list", "watch"]
_EVENTS = _rule(api_groups=["", "events.k8s.io"], resources=["events"], verbs=["create", "patch"])


class Keda(Component):
    """The operator and its metrics adapter in namespace `autoscaling`; it acts in `scaled` alone.

    `ready` holds the resources after which a ScaledObject is accepted and acted on. Its webhook is
    left out: what it would refuse is declared here, and reviewed.
    """

    ready: Sequence[pulumi.Resource]

    def __init__(
        self,
        name: str,
        config: KedaConfig,
        *,
        namespace: pulumi.Input[str],
        scaled: Mapping[str, pulumi.Input[str]],
        images: Mapping[str, Image],
        objects: Sequence[Object],
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:platform:Keda", name, opts)
        self._namespace = namespace
        before: list[pulumi.Resource] = [
            certificate(
                f"{one}-tls",
                namespace,
                service_dns(one, NAMESPACE),
                self.child(depends_on=list(issuer)),
                # The adapter shows its own to the operator, which asks for one.
                client=True,
                issuer=authority.issuer,
            )
            for one in PODS
        ]
        before += [service_account(one, namespace, self.child()) for one in PODS]
        for space, given in scaled.items():
            before += self._role(OPERATOR, space, given, _scales())
            before += self._role(ADAPTER, space, given, [_reads(API_GROUP, "scaledobjects")])
        before += self._role(OPERATOR, NAMESPACE, namespace, _own())
        before += self._cluster_rights()
        made: list[Manifest] = apply_release(
            objects,
            self,
            transform=lambda body: vendored(body, config, sorted(scaled), images, authority.bundle),
            depends_on=before,
            namespace=namespace,
            protect_crds=config.protect,
        )
        self.ready = made
        for one, pods in PODS.items():
            self.expected_pods.append(
                ExpectedPods(
                    name=one,
                    namespace=NAMESPACE,
                    selector=pods.selector,
                    count=config.replicas,
                    resources=config.resources,
                    spread=config.spread,
                )
            )
            self.flows.append(asks_api(pods))
            if config.replicas > 1:
                disruption_budget(one, namespace, pods.selector, self.child())
        self.flows += [
            called_by_api(PODS[ADAPTER], _API_PORT),
            Flow(source=PODS[ADAPTER], target=PODS[OPERATOR], ports=[_SERVICE_PORT]),
            Flow(source=PODS[OPERATOR], target=PROMETHEUS, ports=[_PROMETHEUS_PORT]),
        ]
        if monitors is not None:
            self._monitor(monitors)
        self.register_outputs({"namespace": NAMESPACE})

    # -- rights ---------------------------------------------------------------------------------

    def _role(
        self,
        account: str,
        space: str,
        namespace: pulumi.Input[str],
        rules: Sequence[k8s.rbac.v1.PolicyRuleArgs],
    ) -> list[pulumi.Resource]:
        return granted(
            account,
            namespace,
            rules,
            self.child(),
            labelled=PODS[account].selector,
            account_namespace=self._namespace,
            resource=f"{account}-{space}",
        )

    def _subject(self, account: str) -> k8s.rbac.v1.SubjectArgs:
        return k8s.rbac.v1.SubjectArgs(
            kind="ServiceAccount", name=account, namespace=self._namespace
        )

    def _cluster_role(
        self,
        name: str,
        rules: Sequence[k8s.rbac.v1.PolicyRuleArgs],
        subject: k8s.rbac.v1.SubjectArgs,
    ) -> list[pulumi.Resource]:
        role = k8s.rbac.v1.ClusterRole(
            name, metadata=meta(name, None), rules=list(rules), opts=self.child()
        )
        return [role, self._cluster_binding(name, name, subject)]

    def _cluster_binding(
        self, name: str, role: str, subject: k8s.rbac.v1.SubjectArgs
    ) -> pulumi.Resource:
        return k8s.rbac.v1.ClusterRoleBinding(
            name,
            metadata=meta(name, None),
            role_ref=k8s.rbac.v1.RoleRefArgs(api_group=_RBAC, kind="ClusterRole", name=role),
            subjects=[subject],
            opts=self.child(),
        )

    def _cluster_rights(self) -> list[pulumi.Resource]:
        """What is of no namespace, and what every API server behind the API server needs."""
        kinds = _rule(
            api_groups=[API_GROUP],
            resources=["clustertriggerauthentications", "clustertriggerauthentications/status"],
            verbs=[*_READ, "update", "patch"],
        )
        sources = _rule(
            api_groups=["eventing.keda.sh"],
            resources=["clustercloudeventsources", "clustercloudeventsources/status"],
            verbs=[*_READ, "update", "patch"],
        )
        controller = k8s.rbac.v1.SubjectArgs(
            kind="ServiceAccount", name="horizontal-pod-autoscaler", namespace="kube-system"
        )
        # Whose certificate the API server shows when it hands a request on.
        front = k8s.rbac.v1.RoleBinding(
            "keda-auth-reader",
            metadata=meta("keda-auth-reader", "kube-system"),
            role_ref=k8s.rbac.v1.RoleRefArgs(
                api_group=_RBAC, kind="Role", name="extension-apiserver-authentication-reader"
            ),
            subjects=[self._subject(ADAPTER)],
            opts=self.child(),
        )
        return [
            *self._cluster_role(OPERATOR, [kinds, sources], self._subject(OPERATOR)),
            *self._cluster_role(
                "keda-external-metrics-reader",
                [_reads("external.metrics.k8s.io", *_METRICS)],
                controller,
            ),
            self._cluster_binding(
                "keda-auth-delegator", "system:auth-delegator", self._subject(ADAPTER)
            ),
            front,
        ]

    # -- around ---------------------------------------------------------------------------------

    def _monitor(self, depends_on: Sequence[pulumi.Resource]) -> None:
        opts = self.child(depends_on=list(depends_on))
        waived = {"encryption": "counters of the operator's own work; KEDA has no TLS for them"}
        pods = PODS[OPERATOR]
        endpoints = [{"port": "http"}]
        pod_monitor(OPERATOR, self._namespace, pods.selector, endpoints, opts, waived=waived)
        self.flows.append(scraped(pods, _METRICS_PORT))
        prometheus_rule(OPERATOR, self._namespace, keda_rules(), opts)
        self.dashboards.append(keda_dashboard())


def keda_rules() -> list[dict[str, Any]]:
    """What a person must know of it: it scales nothing, or it does not learn what to scale by."""
    here = f'namespace="{NAMESPACE}"'
    return [
        alert(
            "KedaDown",
            f'absent(up{{{here}, job=~".*{OPERATOR}"}} == 1)',
            "no KEDA operator answers: replicas stay as many as they are",
            for_s=300,
        ),
        alert(
            "KedaTriggerFails",
            "sum by (exported_namespace, scaledObject) "
            f"(rate(keda_scaler_detail_errors_total{{{here}}}[5m])) > 0",
            "{{ $labels.scaledObject }} is not told what to scale by, and stays at its replicas; "
            "the operator's log says why",
            for_s=300,
            severity="warning",
        ),
    ]


def keda_dashboard() -> Dashboard:
    """As of every operator, with the values that triggers had."""
    base = operator_dashboard(
        OPERATOR,
        NAMESPACE,
        "KEDA",
        alerts="Keda.+",
        description="Replicas by what a query to Prometheus says.",
    )
    value = f"max by (scaledObject) (keda_scaler_metrics_value{{{HERE}}})"
    failed = rate(f"keda_scaler_detail_errors_total{{{HERE}}}", "scaledObject")
    return base.model_copy(
        update={
            "traffic": [
                *base.traffic,
                graph(
                    "Values of triggers",
                    "What replicas follow: above its threshold there are to be more.",
                    "short",
                    {"{{scaledObject}}": quiet(value)},
                ),
            ],
            "errors": [
                *base.errors,
                graph(
                    "Triggers that could not be asked",
                    "Replicas stay as they are meanwhile.",
                    "ops",
                    {"{{scaledObject}}": quiet(failed)},
                ),
            ],
        }
    )


def _reads(group: str, *resources: str) -> k8s.rbac.v1.PolicyRuleArgs:
    return _rule(api_groups=[group], resources=list(resources), verbs=_READ)


def _scales() -> list[k8s.rbac.v1.PolicyRuleArgs]:
    """The release's rights, in one namespace and without its Secrets: no trigger here has one."""
    kinds = ("scaledobjects", "scaledjobs", "triggerauthentications")
    return [
        _rule(
            api_groups=[API_GROUP],
            resources=[
                *(f"{kind}{part}" for kind in kinds for part in ("", "/status", "/finalizers"))
            ],
            verbs=[*_READ, "update", "patch"],
        ),
        _rule(
            api_groups=["eventing.keda.sh"],
            resources=["cloudeventsources", "cloudeventsources/status"],
            verbs=[*_READ, "update", "patch"],
        ),
        _rule(
            api_groups=["autoscaling"],
            resources=["horizontalpodautoscalers"],
            verbs=[*_READ, "create", "update", "patch", "delete"],
        ),
        _reads("apps", "deployments", "statefulsets", "replicasets"),
        _rule(
            api_groups=["apps"],
            resources=["deployments/scale"],
            verbs=[*_READ, "update", "patch"],
        ),
        # Of scaled Jobs, whose controller looks for them from its start; there are none.
        _reads("batch", "jobs"),
        _reads("", "pods", "limitranges"),
        _EVENTS,
    ]


def _own() -> list[k8s.rbac.v1.PolicyRuleArgs]:
    return [
        _reads("", "secrets"),
        _rule(
            api_groups=["coordination.k8s.io"],
            resources=["leases"],
            verbs=[*_READ, "create", "update", "patch"],
        ),
        _EVENTS,
    ]


def vendored(
    body: Object,
    config: KedaConfig,
    scaled: Sequence[str],
    images: Mapping[str, Image],
    bundle: pulumi.Input[str],
) -> Object:
    """One object of the release with what the estate sets on top of it.

    `bundle` is what the API server trusts when it asks the adapter.
    """
    body = copy.deepcopy(body)
    kind, name = body["kind"], body["metadata"]["name"]
    if kind == "Deployment":
        body["spec"]["replicas"] = config.replicas
        _harden(name, body["spec"]["template"]["spec"], config, scaled, images)
        waived = {"checkov.CKV_K8S_38": "an operator works on the API"}
        if config.replicas == 1:
            waived["kube-score.deployment-replicas"] = "replicas stay as they are without it"
        body = annotate(body, waive(waived))
    elif kind == "APIService":
        body["spec"]["service"]["namespace"] = NAMESPACE
        body["spec"]["caBundle"] = encoded(bundle)
    elif kind == "Service":
        # The deployment is awaited; waiting for its endpoints again costs seconds.
        body = annotate(body, {"pulumi.com/skipAwait": "true"})
    return body


def encoded(bundle: pulumi.Input[str]) -> pulumi.Output[str]:
    """A bundle as the API server's objects have it."""
    return pulumi.Output.from_input(bundle).apply(
        lambda pem: base64.b64encode(pem.encode()).decode()
    )


def _harden(
    name: str,
    pod: dict[str, Any],
    config: KedaConfig,
    scaled: Sequence[str],
    images: Mapping[str, Image],
) -> None:
    pod["topologySpreadConstraints"] = topology_spread(
        config.spread, PODS[name].selector, config.replicas
    )
    pod["serviceAccountName"] = name
    pod["automountServiceAccountToken"] = True
    pod["enableServiceLinks"] = False
    pod["securityContext"] |= {
        "runAsUser": UID,
        "runAsGroup": UID,
        # The key is readable by the group only; the release relies on world-readable 0644.
        "fsGroup": UID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = pod["containers"][0]
    container["image"] = images["keda" if name == OPERATOR else "keda_adapter"].ref
    container["imagePullPolicy"] = "IfNotPresent"
    container["command"] = [_COMMANDS[name]]
    container["resources"] = config.resources.quantities()
    for variable in container["env"]:
        if variable["name"] == "WATCH_NAMESPACE":
            variable["value"] = ",".join(scaled)
    volumes = [one for one in pod["volumes"] if one["name"] != "certificates"]
    secret = {"secretName": f"{name}-tls", "defaultMode": 0o440}
    volumes.append({"name": "certificates", "secret": secret})
    if name == OPERATOR:
        # cert-manager issues what it would make, and the API server is told here whom to trust.
        container["args"] = [
            "--leader-elect",
            "--zap-log-level=info",
            "--zap-encoder=json",
            "--zap-time-encoding=rfc3339",
            "--enable-cert-rotation=false",
            f"--cert-dir={_CERTIFICATES}",
            f"--ca-dir={_AUTHORITY}",
        ]
        volumes.append({"name": "authority", "configMap": {"name": TRUST_CONFIG_MAP}})
        container["volumeMounts"].append(
            {"name": "authority", "mountPath": _AUTHORITY, "readOnly": True}
        )
        port, scheme = 8081, "HTTP"
    else:
        container["args"] = [
            f"--secure-port={_API_PORT}",
            "--zap-log-level=error",
            # No --client-ca-file: whoever has a certificate of the estate is no user of this API.
            f"--tls-cert-file={_CERTIFICATES}/tls.crt",
            f"--tls-private-key-file={_CERTIFICATES}/tls.key",
            f"--cert-dir={_CERTIFICATES}",
            f"--metrics-service-address={OPERATOR}.{NAMESPACE}.svc.cluster.local:{_SERVICE_PORT}",
        ]
        port, scheme = _API_PORT, "HTTPS"
    pod["volumes"] = volumes
    probes = {
        "startupProbe": ("/healthz", 2, 60),
        "readinessProbe": ("/readyz", 5, 3),
        "livenessProbe": ("/healthz", 20, 4),
    }
    for key, (path, period, failures) in probes.items():
        container[key] = {
            "httpGet": {"path": path, "port": port, "scheme": scheme},
            "periodSeconds": period,
            "timeoutSeconds": 3,
            "failureThreshold": failures,
        }
