"""The pipeline's pods: the one with Dagster, and what a run gets for its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi_kubernetes as k8s

from components.datalake import pipeline_files as files
from components.datalake.pipeline_config import (
    CATALOGUE,
    CLIENTS_PORT,
    DAGSTER,
    METRICS_PORT,
    PipelineConfig,
)
from components.model import Image, Resources
from components.workload import (
    TRUST_CONFIG_MAP,
    config_map_volume,
    container_security,
    memory_volume,
    pod_security,
    probe,
    requirements,
    secret_volume,
)

UID = 1000
PREPARE_RESOURCES = Resources(cpu_request_m=10, memory_request_mib=96, memory_limit_mib=512)
SCRATCH_MIB = 512
_mount = k8s.core.v1.VolumeMountArgs

ENVIRONMENT = {
    "DAGSTER_HOME": files.CONFIG,
    "PIPELINE_SETTINGS": f"{files.CONFIG}/settings.json",
    "PIPELINE_RUN": files.RUN,
    "HOME": files.SCRATCH,
    # What is compiled once is there for all containers of the pod, and for each of their probes:
    # Dagster's modules take ten seconds of a core.
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": f"{files.SCRATCH}/compiled",
}
_MOUNTS = {
    "config": (files.CONFIG, True),
    "secrets": (files.SECRETS, True),
    "trust": (files.TRUST, True),
    "run": (files.RUN, False),
    "scratch": (files.SCRATCH, False),
}


@dataclass(frozen=True)
class Secrets:
    """Names of the Secrets that the pipeline's code mounts."""

    s3: str
    kafka: str
    mongodb: str
    dagster: str
    catalogue: str

    def sources(self) -> list[tuple[str, dict[str, str]]]:
        """Secret -> key to file name, all in one folder."""
        return [
            (self.s3, {"access-key": "access-key", "secret-key": "secret-key"}),
            (self.kafka, {"password": "kafka"}),
            (self.mongodb, {"password": "mongodb"}),
            (self.dagster, {"password": DAGSTER}),
            (self.catalogue, {"password": CATALOGUE}),
        ]


def dagster_pod(
    name: str,
    config: PipelineConfig,
    *,
    image: Image,
    proxy_image: Image,
    secrets: Secrets,
    users: Mapping[str, str],
    asks_api: bool,
) -> k8s.core.v1.PodSpecArgs:
    """Proxy, web pages, daemon, code, metrics; they reach each other on the loopback alone."""
    code = _python(
        "code", image, config.code_resources, ["/bin/sh", f"{files.CONFIG}/code.sh"], "code"
    )
    web = _python("web", image, config.web_resources, ["/bin/sh", f"{files.CONFIG}/web.sh"], "web")
    daemon = _container(
        "daemon",
        image,
        config.daemon_resources,
        ["/bin/sh", f"{files.CONFIG}/daemon.sh"],
        readiness_probe=_alive(30, 240),
        liveness_probe=_alive(60, 600),
    )
    metrics = _container(
        "metrics",
        image,
        config.metrics_resources,
        ["python3", "-m", "services.pipeline", "metrics"],
        ports=[k8s.core.v1.ContainerPortArgs(name="metrics", container_port=METRICS_PORT)],
        startup_probe=probe(tcp="metrics", period_s=3, failures=100),
        readiness_probe=probe(tcp="metrics", period_s=15),
        liveness_probe=probe(tcp="metrics", period_s=30),
    )
    prepare = _container(
        "prepare", image, PREPARE_RESOURCES, ["python3", "-m", "services.pipeline", "prepare"]
    )
    return k8s.core.v1.PodSpecArgs(
        service_account_name=name,
        automount_service_account_token=asks_api,
        enable_service_links=False,
        security_context=pod_security(UID),
        # A run that is told to stop ends its batch, or leaves it to the next.
        termination_grace_period_seconds=30,
        init_containers=[prepare],
        containers=[_proxy(config, proxy_image), web, daemon, code, metrics],
        volumes=[
            *_volumes(name, secrets),
            config_map_volume("proxy", f"{name}-proxy"),
            secret_volume("tls", f"{name}-tls"),
            k8s.core.v1.VolumeArgs(
                name="users",
                projected=_projected([(of, {"password": user}) for user, of in users.items()]),
            ),
            memory_volume("proxy-run", 1),
        ],
    )


