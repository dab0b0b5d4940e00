"""CronJobs that save one part each by rclone to the store, mostly a dump on a scratch volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.checks import ExpectedPods
from components.dashboards import HERE, Dashboard, graph, quiet, stat
from components.datalake.backup_config import NAMESPACE, CopyBackup, DumpBackup
from components.datalake.backup_store import CA, RCLONE, REMOTE, BackupStore
from components.flows import OUTSIDE, Flow, Pods
from components.model import Image, Resources, Storage
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


class StoreJob(Component):
    """A CronJob whose container `upload` speaks to the store; its runs never overlap.

    Those who inherit make the pod and hand it to `_run`.
    """

    pods: Pods

    def __init__(
        self,
        token: str,
        name: str,
        part: str,
        config: CopyBackup,
        *,
        space: str,
        namespace: pulumi.Input[str],
        store: BackupStore,
        opts: pulumi.ResourceOptions | None,
    ) -> None:
        super().__init__(token, name, opts)
        self._name, self._part, self._copy, self._store = name, part, config, store
        self._space, self._namespace, self._selector = space, namespace, labels(name)
        self._account = service_account(name, namespace, self.child())
        self.pods = Pods(name=name, namespace=space, selector=self._selector, lasting=False)
        self.flows.append(Flow(source=self.pods, target=OUTSIDE, ports=[store.config.port]))

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
            volume_mounts=[*mounts, _mount(name="tmp", mount_path="/tmp")],
        )

    def _upload(
        self, rclone: Image, script: str, mount: k8s.core.v1.VolumeMountArgs
    ) -> k8s.core.v1.ContainerArgs:
        """The container with the store's keys, and what is saved in `mount`."""
        store = self._store.config
        return self._container(
            "upload",
            rclone,
            ["/bin/sh", "-euc", script],
            self._copy.upload_resources,
            [_mount(name="store", mount_path=_STORE, read_only=True), mount],
            {
                "BUCKET": store.bucket,
                "PART": self._part,
                "KEEP_DAYS": str(self._copy.retention_days),
                "RCLONE_CONFIG": f"{_STORE}/{RCLONE}",
                **({"RCLONE_CA_CERT": f"{_STORE}/{CA}"} if store.ca is not None else {}),
            },
        )

    def _pod(
        self,
        uid: int,
        upload: k8s.core.v1.ContainerArgs,
        volumes: Sequence[k8s.core.v1.VolumeArgs],
        *,
        first: Sequence[k8s.core.v1.ContainerArgs] = (),
        affinity: k8s.core.v1.AffinityArgs | None = None,
    ) -> k8s.core.v1.PodSpecArgs:
        files = {key: key for key in (RCLONE, CA) if key != CA or self._store.config.ca is not None}
        return k8s.core.v1.PodSpecArgs(
            service_account_name=self._name,
            automount_service_account_token=False,
            enable_service_links=False,
            restart_policy="Never",
            security_context=pod_security(uid),
            affinity=affinity,
            init_containers=list(first) or None,
            containers=[upload],
            volumes=[
                *volumes,
                secret_volume("store", self._store.name, files),
                k8s.core.v1.VolumeArgs(
                    name="tmp", empty_dir=k8s.core.v1.EmptyDirVolumeSourceArgs(size_limit="64Mi")
                ),
            ],
        )

    def _run(
        self,
        pod: k8s.core.v1.PodSpecArgs,
        resources: Resources,
        depends_on: Sequence[pulumi.Resource],
        monitors: Sequence[pulumi.Resource] | None,
    ) -> None:
        """The CronJob of this pod, which asks for `resources`, and who looks at its age."""
        name, config, selector = self._name, self._copy, self._selector
        k8s.batch.v1.CronJob(
            name,
            metadata=meta(name, self._namespace, selector),
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
                            metadata=k8s.meta.v1.ObjectMetaArgs(labels=selector), spec=pod
                        ),
                    )
                ),
            ),
            opts=self.child(depends_on=[self._account, self._store, *depends_on]),
        )
        self.expected_pods.append(
            ExpectedPods(
                name=name,
                namespace=self._space,
                selector=selector,
                count=0,  # none between two runs
                resources=resources,
            )
        )
        if monitors is not None:
            place = {"name": name, "namespace": self._space}
            opts = self.child(depends_on=list(monitors))
            rules = job_rules(self._part, config, **place)
            prometheus_rule(name, self._namespace, rules, opts)
            self.dashboards.append(job_dashboard(self._part, config, **place))
        self.register_outputs({})


