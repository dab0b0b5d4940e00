"""Annotation: a service between the lake's dataset versions and a Supervisely elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import ExpectedPods
from components.datalake.annotation_checks import annotation_checks
from components.datalake.annotation_config import (
    METRICS_PORT,
    NAMESPACE,
    PORT,
    USER,
    AnnotationConfig,
)
from components.datalake.annotation_dashboard import annotation_dashboard
from components.datalake.annotation_rules import annotation_rules, silence_s
from components.datalake.object_store import ObjectStore
from components.flows import OUTSIDE, Flow, Pods, scraped
from components.model import Image
from components.workload import (
    TRUST_CONFIG_MAP,
    Component,
    by_https,
    certificate,
    checksum,
    config_map_volume,
    container_security,
    labels,
    meta,
    pod_monitor,
    pod_security,
    probe,
    prometheus_rule,
    requirements,
    secret_volume,
    service_account,
    service_dns,
    waive,
)

_ROOT = "/annotation"
_UID = 1000
_SCRATCH_MIB = 512
_NOWHERE = "https://127.0.0.1:9"
_mount = k8s.core.v1.VolumeMountArgs


class Annotation(Component):
    """One pod, whose runs follow each other, never two at once."""

    pods: Pods

    def __init__(
        self,
        name: str,
        config: AnnotationConfig,
        *,
        namespace: pulumi.Input[str],
        namespace_name: str = NAMESPACE,
        image: Image,
        store: ObjectStore,
        token: pulumi.Input[str],
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:Annotation", name, opts)
        self._name, self._config, self._namespace = name, config, namespace
        self._namespace_name, self._store = namespace_name, store
        self._selector = labels(name)
        self._host = f"{name}.{namespace_name}.svc.cluster.local"
        settings = k8s.core.v1.ConfigMap(
            f"{name}-config",
            metadata=meta(f"{name}-config", namespace, self._selector),
            data=self._files(),
            opts=self.child(),
        )
        secret = k8s.core.v1.Secret(
            f"{name}-token",
            metadata=meta(f"{name}-token", namespace, self._selector),
            string_data={"token": token},
            opts=self.child(),
        )
        tls = certificate(
            f"{name}-tls",
            namespace,
            service_dns(name, namespace_name),
            self.child(depends_on=list(issuer)),
            issuer=authority.issuer,
        )
        account = service_account(name, namespace, self.child())
        made = [settings, secret, tls, account, self._service(), *store.ready]
        self._deployment(image, checksum(settings.data), made)
        self.pods = Pods(name=name, namespace=namespace_name, selector=self._selector)
        self.flows += [
            Flow(source=self.pods, target=store.pods, ports=[store.target_port]),
            Flow(source=self.pods, target=OUTSIDE, ports=[config.port]),
        ]
        if monitors is not None:
            self._monitor(monitors)
        self.expected_pods.append(
            ExpectedPods(
                name=name,
                namespace=namespace_name,
                selector=self._selector,
                count=1,
                resources=config.resources,
            )
        )
        self.checks += annotation_checks(
            name,
            namespace=namespace_name,
            host=self._host,
            silence_s=silence_s(config),
            misled=self._files(_NOWHERE)["settings.json"],
        )
        self.register_outputs({})

    def _files(self, url: str | None = None) -> dict[str, str]:
        files = {"settings.json": json.dumps(self._settings(url), indent=1)}
        if self._config.ca is not None:
            files["supervisely.crt"] = self._config.ca
        return files

    def _settings(self, url: str | None) -> dict[str, Any]:
        """settings.json (services/annotation/settings.py)."""
        config = self._config
        return {
            "server": {
                "url": url or f"https://{config.host}:{config.port}",
                "token": f"{_ROOT}/token/token",
                "ca": f"{_ROOT}/config/supervisely.crt" if config.ca is not None else None,
                "team": config.team,
                "workspace": config.workspace,
                "project": config.project,
            },
            "s3": {
                "endpoint": self._store.endpoint,
                "region": self._store.region,
                "access_key": f"{_ROOT}/s3/access-key",
                "secret_key": f"{_ROOT}/s3/secret-key",
                "trust": f"{_ROOT}/trust/ca.crt",
            },
            "classes": [one.model_dump() for one in config.classes],
            "versions": [one.model_dump() for one in config.versions],
            "serve": {
                "port": METRICS_PORT,
                "certificate": f"{_ROOT}/tls/tls.crt",
                "key": f"{_ROOT}/tls/tls.key",
                "every_s": config.every_s,
                "longest_s": config.longest_s,
            },
        }

    def _service(self) -> k8s.core.v1.Service:
        port = k8s.core.v1.ServicePortArgs(name="https", port=PORT, target_port="metrics")
        return k8s.core.v1.Service(
            self._name,
            metadata=meta(
                self._name, self._namespace, self._selector, {"pulumi.com/skipAwait": "true"}
            ),
            spec=k8s.core.v1.ServiceSpecArgs(selector=self._selector, ports=[port]),
            opts=self.child(),
        )

    def _deployment(
        self, image: Image, contents: pulumi.Output[str], depends_on: Sequence[pulumi.Resource]
    ) -> None:
        once = "two fetches at once would each name their own version as the last"
        reasons = {
            "kube-score.deployment-replicas": once,
            "kube-score.deployment-strategy": once,
        }
        k8s.apps.v1.Deployment(
            self._name,
            metadata=meta(self._name, self._namespace, self._selector, waive(reasons)),
            spec=k8s.apps.v1.DeploymentSpecArgs(
                replicas=1,
                strategy=k8s.apps.v1.DeploymentStrategyArgs(type="Recreate"),
                selector=k8s.meta.v1.LabelSelectorArgs(match_labels=self._selector),
                template=k8s.core.v1.PodTemplateSpecArgs(
                    metadata=k8s.meta.v1.ObjectMetaArgs(
                        labels=self._selector, annotations={"estate.dev/settings": contents}
                    ),
                    spec=self._pod(image),
                ),
            ),
            opts=self.child(depends_on=list(depends_on)),
        )

    def _pod(self, image: Image) -> k8s.core.v1.PodSpecArgs:
        env = {"ANNOTATION_SETTINGS": f"{_ROOT}/config/settings.json", "HOME": "/tmp"}
        mounts = [
            _mount(name=volume, mount_path=f"{_ROOT}/{volume}", read_only=True)
            for volume in ("config", "token", "s3", "trust", "tls")
        ]
        alive = ("/metrics", "metrics")
        return k8s.core.v1.PodSpecArgs(
            service_account_name=self._name,
            automount_service_account_token=False,
            enable_service_links=False,
            security_context=pod_security(_UID),
            containers=[
                k8s.core.v1.ContainerArgs(
                    name="annotation",
                    image=image.ref,
                    image_pull_policy="IfNotPresent",
                    command=["python3", "-m", "services.annotation", "serve"],
                    working_dir="/opt/estate",
                    ports=[
                        k8s.core.v1.ContainerPortArgs(name="metrics", container_port=METRICS_PORT)
                    ],
                    env=[k8s.core.v1.EnvVarArgs(name=key, value=env[key]) for key in env],
                    security_context=container_security(),
                    resources=requirements(self._config.resources),
                    startup_probe=probe(http=alive, scheme="HTTPS", period_s=2, failures=60),
                    readiness_probe=probe(http=alive, scheme="HTTPS"),
                    liveness_probe=probe(http=alive, scheme="HTTPS", period_s=30),
                    volume_mounts=[*mounts, _mount(name="scratch", mount_path="/tmp")],
                )
            ],
            volumes=[
                config_map_volume("config", f"{self._name}-config"),
                secret_volume("token", f"{self._name}-token"),
                secret_volume("s3", self._store.secrets[USER]),
                config_map_volume("trust", TRUST_CONFIG_MAP),
                secret_volume("tls", f"{self._name}-tls"),
                k8s.core.v1.VolumeArgs(
                    name="scratch",
                    empty_dir=k8s.core.v1.EmptyDirVolumeSourceArgs(size_limit=f"{_SCRATCH_MIB}Mi"),
                ),
            ],
        )

    def _monitor(self, depends_on: Sequence[pulumi.Resource]) -> None:
        name, namespace, opts = (
            self._name,
            self._namespace_name,
            self.child(depends_on=list(depends_on)),
        )
        endpoint = {
            "port": "metrics",
            **by_https(self._host),
        }
        pod_monitor(name, self._namespace, self._selector, [endpoint], opts)
        rules = annotation_rules(name, namespace, self._config)
        prometheus_rule(name, self._namespace, rules, opts)
        self.dashboards.append(annotation_dashboard(name, namespace, self._config))
        self.flows.append(scraped(self.pods, METRICS_PORT))
