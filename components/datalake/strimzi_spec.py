"""What Strimzi's operators are told: cluster, pools of nodes, topics and users, as plain data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.datalake import kafka_files as files
from components.datalake.kafka_config import (
    ADMIN_PRINCIPAL,
    Controllers,
    Grant,
    KafkaConfig,
    KafkaUser,
    Quota,
)
from components.model import Resources, Spread, Storage, topology, topology_spread

API_VERSION = "kafka.strimzi.io/v1"
ADMIN_PORT = 9094
# Of Strimzi itself (KafkaCluster, CruiseControl, EntityTopicOperator, EntityUserOperator).
CONTROL_PORT, REPLICATION_PORT, AGENT_PORT = 9090, 9091, 8443
CRUISE_CONTROL_PORT = 9090
ENTITY_HEALTH_PORTS = (8080, 8081)
METRICS_PORT = "tcp-prometheus"
SECRET_PREFIX = "strimzi-"
"""Of the Secrets that the user operator makes: the estate's own are `<cluster>-<user>`."""

BROKERS, CONTROLLERS = "brokers", "controllers"
_FIRST_ID = {BROKERS: 0, CONTROLLERS: 100}
_METRICS_KEY = "jmx.yaml"


def cluster_labels(cluster: str) -> dict[str, str]:
    """What says of an object which cluster it belongs to."""
    return {"strimzi.io/cluster": cluster}


def pod_labels(cluster: str, pool: str) -> dict[str, str]:
    """The pods of one pool."""
    return {**cluster_labels(cluster), "strimzi.io/pool-name": pool}


def program_labels(cluster: str, program: str) -> dict[str, str]:
    """The pods of `entity-operator`, `cruise-control`, or `kafka` (brokers and controllers)."""
    return {**cluster_labels(cluster), "strimzi.io/name": f"{cluster}-{program}"}


def bootstrap_service(cluster: str) -> str:
    """The Service that the operator makes for clients of all listeners."""
    return f"{cluster}-kafka-bootstrap"


def broker_domain(cluster: str, namespace: str) -> str:
    """The domain under which each broker has its name."""
    return f"{cluster}-kafka-brokers.{namespace}.svc.cluster.local"


def broker_hosts(cluster: str, namespace: str, count: int) -> list[str]:
    """The brokers' names: the pool's annotation fixes their numbers."""
    first = _FIRST_ID[BROKERS]
    domain = broker_domain(cluster, namespace)
    return [f"{cluster}-{BROKERS}-{first + i}.{domain}" for i in range(count)]


@dataclass(frozen=True)
class Pool:
    """Nodes that are alike: all `brokers`, or all `controllers`."""

    name: str
    count: int
    heap_mib: int
    resources: Resources
    storage: Storage
    spread: Spread


def pools(config: KafkaConfig) -> list[Pool]:
    """The cluster's nodes, each kind on its own."""
    controllers = config.operated.controllers
    kinds: tuple[tuple[str, int, KafkaConfig | Controllers], ...] = (
        (BROKERS, config.brokers, config),
        (CONTROLLERS, controllers.count, controllers),
    )
    return [
        Pool(name, count, nodes.heap_mib, nodes.resources, nodes.storage, config.spread)
        for name, count, nodes in kinds
    ]


def pool_annotations(pool: Pool) -> dict[str, str]:
    """Numbers of a pool's nodes: each pool has a hundred of its own."""
    first = _FIRST_ID[pool.name]
    return {"strimzi.io/next-node-ids": f"[{first}-{first + 99}]"}


def pool_spec(cluster: str, pool: Pool) -> dict[str, Any]:
    """`.spec` of a `KafkaNodePool`."""
    volume = {
        "id": 0,
        "type": "persistent-claim",
        "size": f"{pool.storage.size_gib}Gi",
        # Data outlives the declaration; whoever wants it gone deletes the claims.
        "deleteClaim": False,
        "kraftMetadata": "shared",
    }
    if pool.storage.storage_class is not None:
        volume["class"] = pool.storage.storage_class
    return {
        "replicas": pool.count,
        "roles": [pool.name.removesuffix("s")],
        "storage": {"type": "jbod", "volumes": [volume]},
        "resources": pool.resources.quantities(),
        "jvmOptions": {"-Xms": f"{pool.heap_mib}m", "-Xmx": f"{pool.heap_mib}m"},
        "template": {
            "pod": {
                # A broker hands its partitions over before it stops.
                "terminationGracePeriodSeconds": 120,
                "enableServiceLinks": False,
                "topologySpreadConstraints": topology_spread(
                    pool.spread, pod_labels(cluster, pool.name), pool.count
                ),
            }
        },
    }


