"""Strimzi: the operator that runs Kafka, its definitions, rights and limits.

No registry of packages has the operator or its installation files: the definitions are made from
the published API (components/manifests/strimzi.py), the rest is declared here after its release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.checks import ExpectedPods
from components.datalake import strimzi_rbac
from components.datalake.operators_config import StrimziConfig
from components.datalake.strimzi_dashboard import strimzi_dashboard
from components.flows import Pods, asks_api, scraped
from components.model import Image
from components.platform.release import Object, apply_release
from components.workload import (
    Component,
    alert,
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
    service_account,
    topology_spread,
    waive,
)

NAMESPACE = "platform"
NAME = "strimzi-cluster-operator"
SELECTOR = labels(NAME)
PODS = Pods(name=NAME, namespace=NAMESPACE, selector=SELECTOR)
UID = 1001
PORT = 8080

LOG4J = """\
name = estate
monitorInterval = 30
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601}{UTC}Z %p %c{1} %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
logger.kafka.name = org.apache.kafka
logger.kafka.level = warn
"""


def kafka_version(image: Image) -> str:
    """The Kafka in one of Strimzi's images, whose tags are `<Strimzi>-kafka-<Kafka>`."""
    return image.tag.rpartition("-kafka-")[2]


class StrimziOperator(Component):
    """The operator in namespace `platform`; it acts in the namespaces `watched` alone.

    `ready` holds the resources after which Kafka's kinds are accepted and acted on. `objects` are
    the vendored definitions; `kafka_images` every Kafka that this operator supports: it does not
    start without one of them. `image` is also what topic and user operators run.
    """

    ready: Sequence[pulumi.Resource]

    def __init__(
        self,
        name: str,
        config: StrimziConfig,
        *,
        namespace: pulumi.Input[str],
        watched: Mapping[str, pulumi.Input[str]],
        image: Image,
        kafka_image: Image,
        kafka_images: Sequence[Image],
        objects: Sequence[Object],
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:StrimziOperator", name, opts)
        self._config, self._namespace, self._image = config, namespace, image
        definitions = apply_release(objects, self, protect_crds=config.protect)
        account = service_account(NAME, namespace, self.child())
        rights = strimzi_rbac.grant(
            NAME, namespace, list(watched.values()), list(watched), self.child()
        )
        logging = k8s.core.v1.ConfigMap(
            NAME,
            metadata=meta(NAME, namespace, SELECTOR),
            data={"log4j2.properties": LOG4J},
            opts=self.child(),
        )
        if config.replicas > 1:
            disruption_budget(NAME, namespace, SELECTOR, self.child())
        deployment = k8s.apps.v1.Deployment(
            NAME,
            metadata=meta(
                NAME,
                namespace,
                SELECTOR,
                waive({"checkov.CKV_K8S_38": "an operator works on the API"}),
            ),
            spec=k8s.apps.v1.DeploymentSpecArgs(
                replicas=config.replicas,
                selector=k8s.meta.v1.LabelSelectorArgs(match_labels=SELECTOR),
                template=k8s.core.v1.PodTemplateSpecArgs(
                    metadata=k8s.meta.v1.ObjectMetaArgs(labels=SELECTOR),
                    spec=self._pod(self._environment(list(watched), kafka_image, kafka_images)),
                ),
            ),
            opts=self.child(depends_on=[*definitions, *rights, account, logging]),
        )
        self.ready = [*definitions, *rights, deployment]
        self.expected_pods.append(
            ExpectedPods(
                name=NAME,
                namespace=NAMESPACE,
                selector=SELECTOR,
                count=config.replicas,
                resources=config.resources,
            )
        )
        self.flows.append(asks_api(PODS))
        if monitors is not None:
            self._monitor(monitors)
            self.flows.append(scraped(PODS, PORT))
        self.register_outputs({"namespace": NAMESPACE})

    def _environment(
        self, watched: Sequence[str], kafka: Image, every: Sequence[Image]
    ) -> dict[str, str]:
        operator = self._image.ref
        images = "\n".join(f"{kafka_version(one)}={one.ref}" for one in every)
        return {
            "STRIMZI_NAMESPACE": ",".join(watched),
            "STRIMZI_OPERATOR_NAMESPACE": NAMESPACE,
            # The estate's own say more: which program, and what it may reach.
            "STRIMZI_NETWORK_POLICY_GENERATION": "false",
            "STRIMZI_POD_SECURITY_PROVIDER_CLASS": "restricted",
            # One of its own would count brokers and controllers together, and no preview shows it.
            "STRIMZI_POD_DISRUPTION_BUDGET_GENERATION": "false",
            "STRIMZI_IMAGE_PULL_POLICY": "IfNotPresent",
            "STRIMZI_FULL_RECONCILIATION_INTERVAL_MS": "120000",
            "STRIMZI_OPERATION_TIMEOUT_MS": "300000",
            "STRIMZI_FEATURE_GATES": "",
            "STRIMZI_LEADER_ELECTION_ENABLED": "true",
            "STRIMZI_LEADER_ELECTION_LEASE_NAME": strimzi_rbac.LEASE,
            "STRIMZI_LEADER_ELECTION_LEASE_NAMESPACE": NAMESPACE,
            "STRIMZI_DEFAULT_TOPIC_OPERATOR_IMAGE": operator,
            "STRIMZI_DEFAULT_USER_OPERATOR_IMAGE": operator,
            "STRIMZI_DEFAULT_KAFKA_INIT_IMAGE": operator,
            "STRIMZI_DEFAULT_CRUISE_CONTROL_IMAGE": kafka.ref,
            "STRIMZI_DEFAULT_KAFKA_EXPORTER_IMAGE": kafka.ref,
            "STRIMZI_KAFKA_IMAGES": images,
            "STRIMZI_KAFKA_CONNECT_IMAGES": images,
            "STRIMZI_KAFKA_MIRROR_MAKER_2_IMAGES": images,
        }

    def _pod(self, environment: Mapping[str, str]) -> k8s.core.v1.PodSpecArgs:
        variable, mount = k8s.core.v1.EnvVarArgs, k8s.core.v1.VolumeMountArgs
        identity = variable(
            name="STRIMZI_LEADER_ELECTION_IDENTITY",
            value_from=k8s.core.v1.EnvVarSourceArgs(
                field_ref=k8s.core.v1.ObjectFieldSelectorArgs(field_path="metadata.name")
            ),
        )
        return k8s.core.v1.PodSpecArgs(
            service_account_name=NAME,
            # The account's own default is no token; this is the one pod that talks to the API.
            automount_service_account_token=True,
            enable_service_links=False,
            security_context=pod_security(UID),
            topology_spread_constraints=topology_spread(SELECTOR, "prefer", self._config.replicas),
            containers=[
                k8s.core.v1.ContainerArgs(
                    name="operator",
                    image=self._image.ref,
                    image_pull_policy="IfNotPresent",
                    command=["/opt/strimzi/bin/cluster_operator_run.sh"],
                    env=[
                        *(variable(name=key, value=value) for key, value in environment.items()),
                        identity,
                    ],
                    ports=[k8s.core.v1.ContainerPortArgs(name="http", container_port=PORT)],
                    security_context=container_security(),
                    resources=requirements(self._config.resources),
                    startup_probe=probe(http=("/healthy", "http"), period_s=2, failures=60),
                    readiness_probe=probe(http=("/ready", "http"), period_s=10, timeout_s=5),
                    liveness_probe=probe(
                        http=("/healthy", "http"), period_s=30, timeout_s=5, failures=4
                    ),
                    volume_mounts=[
                        mount(name="tmp", mount_path="/tmp"),
                        mount(
                            name="logging",
                            mount_path="/opt/strimzi/custom-config",
                            read_only=True,
                        ),
                    ],
                )
            ],
            volumes=[memory_volume("tmp", 8), config_map_volume("logging", NAME)],
        )

    def _monitor(self, depends_on: Sequence[pulumi.Resource]) -> None:
        opts = self.child(depends_on=list(depends_on))
        # In clear: its metrics come from its health port, which speaks no TLS.
        waived = {"encryption": "counters of the operator's own work, nothing of a cluster"}
        pod_monitor(NAME, self._namespace, SELECTOR, [{"port": "http"}], opts, waived=waived)
        prometheus_rule(NAME, self._namespace, strimzi_rules(), opts)
        self.dashboards.append(strimzi_dashboard(NAME, NAMESPACE))


def strimzi_rules() -> list[dict[str, Any]]:
    """What a person must know of the operator and of what it has in hand."""
    return [
        alert(
            "StrimziOperatorDown",
            f'absent(up{{namespace="{NAMESPACE}", job=~".*{NAME}"}} == 1)',
            "no Strimzi operator answers: certificates are not renewed, no broker is replaced",
            for_s=300,
        ),
        alert(
            "StrimziNotReconciled",
            "min by (kind, resource_namespace, name) (strimzi_resource_state) == 0",
            "{{ $labels.kind }} {{ $labels.resource_namespace }}/{{ $labels.name }} is not as "
            "declared; see its status",
            for_s=600,
        ),
        alert(
            "StrimziCertificateExpiresSoon",
            "min by (cluster, type, resource_namespace) "
            "(strimzi_certificate_expiration_timestamp_ms) / 1000 - time() < 14 * 86400",
            "the {{ $labels.type }} certificate of Kafka {{ $labels.cluster }} was not renewed and "
            "expires within 14 days",
            for_s=3600,
        ),
    ]
