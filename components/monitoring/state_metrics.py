"""kube-state-metrics: when CronJobs last succeeded, as metrics, and nothing else of the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import ExpectedPods
from components.dashboards import HERE, Dashboard, graph, quiet, stat
from components.flows import Pods, asks_api, scraped
from components.model import Image
from components.monitoring.config import StateMetricsConfig
from components.workload import (
    Component,
    alert,
    by_https,
    certificate,
    config_map_volume,
    container_security,
    granted,
    labels,
    meta,
    pod_monitor,
    pod_security,
    probe,
    prometheus_rule,
    requirements,
    secret_volume,
    service_dns,
    waive,
)

NAME = "kube-state-metrics"
NAMESPACE = "monitoring"
PORT, _TELEMETRY_PORT = 8443, 8444
_UID = 65534
_TLS, _CONFIG = "/run/secrets/estate/tls", "/etc/kube-state-metrics"
_mount = k8s.core.v1.VolumeMountArgs


class StateMetrics(Component):
    """The Deployment; it may read CronJobs and Jobs of the namespaces `watched`, and no more."""

    def __init__(
        self,
        name: str,
        config: StateMetricsConfig,
        *,
        namespace: pulumi.Input[str],
        watched: Mapping[str, pulumi.Input[str]],
        image: Image,
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] = (),
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:monitoring:StateMetrics", name, opts)
        selector = labels(NAME)
        host = f"{NAME}.{NAMESPACE}.svc"
        tls = certificate(
            f"{NAME}-tls",
            namespace,
            service_dns(NAME, NAMESPACE),
            self.child(depends_on=list(issuer)),
            issuer=authority.issuer,
        )
        web = k8s.core.v1.ConfigMap(
            NAME,
            metadata=meta(NAME, namespace, selector),
            data={
                "web.yaml": "tls_server_config:\n"
                f"  cert_file: {_TLS}/tls.crt\n  key_file: {_TLS}/tls.key\n"
                "  min_version: TLS12\n"
            },
            opts=self.child(),
        )
        account = k8s.core.v1.ServiceAccount(
            NAME, metadata=meta(NAME, namespace, selector), opts=self.child()
        )
        rights = [
            one for space, given in watched.items() for one in self._rights(space, given, namespace)
        ]
        k8s.apps.v1.Deployment(
            NAME,
            metadata=meta(
                NAME,
                namespace,
                selector,
                waive({"checkov.CKV_K8S_38": "it reads Jobs from the API"}),
            ),
            spec=k8s.apps.v1.DeploymentSpecArgs(
                replicas=1,
                selector=k8s.meta.v1.LabelSelectorArgs(match_labels=selector),
                template=k8s.core.v1.PodTemplateSpecArgs(
                    metadata=k8s.meta.v1.ObjectMetaArgs(labels=selector),
                    spec=_pod(config, image, sorted(watched)),
                ),
            ),
            opts=self.child(depends_on=[tls, web, account, *rights]),
        )
        pods = Pods(name=NAME, namespace=NAMESPACE, selector=selector)
        self.flows += [asks_api(pods), scraped(pods, PORT)]
        self.expected_pods.append(
            ExpectedPods(
                name=NAME,
                namespace=NAMESPACE,
                selector=selector,
                count=1,
                resources=config.resources,
            )
        )
        after = self.child(depends_on=list(monitors))
        pod_monitor(
            NAME,
            namespace,
            selector,
            [
                {
                    "port": "metrics",
                    # Its series are about other namespaces than its own.
                    "honorLabels": True,
                    **by_https(host),
                }
            ],
            after,
        )
        down = f'absent(up{{namespace="{NAMESPACE}", job=~".*{NAME}"}} == 1)'
        summary = "nobody sees when CronJobs last succeeded, backups among them"
        prometheus_rule(
            NAME,
            namespace,
            [alert("StateMetricsDown", down, summary, for_s=600, severity="warning")],
            after,
        )
        self.dashboards.append(state_dashboard())
        self.register_outputs({})

    def _rights(
        self, space: str, given: pulumi.Input[str], namespace: pulumi.Input[str]
    ) -> list[pulumi.Resource]:
        rule = k8s.rbac.v1.PolicyRuleArgs(
            api_groups=["batch"], resources=["cronjobs", "jobs"], verbs=["list", "watch"]
        )
        return granted(
            NAME,
            given,
            [rule],
            self.child(),
            labelled=labels(NAME),
            account_namespace=namespace,
            resource=f"{NAME}-{space}",
        )


def state_dashboard() -> Dashboard:
    """What every scrape tells of it."""
    job = f'{HERE}, job=~".*{NAME}"'
    return Dashboard(
        name=NAME,
        title="State of Jobs",
        description="kube-state-metrics: who tells when CronJobs last succeeded.",
        namespace=NAMESPACE,
        source=f'up{{job=~".*{NAME}"}}',
        alerts="StateMetrics.+",
        health=[
            stat(
                "Replicas that answer",
                "Without one the age of backups is unknown.",
                quiet(f"count(up{{{job}}} == 1)"),
                red_below=1,
            )
        ],
        traffic=[
            graph(
                "Series",
                "It grows with the Jobs that are kept.",
                "short",
                {"series": f"sum(scrape_samples_scraped{{{job}}})"},
            )
        ],
        saturation=[
            graph(
                "Time to answer a scrape",
                "One that is at its limits answers late.",
                "s",
                {"duration": f"max(scrape_duration_seconds{{{job}}})"},
            )
        ],
        errors=[
            graph(
                "Replicas that do not answer",
                "See their pods.",
                "short",
                {"replicas": quiet(f"count(up{{{job}}} == 0)")},
            )
        ],
    )


def _pod(
    config: StateMetricsConfig, image: Image, watched: Sequence[str]
) -> k8s.core.v1.PodSpecArgs:
    return k8s.core.v1.PodSpecArgs(
        service_account_name=NAME,
        enable_service_links=False,
        security_context=pod_security(_UID),
        containers=[
            k8s.core.v1.ContainerArgs(
                name=NAME,
                image=image.ref,
                image_pull_policy="IfNotPresent",
                command=["/kube-state-metrics"],
                args=[
                    "--resources=cronjobs,jobs",
                    f"--namespaces={','.join(watched)}",
                    f"--port={PORT}",
                    f"--telemetry-port={_TELEMETRY_PORT}",
                    f"--tls-config={_CONFIG}/web.yaml",
                ],
                ports=[k8s.core.v1.ContainerPortArgs(name="metrics", container_port=PORT)],
                liveness_probe=probe(http=("/livez", PORT), scheme="HTTPS", period_s=20),
                readiness_probe=probe(http=("/readyz", _TELEMETRY_PORT), scheme="HTTPS"),
                security_context=container_security(),
                resources=requirements(config.resources),
                volume_mounts=[
                    _mount(name="tls", mount_path=_TLS, read_only=True),
                    _mount(name="config", mount_path=_CONFIG, read_only=True),
                ],
            )
        ],
        volumes=[secret_volume("tls", f"{NAME}-tls"), config_map_volume("config", NAME)],
    )