def _proxy(config: PipelineConfig, image: Image) -> k8s.core.v1.ContainerArgs:
    return k8s.core.v1.ContainerArgs(
        name="proxy",
        image=image.ref,
        image_pull_policy="IfNotPresent",
        command=["/bin/sh", f"{files.PROXY}/serve.sh"],
        ports=[k8s.core.v1.ContainerPortArgs(name="https", container_port=CLIENTS_PORT)],
        security_context=container_security(),
        resources=requirements(config.proxy_resources),
        # Not ready while there are no pages behind it.
        readiness_probe=probe(http=("/alive", "https"), scheme="HTTPS", period_s=5, failures=3),
        liveness_probe=probe(tcp="https", period_s=20),
        volume_mounts=[
            _mount(name="proxy", mount_path=files.PROXY, read_only=True),
            _mount(name="users", mount_path=files.PROXY_USERS, read_only=True),
            _mount(name="tls", mount_path=files.PROXY_TLS, read_only=True),
            _mount(name="proxy-run", mount_path=files.PROXY_RUN),
        ],
    )


def _container(
    name: str, image: Image, resources: Resources, command: list[str], **more: Any
) -> k8s.core.v1.ContainerArgs:
    return k8s.core.v1.ContainerArgs(
        name=name,
        image=image.ref,
        image_pull_policy="IfNotPresent",
        command=command,
        working_dir="/opt/estate",
        env=[k8s.core.v1.EnvVarArgs(name=key, value=value) for key, value in ENVIRONMENT.items()],
        security_context=container_security(),
        resources=requirements(resources),
        volume_mounts=[
            _mount(name=volume, mount_path=path, read_only=read_only)
            for volume, (path, read_only) in _MOUNTS.items()
        ],
        **more,
    )


def _python(
    name: str, image: Image, resources: Resources, command: list[str], asked: str
) -> k8s.core.v1.ContainerArgs:
    """A container of Dagster, whose start takes its time: seconds of a core."""
    ask = ["python3", f"{files.CONFIG}/health.py", asked]
    return _container(
        name,
        image,
        resources,
        command,
        startup_probe=probe(command=ask, period_s=3, timeout_s=8, failures=100),
        readiness_probe=probe(command=ask, period_s=10, timeout_s=8),
        liveness_probe=probe(command=ask, period_s=30, timeout_s=15, failures=4),
    )


def _alive(period_s: int, silent_s: int) -> k8s.core.v1.ProbeArgs:
    ask = ["python3", "-m", "services.pipeline.alive", str(silent_s)]
    return probe(command=ask, period_s=period_s, timeout_s=20, failures=4)


def _volumes(name: str, secrets: Secrets) -> list[k8s.core.v1.VolumeArgs]:
    return [
        config_map_volume("config", f"{name}-config"),
        config_map_volume("trust", TRUST_CONFIG_MAP),
        k8s.core.v1.VolumeArgs(name="secrets", projected=_projected(secrets.sources())),
        # The password file of libpq, and the socket of the code.
        memory_volume("run", 1),
        k8s.core.v1.VolumeArgs(
            name="scratch",
            empty_dir=k8s.core.v1.EmptyDirVolumeSourceArgs(size_limit=f"{SCRATCH_MIB}Mi"),
        ),
    ]


