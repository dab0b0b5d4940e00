"""What Strimzi's operators are told, as data."""

from __future__ import annotations

import re
from typing import Any

import pytest

from components.datalake import kafka_files
from components.datalake import strimzi_spec as spec
from components.datalake.kafka_config import KafkaConfig

VERIFY = {
    "name": "verify",
    "password": {"file": "kafka/verify"},
    "grants": [
        {"topic": "estate.verify", "operations": ["write", "describe_configs"]},
        {"group_prefix": "estate-", "operations": ["read"]},
    ],
    "quota": {"produce_kib_per_s": 2, "request_percent": 150},
}
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def config(**changes: Any) -> KafkaConfig:
    values: dict[str, Any] = {
        "implementation": "strimzi",
        "spread": "require-zones",
        "topics": [{"name": "sensors.raw", "partitions": 6}, {"name": "estate.verify"}],
        "users": [VERIFY],
    }
    return KafkaConfig.model_validate(values | changes)


def kafka(**changes: Any) -> dict[str, Any]:
    return spec.kafka_spec(config(**changes), version="4.3.1", tls="k-tls", metrics="k-metrics")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cluster_id": "ZXN0YXRlLXJlaGVhcnNhbA"}, "cluster_id .*Strimzi makes its own"),
        ({"strimzi": {"controllers": {"count": 4}}}, "strimzi.controllers.count is 4: an odd"),
        (
            {"strimzi": {"controllers": {"heap_mib": 900}}},
            r"strimzi.controllers.resources.memory_limit_mib is 1024: at least heap_mib \+ 256",
        ),
        ({"brokers": 1, "replication_factor": 1}, "brokers is 1: at least 2: Cruise Control"),
        (
            {"implementation": "statefulset", "cluster_id": "ZXN0YXRlLXJlaGVhcnNhbA"},
            "users.0.quota is 'declared': only Strimzi does this",
        ),
        (
            {"implementation": "statefulset", "strimzi": {}, "users": [VERIFY | {"quota": None}]},
            "cluster_id is None: 22 letters .*; strimzi is 'declared': only Strimzi",
        ),
    ],
)
def test_what_belongs_to_the_other_implementation_is_refused(
    changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        config(**changes)


def test_brokers_need_not_be_odd_where_controllers_vote() -> None:
    assert config(brokers=4).brokers == 4


def test_no_setting_is_one_that_strimzi_keeps_to_itself() -> None:
    """It ignores what begins so, but for the exceptions (KafkaClusterSpec of its API 1.2.0)."""
    forbidden = (
        *("listeners", "advertised.", "broker.", "listener.", "host.name", "port", "sasl.", "ssl."),
        *("inter.broker.listener.name", "security.", "password.", "log.dir", "zookeeper."),
        *("authorizer.", "super.user", "node.id", "process.roles", "controller."),
        *("metadata.log.dir", "cruise.control.metrics.topic", "client.quota.callback"),
        *("prometheus.metrics.reporter.", "cordoned.log.dirs"),
    )
    exceptions = {"broker.session.timeout.ms", "broker.heartbeat.interval.ms"}
    settings = set(kafka()["kafka"]["config"])
    assert not [one for one in settings - exceptions if one.startswith(forbidden)]


def test_durability_is_that_of_the_other_implementation() -> None:
    written = kafka_files.server_properties(
        config(
            implementation="statefulset",
            cluster_id="ZXN0YXRlLXJlaGVhcnNhbA",
            users=[VERIFY | {"quota": None}],
            retention_gib_per_partition=1,
        ),
        ["host"],
    )
    files = dict(line.split("=", 1) for line in written.splitlines() if line)
    settings = kafka(retention_gib_per_partition=1)["kafka"]["config"]
    assert {key: files[key] for key in settings} == settings


def test_clients_have_passwords_and_administrators_certificates() -> None:
    told = kafka()["kafka"]
    clients, admin = told["listeners"]
    assert clients["authentication"] == {"type": "scram-sha-512"}
    assert admin["authentication"] == {"type": "tls"}
    for listener in (clients, admin):
        assert listener["tls"] is True
        assert listener["configuration"]["brokerCertChainAndKey"]["secretName"] == "k-tls"
    assert told["authorization"] == {"type": "simple", "superUsers": ["CN=kafka-admin"]}


def test_racks_are_zones_only_where_zones_are_asked_for() -> None:
    assert kafka()["kafka"]["rack"]["topologyKey"] == "topology.kubernetes.io/zone"
    assert "rack" not in kafka(spread="require")["kafka"]


def test_pools_keep_roles_numbers_and_data_apart() -> None:
    brokers, controllers = spec.pools(config())
    told = [spec.pool_spec("kafka", pool) for pool in (brokers, controllers)]
    assert [one["roles"] for one in told] == [["broker"], ["controller"]]
    assert spec.pool_annotations(brokers) != spec.pool_annotations(controllers)
    for pool, one in zip((brokers, controllers), told, strict=True):
        constraint = one["template"]["pod"]["topologySpreadConstraints"][0]
        assert constraint["whenUnsatisfiable"] == "DoNotSchedule"
        assert constraint["labelSelector"]["matchLabels"] == spec.pod_labels("kafka", pool.name)
        assert one["storage"]["volumes"][0]["deleteClaim"] is False
    assert spec.broker_hosts("kafka", "datalake", 2) == [
        f"kafka-brokers-{i}.kafka-kafka-brokers.datalake.svc.cluster.local" for i in (0, 1)
    ]


@pytest.mark.parametrize("topic", ["sensors.raw", "Sensors_Raw", "a..b", "-.-", "_x_", "é" * 240])
def test_a_topics_object_has_a_name_that_kubernetes_takes(topic: str) -> None:
    name = spec.object_name(topic)
    assert SUBDOMAIN.fullmatch(name) and len(name) <= 253
    body = {"name": topic, "partitions": 1, "replication_factor": 1, "configs": {}}
    assert spec.topic_spec(body).get("topicName", name) == topic


def test_topics_that_differ_have_objects_that_differ() -> None:
    topics = ["a.b", "a_b", "A.b", "a-b", "a..b"]
    assert len({spec.object_name(topic) for topic in topics}) == len(topics)


def test_a_users_password_is_a_reference_and_grants_are_acls() -> None:
    told = spec.user_spec(config().users[0], "kafka-verify")
    reference = told["authentication"]["password"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "kafka-verify", "key": "password"}
    topic, group = told["authorization"]["acls"]
    assert topic["resource"] == {"type": "topic", "name": "estate.verify", "patternType": "literal"}
    assert topic["operations"] == ["DescribeConfigs", "Write"]
    assert group["resource"]["patternType"] == "prefix"
    assert told["quotas"] == {"producerByteRate": 2048, "requestPercentage": 150}


def test_no_finalizer_of_a_topic_can_strand_a_namespace() -> None:
    container = kafka()["entityOperator"]["template"]["topicOperatorContainer"]
    assert container["env"] == [{"name": "STRIMZI_USE_FINALIZERS", "value": "false"}]
