"""CloudNativePG's plugin for archives in object stores, from its pinned release manifest."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pulumi

from components.authority import Authority
from components.checks import ExpectedPods
from components.datalake import cloudnative_pg
from components.datalake.cloudnative_pg import relocate
from components.datalake.operators_config import BarmanCloudConfig
from components.flows import Flow, Pods, asks_api
from components.model import Image
from components.platform.release import Object, annotate, apply_release
from components.workload import Component, certificate, service_dns, waive

PLUGIN = "barman-cloud.cloudnative-pg.io"
NAMESPACE = cloudnative_pg.NAMESPACE
"""The operator looks for plugins beside itself."""
NAME = "barman-cloud"
SELECTOR = {"app": NAME}
PODS = Pods(name=NAME, namespace=NAMESPACE, selector=SELECTOR)
SERVER_SECRET, CLIENT_SECRET = f"{NAME}-server-tls", f"{NAME}-client-tls"

_PORT, _HEALTH_PORT = 9090, 8081  # of the release


class BarmanCloud(Component):
    """The plugin in namespace `platform`; operator and plugin know each other by certificates.

    `ready` holds the resources after which an `ObjectStore` is accepted and a `Cluster` may use it.
    `objects` is the vendored manifest, `sidecar` what runs beside each instance of PostgreSQL.
    """

    ready: Sequence[pulumi.Resource]

    def __init__(
        self,
        name: str,
        config: BarmanCloudConfig,
        *,
        namespace: pulumi.Input[str],
        image: Image,
        sidecar: Image,
        objects: Sequence[Object],
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:BarmanCloud", name, opts)
        options = self.child(depends_on=list(issuer))
        tls = [
            certificate(
                SERVER_SECRET,
                namespace,
                service_dns(NAME, NAMESPACE),
                options,
                issuer=authority.issuer,
            ),
            certificate(
                CLIENT_SECRET,
                namespace,
                [],
                options,
                common_name=f"{NAME}-client",
                client=True,
                server=False,
                issuer=authority.issuer,
            ),
        ]
        self.ready = apply_release(
            objects,
            self,
            transform=lambda body: vendored(body, config, image, sidecar),
            depends_on=tls,
            protect_crds=config.protect,
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
        self.flows += [
            asks_api(PODS),
            Flow(source=cloudnative_pg.PODS, target=PODS, ports=[_PORT]),
        ]
        self.register_outputs({"namespace": NAMESPACE})


def vendored(body: Object, config: BarmanCloudConfig, image: Image, sidecar: Image) -> Object:
    """One object of the release with what the estate sets on top of it."""
    body = relocate(copy.deepcopy(body), cloudnative_pg.RELEASE_NAMESPACE, NAMESPACE)
    if body["kind"] == "Deployment":
        _harden(body["spec"]["template"]["spec"], config, image, sidecar)
        waived = {
            "checkov.CKV_K8S_38": "an operator works on the API",
            "kube-score.deployment-replicas": "instances archive without it; a new one can wait",
            "kube-score.deployment-strategy": "as released: no two that would name two sidecars",
        }
        body = annotate(body, waive(waived))
    elif body["kind"] == "Service":
        body = annotate(body, {"pulumi.com/skipAwait": "true"})
    return body


def _harden(pod: dict[str, Any], config: BarmanCloudConfig, image: Image, sidecar: Image) -> None:
    container = pod["containers"][0]
    container["image"] = image.ref
    container["imagePullPolicy"] = "IfNotPresent"
    container["command"] = ["/manager"]
    container["args"] = [
        "--log-level=info" if one.startswith("--log-level") else one for one in container["args"]
    ]
    # The release's Secret would hide what runs beside every database.
    container["env"] = [{"name": "SIDECAR_IMAGE", "value": sidecar.ref}]
    container["resources"] = config.resources.quantities()
    container["securityContext"] |= {"runAsNonRoot": True}
    container["startupProbe"] = {
        "tcpSocket": {"port": _PORT},
        "periodSeconds": 1,
        "failureThreshold": 60,
    }
    container["readinessProbe"] = {
        "tcpSocket": {"port": _PORT},
        "periodSeconds": 5,
        "timeoutSeconds": 3,
    }
    container["livenessProbe"] = {
        "httpGet": {"path": "/healthz", "port": _HEALTH_PORT},
        "periodSeconds": 15,
        "timeoutSeconds": 5,
        "failureThreshold": 4,
    }
    for mount in container["volumeMounts"]:
        mount["readOnly"] = True
    for volume in pod["volumes"]:
        volume["secret"]["defaultMode"] = 0o440
    # Keys are readable by the group only; the release relies on world-readable 0644.
    pod["securityContext"] |= {"fsGroup": 10001}
    pod["enableServiceLinks"] = False