def _projected(
    sources: list[tuple[str, dict[str, str]]],
) -> k8s.core.v1.ProjectedVolumeSourceArgs:
    return k8s.core.v1.ProjectedVolumeSourceArgs(
        default_mode=0o440,
        sources=[
            k8s.core.v1.VolumeProjectionArgs(
                secret=k8s.core.v1.SecretProjectionArgs(
                    name=secret,
                    items=[
                        k8s.core.v1.KeyToPathArgs(key=key, path=path) for key, path in items.items()
                    ],
                )
            )
            for secret, items in sources
        ],
    )


# -- a run's own pod -------------------------------------------------------------------------------


def launcher(
    name: str,
    config: PipelineConfig,
    *,
    namespace: str,
    image: Image,
    secrets: Secrets,
    selector: Mapping[str, str],
) -> dict[str, Any]:
    """`run_launcher` of dagster.yaml: beside the code, or a Job for each run."""
    if config.launcher == "local":
        return {"module": "dagster._core.launcher", "class": "DefaultRunLauncher"}
    context = {
        "allow_privilege_escalation": False,
        "privileged": False,
        "read_only_root_filesystem": True,
        "run_as_non_root": True,
        "capabilities": {"drop": ["ALL"]},
        "seccomp_profile": {"type": "RuntimeDefault"},
    }
    mounts = [
        {"name": volume, "mount_path": path, "read_only": read_only}
        for volume, (path, read_only) in _MOUNTS.items()
    ]
    # The launcher itself says where the instance is.
    mine = {key: value for key, value in ENVIRONMENT.items() if key != "DAGSTER_HOME"}
    env = [{"name": key, "value": value} for key, value in mine.items()]
    common = {
        "image": image.ref,
        "image_pull_policy": "IfNotPresent",
        "working_dir": "/opt/estate",
        "security_context": context,
        "volume_mounts": mounts,
        "env": env,
    }
    prepare = {
        "name": "prepare",
        "command": ["python3", "-m", "services.pipeline", "prepare"],
        "resources": PREPARE_RESOURCES.quantities(),
    }
    projected = [
        {
            "secret": {
                "name": secret,
                "items": [{"key": key, "path": path} for key, path in items.items()],
            }
        }
        for secret, items in secrets.sources()
    ]
    return {
        "module": "dagster_k8s",
        "class": "K8sRunLauncher",
        "config": {
            "service_account_name": f"{name}-run",
            "job_namespace": namespace,
            "job_image": image.ref,
            "image_pull_policy": "IfNotPresent",
            "instance_config_map": f"{name}-config",
            "dagster_home": "/pipeline/instance",
            "load_incluster_config": True,
            "fail_pod_on_run_failure": True,
            "run_k8s_config": {
                "container_config": {
                    **{key: common[key] for key in ("working_dir", "security_context", "env")},
                    "volume_mounts": mounts,
                    "resources": config.run_resources.quantities(),
                },
                "pod_template_spec_metadata": {"labels": dict(selector)},
                "pod_spec_config": {
                    "automount_service_account_token": False,
                    "enable_service_links": False,
                    "security_context": {
                        "run_as_non_root": True,
                        "run_as_user": UID,
                        "run_as_group": UID,
                        "fs_group": UID,
                        "seccomp_profile": {"type": "RuntimeDefault"},
                    },
                    "init_containers": [{**prepare, **common}],
                    "volumes": [
                        {"name": "config", "config_map": {"name": f"{name}-config"}},
                        {"name": "trust", "config_map": {"name": TRUST_CONFIG_MAP}},
                        {
                            "name": "secrets",
                            "projected": {"default_mode": 0o440, "sources": projected},
                        },
                        {"name": "run", "empty_dir": {"medium": "Memory", "size_limit": "1Mi"}},
                        {"name": "scratch", "empty_dir": {"size_limit": f"{SCRATCH_MIB}Mi"}},
                    ],
                },
                "job_spec_config": {"ttl_seconds_after_finished": 3600, "backoff_limit": 0},
            },
        },
    }
