"""NVIDIA's DCGM exporter on every node with a GPU: what each does, and which pod has it."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.flows import Pods, scraped
from components.model import GPU_NODE, Image
from components.monitoring.config import DcgmConfig
from components.monitoring.dcgm_dashboard import dcgm_dashboard
from components.monitoring.dcgm_rules import dcgm_rules
from components.platform.namespaces import GPUS
from components.workload import (
    Component,
    by_https,
    certificate,
    checksum,
    config_map_volume,
    gpu_tolerations,
    labels,
    memory_volume,
    meta,
    pod_monitor,
    probe,
    prometheus_rule,
    requirements,
    secret_volume,
    service_account,
    service_dns,
    waive,
)

NAME = "dcgm-exporter"
PORT = 9400
KUBELET = "/var/lib/kubelet/pod-resources"
"""Where a kubelet's socket says which pod has which device."""
_CONFIG, _TLS = "/etc/estate/dcgm", "/run/secrets/estate/tls"
_mount = k8s.core.v1.VolumeMountArgs

COUNTERS = {
    "DCGM_FI_DEV_SM_CLOCK": ("gauge", "SM clock (MHz)"),
    "DCGM_FI_DEV_MEM_CLOCK": ("gauge", "memory clock (MHz)"),
    "DCGM_FI_DEV_GPU_TEMP": ("gauge", "temperature of the GPU (C)"),
    "DCGM_FI_DEV_MEMORY_TEMP": ("gauge", "temperature of its memory (C)"),
    "DCGM_FI_DEV_POWER_USAGE": ("gauge", "power (W)"),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("counter", "energy since the driver started (mJ)"),
    "DCGM_FI_DEV_GPU_UTIL": ("gauge", "share of time in which a kernel ran (%)"),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("gauge", "share of time in which memory was used (%)"),
    "DCGM_FI_DEV_FB_FREE": ("gauge", "memory that is free (MiB)"),
    "DCGM_FI_DEV_FB_USED": ("gauge", "memory that is used (MiB)"),
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": ("counter", "errors of one bit since the driver started"),
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": ("counter", "errors of two bits since the driver started"),
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": ("counter", "rows replaced for such errors"),
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": ("gauge", "1 where no row is left to replace one with"),
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": ("counter", "repeated transfers over PCIe"),
    "DCGM_EXP_XID_ERRORS_COUNT": ("gauge", "errors (XID) of the last five minutes by number"),
    "DCGM_FI_DRIVER_VERSION": ("label", "driver"),
}
"""DCGM's fields that are read: type and help, without commas; a `label` is on all the others."""
PROFILING = {
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": (
        "gauge",
        "share of time in which it or a slice computed",
    ),
    "DCGM_FI_PROF_DRAM_ACTIVE": ("gauge", "share of cycles in which memory moved data"),
}


def counters(config: DcgmConfig) -> str:
    """The file that says which fields are read."""
    fields = {**COUNTERS, **(PROFILING if config.profiling else {})}
    return "".join(f"{name}, {type_}, {help_}\n" for name, (type_, help_) in fields.items())


class Dcgm(Component):
    """The DaemonSet, its monitor, its alerts and its dashboard.

    It needs the kubelet's socket, which is root's, and a directory of the node; else it is as
    restricted as every pod. NVIDIA's driver, runtime and device plugin are the cluster's.
    """

    def __init__(
        self,
        name: str,
        config: DcgmConfig,
        *,
        namespace: pulumi.Input[str],
        image: Image,
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] = (),
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:monitoring:Dcgm", name, opts)
        selector = labels(NAME)
        pods = Pods(name=NAME, namespace=GPUS, selector=selector)
        tls = certificate(
            f"{NAME}-tls",
            namespace,
            service_dns(NAME, GPUS),
            self.child(depends_on=list(issuer)),
            issuer=authority.issuer,
        )
        files = k8s.core.v1.ConfigMap(
            NAME,
            metadata=meta(NAME, namespace, selector),
            data={
                "counters.csv": counters(config),
                "web.yaml": "tls_server_config:\n"
                f"  cert_file: {_TLS}/tls.crt\n  key_file: {_TLS}/tls.key\n"
                "  min_version: TLS12\n",
            },
            opts=self.child(),
        )
        account = service_account(NAME, namespace, self.child())
        k8s.apps.v1.DaemonSet(
            NAME,
            metadata=meta(NAME, namespace, selector, waive(_waived(config))),
            spec=k8s.apps.v1.DaemonSetSpecArgs(
                selector=k8s.meta.v1.LabelSelectorArgs(match_labels=selector),
                template=k8s.core.v1.PodTemplateSpecArgs(
                    metadata=k8s.meta.v1.ObjectMetaArgs(
                        labels=selector,
                        annotations={"estate.dev/settings": checksum(files.data)},
                    ),
                    spec=_pod(config, image),
                ),
            ),
            opts=self.child(depends_on=[tls, files, account]),
        )
        self.flows.append(scraped(pods, PORT))
        after = self.child(depends_on=list(monitors))
        pod_monitor(
            NAME,
            namespace,
            selector,
            [
                {
                    "port": "metrics",
                    # No honorLabels: who has a GPU is `exported_pod`, and `pod` its own.
                    **by_https(service_dns(NAME, GPUS)[0]),
                }
            ],
            after,
        )
        prometheus_rule(NAME, namespace, dcgm_rules(config), after)
        self.dashboards.append(dcgm_dashboard(NAME, config))
        self.register_outputs({})


