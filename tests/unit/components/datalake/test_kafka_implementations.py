"""Kafka's two implementations side by side: the same outputs, the same checks."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import pulumi
import pytest
from pulumi.runtime.stack import wait_for_rpcs

from components.authority import Authority
from components.datalake.kafka import Kafka
from components.datalake.kafka_cluster import KafkaCluster
from components.datalake.kafka_config import KafkaConfig
from components.datalake.operators_config import StrimziConfig
from components.datalake.strimzi_kafka import StrimziKafka
from components.datalake.strimzi_operator import NAME, StrimziOperator
from components.model import Image
from configs import versions
from stacks.context import manifest
from tests.unit.components.datalake.test_postgres_resources import Recorder, merge, plain

PASSWORD = "verify-secret-value"
DIGEST = "sha256:" + "a" * 64
VALUES: dict[str, Any] = {
    "topics": [{"name": "sensors.raw"}, {"name": "estate.verify"}],
    "users": [
        {
            "name": "verify",
            "password": {"file": "kafka/verify"},
            "grants": [{"topic": "estate.verify", "operations": ["read", "write"]}],
        }
    ],
}


class Side:
    """One implementation: its component, the objects that it makes and what each depends on."""

    def __init__(self) -> None:
        self.component: KafkaCluster
        self.recorder = Recorder()
        self.depends: dict[str, list[pulumi.Resource]] = {}
        self.resolved: dict[str, Any] = {}

    def note(self, args: pulumi.ResourceTransformationArgs) -> None:
        given = args.opts.depends_on
        self.depends[args.name] = list(given) if isinstance(given, (list, tuple)) else []

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [plain(item) for item in self.recorder.made]

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found = [o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        assert len(found) == 1, f"{len(found)} objects are {kind}/{name}"
        return found[0]


def _image(repository: str, tag: str) -> Image:
    return Image(repository=repository, tag=tag, digest=DIGEST)


def _statefulset(opts: pulumi.ResourceOptions) -> KafkaCluster:
    return Kafka(
        "kafka",
        KafkaConfig.model_validate(VALUES | {"cluster_id": "ZXN0YXRlLXJlaGVhcnNhbA"}),
        namespace="datalake",
        image=_image("docker.io/apache/kafka", "4.4.0"),
        admin_image=_image("docker.io/estate/admin", "1"),
        authority=Authority(),
        passwords={"verify": pulumi.Output.secret(PASSWORD)},
        monitors=[],
        opts=opts,
    )


def _strimzi(opts: pulumi.ResourceOptions) -> KafkaCluster:
    kafka = [
        _image("quay.io/strimzi/kafka", f"1.2.0-kafka-{version}") for version in ("4.3.1", "4.3.0")
    ]
    operator = StrimziOperator(
        "strimzi",
        StrimziConfig(replicas=2),
        namespace="platform",
        watched={"datalake": "datalake"},
        image=_image("quay.io/strimzi/operator", "1.2.0"),
        kafka_image=kafka[0],
        kafka_images=kafka,
        objects=manifest("strimzi-1.2.0"),
        monitors=[],
        opts=opts,
    )
    return StrimziKafka(
        "kafka",
        KafkaConfig.model_validate(VALUES | {"implementation": "strimzi"}),
        namespace="datalake",
        version="4.3.1",
        authority=Authority(),
        passwords={"verify": pulumi.Output.secret(PASSWORD)},
        operator=operator.ready,
        monitors=[],
        opts=opts,
    )


def _compose(build: Any) -> Side:
    side = Side()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pulumi.runtime.set_mocks(side.recorder, preview=False)
    side.component = build(pulumi.ResourceOptions(transformations=[side.note]))
    outputs = {"bootstrap": side.component.bootstrap, **side.component.users}
    pulumi.Output.all(**outputs).apply(side.resolved.update)
    loop.run_until_complete(wait_for_rpcs())
    loop.close()
    return side


@pytest.fixture(scope="module")
def statefulset() -> Iterator[Side]:
    yield _compose(_statefulset)


@pytest.fixture(scope="module")
def strimzi(statefulset: Side) -> Iterator[Side]:
    yield _compose(_strimzi)


@pytest.fixture(scope="module")
def sides(statefulset: Side, strimzi: Side) -> list[Side]:
    return [statefulset, strimzi]


def test_both_hand_out_the_same(sides: list[Side]) -> None:
    for side in sides:
        host, _, port = side.resolved.pop("bootstrap").rpartition(":")
        assert host.endswith(".datalake.svc.cluster.local") and port == "9093"
        assert side.resolved == {"verify": "kafka-verify"}
        assert side.component.ready
        secret = side.get("Secret", "kafka-verify")["stringData"]
        assert secret == {"username": "verify", "password": PASSWORD}
        # What clients verify the brokers by.
        assert side.get("Certificate", "kafka-tls")["spec"]["issuerRef"]["name"] == "estate-ca"


def test_both_are_held_to_the_same_checks(sides: list[Side]) -> None:
    one, other = (
        [(check.id, check.title, check.probe, set(check.args)) for check in side.component.checks]
        for side in sides
    )
    assert one == other
    assert {id_ for id_, *_ in one} == {
        "kafka.produce-consume",
        "kafka.wrong-password",
        "kafka.in-sync",
        "kafka.declared",
    }


def test_both_are_watched_by_the_same_rules(sides: list[Side]) -> None:
    one, other = (side.get("PrometheusRule", "kafka")["spec"] for side in sides)
    assert one == other
    files = [
        side.get("ConfigMap", name)["data"]["jmx.yaml"]
        for side, name in zip(sides, ("kafka-config", "kafka-metrics"), strict=True)
    ]
    assert files[0] == files[1]


def test_every_fault_changes_an_object_that_is_declared(sides: list[Side]) -> None:
    for side in sides:
        for check in side.component.checks:
            target = check.fault.target
            before = side.get(target.kind, target.name)
            assert before["apiVersion"] == target.api_version
            assert before["metadata"]["namespace"] == target.namespace
            after = copy.deepcopy(before)
            merge(after, check.fault.patch)
            assert after != before, check.id


def test_passwords_are_in_secrets_only(sides: list[Side]) -> None:
    for side in sides:
        for item in side.objects:
            assert item["kind"] == "Secret" or PASSWORD not in str(item), item["metadata"]["name"]


def test_strimzis_pods_are_expected_with_a_budget_each(strimzi: Side) -> None:
    pods = {one.name: one for one in strimzi.component.expected_pods}
    assert {name: one.count for name, one in pods.items()} == {
        "kafka-brokers": 3,
        "kafka-controllers": 3,
        "kafka-entity-operator": 1,
        "kafka-cruise-control": 1,
    }
    # Two containers in one pod.
    assert pods["kafka-entity-operator"].resources.memory_request_mib == 512
    for name in ("kafka-brokers", "kafka-controllers"):
        budget = strimzi.get("PodDisruptionBudget", name)["spec"]
        assert budget["minAvailable"] == 2
        assert budget["selector"]["matchLabels"] == pods[name].selector
        assert pods[name].claims


def test_topics_go_before_the_cluster_and_the_operator_last(strimzi: Side) -> None:
    """Pulumi deletes what depends on another before it."""

    def needs(name: str) -> set[str]:
        return {one._name for one in strimzi.depends[name]}

    for entity in ("kafkatopic-sensors.raw", "kafkauser-verify", "kafkauser-kafka-admin"):
        assert "kafka-kafka-kafka" in needs(f"kafka-{entity}")
    pools = {"kafka-kafkanodepool-brokers", "kafka-kafkanodepool-controllers"}
    assert pools | {NAME} <= needs("kafka-kafka-kafka")
    assert all(NAME in needs(pool) for pool in pools)
    assert "customresourcedefinition-kafkatopics.kafka.strimzi.io" in needs(NAME)


def _rules(side: Side, kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rules of ClusterRoles that objects of `kind` bind."""
    for binding in side.objects:
        if binding["kind"] == kind and binding["roleRef"]["kind"] == "ClusterRole":
            role = side.get("ClusterRole", binding["roleRef"]["name"])
            yield from ((role["metadata"]["name"], rule) for rule in role["rules"])


