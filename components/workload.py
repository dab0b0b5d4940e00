"""What all workloads share: restricted security, probes, budgets, certificates, monitors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource

from components import model
from components.checks import Check, ExpectedPods
from components.dashboards import Dashboard
from components.flows import Flow
from components.model import GPU, Resources, Spread, Storage
from policies.model import PREFIX

MONITOR_LABELS = {"release": "estate"}
"""Prometheus of the estate selects monitors and rules by this label."""

ISSUER = "estate-ca"
"""ClusterIssuer of the estate's own certificate authority."""

TRUST_CONFIG_MAP = "estate-ca"
"""ConfigMap in every namespace whose key ca.crt holds the authority's certificate."""


class Component(pulumi.ComponentResource):
    """A system of the estate; subclasses fill these lists, which are about what runs."""

    checks: list[Check]
    expected_pods: list[ExpectedPods]
    flows: list[Flow]
    dashboards: list[Dashboard]

    def __init__(self, token: str, name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(token, name, None, opts)
        self.checks = []
        self.expected_pods = []
        self.flows = []
        self.dashboards = []

    def child(self, **options: Any) -> pulumi.ResourceOptions:
        """Options of a child resource: `ResourceOptions(parent=self, **options)`."""
        return pulumi.ResourceOptions(parent=self, **options)


def labels(name: str, *, part_of: str = "estate", component: str | None = None) -> dict[str, str]:
    """Recommended labels; `labels(name)` is also the selector of the workload `name`."""
    result = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": part_of}
    if component is not None:
        result["app.kubernetes.io/component"] = component
    return result


def meta(
    name: str,
    namespace: pulumi.Input[str] | None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, pulumi.Input[str]] | None = None,
) -> k8s.meta.v1.ObjectMetaArgs:
    """Metadata with an exact name: the estate's names are part of its interface."""
    return k8s.meta.v1.ObjectMetaArgs(
        name=name,
        namespace=namespace,
        labels=dict(labels) if labels else None,
        annotations=dict(annotations) if annotations else None,
    )


def waive(reasons: Mapping[str, str]) -> dict[str, str]:
    """Annotations that waive policies on an object: policy, or policy.part -> why it may be so.

    The policies are in `policies/rules.py`; a waiver that waives nothing is refused by them.
    """
    return {f"{PREFIX}{rule}": reason for rule, reason in reasons.items()}


def pod_security(
    uid: int, gid: int | None = None, *, fs_group: int | None = None
) -> k8s.core.v1.PodSecurityContextArgs:
    """Pod half of Pod Security `restricted`; the volume's group follows `fs_group`."""
    group = uid if gid is None else gid
    return k8s.core.v1.PodSecurityContextArgs(
        run_as_non_root=True,
        run_as_user=uid,
        run_as_group=group,
        fs_group=group if fs_group is None else fs_group,
        # Walking a large volume at every start would cost minutes for nothing.
        fs_group_change_policy="OnRootMismatch",
        seccomp_profile=k8s.core.v1.SeccompProfileArgs(type="RuntimeDefault"),
    )


def container_security(*, read_only: bool = True) -> k8s.core.v1.SecurityContextArgs:
    """Container half of Pod Security `restricted`, with a read-only root file system."""
    return k8s.core.v1.SecurityContextArgs(
        allow_privilege_escalation=False,
        privileged=False,
        read_only_root_filesystem=read_only,
        run_as_non_root=True,
        capabilities=k8s.core.v1.CapabilitiesArgs(drop=["ALL"]),
        seccomp_profile=k8s.core.v1.SeccompProfileArgs(type="RuntimeDefault"),
    )


def requirements(resources: Resources) -> k8s.core.v1.ResourceRequirementsArgs:
    """Requests and limits of a container."""
    quantities = resources.quantities()
    return k8s.core.v1.ResourceRequirementsArgs(
        requests=quantities["requests"], limits=quantities["limits"]
    )


def gpu_tolerations() -> list[k8s.core.v1.TolerationArgs]:
    """Of the taint that keeps everything else off nodes with GPUs."""
    return [k8s.core.v1.TolerationArgs(key=GPU, operator="Exists", effect="NoSchedule")]


def topology_spread(
    selector: Mapping[str, str], spread: Spread, replicas: int
) -> list[k8s.core.v1.TopologySpreadConstraintArgs]:
    """As of components.model, as arguments of a pod."""
    return [
        k8s.core.v1.TopologySpreadConstraintArgs(
            max_skew=one["maxSkew"],
            topology_key=one["topologyKey"],
            when_unsatisfiable=one["whenUnsatisfiable"],
            min_domains=one.get("minDomains"),
            label_selector=k8s.meta.v1.LabelSelectorArgs(match_labels=dict(selector)),
        )
        for one in model.topology_spread(spread, selector, replicas)
    ]


