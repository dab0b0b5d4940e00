"""Kafka run by Strimzi: controllers and brokers apart, topics and users as resources."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource

from components.authority import Authority
from components.checks import Check, ExpectedPods, Fault, ObjectRef
from components.datalake import kafka_files as files
from components.datalake import strimzi_operator
from components.datalake import strimzi_spec as spec
from components.datalake.kafka_checks import Access, Faults, declare, join, secret
from components.datalake.kafka_cluster import KafkaCluster
from components.datalake.kafka_config import ADMIN_PRINCIPAL, VERIFY_USER, KafkaConfig
from components.datalake.kafka_dashboard import kafka_dashboard
from components.datalake.kafka_monitoring import monitor
from components.flows import Flow, Pods, asks_api, scraped
from components.model import together
from components.workload import (
    certificate,
    disruption_budget,
    labels,
    meta,
    pod_monitor,
    service_dns,
)

_READY = {"pulumi.com/waitFor": "condition=Ready"}


class StrimziKafka(KafkaCluster):
    """A `Kafka` with its node pools, then its topics and users: deleted in the opposite order.

    `operator` holds what must exist before Strimzi's kinds are accepted and acted on; Pulumi
    deletes it last, so that what the operator made is taken away by it. `version` is Kafka's.
    """

    def __init__(
        self,
        name: str,
        config: KafkaConfig,
        *,
        namespace: pulumi.Input[str],
        namespace_name: str = "datalake",
        version: str,
        authority: Authority,
        passwords: Mapping[str, pulumi.Input[str]],
        operator: Sequence[pulumi.Resource] = (),
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:StrimziKafka", name, opts)
        self._name, self._config, self._namespace = name, config, namespace
        self._operator = list(operator)
        domain = spec.broker_domain(name, namespace_name)
        tls = certificate(
            f"{name}-tls",
            namespace,
            # Brokers come and go by number, the certificate stays.
            [*service_dns(spec.bootstrap_service(name), namespace_name), f"*.{domain}"],
            self.child(depends_on=list(issuer)),
            issuer=authority.issuer,
        )
        secrets = self._passwords(passwords)
        maps = self._config_maps()
        pools = self._pools()
        kafka = self._custom(
            "Kafka",
            name,
            spec.kafka_spec(config, version=version, tls=f"{name}-tls", metrics=f"{name}-metrics"),
            depends_on=[*self._operator, *pools, tls, maps["metrics"]],
            protect=config.protect,
            custom_timeouts=pulumi.CustomTimeouts(create="30m", update="60m", delete="15m"),
        )
        entities = [*self._topics(kafka), *self._users(kafka, secrets)]
        if monitors is not None:
            self._monitor(self.child(depends_on=list(monitors)))
            self.dashboards.append(kafka_dashboard(name, namespace_name, config))
        self.flows = self._flows(namespace_name, scrapes=monitors is not None)
        self.checks = self._checks(namespace_name)
        self.expected_pods = self._expected(namespace_name)
        address = f"{spec.bootstrap_service(name)}.{namespace_name}.svc.cluster.local"
        self._declare(f"{address}:{files.CLIENTS_PORT}", secrets, [kafka, *entities])

    def _custom(
        self,
        kind: str,
        name: str,
        body: Mapping[str, Any],
        *,
        annotations: Mapping[str, str] = _READY,
        **options: Any,
    ) -> CustomResource:
        # The kind tells a topic from a user of the same name.
        return CustomResource(
            f"{self._name}-{kind.lower()}-{name}",
            api_version=spec.API_VERSION,
            kind=kind,
            metadata=meta(
                name,
                self._namespace,
                {**labels(self._name), **spec.cluster_labels(self._name)},
                annotations,
            ),
            spec=dict(body),
            opts=self.child(**options),
        )

    def _config_maps(self) -> dict[str, k8s.core.v1.ConfigMap]:
        contents = {
            "metrics": spec.metrics_rules(),
            "declaration": {"declaration.json": json.dumps(self._config.declaration(), indent=1)},
        }
        return {
            part: k8s.core.v1.ConfigMap(
                f"{self._name}-{part}",
                metadata=meta(f"{self._name}-{part}", self._namespace, labels(self._name)),
                data=data,
                opts=self.child(),
            )
            for part, data in contents.items()
        }

    def _pools(self) -> list[pulumi.Resource]:
        """Before the `Kafka`, which is ready only with them; each may lose one node at a time."""
        made: list[pulumi.Resource] = []
        for pool in spec.pools(self._config):
            made.append(
                self._custom(
                    "KafkaNodePool",
                    pool.name,
                    spec.pool_spec(self._name, pool),
                    annotations=spec.pool_annotations(pool),
                    depends_on=self._operator,
                    protect=self._config.protect,
                )
            )
            if pool.count > 1:
                disruption_budget(
                    f"{self._name}-{pool.name}",
                    self._namespace,
                    spec.pod_labels(self._name, pool.name),
                    self.child(),
                    # Only an absolute number holds for pods of a controller without `scale`.
                    min_available=pool.count - 1,
                )
        return made

    def _topics(self, kafka: CustomResource) -> list[CustomResource]:
        """Deleting one deletes its data, so they are protected as the cluster is."""
        return [
            self._custom(
                "KafkaTopic",
                spec.object_name(topic["name"]),
                spec.topic_spec(topic),
                depends_on=[kafka],
                protect=self._config.protect,
            )
            for topic in self._config.declaration()["topics"]
        ]

    def _users(
        self, kafka: CustomResource, secrets: Mapping[str, k8s.core.v1.Secret]
    ) -> list[CustomResource]:
        users = [
            self._custom(
                "KafkaUser",
                user.name,
                spec.user_spec(user, f"{self._name}-{user.name}"),
                depends_on=[kafka, secrets[user.name]],
            )
            for user in self._config.users
        ]
        # Its certificate is of Strimzi's CA for clients: nobody who may use the estate's issuer
        # can name himself administrator.
        body = {"authentication": {"type": "tls"}}
        return [self._custom("KafkaUser", ADMIN_PRINCIPAL, body, depends_on=[kafka]), *users]

    def _monitor(self, opts: pulumi.ResourceOptions) -> None:
        name = self._name
        selector = spec.program_labels(name, "kafka")
        monitor(name, self._namespace, selector, self._config, opts, port=spec.METRICS_PORT)
        pod_monitor(
            f"{name}-entity-operator",
            self._namespace,
            spec.program_labels(name, "entity-operator"),
            [{"port": "healthcheck"}],
            opts,
            # In clear: its metrics come from its health port, which speaks no TLS.
            waived={"encryption": "counters of its own work, no credentials of users"},
        )

    def _flows(self, namespace: str, *, scrapes: bool) -> list[Flow]:
        def pods(program: str, selector: dict[str, str]) -> Pods:
            return Pods(name=f"{self._name}-{program}", namespace=namespace, selector=selector)

        brokers, controllers = (
            pods(pool, spec.pod_labels(self._name, pool))
            for pool in (spec.BROKERS, spec.CONTROLLERS)
        )
        self.brokers = brokers
        entities, cruise_control = (
            pods(program, spec.program_labels(self._name, program))
            for program in ("entity-operator", "cruise-control")
        )
        operator = strimzi_operator.PODS
        flows = [
            Flow(source=source, target=target, ports=ports)
            for source, target, ports in (
                (brokers, brokers, [spec.REPLICATION_PORT]),
                (brokers, controllers, [spec.CONTROL_PORT]),
                (controllers, controllers, [spec.CONTROL_PORT]),
                (entities, brokers, [spec.REPLICATION_PORT]),
                (entities, cruise_control, [spec.CRUISE_CONTROL_PORT]),
                (cruise_control, brokers, [spec.REPLICATION_PORT]),
                (operator, brokers, [spec.REPLICATION_PORT, spec.AGENT_PORT]),
                (operator, controllers, [spec.CONTROL_PORT, spec.AGENT_PORT]),
                (operator, cruise_control, [spec.CRUISE_CONTROL_PORT]),
            )
        ]
        # Every Kafka asks for the zone of its node; entities are read from the API.
        flows += [asks_api(one) for one in (brokers, controllers, entities)]
        if scrapes:
            flows += [scraped(one, files.METRICS_PORT) for one in (brokers, controllers)]
            flows.append(scraped(entities, *spec.ENTITY_HEALTH_PORTS))
        return flows

    def _checks(self, namespace: str) -> list[Check]:
        name, config = self._name, self._config
        hosts = spec.broker_hosts(name, namespace, config.brokers)
        service = f"{spec.bootstrap_service(name)}.{namespace}.svc.cluster.local"
        admin = f"{spec.SECRET_PREFIX}{ADMIN_PRINCIPAL}"

        def fault(kind: str, target: str, patch: dict[str, Any]) -> Fault:
            reference = ObjectRef(
                api_version=spec.API_VERSION, kind=kind, namespace=namespace, name=target
            )
            return Fault(target=reference, patch={"spec": patch})

        access = Access(
            bootstrap=f"{service}:{files.CLIENTS_PORT}",
            brokers=join(hosts, files.CLIENTS_PORT),
            administrator={
                "bootstrap": join(hosts, spec.ADMIN_PORT),
                "ca": secret(namespace, f"{name}-tls", "ca.crt"),
                "certificate": secret(namespace, admin, "user.crt"),
                "key": secret(namespace, admin, "user.key"),
            },
        )
        # What Strimzi makes it mends at once, so every fault is in what it is told: another
        # password for the user; a listener without authentication; brokers for no scheduler, of
        # which the operator takes down the first and waits.
        other = {"password": {"valueFrom": {"secretKeyRef": {"key": "username"}}}}
        open_to_all = spec.listeners(f"{name}-tls", authenticate=False)
        unscheduled = {"template": {"pod": {"schedulerName": "nobody"}}}
        faults = Faults(
            produce_consume=fault("KafkaUser", VERIFY_USER, {"authentication": other}),
            wrong_password=fault("Kafka", name, {"kafka": {"listeners": open_to_all}}),
            in_sync=fault("KafkaNodePool", spec.BROKERS, unscheduled),
        )
        return declare(name, namespace, config, access, faults)

    def _expected(self, namespace: str) -> list[ExpectedPods]:
        name, operated = self._name, self._config.operated
        pools = [
            ExpectedPods(
                name=f"{name}-{pool.name}",
                namespace=namespace,
                selector=spec.pod_labels(name, pool.name),
                count=pool.count,
                resources=pool.resources,
                spread=pool.spread,
                claims=[pool.storage.size_gib],
            )
            for pool in spec.pools(self._config)
        ]
        programs = {
            "entity-operator": together(operated.topic_operator, operated.user_operator),
            "cruise-control": operated.cruise_control,
        }
        return pools + [
            ExpectedPods(
                name=f"{name}-{program}",
                namespace=namespace,
                selector=spec.program_labels(name, program),
                count=1,
                resources=resources,
            )
            for program, resources in programs.items()
        ]