def test_the_operator_acts_in_the_watched_namespace_only(strimzi: Side) -> None:
    wide = [
        resource
        for _, rule in _rules(strimzi, "ClusterRoleBinding")
        for resource in rule["resources"]
    ]
    assert sorted(wide) == ["clusterrolebindings", "nodes", "storageclasses"]
    bound = {o["metadata"]["namespace"] for o in strimzi.objects if o["kind"] == "RoleBinding"}
    assert bound == {"datalake", "platform"}
    assert all("*" not in rule["verbs"] for _, rule in _rules(strimzi, "RoleBinding"))
    env = _environment(strimzi)
    assert env["STRIMZI_NAMESPACE"] == "datalake"


def test_the_operator_may_do_what_its_topic_and_user_operators_may(strimzi: Side) -> None:
    """Else the API server refuses the role that it makes for them."""
    held = {
        (group, resource, verb)
        for name, rule in _rules(strimzi, "RoleBinding")
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    for resource in ("kafkatopics", "kafkausers"):
        for verb in ("get", "list", "watch", "create", "patch", "update", "delete"):
            assert ("kafka.strimzi.io", resource, verb) in held


def _environment(side: Side) -> dict[str, str]:
    pod = side.get("Deployment", NAME)["spec"]["template"]["spec"]
    return {one["name"]: one.get("value", "") for one in pod["containers"][0]["env"]}


def test_the_operator_knows_every_image_by_digest(strimzi: Side) -> None:
    env = _environment(strimzi)
    images = [value for key, value in env.items() if key.endswith(("_IMAGE", "_IMAGES"))]
    assert len(images) == 8
    for line in "\n".join(images).splitlines():
        assert line.endswith(f"@{DIGEST}")
    assert env["STRIMZI_KAFKA_IMAGES"].startswith("4.3.1=quay.io/strimzi/kafka:1.2.0-kafka-4.3.1@")
    assert env["STRIMZI_POD_SECURITY_PROVIDER_CLASS"] == "restricted"


def test_versions_pin_every_kafka_of_the_release() -> None:
    tags = [one.tag for key, one in versions.declared().items() if key.startswith("strimzi_kafka")]
    release = versions.declared()["strimzi_operator"].tag
    assert sorted(tags) == [f"{release}-kafka-{v}" for v in ("4.2.0", "4.2.1", "4.3.0", "4.3.1")]


def test_the_definitions_are_all_there() -> None:
    kinds = {body["spec"]["names"]["kind"] for body in manifest("strimzi-1.2.0")}
    assert {"Kafka", "KafkaNodePool", "KafkaTopic", "KafkaUser", "StrimziPodSet"} <= kinds
    assert len(kinds) == 10