def probe(
    *,
    tcp: int | str | None = None,
    http: tuple[str, int | str] | None = None,
    command: Sequence[str] | None = None,
    scheme: str = "HTTP",
    period_s: int = 10,
    timeout_s: int = 3,
    failures: int = 3,
    initial_delay_s: int = 0,
) -> k8s.core.v1.ProbeArgs:
    """A probe by exactly one of `tcp` (port), `http` (path, port) or `command` (argv)."""
    if sum(way is not None for way in (tcp, http, command)) != 1:
        raise ValueError("a probe takes exactly one of tcp, http, command")
    return k8s.core.v1.ProbeArgs(
        tcp_socket=k8s.core.v1.TCPSocketActionArgs(port=tcp) if tcp is not None else None,
        http_get=(
            k8s.core.v1.HTTPGetActionArgs(path=http[0], port=http[1], scheme=scheme)
            if http is not None
            else None
        ),
        exec_=k8s.core.v1.ExecActionArgs(command=list(command)) if command is not None else None,
        period_seconds=period_s,
        timeout_seconds=timeout_s,
        failure_threshold=failures,
        initial_delay_seconds=initial_delay_s,
    )


def disruption_budget(
    name: str,
    namespace: pulumi.Input[str],
    selector: Mapping[str, str],
    opts: pulumi.ResourceOptions,
    *,
    max_unavailable: int = 1,
    min_available: int | None = None,
) -> k8s.policy.v1.PodDisruptionBudget:
    """A drain may take `max_unavailable` replicas at a time, or leaves `min_available` of them."""
    return k8s.policy.v1.PodDisruptionBudget(
        name,
        metadata=meta(name, namespace, selector),
        spec=k8s.policy.v1.PodDisruptionBudgetSpecArgs(
            max_unavailable=max_unavailable if min_available is None else None,
            min_available=min_available,
            selector=k8s.meta.v1.LabelSelectorArgs(match_labels=dict(selector)),
            # A pod that is not ready protects nothing: let a drain take it.
            unhealthy_pod_eviction_policy="AlwaysAllow",
        ),
        opts=opts,
    )


def service_account(
    name: str,
    namespace: pulumi.Input[str],
    opts: pulumi.ResourceOptions,
    *,
    annotations: Mapping[str, str] | None = None,
) -> k8s.core.v1.ServiceAccount:
    """An identity without API access: the token is not mounted."""
    return k8s.core.v1.ServiceAccount(
        name,
        metadata=meta(name, namespace, labels(name), annotations),
        automount_service_account_token=False,
        opts=opts,
    )


def granted(
    name: str,
    namespace: pulumi.Input[str],
    rules: Sequence[k8s.rbac.v1.PolicyRuleArgs],
    opts: pulumi.ResourceOptions,
    *,
    labelled: Mapping[str, str],
    account: str | None = None,
    account_namespace: pulumi.Input[str] | None = None,
    resource: str | None = None,
) -> list[pulumi.Resource]:
    """A Role and its RoleBinding to a service account: by default the one of the same name here.

    `resource` names both in Pulumi, where one name stands in several namespaces.
    """
    subject = k8s.rbac.v1.SubjectArgs(
        kind="ServiceAccount",
        name=account or name,
        namespace=namespace if account_namespace is None else account_namespace,
    )
    return [
        k8s.rbac.v1.Role(
            resource or name, metadata=meta(name, namespace, labelled), rules=list(rules), opts=opts
        ),
        k8s.rbac.v1.RoleBinding(
            resource or name,
            metadata=meta(name, namespace, labelled),
            role_ref=k8s.rbac.v1.RoleRefArgs(
                api_group="rbac.authorization.k8s.io", kind="Role", name=name
            ),
            subjects=[subject],
            opts=opts,
        ),
    ]


