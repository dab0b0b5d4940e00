"""A CronJob that saves one part: a dump into a scratch volume, then rclone to the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.checks import ExpectedPods
from components.dashboards import HERE, Dashboard, graph, quiet, stat
from components.datalake.backup_config import NAMESPACE, DumpBackup
from components.datalake.backup_store import CA, RCLONE, REMOTE, BackupStore
from components.flows import OUTSIDE, Flow, Pods
from components.model import Image, Resources
from components.workload import (
    Component,
    alert,
    container_security,
    labels,
    meta,
    pod_security,
    prometheus_rule,
    requirements,
    secret_volume,
    service_account,
)

SCRATCH = "/scratch"
BACKUP = f"{SCRATCH}/backup"
"""The folder that a dump makes and fills; all of it is uploaded, `manifest.json` last."""
_UID = 1000
_STORE = "/run/secrets/estate/store"
_mount = k8s.core.v1.VolumeMountArgs

UPLOAD = """\
target="{remote}:$BUCKET/$PART"
stamp="$(date -u +%Y%m%dT%H%M%SZ)"
rclone copy --exclude /manifest.json {backup} "$target/$stamp"
if [ -e {backup}/manifest.json ]; then
  rclone copyto {backup}/manifest.json "$target/$stamp/manifest.json"
fi
rclone delete --min-age "${{KEEP_DAYS}}d" "$target"
"""
"""What is too old goes only after a newer one is whole: `set -e` ends it before."""


class BackupJob(Component):
    """The CronJob `<part>-backup`; its runs follow each other, never two at once.

    `dump` fills BACKUP before the upload begins; what it mounts beside the scratch volume is in
    `volumes`, and `reaches` are the pods that it asks.
    """

    pods: Pods

    def __init__(
        self,
        part: str,
        config: DumpBackup,
        *,
        namespace: pulumi.Input[str],
        store: BackupStore,
        image: Image,
        command: Sequence[str],
        volumes: Sequence[tuple[k8s.core.v1.VolumeArgs, str]],
        reaches: Flow,
        env: dict[str, str] | None = None,
        rclone: Image,
        depends_on: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:BackupJob", f"{part}-backup", opts)
        name = f"{part}-backup"
        self._name, self._part, self._config, self._store = name, part, config, store
        selector = labels(name)
        account = service_account(name, namespace, self.child())
        dump = self._container(
            "dump",
            image,
            command,
            config.resources,
            [_mount(name=volume.name, mount_path=path, read_only=True) for volume, path in volumes],
            env or {},
        )
        upload = self._container(
            "upload",
            rclone,
            ["/bin/sh", "-euc", UPLOAD.format(remote=REMOTE, backup=BACKUP)],
            config.upload_resources,
            [_mount(name="store", mount_path=_STORE, read_only=True)],
            {
                "BUCKET": store.config.bucket,
                "PART": part,
                "KEEP_DAYS": str(config.retention_days),
                "RCLONE_CONFIG": f"{_STORE}/{RCLONE}",
                **({"RCLONE_CA_CERT": f"{_STORE}/{CA}"} if store.config.ca is not None else {}),
            },
        )
        k8s.batch.v1.CronJob(
            name,
            metadata=meta(name, namespace, selector),
            spec=k8s.batch.v1.CronJobSpecArgs(
                schedule=config.schedule,
                time_zone="Etc/UTC",
                concurrency_policy="Forbid",
                starting_deadline_seconds=3600,
                successful_jobs_history_limit=1,
                failed_jobs_history_limit=3,
                job_template=k8s.batch.v1.JobTemplateSpecArgs(
                    spec=k8s.batch.v1.JobSpecArgs(
                        active_deadline_seconds=config.longest_s,
                        backoff_limit=2,
                        template=k8s.core.v1.PodTemplateSpecArgs(
                            metadata=k8s.meta.v1.ObjectMetaArgs(labels=selector),
                            spec=self._pod(dump, upload, [volume for volume, _ in volumes]),
                        ),
                    )
                ),
            ),
            opts=self.child(depends_on=[account, store, *depends_on]),
        )
        self.pods = Pods(name=name, namespace=NAMESPACE, selector=selector, lasting=False)
        self.flows += [
            reaches.model_copy(update={"source": self.pods}),
            Flow(source=self.pods, target=OUTSIDE, ports=[store.config.port]),
        ]
        self.expected_pods.append(
            ExpectedPods(
                name=name,
                namespace=NAMESPACE,
                selector=selector,
                count=0,  # none between two runs
                resources=config.resources,
            )
        )
        if monitors is not None:
            opts = self.child(depends_on=list(monitors))
            prometheus_rule(name, namespace, job_rules(part, config), opts)
            self.dashboards.append(job_dashboard(part, config))
        self.register_outputs({})

    def _container(
        self,
        name: str,
        image: Image,
        command: Sequence[str],
        resources: Resources,
        mounts: Sequence[k8s.core.v1.VolumeMountArgs],
        env: dict[str, str],
    ) -> k8s.core.v1.ContainerArgs:
        variables = {"HOME": "/tmp", **env}
        return k8s.core.v1.ContainerArgs(
            name=name,
            image=image.ref,
            image_pull_policy="IfNotPresent",
            command=list(command),
            env=[k8s.core.v1.EnvVarArgs(name=key, value=variables[key]) for key in variables],
            security_context=container_security(),
            resources=requirements(resources),
            volume_mounts=[
                *mounts,
                _mount(name="scratch", mount_path=SCRATCH),
                _mount(name="tmp", mount_path="/tmp"),
            ],
        )

    def _pod(
        self,
        dump: k8s.core.v1.ContainerArgs,
        upload: k8s.core.v1.ContainerArgs,
        volumes: Sequence[k8s.core.v1.VolumeArgs],
    ) -> k8s.core.v1.PodSpecArgs:
        scratch = self._config.scratch
        files = {key: key for key in (RCLONE, CA) if key != CA or self._store.config.ca is not None}
        return k8s.core.v1.PodSpecArgs(
            service_account_name=self._name,
            automount_service_account_token=False,
            enable_service_links=False,
            restart_policy="Never",
            security_context=pod_security(_UID),
            init_containers=[dump],
            containers=[upload],
            volumes=[
                *volumes,
                secret_volume("store", self._store.name, files),
                k8s.core.v1.VolumeArgs(
                    name="tmp", empty_dir=k8s.core.v1.EmptyDirVolumeSourceArgs(size_limit="64Mi")
                ),
                k8s.core.v1.VolumeArgs(
                    name="scratch",
                    # Made for a run and deleted with its pod.
                    ephemeral=k8s.core.v1.EphemeralVolumeSourceArgs(
                        volume_claim_template=k8s.core.v1.PersistentVolumeClaimTemplateArgs(
                            spec=k8s.core.v1.PersistentVolumeClaimSpecArgs(
                                access_modes=["ReadWriteOnce"],
                                storage_class_name=scratch.storage_class,
                                resources=k8s.core.v1.VolumeResourceRequirementsArgs(
                                    requests={"storage": f"{scratch.size_gib}Gi"}
                                ),
                            )
                        )
                    ),
                ),
            ],
        )


def _age(part: str, matchers: str) -> str:
    """PromQL: seconds since the last run that succeeded, or since the CronJob is there."""
    job = f'{matchers}, cronjob="{part}-backup"'
    return (
        f"time() - (max(kube_cronjob_status_last_successful_time{{{job}}}) "
        f"or max(kube_cronjob_created{{{job}}}))"
    )


def job_rules(part: str, config: DumpBackup) -> list[dict[str, Any]]:
    """Alerts about one part's CronJob, by kube-state-metrics."""
    title = part.capitalize()
    here = f'namespace="{NAMESPACE}"'
    return [
        alert(
            f"Backup{title}Old",
            f"{_age(part, here)} > {config.max_age_h * 3600}",
            f"the last backup of {part} is older than {config.max_age_h} h; see the Jobs of "
            f"{part}-backup",
            for_s=900,
        ),
        alert(
            f"Backup{title}Unknown",
            f'absent(kube_cronjob_created{{{here}, cronjob="{part}-backup"}})',
            f"nobody tells how old the last backup of {part} is; see kube-state-metrics",
            for_s=1800,
            severity="warning",
        ),
    ]


