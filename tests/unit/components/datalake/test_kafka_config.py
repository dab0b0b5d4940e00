from __future__ import annotations

from typing import Any

import pytest
import yaml

from components.datalake import kafka_files
from components.datalake.kafka_checks import checks
from components.datalake.kafka_config import KafkaConfig
from components.datalake.kafka_reconcile import bindings, max_factor

HOSTS = [f"kafka-{i}.kafka-brokers.datalake.svc.cluster.local" for i in range(3)]


def config(**changes: Any) -> KafkaConfig:
    values: dict[str, Any] = {
        "cluster_id": "ZXN0YXRlLXJlaGVhcnNhbA",
        "topics": [
            {"name": "sensors.raw", "partitions": 6, "retention_h": 2},
            {"name": "estate.verify"},
        ],
        "users": [
            {
                "name": "verify",
                "password": {"file": "kafka/verify"},
                "grants": [
                    {"topic": "estate.verify", "operations": ["write", "read"]},
                    {"group_prefix": "estate-", "operations": ["read"]},
                ],
            }
        ],
    }
    return KafkaConfig.model_validate(values | changes)


def properties(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line)


def test_inside_mutual_tls_outside_scram() -> None:
    found = properties(kafka_files.server_properties(config(), HOSTS))
    assert found["listener.security.protocol.map"] == "CONTROLLER:SSL,INTERNAL:SSL,CLIENTS:SASL_SSL"
    for listener in ("controller", "internal"):
        assert found[f"listener.name.{listener}.ssl.client.auth"] == "required"
        # Only Kafka's own intermediate authority counts there.
        assert found[f"listener.name.{listener}.ssl.truststore.location"].endswith(
            "internal-trust.pem"
        )
    assert found["listener.name.clients.sasl.enabled.mechanisms"] == "SCRAM-SHA-512"
    assert found["allow.everyone.if.no.acl.found"] == "false"
    assert found["super.users"] == "User:kafka-broker;User:kafka-admin"


def test_durability_follows_the_configuration() -> None:
    found = properties(kafka_files.server_properties(config(), HOSTS))
    assert found["min.insync.replicas"] == "2"
    assert found["default.replication.factor"] == "3"
    assert found["offsets.topic.replication.factor"] == "3"
    assert found["unclean.leader.election.enable"] == "false"
    assert found["controller.quorum.voters"].split(",")[2] == f"2@{HOSTS[2]}:9090"


def test_the_metrics_rules_are_valid_yaml_with_the_state_that_probes_ask_for() -> None:
    rules = yaml.safe_load(kafka_files.JMX)["rules"]
    assert any(rule["name"] == "kafka_broker_state" for rule in rules)
    assert "kafka_broker_state" in kafka_files.RUNNING


def test_the_declaration_carries_no_secret_and_all_defaults() -> None:
    declaration = config().declaration()
    assert declaration["topics"][0] == {
        "name": "sensors.raw",
        "partitions": 6,
        "replication_factor": 3,
        "configs": {
            "cleanup.policy": "delete",
            "retention.ms": "7200000",
            "min.insync.replicas": "2",
            "max.message.bytes": "1048576",
        },
    }
    assert "password" not in str(declaration)
    assert max_factor(declaration) == 3


def test_grants_become_acls_of_the_user() -> None:
    found = {
        (str(acl.restype), acl.name, str(acl.resource_pattern_type), str(acl.operation))
        for acl in bindings(config().declaration()["users"])
    }
    topic, group = "ResourceType.TOPIC", "ResourceType.GROUP"
    literal, prefixed = "ResourcePatternType.LITERAL", "ResourcePatternType.PREFIXED"
    assert found == {
        (topic, "estate.verify", literal, "AclOperation.WRITE"),
        (topic, "estate.verify", literal, "AclOperation.READ"),
        (group, "estate-", prefixed, "AclOperation.READ"),
    }
    assert {acl.principal for acl in bindings(config().declaration()["users"])} == {"User:verify"}


@pytest.mark.parametrize(
    "grant",
    [
        {"operations": ["read"]},
        {"topic": "estate.verify", "group": "g", "operations": ["read"]},
    ],
)
def test_a_grant_has_exactly_one_subject(grant: dict[str, Any]) -> None:
    user = {"name": "verify", "password": {"file": "x"}, "grants": [grant]}
    with pytest.raises(ValueError, match="exactly one of topic, topic_prefix, group"):
        config(users=[user])


def test_every_check_is_broken_by_something_of_its_own() -> None:
    found = {check.id: check.fault for check in checks("kafka", "datalake", config(), HOSTS)}
    assert found["kafka.in-sync"].patch == {"spec": {"replicas": 2}}
    broken = found["kafka.wrong-password"].patch["data"]
    assert isinstance(broken, dict)
    assert "CLIENTS:SSL" in str(broken["server.properties"])
    one = "statefulset.kubernetes.io/pod-name=kafka-2"
    assert found["kafka.wrong-password"].restart == one