def certificate(
    name: str,
    namespace: pulumi.Input[str],
    dns_names: Sequence[str],
    opts: pulumi.ResourceOptions,
    *,
    common_name: str | None = None,
    client: bool = False,
    server: bool = True,
    duration_h: int = 2160,
    renew_before_h: int = 720,
    algorithm: str = "ECDSA",
    issuer: str = ISSUER,
    issuer_kind: str = "ClusterIssuer",
) -> CustomResource:
    """A certificate of the estate's authority in the Secret of the same name.

    The Secret has tls.crt, tls.key (PKCS#8, as Java needs it) and ca.crt. Pulumi waits until it
    is issued, so that pods which mount it do not start into a missing volume.
    """
    usages = ["digital signature", "key encipherment"]
    usages += ["server auth"] if server else []
    usages += ["client auth"] if client else []
    return CustomResource(
        f"{name}-certificate",
        api_version="cert-manager.io/v1",
        kind="Certificate",
        metadata=meta(name, namespace, annotations={"pulumi.com/waitFor": "condition=Ready"}),
        spec={
            "secretName": name,
            "commonName": common_name or (dns_names[0] if dns_names else name),
            **({"dnsNames": list(dns_names)} if dns_names else {}),
            # cert-manager hands durations back in this form; any other would show as a change.
            "duration": f"{duration_h}h0m0s",
            "renewBefore": f"{renew_before_h}h0m0s",
            "usages": usages,
            "privateKey": {
                "algorithm": algorithm,
                "encoding": "PKCS8",
                "size": 256 if algorithm == "ECDSA" else 2048,
                "rotationPolicy": "Always",
            },
            "issuerRef": {"name": issuer, "kind": issuer_kind, "group": "cert-manager.io"},
        },
        opts=opts,
    )


def service_dns(service: str, namespace: str, *, headless_pods: Sequence[str] = ()) -> list[str]:
    """The names under which a service (and its pods, for a headless one) is reached."""
    names = [f"{service}.{namespace}.svc.cluster.local", f"{service}.{namespace}.svc"]
    names += [f"{service}.{namespace}", service]
    names += [f"{pod}.{service}.{namespace}.svc.cluster.local" for pod in headless_pods]
    return names


def config_map_volume(volume: str, name: str) -> k8s.core.v1.VolumeArgs:
    """A volume with all keys of a ConfigMap as files."""
    return k8s.core.v1.VolumeArgs(
        name=volume, config_map=k8s.core.v1.ConfigMapVolumeSourceArgs(name=name)
    )


def secret_volume(
    volume: str, name: str, items: Mapping[str, str] | None = None
) -> k8s.core.v1.VolumeArgs:
    """A volume with the keys of a Secret as files; `items` maps a key to its file name."""
    return k8s.core.v1.VolumeArgs(
        name=volume,
        secret=k8s.core.v1.SecretVolumeSourceArgs(
            secret_name=name,
            # Readable by the pod's group: the process is not root.
            default_mode=0o440,
            items=[k8s.core.v1.KeyToPathArgs(key=k, path=p) for k, p in items.items()]
            if items
            else None,
        ),
    )


def passwords_volume(
    volume: str, secrets: Mapping[str, str], key: str = "password"
) -> k8s.core.v1.VolumeArgs:
    """One file per user (`secrets`: user -> Secret), which holds that user's password."""
    return k8s.core.v1.VolumeArgs(
        name=volume,
        projected=k8s.core.v1.ProjectedVolumeSourceArgs(
            default_mode=0o440,
            sources=[
                k8s.core.v1.VolumeProjectionArgs(
                    secret=k8s.core.v1.SecretProjectionArgs(
                        name=secret, items=[k8s.core.v1.KeyToPathArgs(key=key, path=user)]
                    )
                )
                for user, secret in secrets.items()
            ],
        ),
    )


def memory_volume(volume: str, size_mib: int) -> k8s.core.v1.VolumeArgs:
    """An empty folder in memory, for what must not reach a disk; counts as the pod's memory."""
    return k8s.core.v1.VolumeArgs(
        name=volume,
        empty_dir=k8s.core.v1.EmptyDirVolumeSourceArgs(medium="Memory", size_limit=f"{size_mib}Mi"),
    )


def api_token_volume() -> k8s.core.v1.VolumeArgs:
    """The service account's token, for the one container that mounts it."""
    source = k8s.core.v1.VolumeProjectionArgs
    return k8s.core.v1.VolumeArgs(
        name="api",
        projected=k8s.core.v1.ProjectedVolumeSourceArgs(
            default_mode=0o440,
            sources=[
                source(
                    service_account_token=k8s.core.v1.ServiceAccountTokenProjectionArgs(
                        path="token", expiration_seconds=3600
                    )
                ),
                source(
                    config_map=k8s.core.v1.ConfigMapProjectionArgs(
                        name="kube-root-ca.crt",
                        items=[k8s.core.v1.KeyToPathArgs(key="ca.crt", path="ca.crt")],
                    )
                ),
            ],
        ),
    )


