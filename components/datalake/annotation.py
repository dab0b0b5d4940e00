"""Annotation: a CronJob between the dataset versions of the lake and a Supervisely elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.checks import ExpectedPods
from components.datalake.annotation_config import NAMESPACE, USER, AnnotationConfig
from components.datalake.object_store import ObjectStore
from components.flows import OUTSIDE, Flow, Pods
from components.model import Image
from components.workload import (
    TRUST_CONFIG_MAP,
    Component,
    config_map_volume,
    container_security,
    labels,
    meta,
    pod_security,
    requirements,
    secret_volume,
    service_account,
)

_ROOT = "/annotation"
_UID = 1000
_SCRATCH_MIB = 512
_mount = k8s.core.v1.VolumeMountArgs


class Annotation(Component):
    """The CronJob; its runs follow each other, never two at once."""

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
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:Annotation", name, opts)
        self._name, self._config, self._store = name, config, store
        selector = labels(name)
        files = {"settings.json": json.dumps(self._settings(), indent=1)}
        if config.ca is not None:
            files["supervisely.crt"] = config.ca
        made: list[pulumi.Resource] = [
            k8s.core.v1.ConfigMap(
                f"{name}-config",
                metadata=meta(f"{name}-config", namespace, selector),
                data=files,
                opts=self.child(),
            ),
            k8s.core.v1.Secret(
                f"{name}-token",
                metadata=meta(f"{name}-token", namespace, selector),
                string_data={"token": token},
                opts=self.child(),
            ),
            service_account(name, namespace, self.child()),
        ]
        k8s.batch.v1.CronJob(
            name,
            metadata=meta(name, namespace, selector),
            spec=k8s.batch.v1.CronJobSpecArgs(
                schedule=config.schedule,
                # Two fetches at once would each name their own version as the last.
                concurrency_policy="Forbid",
                starting_deadline_seconds=600,
                successful_jobs_history_limit=1,
                failed_jobs_history_limit=3,
                job_template=k8s.batch.v1.JobTemplateSpecArgs(
                    spec=k8s.batch.v1.JobSpecArgs(
                        # The SDK waits for an answer without end, and the next run goes on anyway.
                        active_deadline_seconds=config.longest_s,
                        backoff_limit=0,
                        template=k8s.core.v1.PodTemplateSpecArgs(
                            metadata=k8s.meta.v1.ObjectMetaArgs(labels=selector),
                            spec=self._pod(image),
                        ),
                    )
                ),
            ),
            opts=self.child(depends_on=[*made, *store.ready]),
        )
        self.pods = Pods(name=name, namespace=namespace_name, selector=selector, lasting=False)
        self.flows += [
            Flow(source=self.pods, target=store.pods, ports=[store.target_port]),
            Flow(source=self.pods, target=OUTSIDE, ports=[config.port]),
        ]
        self.expected_pods.append(
            ExpectedPods(
                name=name,
                namespace=namespace_name,
                selector=selector,
                count=0,  # none between two runs
                resources=config.resources,
            )
        )
        self.register_outputs({})

    def _settings(self) -> dict[str, Any]:
        """settings.json (services/annotation/settings.py)."""
        config = self._config
        return {
            "server": {
                "url": f"https://{config.host}:{config.port}",
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
        }

    def _pod(self, image: Image) -> k8s.core.v1.PodSpecArgs:
        env = {"ANNOTATION_SETTINGS": f"{_ROOT}/config/settings.json", "HOME": "/tmp"}
        mounts = [
            _mount(name=volume, mount_path=f"{_ROOT}/{volume}", read_only=True)
            for volume in ("config", "token", "s3", "trust")
        ]
        return k8s.core.v1.PodSpecArgs(
            service_account_name=self._name,
            automount_service_account_token=False,
            enable_service_links=False,
            restart_policy="Never",
            security_context=pod_security(_UID),
            containers=[
                k8s.core.v1.ContainerArgs(
                    name="annotation",
                    image=image.ref,
                    image_pull_policy="IfNotPresent",
                    command=["python3", "-m", "services.annotation", "run"],
                    working_dir="/opt/estate",
                    env=[k8s.core.v1.EnvVarArgs(name=key, value=env[key]) for key in env],
                    security_context=container_security(),
                    resources=requirements(self._config.resources),
                    volume_mounts=[*mounts, _mount(name="scratch", mount_path="/tmp")],
                )
            ],
            volumes=[
                config_map_volume("config", f"{self._name}-config"),
                secret_volume("token", f"{self._name}-token"),
                secret_volume("s3", self._store.secrets[USER]),
                config_map_volume("trust", TRUST_CONFIG_MAP),
                k8s.core.v1.VolumeArgs(
                    name="scratch",
                    empty_dir=k8s.core.v1.EmptyDirVolumeSourceArgs(size_limit=f"{_SCRATCH_MIB}Mi"),
                ),
            ],
        )
