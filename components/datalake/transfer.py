"""Image transfer: resumable uploads into the object store, verified, told to Kafka."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import ExpectedPods
from components.datalake import transfer_files as files
from components.datalake import transfer_proxy as proxy
from components.datalake.kafka_cluster import KafkaCluster
from components.datalake.kafka_files import CLIENTS_PORT as KAFKA_PORT
from components.datalake.object_store import ObjectStore
from components.datalake.transfer_checks import transfer_checks
from components.datalake.transfer_config import (
    CLIENTS_PORT,
    METRICS_PORT,
    NAMESPACE,
    PEERS_PORT,
    PORT,
    SERVICE_PORT,
    TOKEN_SECRET,
    TUSD_PORT,
    USER,
    TransferConfig,
)
from components.datalake.transfer_dashboard import transfer_dashboard
from components.datalake.transfer_rules import transfer_rules
from components.flows import Flow, Pods, scraped
from components.model import Image, Resources, together
from components.shell import HEALTH
from components.workload import (
    TRUST_CONFIG_MAP,
    Component,
    by_https,
    certificate,
    checksum,
    config_map_volume,
    container_security,
    disruption_budget,
    labels,
    memory_volume,
    meta,
    pod_monitor,
    pod_security,
    probe,
    prometheus_rule,
    requirements,
    secret_volume,
    service_account,
    service_dns,
    topology_spread,
)

UID = 1000
_SKIP_AWAIT = {"pulumi.com/skipAwait": "true"}
_mount = k8s.core.v1.VolumeMountArgs


class Transfer(Component):
    """The replicas: in each pod a proxy, tusd and the service that verifies.

    `url` is where browsers and clients go (`url` + `files/` takes uploads); `token_secret` names
    the Secret whose `tls.key` signs the tokens that they need.
    """

    url: pulumi.Output[str]
    token_secret: str
    pods: Pods

    def __init__(
        self,
        name: str,
        config: TransferConfig,
        *,
        namespace: pulumi.Input[str],
        namespace_name: str = NAMESPACE,
        proxy_image: Image,
        tusd_image: Image,
        image: Image,
        store: ObjectStore,
        kafka: KafkaCluster,
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:Transfer", name, opts)
        self._name, self._config, self._namespace = name, config, namespace
        self._images = (proxy_image, tusd_image, image)
        self._store, self._kafka_secret = store, kafka.users[USER]
        self._selector, self._headless = labels(name), f"{name}-pods"
        self._domain = f"{namespace_name}.svc.cluster.local"
        self.token_secret = TOKEN_SECRET
        contents = self._contents(kafka.address)
        settings = {
            part: k8s.core.v1.ConfigMap(
                f"{name}-{part}",
                metadata=meta(f"{name}-{part}", namespace, self._selector),
                data=data,
                opts=self.child(),
            )
            for part, data in contents.items()
        }
        certificates = self._certificates(namespace_name, authority, issuer)
        account = service_account(name, namespace, self.child())
        services = self._services()
        workload = k8s.apps.v1.StatefulSet(
            name,
            metadata=meta(name, namespace, self._selector),
            spec=self._stateful_set(settings),
            opts=self.child(
                depends_on=[
                    *certificates,
                    account,
                    *services,
                    *settings.values(),
                    *store.ready,
                    *kafka.ready,
                ]
            ),
        )
        if config.replicas > 1:
            disruption_budget(name, namespace, self._selector, self.child())
        self.pods = Pods(name=name, namespace=namespace_name, selector=self._selector)
        self.flows += [
            Flow(source=self.pods, target=store.pods, ports=[store.target_port]),
            Flow(source=self.pods, target=kafka.brokers, ports=[KAFKA_PORT]),
            Flow(source=self.pods, target=self.pods, ports=[PEERS_PORT]),
        ]
        if monitors is not None:
            self._monitor(monitors)
            self.flows.append(scraped(self.pods, METRICS_PORT))
        host = f"{name}.{self._domain}"
        self.url = workload.id.apply(lambda _: f"https://{host}:{PORT}/")
        self.expected_pods.append(
            ExpectedPods(
                name=name,
                namespace=namespace_name,
                selector=self._selector,
                count=config.replicas,
                resources=_together(config),
                spread=config.spread,
            )
        )
        self.checks += transfer_checks(
            name,
            config,
            namespace=namespace_name,
            host=host,
            kafka=kafka.address,
            store=store,
            open_proxy=self._haproxy_cfg(verified=False),
        )
        self.register_outputs({"url": self.url})

    def _haproxy_cfg(self, *, verified: bool = True) -> str:
        return proxy.haproxy_cfg(
            self._config, self._name, self._headless, self._domain, verified=verified
        )

    def _contents(self, bootstrap: str) -> dict[str, dict[str, str]]:
        config, store = self._config, self._store
        return {
            "proxy": {"haproxy.cfg": self._haproxy_cfg(), "serve.sh": proxy.SERVE},
            "config": {"settings.json": files.settings(config, store, bootstrap)},
            "scripts": {"health.sh": HEALTH, "tusd.sh": files.tusd_start(config, store)},
        }

    def _certificates(
        self, namespace: str, authority: Authority, issuer: Sequence[pulumi.Resource]
    ) -> list[pulumi.Resource]:
        pods = [f"{self._name}-{ordinal}" for ordinal in range(self._config.replicas)]
        tls = certificate(
            f"{self._name}-tls",
            self._namespace,
            [
                *service_dns(self._name, namespace),
                *(f"{pod}.{self._headless}.{self._domain}" for pod in pods),
            ],
            self.child(depends_on=list(issuer)),
            issuer=authority.issuer,
        )
        # A key pair, no server's: renewed with its certificate, and the proxies follow in seconds.
        tokens = certificate(
            self.token_secret,
            self._namespace,
            [],
            self.child(depends_on=list(issuer)),
            common_name="Estate image transfer tokens",
            server=False,
            issuer=authority.issuer,
        )
        return [tls, tokens]

    def _services(self) -> list[k8s.core.v1.Service]:
        port = k8s.core.v1.ServicePortArgs
        clients = k8s.core.v1.ServiceSpecArgs(
            selector=self._selector, ports=[port(name="https", port=PORT, target_port="clients")]
        )
        peers = k8s.core.v1.ServiceSpecArgs(
            cluster_ip="None",
            selector=self._selector,
            # The proxies find out by themselves who is well.
            publish_not_ready_addresses=True,
            ports=[port(name="peers", port=PEERS_PORT, target_port="peers")],
        )
        return [
            k8s.core.v1.Service(
                service,
                metadata=meta(service, self._namespace, self._selector, _SKIP_AWAIT),
                spec=spec,
                opts=self.child(),
            )
            for service, spec in ((self._name, clients), (self._headless, peers))
        ]

    def _stateful_set(
        self, settings: Mapping[str, k8s.core.v1.ConfigMap]
    ) -> k8s.apps.v1.StatefulSetSpecArgs:
        return k8s.apps.v1.StatefulSetSpecArgs(
            replicas=self._config.replicas,
            service_name=self._headless,
            pod_management_policy="Parallel",
            selector=k8s.meta.v1.LabelSelectorArgs(match_labels=self._selector),
            template=k8s.core.v1.PodTemplateSpecArgs(
                metadata=k8s.meta.v1.ObjectMetaArgs(
                    labels=self._selector,
                    annotations={
                        "estate.dev/settings": checksum(
                            *(settings[part].data for part in sorted(settings))
                        )
                    },
                ),
                spec=k8s.core.v1.PodSpecArgs(
                    service_account_name=self._name,
                    automount_service_account_token=False,
                    enable_service_links=False,
                    security_context=pod_security(UID),
                    topology_spread_constraints=topology_spread(
                        self._selector, self._config.spread, self._config.replicas
                    ),
                    # tusd keeps within 10 s what open requests have brought.
                    termination_grace_period_seconds=30,
                    containers=[self._proxy(), self._tusd(), self._service()],
                    volumes=self._volumes(),
                ),
            ),
        )

    def _proxy(self) -> k8s.core.v1.ContainerArgs:
        port = k8s.core.v1.ContainerPortArgs
        return k8s.core.v1.ContainerArgs(
            name="proxy",
            image=self._images[0].ref,
            image_pull_policy="IfNotPresent",
            command=["/bin/sh", f"{proxy.CONFIG}/serve.sh"],
            ports=[
                port(name="clients", container_port=CLIENTS_PORT),
                port(name="peers", container_port=PEERS_PORT),
                port(name="metrics", container_port=METRICS_PORT),
            ],
            security_context=container_security(),
            resources=requirements(self._config.proxy_resources),
            # Not ready while the tusd beside it is not: others take its uploads.
            readiness_probe=probe(http=("/alive", "peers"), scheme="HTTPS", period_s=3, failures=2),
            liveness_probe=probe(http=("/alive", "metrics"), scheme="HTTPS", period_s=20),
            volume_mounts=[
                _mount(name="proxy", mount_path=proxy.CONFIG, read_only=True),
                _mount(name="tls", mount_path=proxy.TLS, read_only=True),
                _mount(name="tokens", mount_path=proxy.TOKENS, read_only=True),
                _mount(name="trust", mount_path=proxy.TRUST, read_only=True),
                _mount(name="proxy-run", mount_path=proxy.RUN),
            ],
        )

    def _tusd(self) -> k8s.core.v1.ContainerArgs:
        return k8s.core.v1.ContainerArgs(
            name="tusd",
            image=self._images[1].ref,
            image_pull_policy="IfNotPresent",
            command=["/bin/bash", f"{files.SCRIPTS}/tusd.sh"],
            env=[
                k8s.core.v1.EnvVarArgs(name=key, value=value)
                for key, value in files.tusd_environment(self._store).items()
            ],
            security_context=container_security(),
            resources=requirements(self._config.tusd_resources),
            readiness_probe=_health(TUSD_PORT, "/alive", period_s=5),
            liveness_probe=_health(TUSD_PORT, "/alive", period_s=20),
            volume_mounts=[
                _mount(name="scripts", mount_path=files.SCRIPTS, read_only=True),
                _mount(name="s3", mount_path=files.S3, read_only=True),
                _mount(name="trust", mount_path=files.TRUST, read_only=True),
                _mount(name="tusd-run", mount_path=files.RUN),
                _mount(name="buffer", mount_path=files.BUFFER),
            ],
        )

    def _service(self) -> k8s.core.v1.ContainerArgs:
        return k8s.core.v1.ContainerArgs(
            name="service",
            image=self._images[2].ref,
            image_pull_policy="IfNotPresent",
            command=["/usr/bin/python3", "-m", "services.transfer"],
            args=[f"{files.CONFIG}/settings.json"],
            security_context=container_security(),
            resources=requirements(self._config.resources),
            startup_probe=_health(SERVICE_PORT, "/healthz", period_s=1, failures=60),
            readiness_probe=_health(SERVICE_PORT, "/healthz", period_s=10),
            liveness_probe=_health(SERVICE_PORT, "/healthz", period_s=30),
            volume_mounts=[
                _mount(name="scripts", mount_path=files.SCRIPTS, read_only=True),
                _mount(name="config", mount_path=files.CONFIG, read_only=True),
                _mount(name="s3", mount_path=files.S3, read_only=True),
                _mount(name="kafka", mount_path=files.KAFKA, read_only=True),
                _mount(name="trust", mount_path=files.TRUST, read_only=True),
                _mount(name="tmp", mount_path="/tmp"),
            ],
        )

    def _volumes(self) -> list[k8s.core.v1.VolumeArgs]:
        config, name = self._config, self._name
        empty = k8s.core.v1.EmptyDirVolumeSourceArgs
        buffer = empty(
            medium="Memory" if config.buffer == "memory" else None,
            size_limit=f"{config.buffer_mib}Mi",
        )
        # One image for each worker, when it is too large for memory.
        scratch = empty(size_limit=f"{config.image_mib * config.workers + 64}Mi")
        return [
            config_map_volume("proxy", f"{name}-proxy"),
            config_map_volume("config", f"{name}-config"),
            config_map_volume("scripts", f"{name}-scripts"),
            config_map_volume("trust", TRUST_CONFIG_MAP),
            secret_volume("tls", f"{name}-tls"),
            # Not the key: who verifies tokens cannot make any.
            secret_volume("tokens", self.token_secret, {"tls.crt": "tls.crt"}),
            secret_volume("s3", self._store.secrets[USER]),
            k8s.core.v1.VolumeArgs(
                name="kafka",
                secret=k8s.core.v1.SecretVolumeSourceArgs(
                    secret_name=self._kafka_secret,
                    default_mode=0o440,
                    items=[k8s.core.v1.KeyToPathArgs(key="password", path="password")],
                ),
            ),
            memory_volume("proxy-run", 1),
            memory_volume("tusd-run", 1),
            k8s.core.v1.VolumeArgs(name="buffer", empty_dir=buffer),
            k8s.core.v1.VolumeArgs(name="tmp", empty_dir=scratch),
        ]

    def _monitor(self, depends_on: Sequence[pulumi.Resource]) -> None:
        opts = self.child(depends_on=list(depends_on))
        tls = by_https(f"{self._name}.{self._domain}")
        endpoints = [
            {
                "port": "metrics",
                "path": f"/{program}",
                # One address for three: without a label of their own they would be one series.
                "relabelings": [
                    {"action": "replace", "targetLabel": "program", "replacement": program}
                ],
                **tls,
            }
            for program in ("proxy", "tusd", "service")
        ]
        pod_monitor(self._name, self._namespace, self._selector, endpoints, opts)
        prometheus_rule(
            self._name,
            self._namespace,
            transfer_rules(self._name, NAMESPACE, self._config),
            opts,
        )
        self.dashboards.append(transfer_dashboard(self._name, NAMESPACE, self._config))


def _health(port: int, path: str, *, period_s: int, failures: int = 3) -> k8s.core.v1.ProbeArgs:
    return probe(
        command=["/bin/bash", f"{files.SCRIPTS}/health.sh", str(port), path],
        period_s=period_s,
        timeout_s=5,
        failures=failures,
    )


def _together(config: TransferConfig) -> Resources:
    """What one pod asks for."""
    parts = (config.proxy_resources, config.tusd_resources, config.resources)
    return together(*parts)
