"""The two implementations of MongoDB's protocol: the same outputs, the same checks."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest
from pulumi.runtime.stack import wait_for_rpcs

from components.authority import Authority
from components.datalake.ferretdb import FerretDB
from components.datalake.mongodb_cluster import MongodbCluster
from components.datalake.mongodb_community import MongodbCommunity
from components.datalake.mongodb_config import MongodbConfig
from components.datalake.mongodb_operator import (
    MANIFEST,
    NAME,
    MongodbOperator,
)
from components.datalake.operators_config import MongodbOperatorConfig
from components.datalake.postgres import Postgres
from components.datalake.postgres_config import PostgresConfig
from components.model import Image
from stacks.context import manifest
from tests.unit.components.datalake.test_mongodb_config import COMMUNITY, VERIFY, user
from tests.unit.components.datalake.test_postgres_resources import Recorder, merge, plain

PASSWORDS = {"verify": "verify-secret-value", "console": "console-secret-value"}
ROLE = "role-secret-value"
DIGEST = "sha256:" + "a" * 64
USERS = {"users": [user("console"), VERIFY]}
AUTHORITY = Authority(signing=2, trusted=(1, 2), bundle="CERTIFICATES")


def _image(name: str, tag: str = "1") -> Image:
    return Image(repository=f"registry.example/{name}", tag=tag, digest=DIGEST)


class Side:
    """One implementation, and the objects that it makes."""

    def __init__(self) -> None:
        self.component: MongodbCluster
        self.recorder = Recorder()
        self.resolved: dict[str, Any] = {}

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [plain(item) for item in self.recorder.made]

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found = [o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        assert len(found) == 1, f"{len(found)} objects are {kind}/{name}"
        return found[0]


def _passwords() -> dict[str, pulumi.Output[str]]:
    return {name: pulumi.Output.secret(value) for name, value in PASSWORDS.items()}


def _ferretdb() -> MongodbCluster:
    roles = [{"name": name, "password": {"file": name}} for name in ("monitor", "ferretdb")]
    postgres = Postgres(
        "postgres",
        PostgresConfig.model_validate(
            {"owner": {"name": "app", "password": {"file": "app"}}, "roles": roles}
        ),
        namespace="datalake",
        image=_image("postgresql"),
        passwords={"app": "x", "monitor": "x", "ferretdb": "x"},
        authority=AUTHORITY,
    )
    return FerretDB(
        "mongodb",
        MongodbConfig.model_validate(USERS),
        postgres=postgres,
        role="ferretdb",
        role_password=pulumi.Output.secret(ROLE),
        namespace="datalake",
        image=_image("ferretdb"),
        admin_image=_image("admin"),
        passwords=_passwords(),
        authority=AUTHORITY,
        monitors=[],
    )


def _community() -> MongodbCluster:
    images = {part: _image(part, "8.0.28-noble") for part in ("server", "agent", "hook")}
    images["readiness"] = _image("readiness")
    operator = MongodbOperator(
        "mongodb-operator",
        MongodbOperatorConfig(),
        namespace="platform",
        watched=("datalake", "datalake"),
        image=_image("operator"),
        images=images,
        objects=manifest(MANIFEST),
        monitors=[],
    )
    return MongodbCommunity(
        "mongodb",
        MongodbConfig.model_validate(USERS | COMMUNITY),
        namespace="datalake",
        images=images,
        passwords=_passwords(),
        metrics_password=pulumi.Output.secret("metrics-secret-value"),
        authority=AUTHORITY,
        operator=operator.ready,
        monitors=[],
    )


def _compose(build: Any) -> Side:
    side = Side()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pulumi.runtime.set_mocks(side.recorder, preview=False)
    side.component = build()
    outputs = {"url": side.component.url, **side.component.users}
    pulumi.Output.all(**outputs).apply(side.resolved.update)
    loop.run_until_complete(wait_for_rpcs())
    loop.close()
    return side


@pytest.fixture(scope="module")
def ferretdb() -> Iterator[Side]:
    yield _compose(_ferretdb)


@pytest.fixture(scope="module")
def community(ferretdb: Side) -> Iterator[Side]:
    yield _compose(_community)


@pytest.fixture(scope="module")
def sides(ferretdb: Side, community: Side) -> list[Side]:
    return [ferretdb, community]


def test_both_hand_out_the_same(sides: list[Side]) -> None:
    for side in sides:
        url = side.resolved["url"]
        assert url.startswith("mongodb://mongodb.datalake.svc.cluster.local:27017/?tls=true")
        assert {name: side.resolved[name] for name in PASSWORDS} == {
            "verify": "mongodb-verify",
            "console": "mongodb-console",
        }
        secret = side.get("Secret", "mongodb-verify")["stringData"]
        assert secret == {"username": "verify", "password": PASSWORDS["verify"]}
        certificate = side.get("Certificate", "mongodb-tls")["spec"]
        assert certificate["issuerRef"]["name"] == "estate-ca-2"
        assert "mongodb.datalake.svc.cluster.local" in certificate["dnsNames"]
    assert sides[1].resolved["url"].endswith("&replicaSet=mongodb")


def test_both_are_held_to_the_same_checks(sides: list[Side]) -> None:
    one, other = (
        [(check.id, check.probe, set(check.args)) for check in side.component.checks]
        for side in sides
    )
    assert one == other
    assert [id_ for id_, *_ in one] == [
        "mongodb.round-trip",
        "mongodb.wrong-password",
        "mongodb.encrypted",
        "mongodb.declared",
        "mongodb.replicas",
    ]


def test_every_fault_changes_an_object_that_is_declared(sides: list[Side]) -> None:
    for side in sides:
        for check in side.component.checks:
            target = check.fault.target
            before = side.get(target.kind, target.name)
            assert before["metadata"]["namespace"] == target.namespace
            after = copy.deepcopy(before)
            merge(after, check.fault.patch)
            assert after != before, check.id


def test_passwords_are_in_secrets_only(sides: list[Side]) -> None:
    for side in sides:
        for item in side.objects:
            if item["kind"] != "Secret":
                for password in (*PASSWORDS.values(), ROLE, "metrics-secret-value"):
                    assert password not in str(item), item["metadata"]["name"]


def test_both_survive_a_drain(sides: list[Side]) -> None:
    assert sides[0].get("PodDisruptionBudget", "mongodb")["spec"]["maxUnavailable"] == 1
    assert sides[1].get("PodDisruptionBudget", "mongodb")["spec"]["minAvailable"] == 2
    for side in sides:
        (pods,) = side.component.expected_pods
        budget = side.get("PodDisruptionBudget", "mongodb")["spec"]["selector"]["matchLabels"]
        assert budget == pods.selector


def test_a_clients_connections_stay_at_one_replica(ferretdb: Side) -> None:
    """Each keeps the cursors of its own connections only."""
    assert ferretdb.get("Service", "mongodb")["spec"]["sessionAffinity"] == "ClientIP"


def test_users_are_kept_by_a_ferretdb_that_only_its_own_pod_reaches(ferretdb: Side) -> None:
    pod = ferretdb.get("Job", "mongodb-users")["spec"]["template"]["spec"]
    (server,) = pod["initContainers"]
    env = {one["name"]: one["value"] for one in server["env"]}
    assert server["restartPolicy"] == "Always"
    assert env["FERRETDB_LISTEN_ADDR"] == "127.0.0.1:27017" and env["FERRETDB_LISTEN_TLS"] == ""
    assert env["FERRETDB_TEST_ENABLE_NEW_AUTH"] == "false"
    serving = ferretdb.get("Deployment", "mongodb")["spec"]["template"]["spec"]["containers"][0]
    assert "env" not in serving


def test_another_authority_starts_the_replicas_again(ferretdb: Side) -> None:
    template = ferretdb.get("Deployment", "mongodb")["spec"]["template"]
    assert "estate.dev/trust" in template["metadata"]["annotations"]


def test_a_replica_set_as_its_operator_takes_it(community: Side) -> None:
    spec = community.get("MongoDBCommunity", "mongodb")["spec"]
    assert (spec["members"], spec["version"]) == (3, "8.0.28")
    assert spec["security"]["authentication"]["modes"] == ["SCRAM-SHA-256"]
    assert spec["security"]["tls"]["enabled"] is True
    roles = {one["name"]: one["roles"] for one in spec["users"]}
    assert roles["console"] == [{"name": "readWrite", "db": "lake"}]
    template = spec["statefulSet"]["spec"]["template"]["spec"]
    for container in [*template["initContainers"], *template["containers"]]:
        assert container["image"].endswith(f"@{DIGEST}")
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["statefulSet"]["spec"]["serviceName"] == "mongodb"


def test_the_operator_acts_in_the_watched_namespace_only(community: Side) -> None:
    assert not [o for o in community.objects if o["kind"].startswith("ClusterRole")]
    env = community.get("Deployment", NAME)["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {one["name"]: one.get("value") for one in env}["WATCH_NAMESPACE"] == "datalake"
    agents = community.get("Role", "mongodb-database")["rules"]
    assert all(rule["resourceNames"] for rule in agents)


def test_prometheus_is_shown_the_exporters_password_alone(community: Side) -> None:
    (rule,) = community.get("Role", "mongodb-metrics")["rules"]
    assert rule["resourceNames"] == ["mongodb-metrics"] and rule["verbs"] == ["get"]
    endpoint = community.get("PodMonitor", "mongodb")["spec"]["podMetricsEndpoints"][0]
    assert endpoint["scheme"] == "https" and endpoint["basicAuth"]["password"]["key"] == "password"