API_MOUNT = k8s.core.v1.VolumeMountArgs(
    name="api", mount_path="/var/run/secrets/kubernetes.io/serviceaccount", read_only=True
)
"""Of `api_token_volume`, where clients of the API look."""


def claim_template(volume: str, storage: Storage) -> k8s.core.v1.PersistentVolumeClaimArgs:
    """A claim per replica of a StatefulSet."""
    return k8s.core.v1.PersistentVolumeClaimArgs(
        api_version="v1",
        kind="PersistentVolumeClaim",
        metadata=k8s.meta.v1.ObjectMetaArgs(name=volume),
        spec=k8s.core.v1.PersistentVolumeClaimSpecArgs(
            access_modes=["ReadWriteOnce"],
            storage_class_name=storage.storage_class,
            resources=k8s.core.v1.VolumeResourceRequirementsArgs(
                requests={"storage": f"{storage.size_gib}Gi"}
            ),
        ),
    )


def pod_monitor(
    name: str,
    namespace: pulumi.Input[str],
    selector: Mapping[str, str],
    endpoints: Sequence[Mapping[str, Any]],
    opts: pulumi.ResourceOptions,
    *,
    waived: Mapping[str, str] | None = None,
) -> CustomResource:
    """Prometheus scrapes the pods of `selector`; an endpoint names its container port.

    `waived` is for `waive`: an endpoint without TLS needs a reason.
    """
    return CustomResource(
        f"{name}-pod-monitor",
        api_version="monitoring.coreos.com/v1",
        kind="PodMonitor",
        metadata=meta(name, namespace, {**selector, **MONITOR_LABELS}, waive(waived or {})),
        spec={
            "selector": {"matchLabels": dict(selector)},
            "podMetricsEndpoints": [dict(endpoint) for endpoint in endpoints],
        },
        opts=opts,
    )


def by_https(server: pulumi.Input[str]) -> dict[str, Any]:
    """What an endpoint of a monitor says of TLS: `server` by the estate's own authority."""
    return {
        "scheme": "https",
        "tlsConfig": {
            "ca": {"configMap": {"name": TRUST_CONFIG_MAP, "key": "ca.crt"}},
            "serverName": server,
        },
    }


def service_monitor(
    name: str,
    namespace: pulumi.Input[str],
    selector: Mapping[str, str],
    endpoints: Sequence[Mapping[str, Any]],
    opts: pulumi.ResourceOptions,
) -> CustomResource:
    """Prometheus scrapes the endpoints of the services of `selector`."""
    return CustomResource(
        f"{name}-service-monitor",
        api_version="monitoring.coreos.com/v1",
        kind="ServiceMonitor",
        metadata=meta(name, namespace, {**selector, **MONITOR_LABELS}),
        spec={
            "selector": {"matchLabels": dict(selector)},
            "endpoints": [dict(endpoint) for endpoint in endpoints],
        },
        opts=opts,
    )


def alert(
    name: str, expr: str, summary: str, *, for_s: int = 60, severity: str = "critical"
) -> dict[str, Any]:
    """One alert rule; `summary` says what a person must look at."""
    return {
        "alert": name,
        "expr": expr,
        "for": f"{for_s}s",
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }


def prometheus_rule(
    name: str,
    namespace: pulumi.Input[str],
    rules: Sequence[Mapping[str, Any]],
    opts: pulumi.ResourceOptions,
) -> CustomResource:
    """The alert rules of one component, one group named after it."""
    return CustomResource(
        f"{name}-rules",
        api_version="monitoring.coreos.com/v1",
        kind="PrometheusRule",
        metadata=meta(name, namespace, {**labels(name), **MONITOR_LABELS}),
        spec={"groups": [{"name": name, "rules": [dict(rule) for rule in rules]}]},
        opts=opts,
    )


def checksum(*values: Any) -> pulumi.Output[str]:
    """A digest over inputs: as an annotation of a pod it restarts the pod when they change.

    The digest of a secret is no secret: Pulumi would otherwise hide the whole pod behind it, and
    a preview could not show what changes. It is slow on purpose, so that whoever may read pods
    cannot try out passwords quickly.
    """
    return pulumi.Output.unsecret(
        pulumi.Output.all(*values).apply(
            lambda resolved: hashlib.pbkdf2_hmac(
                "sha256",
                json.dumps(resolved, sort_keys=True, default=str).encode(),
                b"estate.dev/checksum",
                _CHECKSUM_ROUNDS,
            ).hex()[:32]
        )
    )


_CHECKSUM_ROUNDS = 100_000
"""About 50 ms on one core."""
