"""Rook: the operator that runs Ceph on the disks of nodes, from its pinned release manifests.

It has a namespace of its own: what mounts volumes and what reads disks is privileged, and in the
estate's other namespaces nothing is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import yaml

from components.checks import ExpectedPods
from components.dashboards import operator_dashboard
from components.datalake.cloudnative_pg import relocate
from components.datalake.rook_config import RookConfig
from components.flows import Pods, asks_api, scraped
from components.model import Images, Resources, together
from components.platform.namespaces import STORAGE
from components.platform.release import Object, annotate, apply_release
from components.workload import Component, alert, pod_monitor, prometheus_rule, waive

RELEASE_NAMESPACE = "rook-ceph"
NAME = "rook-ceph-operator"
SELECTOR = {"app": NAME}
PODS = Pods(name=NAME, namespace=STORAGE, selector=SELECTOR)
SETTINGS = "rook-ceph-operator-config"
PORT = 8080
UID = 2016
"""User `rook` of the image."""

DRIVERS = ("rbd", "cephfs")
_IMAGES = {
    "ROOK_CSI_CEPH_IMAGE": "cephcsi",
    "ROOK_CSI_REGISTRAR_IMAGE": "csi_node_driver_registrar",
    "ROOK_CSI_PROVISIONER_IMAGE": "csi_provisioner",
    "ROOK_CSI_ATTACHER_IMAGE": "csi_attacher",
    "ROOK_CSI_RESIZER_IMAGE": "csi_resizer",
}
_SIDECARS = ("csi-provisioner", "csi-resizer", "csi-attacher")


def provisioner(driver: str) -> Pods:
    """The pods that make the volumes of a driver."""
    name = f"csi-{driver}plugin-provisioner"
    return Pods(name=name, namespace=STORAGE, selector={"app": name})


class RookOperator(Component):
    """The operator in namespace `storage`, which alone it watches, with its CSI drivers.

    `ready` holds the resources after which Rook's kinds are accepted and acted on; `objects` is
    the vendored release.
    """

    ready: Sequence[pulumi.Resource]

    def __init__(
        self,
        name: str,
        config: RookConfig,
        *,
        namespace: pulumi.Input[str],
        images: Images,
        objects: Sequence[Object],
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:RookOperator", name, opts)
        self.ready = apply_release(
            objects,
            self,
            transform=lambda body: vendored(body, config, images),
            namespace=namespace,
            protect_crds=config.protect,
        )
        self.expected_pods.append(_expected(PODS, 1, config.resources))
        self.flows.append(asks_api(PODS))
        for driver in DRIVERS:
            pods = provisioner(driver)
            containers = [config.driver_resources, *[config.sidecar_resources] * len(_SIDECARS)]
            self.expected_pods.append(_expected(pods, config.provisioners, together(*containers)))
            self.flows.append(asks_api(pods))
        if monitors is not None:
            self.flows.append(scraped(PODS, PORT))
            self._monitor(namespace, monitors)
        self.register_outputs({"namespace": STORAGE})

    def _monitor(self, namespace: pulumi.Input[str], depends_on: Sequence[pulumi.Resource]) -> None:
        opts = self.child(depends_on=list(depends_on))
        # In clear: controller-runtime serves these without TLS, and Rook has no setting for it.
        waived = {"encryption": "counters of the operator's own work, nothing of a cluster"}
        pod_monitor(NAME, namespace, SELECTOR, [{"port": "http"}], opts, waived=waived)
        prometheus_rule(NAME, namespace, rook_rules(), opts)
        self.dashboards.append(
            operator_dashboard(
                NAME, STORAGE, "Rook", alerts="Rook.+", description="The operator of Ceph."
            )
        )


def rook_rules() -> list[dict[str, Any]]:
    """What a person must know of the operator itself."""
    return [
        alert(
            "RookOperatorDown",
            f'absent(up{{namespace="{STORAGE}", job=~".*{NAME}"}} == 1)',
            "no Rook operator answers: no failed monitor is replaced, nothing declared is made",
            for_s=300,
        ),
        alert(
            "RookReconcileErrors",
            "sum by (controller) (rate(controller_runtime_reconcile_errors_total"
            f'{{namespace="{STORAGE}", job=~".*{NAME}"}}[5m])) > 0.1',
            "Rook's controller {{ $labels.controller }} keeps failing; see the operator's log",
            for_s=600,
            severity="warning",
        ),
    ]


def vendored(body: Object, config: RookConfig, images: Images) -> Object:
    """One object of the release with what the estate sets on top of it."""
    body = relocate(copy.deepcopy(body), RELEASE_NAMESPACE, STORAGE)
    kind, name = body["kind"], body["metadata"]["name"]
    if kind == "Deployment" and name == NAME:
        _harden(body["spec"]["template"]["spec"], config, images)
        body = annotate(body, waive({"checkov.CKV_K8S_38": "an operator works on the API"}))
    elif kind == "RoleBinding" and name == "rook-ceph-cluster-mgmt":
        reason = "the operator makes and reads the keys of all that it runs, in its namespace alone"
        body = annotate(body, waive({"checkov.CKV2_K8S_5": reason}))
    elif kind == "ConfigMap" and name == SETTINGS:
        body["data"] |= settings(config, images)
    return body


def settings(config: RookConfig, images: Images) -> dict[str, str]:
    """What the operator is told over its release's defaults; ConfigMaps hold text alone."""
    driver, sidecar = (
        one.quantities() for one in (config.driver_resources, config.sidecar_resources)
    )

    def resources(plugin: str, *others: str) -> str:
        rows = [{"name": plugin, "resource": driver}]
        rows += [{"name": other, "resource": sidecar} for other in others]
        return str(yaml.safe_dump(rows, sort_keys=True))

    told = {setting: images[key].ref for setting, key in _IMAGES.items()}
    for kind in DRIVERS:
        plugin = f"csi-{kind}plugin"
        told[f"CSI_{kind.upper()}_PROVISIONER_RESOURCE"] = resources(plugin, *_SIDECARS)
        told[f"CSI_{kind.upper()}_PLUGIN_RESOURCE"] = resources(plugin, "driver-registrar")
    return told | {
        "ROOK_OPERATOR_METRICS_BIND_ADDRESS": f":{PORT}",
        # The operator runs the drivers itself (ADR 21).
        "ROOK_USE_CSI_OPERATOR": "false",
        "CSI_PROVISIONER_REPLICAS": str(config.provisioners),
        # No cluster of the estate has the definitions of snapshots.
        "CSI_ENABLE_RBD_SNAPSHOTTER": "false",
        "CSI_ENABLE_CEPHFS_SNAPSHOTTER": "false",
        "CSI_ENABLE_VOLUME_GROUP_SNAPSHOT": "false",
    }