def job_dashboard(part: str, config: DumpBackup) -> Dashboard:
    """Of one part's CronJob: its health is judged by `job_rules`."""
    name = f"{part}-backup"
    jobs = f'{HERE}, job_name=~"{name}-.*"'
    return Dashboard(
        name=name,
        title=f"Backup of {part.capitalize()}",
        description="The CronJob that saves it to the store outside, by kube-state-metrics.",
        namespace=NAMESPACE,
        source=f'kube_cronjob_created{{cronjob="{name}"}}',
        alerts=f"Backup{part.capitalize()}.+",
        health=[
            stat(
                "Age of the last backup",
                f"One is made at `{config.schedule}`; see the Jobs of {name}.",
                _age(part, HERE),
                "s",
                red_from=config.max_age_h * 3600,
            )
        ],
        traffic=[
            graph(
                "Runs that succeeded",
                "Of the Jobs that are kept.",
                "short",
                {"succeeded": quiet(f"sum(kube_job_status_succeeded{{{jobs}}})")},
            )
        ],
        saturation=[
            graph(
                "Duration of the last run",
                f"A run is ended after {config.longest_s} s.",
                "s",
                {
                    "duration": quiet(
                        f"max(kube_job_status_completion_time{{{jobs}}} "
                        f"- kube_job_status_start_time{{{jobs}}})"
                    )
                },
            )
        ],
        errors=[
            graph(
                "Pods that failed",
                "Their logs say which of the two containers, and why.",
                "short",
                {"failed": quiet(f"sum(kube_job_status_failed{{{jobs}}})")},
            )
        ],
    )