def _waived(config: DcgmConfig) -> dict[str, str]:
    root = "the kubelet's socket, which says whose a GPU is, is root's alone"
    found = {"checkov.CKV_K8S_23": root}
    if config.profiling:
        words = "NVIDIA's driver tells nobody without it how busy a slice of a GPU is"
        found |= {"checkov.CKV_K8S_25": words, "checkov.CKV_K8S_39": words}
    return found


def _pod(config: DcgmConfig, image: Image) -> k8s.core.v1.PodSpecArgs:
    runtime_default = k8s.core.v1.SeccompProfileArgs(type="RuntimeDefault")
    env = k8s.core.v1.EnvVarArgs
    health = ("/health", PORT)
    return k8s.core.v1.PodSpecArgs(
        service_account_name=NAME,
        automount_service_account_token=False,
        enable_service_links=False,
        runtime_class_name=config.runtime_class,
        node_selector=GPU_NODE,
        tolerations=gpu_tolerations(),
        security_context=k8s.core.v1.PodSecurityContextArgs(
            run_as_user=0, run_as_group=0, fs_group=0, seccomp_profile=runtime_default
        ),
        containers=[
            k8s.core.v1.ContainerArgs(
                name=NAME,
                image=image.ref,
                image_pull_policy="IfNotPresent",
                # Not by its entry point, which gives the program a capability in its file.
                command=["/usr/bin/dcgm-exporter"],
                args=[
                    f"--collectors={_CONFIG}/counters.csv",
                    f"--collect-interval={config.interval_s * 1000}",
                    f"--address=:{PORT}",
                    f"--web-config-file={_CONFIG}/web.yaml",
                    "--kubernetes=true",
                ],
                env=[
                    env(
                        name="NODE_NAME",
                        value_from=k8s.core.v1.EnvVarSourceArgs(
                            field_ref=k8s.core.v1.ObjectFieldSelectorArgs(
                                field_path="spec.nodeName"
                            )
                        ),
                    ),
                    # All of the node's, which no other pod gets without asking for them.
                    env(name="NVIDIA_VISIBLE_DEVICES", value="all"),
                ],
                ports=[k8s.core.v1.ContainerPortArgs(name="metrics", container_port=PORT)],
                startup_probe=probe(http=health, scheme="HTTPS", period_s=2, failures=90),
                readiness_probe=probe(http=health, scheme="HTTPS", period_s=10),
                liveness_probe=probe(http=health, scheme="HTTPS", period_s=30),
                security_context=k8s.core.v1.SecurityContextArgs(
                    allow_privilege_escalation=False,
                    privileged=False,
                    read_only_root_filesystem=True,
                    capabilities=k8s.core.v1.CapabilitiesArgs(
                        drop=["ALL"], add=["SYS_ADMIN"] if config.profiling else None
                    ),
                    seccomp_profile=runtime_default,
                ),
                resources=requirements(config.resources),
                volume_mounts=[
                    _mount(name="config", mount_path=_CONFIG, read_only=True),
                    _mount(name="tls", mount_path=_TLS, read_only=True),
                    _mount(name="tmp", mount_path="/tmp"),
                    _mount(name="pod-resources", mount_path=KUBELET, read_only=True),
                ],
            )
        ],
        volumes=[
            config_map_volume("config", NAME),
            secret_volume("tls", f"{NAME}-tls"),
            memory_volume("tmp", 16),
            k8s.core.v1.VolumeArgs(
                name="pod-resources",
                host_path=k8s.core.v1.HostPathVolumeSourceArgs(path=KUBELET, type="Directory"),
            ),
        ],
    )