def _harden(pod: dict[str, Any], config: RookConfig, images: Images) -> None:
    """Pod Security `restricted`, though its namespace is not: the operator itself needs no more."""
    pod["enableServiceLinks"] = False
    pod["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": UID,
        "runAsGroup": UID,
        "fsGroup": UID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = pod["containers"][0]
    container["image"] = images["rook_operator"].ref
    container["imagePullPolicy"] = "IfNotPresent"
    container["command"] = ["/usr/local/bin/rook"]
    container["resources"] = config.resources.quantities()
    container["securityContext"] |= {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container["ports"] = [{"name": "http", "containerPort": PORT}]
    asked = {"httpGet": {"path": "/metrics", "port": "http"}}
    container["startupProbe"] = asked | {"periodSeconds": 2, "failureThreshold": 60}
    container["readinessProbe"] = asked | {"periodSeconds": 10, "timeoutSeconds": 5}
    container["livenessProbe"] = asked | {
        "periodSeconds": 30,
        "timeoutSeconds": 5,
        "failureThreshold": 4,
    }
    container["volumeMounts"].append({"name": "tmp", "mountPath": "/tmp"})
    pod["volumes"].append({"name": "tmp", "emptyDir": {}})
    for variable in container["env"]:
        if variable["name"] == "ROOK_CURRENT_NAMESPACE_ONLY":
            variable["value"] = "true"


def _expected(pods: Pods, count: int, resources: Resources) -> ExpectedPods:
    selector: Mapping[str, str] = pods.selector
    return ExpectedPods(
        name=pods.name,
        namespace=pods.namespace,
        selector=dict(selector),
        count=count,
        resources=resources,
    )
