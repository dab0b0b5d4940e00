"""Kafka in KRaft mode: three nodes that are brokers and controllers, mTLS inside, SCRAM outside."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource

from components.authority import Authority, named
from components.checks import ExpectedPods
from components.datalake import kafka_files as files
from components.datalake import kafka_reconcile
from components.datalake.kafka_checks import checks
from components.datalake.kafka_cluster import KafkaCluster
from components.datalake.kafka_config import (
    ADMIN_PRINCIPAL,
    BROKER_PRINCIPAL,
    KafkaConfig,
)
from components.datalake.kafka_dashboard import kafka_dashboard
from components.datalake.kafka_monitoring import monitor
from components.flows import Flow, Pods, scraped
from components.model import Image
from components.workload import (
    ISSUER,
    TRUST_CONFIG_MAP,
    certificate,
    checksum,
    claim_template,
    config_map_volume,
    container_security,
    disruption_budget,
    labels,
    memory_volume,
    meta,
    passwords_volume,
    pod_security,
    probe,
    requirements,
    secret_volume,
    service_account,
    service_dns,
    topology_spread,
)

UID = 1000
INTERNAL_ISSUER = "kafka-internal"
_SKIP_AWAIT = {"pulumi.com/skipAwait": "true"}


class Kafka(KafkaCluster):
    """A StatefulSet of combined nodes, and a Job that makes topics, users and ACLs true."""

    def __init__(
        self,
        name: str,
        config: KafkaConfig,
        *,
        namespace: pulumi.Input[str],
        namespace_name: str = "datalake",
        image: Image,
        admin_image: Image,
        authority: Authority,
        passwords: Mapping[str, pulumi.Input[str]],
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:Kafka", name, opts)
        self._name, self._config, self._namespace = name, config, namespace
        self._image, self._admin_image = image, admin_image
        self._selector = labels(name)
        self._headless = f"{name}-brokers"
        self._domain = f"{self._headless}.{namespace_name}.svc.cluster.local"
        self._pods = [f"{name}-{i}" for i in range(config.brokers)]
        self._hosts = [f"{pod}.{self._domain}" for pod in self._pods]

        settings = self._settings()
        certificates = self._certificates(namespace_name, authority)
        secrets = self._passwords(passwords)
        services = self._services()
        account = service_account(name, namespace, self.child())
        disruption_budget(name, namespace, self._selector, self.child())
        brokers = k8s.apps.v1.StatefulSet(
            name,
            metadata=meta(name, namespace, self._selector),
            spec=self._stateful_set(settings, authority),
            opts=self.child(depends_on=[*certificates, *services, account], protect=config.protect),
        )
        pods = Pods(name=name, namespace=namespace_name, selector=self._selector)
        self.brokers = pods
        job_pods = Pods(
            name=f"{name}-reconcile",
            namespace=namespace_name,
            selector=labels(f"{name}-reconcile"),
            lasting=False,
        )
        self.flows += [
            Flow(source=pods, target=pods, ports=[files.INTERNAL_PORT, files.CONTROLLER_PORT]),
            Flow(source=job_pods, target=pods, ports=[files.INTERNAL_PORT]),
        ]
        job = self._reconcile(passwords, [brokers, *secrets.values()])
        if monitors is not None:
            monitor(name, namespace, self._selector, config, self.child(depends_on=list(monitors)))
            self.dashboards.append(kafka_dashboard(name, namespace_name, config))
            self.flows.append(scraped(pods, files.METRICS_PORT))
        self.checks = checks(name, namespace_name, config, self._hosts)
        self.expected_pods = [
            ExpectedPods(
                name=name,
                namespace=namespace_name,
                selector=self._selector,
                count=config.brokers,
                resources=config.resources,
                spread=config.spread,
                claims=[config.storage.size_gib],
            )
        ]
        address = f"{name}.{namespace_name}.svc.cluster.local:{files.CLIENTS_PORT}"
        self._declare(address, secrets, [job])

    def _settings(self) -> dict[str, k8s.core.v1.ConfigMap]:
        contents = {
            "config": {
                "server.properties": files.server_properties(self._config, self._hosts),
                "log4j2.properties": files.LOG4J,
                "jmx.yaml": files.JMX,
            },
            "scripts": {
                "common.sh": files.COMMON,
                "format.sh": files.FORMAT,
                "serve.sh": files.SERVE,
                "running.sh": files.RUNNING,
                "stop.sh": files.STOP,
            },
            "declaration": {
                "declaration.json": json.dumps(self._config.declaration(), indent=1),
            },
            "reconcile": {
                "kafka_reconcile.py": inspect.getsource(kafka_reconcile),
                "client.json": json.dumps(self._admin_client(), indent=1),
            },
        }
        return {
            part: k8s.core.v1.ConfigMap(
                f"{self._name}-{part}",
                metadata=meta(f"{self._name}-{part}", self._namespace, self._selector),
                data=data,
                opts=self.child(),
            )
            for part, data in contents.items()
        }

    def _admin_client(self) -> dict[str, str]:
        """The client library (librdkafka) as administrator: mTLS, no password."""
        return {
            "bootstrap.servers": ",".join(f"{host}:{files.INTERNAL_PORT}" for host in self._hosts),
            "security.protocol": "ssl",
            "ssl.ca.location": "/reconcile/trust/ca.crt",
            "ssl.certificate.location": "/reconcile/tls/tls.crt",
            "ssl.key.location": "/reconcile/tls/tls.key",
        }

    def _certificates(self, namespace: str, authority: Authority) -> list[pulumi.Resource]:
        """Clients see a certificate of the estate's CA; inside, only Kafka's own CA counts.

        Anyone who may ask the estate's issuer for a certificate could otherwise call himself
        broker or administrator: those listeners trust the intermediate authorities alone, one for
        each generation of the estate's.
        """
        clients = certificate(
            f"{self._name}-tls",
            self._namespace,
            [*service_dns(self._name, namespace), *self._hosts],
            self.child(),
            issuer=authority.issuer,
        )
        issuers = [self._internal_issuer(one) for one in authority.trusted]
        signing = named(INTERNAL_ISSUER, authority.signing)
        internal = certificate(
            f"{self._name}-internal-tls",
            self._namespace,
            self._hosts,
            self.child(depends_on=issuers),
            common_name=BROKER_PRINCIPAL,
            client=True,
            issuer=signing,
            issuer_kind="Issuer",
        )
        administrator = certificate(
            f"{self._name}-admin",
            self._namespace,
            [],
            self.child(depends_on=issuers),
            common_name=ADMIN_PRINCIPAL,
            client=True,
            server=False,
            issuer=signing,
            issuer_kind="Issuer",
        )
        return [clients, internal, administrator]

    def _internal_issuer(self, generation: int) -> CustomResource:
        """The intermediate authority of a generation, signed by the estate's of the same."""
        secret = named(f"{self._name}-internal-ca", generation)
        certificate = CustomResource(
            f"{secret}-certificate",
            api_version="cert-manager.io/v1",
            kind="Certificate",
            metadata=meta(
                secret, self._namespace, annotations={"pulumi.com/waitFor": "condition=Ready"}
            ),
            spec={
                "isCA": True,
                "secretName": secret,
                "commonName": named("Estate Kafka internal CA", generation),
                "duration": "43800h0m0s",
                "renewBefore": "4380h0m0s",
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Never"},
                "issuerRef": {
                    "name": named(ISSUER, generation),
                    "kind": "ClusterIssuer",
                    "group": "cert-manager.io",
                },
            },
            opts=self.child(),
        )
        return CustomResource(
            named(f"{self._name}-internal-issuer", generation),
            api_version="cert-manager.io/v1",
            kind="Issuer",
            metadata=meta(
                named(INTERNAL_ISSUER, generation),
                self._namespace,
                annotations={"pulumi.com/waitFor": "condition=Ready"},
            ),
            spec={"ca": {"secretName": secret}},
            opts=self.child(depends_on=[certificate]),
        )

    def _services(self) -> list[k8s.core.v1.Service]:
        port = k8s.core.v1.ServicePortArgs
        clients = port(name="clients", port=files.CLIENTS_PORT, target_port="clients")
        headless = k8s.core.v1.ServiceSpecArgs(
            cluster_ip="None",
            selector=self._selector,
            # The quorum must find its members before any of them is ready.
            publish_not_ready_addresses=True,
            ports=[
                clients,
                port(name="internal", port=files.INTERNAL_PORT, target_port="internal"),
                port(name="controller", port=files.CONTROLLER_PORT, target_port="controller"),
            ],
        )
        bootstrap = k8s.core.v1.ServiceSpecArgs(selector=self._selector, ports=[clients])
        return [
            k8s.core.v1.Service(
                service,
                metadata=meta(service, self._namespace, self._selector, _SKIP_AWAIT),
                spec=spec,
                opts=self.child(),
            )
            for service, spec in ((self._headless, headless), (self._name, bootstrap))
        ]

    def _stateful_set(
        self, settings: Mapping[str, k8s.core.v1.ConfigMap], authority: Authority
    ) -> k8s.apps.v1.StatefulSetSpecArgs:
        return k8s.apps.v1.StatefulSetSpecArgs(
            replicas=self._config.brokers,
            service_name=self._headless,
            pod_management_policy="Parallel",
            selector=k8s.meta.v1.LabelSelectorArgs(match_labels=self._selector),
            template=k8s.core.v1.PodTemplateSpecArgs(
                metadata=k8s.meta.v1.ObjectMetaArgs(
                    labels=self._selector,
                    annotations={
                        "estate.dev/settings": checksum(
                            settings["config"].data, settings["scripts"].data
                        )
                    },
                ),
                spec=self._pod(authority),
            ),
            volume_claim_templates=[claim_template("data", self._config.storage)],
        )

    def _pod(self, authority: Authority) -> k8s.core.v1.PodSpecArgs:
        config, name = self._config, self._name
        mount = k8s.core.v1.VolumeMountArgs
        mounts = [
            mount(name="config", mount_path="/etc/kafka", read_only=True),
            mount(name="scripts", mount_path="/etc/kafka-scripts", read_only=True),
            mount(name="run", mount_path=files.RUN),
            mount(name="tmp", mount_path="/tmp"),
            mount(name="data", mount_path=files.DATA),
        ]
        stores = [
            mount(name=volume, mount_path=f"/etc/kafka-tls/{folder}", read_only=True)
            for volume, folder in (
                ("tls-clients", "clients"),
                ("tls-internal", "internal"),
                ("tls-internal-ca", "internal-ca"),
            )
        ]
        return k8s.core.v1.PodSpecArgs(
            service_account_name=name,
            automount_service_account_token=False,
            enable_service_links=False,
            security_context=pod_security(UID),
            topology_spread_constraints=topology_spread(
                self._selector, config.spread, config.brokers
            ),
            # A broker waits for others to catch up, then hands its partitions over.
            termination_grace_period_seconds=files.STOP_WAIT_S + 60,
            init_containers=[
                k8s.core.v1.ContainerArgs(
                    name="format",
                    image=self._image.ref,
                    image_pull_policy="IfNotPresent",
                    command=["/bin/bash", "/etc/kafka-scripts/format.sh"],
                    env=self._environment(),
                    security_context=container_security(),
                    resources=requirements(config.resources),
                    volume_mounts=mounts,
                )
            ],
            containers=[
                k8s.core.v1.ContainerArgs(
                    name="kafka",
                    image=self._image.ref,
                    image_pull_policy="IfNotPresent",
                    command=["/bin/bash", "/etc/kafka-scripts/serve.sh"],
                    env=[
                        *self._environment(),
                        k8s.core.v1.EnvVarArgs(
                            name="KAFKA_OPTS",
                            value="-javaagent:/opt/jmx/agent.jar="
                            f"{files.METRICS_PORT}:/etc/kafka/jmx.yaml",
                        ),
                    ],
                    ports=[
                        k8s.core.v1.ContainerPortArgs(name=port, container_port=number)
                        for port, number in (
                            ("clients", files.CLIENTS_PORT),
                            ("internal", files.INTERNAL_PORT),
                            ("controller", files.CONTROLLER_PORT),
                            ("metrics", files.METRICS_PORT),
                        )
                    ],
                    security_context=container_security(),
                    resources=requirements(config.resources),
                    lifecycle=k8s.core.v1.LifecycleArgs(
                        pre_stop=k8s.core.v1.LifecycleHandlerArgs(
                            exec_=k8s.core.v1.ExecActionArgs(
                                command=["/bin/bash", "/etc/kafka-scripts/stop.sh"]
                            )
                        )
                    ),
                    # A recovery of a large log may take minutes; the exporter answers meanwhile.
                    startup_probe=_running(period_s=2, failures=300),
                    readiness_probe=_running(period_s=10, failures=2),
                    # Any answer will do, so no process is started in the container for this one.
                    liveness_probe=probe(
                        http=("/metrics?name[]=kafka_broker_state", "metrics"),
                        period_s=15,
                        timeout_s=5,
                        failures=6,
                    ),
                    volume_mounts=[*mounts, *stores],
                )
            ],
            volumes=[
                config_map_volume("config", f"{name}-config"),
                config_map_volume("scripts", f"{name}-scripts"),
                secret_volume("tls-clients", f"{name}-tls"),
                secret_volume("tls-internal", f"{name}-internal-tls"),
                # A file for each authority: changed, it restarts the brokers one by one.
                passwords_volume(
                    "tls-internal-ca",
                    {f"{n}.crt": named(f"{name}-internal-ca", n) for n in authority.trusted},
                    "tls.crt",
                ),
                # Key stores with private keys: never on a disk.
                memory_volume("run", 4),
                k8s.core.v1.VolumeArgs(
                    name="tmp", empty_dir=k8s.core.v1.EmptyDirVolumeSourceArgs(size_limit="64Mi")
                ),
            ],
        )

    def _environment(self) -> list[k8s.core.v1.EnvVarArgs]:
        heap = self._config.heap_mib
        values = {
            "KAFKA_DOMAIN": self._domain,
            "KAFKA_CLUSTER_ID": str(self._config.cluster_id),
            "KAFKA_HEAP_OPTS": f"-Xms{min(heap, 128)}m -Xmx{heap}m",
            # Few cores and small heaps: the serial collector; other heaps take G1. Names of
            # restarted peers change address: neither answers nor refusals are kept for long.
            "KAFKA_JVM_PERFORMANCE_OPTS": f"-XX:+Use{'Serial' if heap < 1024 else 'G1'}GC "
            "-XX:-UsePerfData -XX:+ExitOnOutOfMemoryError "
            "-Dsun.net.inetaddr.ttl=5 -Dsun.net.inetaddr.negative.ttl=0",
            "KAFKA_LOG4J_OPTS": "-Dlog4j2.configurationFile=/etc/kafka/log4j2.properties",
        }
        return [k8s.core.v1.EnvVarArgs(name=key, value=value) for key, value in values.items()]

    def _reconcile(
        self, passwords: Mapping[str, pulumi.Input[str]], depends_on: list[pulumi.Resource]
    ) -> k8s.batch.v1.Job:
        name = f"{self._name}-reconcile"
        selector = labels(name)
        mount = k8s.core.v1.VolumeMountArgs
        account = service_account(name, self._namespace, self.child())
        users = [user.name for user in self._config.users]
        return k8s.batch.v1.Job(
            name,
            metadata=meta(name, self._namespace, selector),
            spec=k8s.batch.v1.JobSpecArgs(
                backoff_limit=4,
                active_deadline_seconds=600,
                template=k8s.core.v1.PodTemplateSpecArgs(
                    metadata=k8s.meta.v1.ObjectMetaArgs(
                        labels=selector,
                        annotations={
                            # A Job's template cannot change: another declaration, script or
                            # password makes a new Job, which is how it comes to run again.
                            "estate.dev/declaration": checksum(
                                self._config.declaration(), inspect.getsource(kafka_reconcile)
                            ),
                            "estate.dev/passwords": checksum(*(passwords[u] for u in users)),
                        },
                    ),
                    spec=k8s.core.v1.PodSpecArgs(
                        restart_policy="OnFailure",
                        service_account_name=name,
                        automount_service_account_token=False,
                        enable_service_links=False,
                        security_context=pod_security(UID),
                        containers=[
                            k8s.core.v1.ContainerArgs(
                                name="reconcile",
                                image=self._admin_image.ref,
                                image_pull_policy="IfNotPresent",
                                command=[
                                    "/usr/bin/python3",
                                    "/reconcile/code/kafka_reconcile.py",
                                    "/reconcile/declaration/declaration.json",
                                    "/reconcile/code/client.json",
                                    "/reconcile/users",
                                ],
                                security_context=container_security(),
                                resources=requirements(self._config.job_resources),
                                volume_mounts=[
                                    mount(
                                        name=volume,
                                        mount_path=f"/reconcile/{volume}",
                                        read_only=True,
                                    )
                                    for volume in ("code", "declaration", "tls", "trust", "users")
                                ],
                            )
                        ],
                        volumes=[
                            config_map_volume("code", f"{self._name}-reconcile"),
                            config_map_volume("declaration", f"{self._name}-declaration"),
                            secret_volume("tls", f"{self._name}-admin"),
                            config_map_volume("trust", TRUST_CONFIG_MAP),
                            passwords_volume("users", {u: f"{self._name}-{u}" for u in users}),
                        ],
                    ),
                ),
            ),
            opts=self.child(depends_on=[*depends_on, account], delete_before_replace=True),
        )


def _running(*, period_s: int, failures: int) -> k8s.core.v1.ProbeArgs:
    return probe(
        command=["/bin/bash", "/etc/kafka-scripts/running.sh"],
        period_s=period_s,
        timeout_s=5,
        failures=failures,
    )