class BackupJob(StoreJob):
    """The CronJob `<part>-backup`; its runs follow each other, never two at once.

    `dump` fills BACKUP before the upload begins; what it mounts beside the scratch volume is in
    `volumes`, and `reaches` are the pods that it asks.
    """

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
        super().__init__(
            "estate:datalake:BackupJob",
            f"{part}-backup",
            part,
            config,
            space=NAMESPACE,
            namespace=namespace,
            store=store,
            opts=opts,
        )
        scratch = _mount(name="scratch", mount_path=SCRATCH)
        mounts = [
            _mount(name=volume.name, mount_path=path, read_only=True) for volume, path in volumes
        ]
        dump = self._container(
            "dump", image, command, config.resources, [*mounts, scratch], env or {}
        )
        upload = self._upload(rclone, UPLOAD.format(remote=REMOTE, backup=BACKUP), scratch)
        held = [*(volume for volume, _ in volumes), _scratch(config.scratch)]
        self.flows.append(reaches.model_copy(update={"source": self.pods}))
        self._run(
            self._pod(_UID, upload, held, first=[dump]), config.resources, depends_on, monitors
        )


def _scratch(scratch: Storage) -> k8s.core.v1.VolumeArgs:
    """Made for a run and deleted with its pod."""
    return k8s.core.v1.VolumeArgs(
        name="scratch",
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
    )


def age(name: str, matchers: str) -> str:
    """PromQL: seconds since the last run that succeeded, or since the CronJob is there."""
    job = f'{matchers}, cronjob="{name}"'
    return (
        f"time() - (max(kube_cronjob_status_last_successful_time{{{job}}}) "
        f"or max(kube_cronjob_created{{{job}}}))"
    )


def job_rules(part: str, config: CopyBackup, *, name: str, namespace: str) -> list[dict[str, Any]]:
    """Alerts about one part's CronJob, by kube-state-metrics."""
    title = part.capitalize()
    here = f'namespace="{namespace}"'
    return [
        alert(
            f"Backup{title}Old",
            f"{age(name, here)} > {config.max_age_h * 3600}",
            f"the last backup of {part} is older than {config.max_age_h} h; see the Jobs of {name}",
            for_s=900,
        ),
        alert(
            f"Backup{title}Unknown",
            f'absent(kube_cronjob_created{{{here}, cronjob="{name}"}})',
            f"nobody tells how old the last backup of {part} is; see kube-state-metrics",
            for_s=1800,
            severity="warning",
        ),
    ]


def job_dashboard(part: str, config: CopyBackup, *, name: str, namespace: str) -> Dashboard:
    """Of one part's CronJob: its health is judged by `job_rules`."""
    jobs = f'{HERE}, job_name=~"{name}-.*"'
    return Dashboard(
        name=name,
        title=f"Backup of {part.capitalize()}",
        description="The CronJob that saves it to the store outside, by kube-state-metrics.",
        namespace=namespace,
        source=f'kube_cronjob_created{{cronjob="{name}"}}',
        alerts=f"Backup{part.capitalize()}.+",
        health=[
            stat(
                "Age of the last backup",
                f"One is made at `{config.schedule}`; see the Jobs of {name}.",
                age(name, HERE),
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
                "Their logs say which container, and why.",
                "short",
                {"failed": quiet(f"sum(kube_job_status_failed{{{jobs}}})")},
            )
        ],
    )
