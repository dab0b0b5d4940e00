"""Pods of Ceph's daemons and Jobs: restricted security, files, probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pulumi
import pulumi_kubernetes as k8s

from components.datalake import ceph_files as files
from components.datalake.ceph_config import UID
from components.model import Image, Resources, Spread, Storage
from components.workload import (
    TRUST_CONFIG_MAP,
    claim_template,
    config_map_volume,
    container_security,
    labels,
    memory_volume,
    passwords_volume,
    pod_security,
    probe,
    requirements,
    secret_volume,
    topology_spread,
    waive,
)

Part = Literal["mon", "mgr", "osd", "gateway"]
_NO_NAMES = "its pods are found by their addresses, which Ceph's monitors know"
WAIVED: dict[Part, dict[str, str]] = {
    part: waive({"kube-score.statefulset-has-servicename": _NO_NAMES})
    for part in ("mon", "mgr", "osd", "gateway")
}
_DATA: dict[Part, str] = {"mon": "/var/lib/ceph/mon", "osd": "/var/lib/ceph/osd"}
# A daemon takes those that are free of the range.
_RANGE = {f"msgr2-{port}": port for port in files.OSD_PORTS[1:]}
_PORTS: dict[Part, dict[str, int]] = {
    "mon": {"msgr2": files.MONITOR_PORT},
    "mgr": {"metrics": files.METRICS_PORT, "msgr2": files.OSD_PORTS.start, **_RANGE},
    "osd": {"msgr2": files.OSD_PORTS.start, **_RANGE},
    "gateway": {"https": files.S3_PORT},
}
_GRACE_S: dict[Part, int] = {"mon": 20, "mgr": 10, "osd": 60, "gateway": 30}

_mount = k8s.core.v1.VolumeMountArgs


def stateful_set(
    part: Part,
    name: str,
    count: int,
    *,
    image: Image,
    selector: Mapping[str, str],
    resources: Resources,
    spread: Spread,
    storage: Storage | None,
    settings: str,
    annotations: Mapping[str, pulumi.Input[str]],
) -> k8s.apps.v1.StatefulSetSpecArgs:
    """`count` daemons of one kind; their files are the ConfigMaps `<settings>-...`."""
    return k8s.apps.v1.StatefulSetSpecArgs(
        replicas=count,
        service_name=name,
        # Monitors wait for one another; OSDs are replaced one by one all the same.
        pod_management_policy="Parallel",
        selector=k8s.meta.v1.LabelSelectorArgs(match_labels=dict(selector)),
        template=k8s.core.v1.PodTemplateSpecArgs(
            metadata=k8s.meta.v1.ObjectMetaArgs(labels=dict(selector), annotations=annotations),
            spec=_pod(part, name, count, image, selector, resources, spread, settings),
        ),
        volume_claim_templates=[claim_template("data", storage)] if storage is not None else None,
    )


def _pod(
    part: Part,
    name: str,
    count: int,
    image: Image,
    selector: Mapping[str, str],
    resources: Resources,
    spread: Spread,
    settings: str,
) -> k8s.core.v1.PodSpecArgs:
    mounts = _mounts()
    if part in _DATA:
        mounts.append(_mount(name="data", mount_path=_DATA[part]))
    volumes = [
        config_map_volume("config", f"{settings}-config"),
        config_map_volume("scripts", f"{settings}-scripts"),
        secret_volume("keys", f"{name}-keys"),
        memory_volume("run", 8),
        _scratch(),
    ]
    if part == "gateway":
        mounts.append(_mount(name="tls", mount_path="/etc/ceph/tls", read_only=True))
        volumes.append(secret_volume("tls", f"{name}-tls"))
    startup, readiness, liveness = _probes(part)
    common: dict[str, Any] = {
        "image": image.ref,
        "image_pull_policy": "IfNotPresent",
        "env": [_field("POD_IP", "status.podIP"), _field("NODE_NAME", "spec.nodeName")],
        "security_context": container_security(),
        "resources": requirements(resources),
        "volume_mounts": mounts,
    }
    prepare = k8s.core.v1.ContainerArgs(
        name="prepare", command=["/bin/bash", "/etc/ceph/scripts/prepare-osd.sh"], **common
    )
    daemon = k8s.core.v1.ContainerArgs(
        name=part,
        command=["/bin/bash", f"/etc/ceph/scripts/{part}.sh"],
        ports=[
            k8s.core.v1.ContainerPortArgs(name=port, container_port=number)
            for port, number in _PORTS[part].items()
        ],
        startup_probe=startup,
        readiness_probe=readiness,
        liveness_probe=liveness,
        **common,
    )
    return k8s.core.v1.PodSpecArgs(
        service_account_name=name,
        automount_service_account_token=False,
        enable_service_links=False,
        security_context=pod_security(UID),
        topology_spread_constraints=topology_spread(selector, spread, count),
        termination_grace_period_seconds=_GRACE_S[part],
        init_containers=[prepare] if part == "osd" else None,
        containers=[daemon],
        volumes=volumes,
    )


def _probes(part: Part) -> tuple[k8s.core.v1.ProbeArgs, ...]:
    """Startup, readiness, liveness: a daemon lives while it listens, a gateway is ready when it
    answers somebody without a key.
    """
    port = next(iter(_PORTS[part]))
    ready = probe(tcp=port, period_s=5)
    if part == "gateway":
        ready = probe(http=("/swift/healthcheck", port), scheme="HTTPS", period_s=5, timeout_s=5)
    return (
        probe(tcp=port, period_s=1, failures=600),
        ready,
        probe(tcp=port, period_s=20, failures=6),
    )


def job(
    name: str,
    image: Image,
    arguments: Sequence[str],
    *,
    resources: Resources,
    settings: str,
    users: Sequence[tuple[str, str]],
    with_keys: bool,
    annotations: Mapping[str, pulumi.Input[str]],
) -> k8s.batch.v1.JobSpecArgs:
    """A run of one of our scripts; `users` are names and the Secrets of their keys."""
    mounts = [
        *(_mounts() if with_keys else [_mount(name="tmp", mount_path="/tmp")]),
        _mount(name="jobs", mount_path="/etc/ceph/jobs", read_only=True),
        _mount(name="declaration", mount_path="/etc/ceph/declaration", read_only=True),
        _mount(name="users", mount_path="/etc/ceph/users", read_only=True),
        _mount(name="trust", mount_path="/etc/ceph/trust", read_only=True),
    ]
    keys = [
        config_map_volume("config", f"{settings}-config"),
        config_map_volume("scripts", f"{settings}-scripts"),
        secret_volume("keys", f"{settings}-gateway-keys"),
        memory_volume("run", 8),
    ]
    return k8s.batch.v1.JobSpecArgs(
        backoff_limit=6,
        active_deadline_seconds=600,
        template=k8s.core.v1.PodTemplateSpecArgs(
            metadata=k8s.meta.v1.ObjectMetaArgs(labels=labels(name), annotations=annotations),
            spec=k8s.core.v1.PodSpecArgs(
                restart_policy="OnFailure",
                service_account_name=name,
                automount_service_account_token=False,
                enable_service_links=False,
                security_context=pod_security(UID),
                containers=[
                    k8s.core.v1.ContainerArgs(
                        name="reconcile",
                        image=image.ref,
                        image_pull_policy="IfNotPresent",
                        command=["/usr/bin/python3", *arguments],
                        security_context=container_security(),
                        resources=requirements(resources),
                        volume_mounts=mounts,
                    )
                ],
                volumes=[
                    *(keys if with_keys else []),
                    _scratch(),
                    config_map_volume("jobs", f"{settings}-jobs"),
                    config_map_volume("declaration", f"{settings}-declaration"),
                    config_map_volume("trust", TRUST_CONFIG_MAP),
                    passwords_volume("users", dict(users), "secret-key"),
                ],
            ),
        ),
    )


def _mounts(*, keys: bool = True) -> list[k8s.core.v1.VolumeMountArgs]:
    found = [
        _mount(name="config", mount_path="/etc/ceph/ceph.conf", sub_path="ceph.conf"),
        _mount(name="scripts", mount_path="/etc/ceph/scripts", read_only=True),
        _mount(name="run", mount_path="/run/ceph"),
        _mount(name="tmp", mount_path="/tmp"),
    ]
    if keys:
        found.append(_mount(name="keys", mount_path="/etc/ceph/keys", read_only=True))
    return found


def _scratch() -> k8s.core.v1.VolumeArgs:
    return k8s.core.v1.VolumeArgs(
        name="tmp", empty_dir=k8s.core.v1.EmptyDirVolumeSourceArgs(size_limit="64Mi")
    )


def _field(name: str, path: str) -> k8s.core.v1.EnvVarArgs:
    return k8s.core.v1.EnvVarArgs(
        name=name,
        value_from=k8s.core.v1.EnvVarSourceArgs(
            field_ref=k8s.core.v1.ObjectFieldSelectorArgs(field_path=path)
        ),
    )