def listeners(tls: str, *, authenticate: bool = True) -> list[dict[str, Any]]:
    """Clients with passwords, and administrators with a certificate of the clients' CA.

    Both show the certificate in Secret `tls`; who reaches them is said by network policies.
    `authenticate=False` opens the clients' listener: the fault of the password check.
    """
    shared = {
        "type": "internal",
        "tls": True,
        "configuration": {
            "useServiceDnsDomain": True,
            "brokerCertChainAndKey": {
                "secretName": tls,
                "certificate": "tls.crt",
                "key": "tls.key",
            },
        },
    }
    clients = {"name": "clients", "port": files.CLIENTS_PORT, **shared}
    if authenticate:
        clients["authentication"] = {"type": "scram-sha-512"}
    admin = {"name": "admin", "port": ADMIN_PORT, **shared, "authentication": {"type": "tls"}}
    return [clients, admin]


def kafka_spec(config: KafkaConfig, *, version: str, tls: str, metrics: str) -> dict[str, Any]:
    """`.spec` of the `Kafka`; `metrics` is the ConfigMap with the JMX agent's rules."""
    settings = {
        **files.durability(config),
        "log.segment.bytes": str(config.segment_mib * 1024 * 1024),
        # A dead broker is fenced after this long: it bounds the gap of a kill -9.
        "broker.session.timeout.ms": "6000",
        "broker.heartbeat.interval.ms": "1000",
    }
    if config.retention_gib_per_partition is not None:
        settings["log.retention.bytes"] = str(config.retention_gib_per_partition * 1024**3)
    kafka = {
        "version": version,
        "listeners": listeners(tls),
        "authorization": {"type": "simple", "superUsers": [f"CN={ADMIN_PRINCIPAL}"]},
        "config": settings,
        "metricsConfig": {
            "type": "jmxPrometheusExporter",
            "valueFrom": {"configMapKeyRef": {"name": metrics, "key": _METRICS_KEY}},
        },
    }
    if config.spread == "require-zones":
        # Replicas of a partition in different zones; a broker learns its own from its node.
        kafka["rack"] = {"type": "topology-label", "topologyKey": topology(config.spread)[0]}
    operated = config.operated
    return {
        "kafka": kafka,
        "entityOperator": {
            "topicOperator": {"resources": operated.topic_operator.quantities()},
            "userOperator": {
                "secretPrefix": SECRET_PREFIX,
                "resources": operated.user_operator.quantities(),
            },
            "template": {
                "pod": {"enableServiceLinks": False},
                "topicOperatorContainer": {
                    # A finalizer would hold a namespace for ever once nobody is left to take it
                    # away; without one, a topic whose end nobody saw keeps its data (ADR 16).
                    "env": [{"name": "STRIMZI_USE_FINALIZERS", "value": "false"}]
                },
            },
        },
        "cruiseControl": {
            "resources": operated.cruise_control.quantities(),
            "template": {"pod": {"enableServiceLinks": False}},
        },
    }


def metrics_rules() -> dict[str, str]:
    """Data of the metrics ConfigMap: the names that the alert rules of every Kafka use."""
    return {_METRICS_KEY: files.JMX}


def object_name(topic: str) -> str:
    """A topic's name as Kubernetes takes it: what it does not is told apart by a digest."""
    fitting = re.sub(r"[^a-z0-9.-]+", "-", topic.lower()).strip("-.")[:200]
    fitting = re.sub(r"-*\.[-.]*", ".", fitting)
    if fitting == topic:
        return topic
    return f"{fitting or 'topic'}-{hashlib.sha256(topic.encode()).hexdigest()[:8]}"


def topic_spec(topic: Mapping[str, Any]) -> dict[str, Any]:
    """`.spec` of a `KafkaTopic`, from an entry of KafkaConfig.declaration()."""
    spec = {
        "partitions": topic["partitions"],
        "replicas": topic["replication_factor"],
        "config": dict(topic["configs"]),
    }
    if object_name(topic["name"]) != topic["name"]:
        spec["topicName"] = topic["name"]
    return spec


def user_spec(user: KafkaUser, secret: str) -> dict[str, Any]:
    """`.spec` of a `KafkaUser` whose password is key `password` of `secret`."""
    return {
        "authentication": {
            "type": "scram-sha-512",
            "password": {"valueFrom": {"secretKeyRef": {"name": secret, "key": "password"}}},
        },
        "authorization": {"type": "simple", "acls": [_acl(grant) for grant in user.grants]},
        **({"quotas": _quotas(user.quota)} if user.quota is not None else {}),
    }


def _acl(grant: Grant) -> dict[str, Any]:
    granted = grant.json_object()
    return {
        "type": "allow",
        "resource": {
            "type": granted["resource"],
            "name": granted["name"],
            "patternType": {"literal": "literal", "prefixed": "prefix"}[granted["pattern"]],
        },
        "operations": [_operation(operation) for operation in granted["operations"]],
        "host": "*",
    }


def _operation(name: str) -> str:
    """`describe_configs` as `DescribeConfigs`."""
    return "".join(word.capitalize() for word in name.split("_"))


def _quotas(quota: Quota) -> dict[str, int]:
    rates = {
        "producerByteRate": quota.produce_kib_per_s,
        "consumerByteRate": quota.consume_kib_per_s,
    }
    found = {key: kib * 1024 for key, kib in rates.items() if kib is not None}
    if quota.request_percent is not None:
        found["requestPercentage"] = quota.request_percent
    return found
