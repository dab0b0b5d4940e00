from __future__ import annotations

import asyncio
import base64
import copy
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest
from pulumi.runtime.stack import wait_for_rpcs

from components.authority import Authority
from components.datalake import cloudnative_pg
from components.datalake.cloudnative_pg import CloudNativePgOperator
from components.datalake.operators_config import CloudNativePgConfig
from components.datalake.pgpool import Pgpool
from components.datalake.pgpool_config import PgpoolConfig
from components.datalake.postgres import Postgres
from components.datalake.postgres_config import PostgresConfig
from components.datalake.postgres_databases import PostgresDatabases
from components.model import Image
from components.monitoring import prometheus_operator
from components.monitoring.config import MonitoringConfig, PrometheusOperatorConfig
from components.monitoring.monitoring import Monitoring
from components.monitoring.prometheus_operator import (
    PrometheusOperator,
)
from stacks.context import manifest

NAMESPACES = ("platform", "datalake", "realtime", "monitoring")
IMAGES = {
    key: Image(repository=f"registry.example/{key}", tag=tag, digest="sha256:" + "a" * 64)
    for key, tag in {
        "cnpg_operator": "1.30.0",
        "postgresql": "15.18",
        "pgpool": "4.3.5",
        "sql_exporter": "0.4.5",
        "prometheus_operator": "v0.93.1",
        "prometheus_config_reloader": "v0.93.1",
        "prometheus": "v3.13.1",
        "alertmanager": "v0.25.0",
    }.items()
}
PASSWORDS = {
    "app": "app-secret-value",
    "monitor": "monitor-secret-value",
    "keeper": "keeper-secret-value",
    "reader": "reader-secret-value",
}
SECRET = "4dabf18193072939515e22adb298388d"
"""The key that marks a secret on Pulumi's wire."""


class Recorder(pulumi.runtime.Mocks):
    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        if args.typ.startswith("kubernetes:"):
            self.made.append(dict(args.inputs))
        return f"{args.name}-id", dict(args.inputs)

    def call(
        self, args: pulumi.runtime.MockCallArgs
    ) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        return {}, None


def plain(value: Any) -> Any:
    """The value without the marks of secrets."""
    if isinstance(value, dict):
        if SECRET in value:
            return plain(value["value"])
        return {key: plain(child) for key, child in value.items() if not key.startswith("__")}
    return [plain(child) for child in value] if isinstance(value, list) else value


class Estate:
    """Everything of this helper's layers, as manifests."""

    def __init__(self, raw: list[dict[str, Any]], parts: list[Any]) -> None:
        self.raw, self.objects, self.parts = raw, [plain(item) for item in raw], parts

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = [
            item
            for item in self.objects
            if item["kind"] == kind and item["metadata"]["name"] == name
        ]
        assert len(found) == 1, f"{len(found)} objects are {kind}/{name}"
        return found[0]

    def kinds(self, *kinds: str) -> list[dict[str, Any]]:
        return [item for item in self.objects if item["kind"] in kinds]


AUTHORITY = Authority(signing=2, trusted=(1, 2), bundle="CERTIFICATES")


def compose() -> list[Any]:
    operator = PrometheusOperator(
        "prometheus-operator",
        PrometheusOperatorConfig(),
        namespace="monitoring",
        watched=NAMESPACES,
        images=IMAGES,
        objects=manifest(prometheus_operator.MANIFEST),
    )
    cnpg = CloudNativePgOperator(
        "cloudnative-pg",
        CloudNativePgConfig(),
        namespace="platform",
        image=IMAGES["cnpg_operator"],
        objects=manifest(cloudnative_pg.MANIFEST),
        authority=AUTHORITY,
        monitors=operator.definitions,
    )
    config = PostgresConfig.model_validate(
        {
            "owner": {"name": "app", "password": {"file": "postgres/app"}},
            "roles": [
                {"name": name, "password": {"file": f"postgres/{name}"}}
                for name in PASSWORDS
                if name != "app"
            ],
            "databases": [
                {"name": "shelf", "owner": "keeper", "readers": ["reader"]},
                {"name": "box", "owner": "keeper"},
            ],
        }
    )
    postgres = Postgres(
        "postgres",
        config,
        namespace="datalake",
        image=IMAGES["postgresql"],
        passwords=PASSWORDS,
        operator=cnpg.ready,
        authority=AUTHORITY,
        monitors=operator.definitions,
    )
    databases = PostgresDatabases(
        "postgres",
        config,
        postgres=postgres,
        namespace="datalake",
        image=IMAGES["postgresql"],
        passwords=PASSWORDS,
    )
    pgpool = Pgpool(
        "pgpool",
        PgpoolConfig(),
        postgres=postgres,
        namespace="datalake",
        image=IMAGES["pgpool"],
        exporter_image=IMAGES["sql_exporter"],
        passwords={name: pulumi.Output.secret(value) for name, value in PASSWORDS.items()},
        owner="app",
        authority=AUTHORITY,
        monitors=operator.definitions,
    )
    monitoring = Monitoring(
        "monitoring",
        MonitoringConfig(),
        namespace="monitoring",
        watched=NAMESPACES,
        images=IMAGES,
        operator=operator.ready,
        authority=AUTHORITY,
    )
    return [operator, cnpg, postgres, databases, pgpool, monitoring]


@pytest.fixture(scope="module")
def estate() -> Iterator[Estate]:
    recorder = Recorder()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pulumi.runtime.set_mocks(recorder, preview=False)
    parts = compose()
    loop.run_until_complete(wait_for_rpcs())
    yield Estate(recorder.made, parts)
    loop.close()


def pods(estate: Estate) -> list[dict[str, Any]]:
    return [item["spec"]["template"]["spec"] for item in estate.kinds("Deployment", "StatefulSet")]


def test_every_container_has_requests_limits_probes_and_a_digest(estate: Estate) -> None:
    containers = [container for pod in pods(estate) for container in pod["containers"]]
    assert {item["name"] for item in containers} == {
        "prometheus-operator",
        "manager",
        "pgpool",
        "exporter",
    }
    for container in containers:
        assert "@sha256:" in container["image"], container["name"]
        assert container["imagePullPolicy"] == "IfNotPresent"
        assert container["command"], container["name"]
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]), container["name"]
        assert "memory" in container["resources"]["limits"], container["name"]
        assert {"readinessProbe", "livenessProbe"} <= set(container), container["name"]


def test_every_pod_is_restricted(estate: Estate) -> None:
    for pod in pods(estate):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
    for kind in ("Prometheus", "Alertmanager"):
        context = estate.get(kind, kind.lower())["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_no_release_namespace_is_left(estate: Estate) -> None:
    used = {item["metadata"].get("namespace") for item in estate.objects} - {None}
    assert used == {"platform", "datalake", "realtime", "monitoring"}
    for item in estate.kinds("ClusterRoleBinding", "RoleBinding"):
        for subject in item["subjects"]:
            assert subject["namespace"] in NAMESPACES


def test_the_webhooks_take_their_certificate_from_cert_manager(estate: Estate) -> None:
    for item in estate.kinds("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        for hook in item["webhooks"]:
            assert hook["clientConfig"]["service"]["namespace"] == "platform"
    pod = estate.get("Deployment", "cnpg-controller-manager")["spec"]["template"]["spec"]
    folder = {item["name"]: item.get("value") for item in pod["containers"][0]["env"]}
    mounts = {item["mountPath"] for item in pod["containers"][0]["volumeMounts"]}
    assert folder["WEBHOOK_CERT_DIR"] in mounts


def test_the_operator_of_prometheus_reads_no_secret_outside_its_namespace(estate: Estate) -> None:
    for item in estate.kinds("ClusterRole", "Role"):
        if not item["metadata"]["name"].startswith("prometheus"):
            continue
        if item["metadata"].get("namespace") == "monitoring":
            continue
        for rule in item["rules"]:
            assert "secrets" not in rule["resources"], item["metadata"]
            if "configmaps" in rule["resources"]:
                assert rule["resourceNames"] == ["estate-ca"]


def test_monitors_and_rules_carry_the_label_that_prometheus_selects(estate: Estate) -> None:
    selector = estate.get("Prometheus", "prometheus")["spec"]["podMonitorSelector"]
    monitored = estate.kinds("PodMonitor", "ServiceMonitor", "PrometheusRule")
    assert len(monitored) >= 9
    for item in monitored:
        assert selector["matchLabels"].items() <= item["metadata"]["labels"].items()
    assert all("secret" not in str(item["spec"]) for item in estate.kinds("PodMonitor"))


def test_a_monitors_port_is_a_port_of_its_pods(estate: Estate) -> None:
    port = estate.get("PodMonitor", "pgpool")["spec"]["podMetricsEndpoints"][0]["port"]
    pod = estate.get("StatefulSet", "pgpool")["spec"]["template"]["spec"]
    names = {p["name"] for c in pod["containers"] for p in c["ports"]}
    assert port in names


def test_certificates_of_the_cluster_are_loaded_again_when_renewed(estate: Estate) -> None:
    for name in ("postgres-server", "postgres-replication"):
        template = estate.get("Certificate", name)["spec"]["secretTemplate"]
        assert template == {"labels": {"cnpg.io/reload": ""}}
    assert estate.get("Certificate", "postgres-replication")["spec"]["commonName"] == (
        "streaming_replica"
    )
    assert "secretTemplate" not in estate.get("Certificate", "pgpool-tls")["spec"]


def test_all_are_certified_by_the_signing_generation_and_trust_every_one(estate: Estate) -> None:
    certificates = estate.kinds("Certificate")
    assert len(certificates) >= 6
    assert {item["spec"]["issuerRef"]["name"] for item in certificates} == {"estate-ca-2"}
    assert estate.get("Secret", "postgres-ca")["stringData"] == {"ca.crt": "CERTIFICATES"}
    for hook in estate.kinds("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"):
        for one in hook["webhooks"]:
            assert base64.b64decode(one["clientConfig"]["caBundle"]) == b"CERTIFICATES"
    # What is in a certificate's own Secret is its issuer alone: nobody may be verified with it.
    mounted = str(estate.get("ConfigMap", "pgpool-config")["data"])
    assert "/trust/ca.crt" in mounted and "/tls/ca.crt" not in mounted


def test_the_pool_survives_a_drain_and_a_roll_out(estate: Estate) -> None:
    assert estate.get("PodDisruptionBudget", "pgpool")["spec"]["maxUnavailable"] == 1
    pod = estate.get("StatefulSet", "pgpool")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 60 + 15, "drains longer than sessions may last"
    assert pod["containers"][0]["readinessProbe"]["exec"]["command"][-1].endswith("/ready.sh")


def test_a_database_is_its_owners_and_keeps_its_data(estate: Estate) -> None:
    for name in ("shelf", "box"):
        spec = estate.get("Database", f"postgres-{name}")["spec"]
        assert (spec["name"], spec["owner"]) == (name, "keeper")
        assert spec["cluster"] == {"name": "postgres"}
        assert spec["databaseReclaimPolicy"] == "retain"


def test_readers_may_connect_and_select_and_nobody_else_may(estate: Estate) -> None:
    sql = estate.get("ConfigMap", "postgres-grants")["data"]
    assert sql["databases"] == "shelf keeper\nbox keeper\n"
    for name in ("shelf", "box"):
        assert f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC;' in sql[f"{name}.sql"]
    given = [line for line in sql["shelf.sql"].splitlines() if " TO " in line]
    assert given and all(line.endswith('TO "reader";') for line in given)
    assert "ALL (ARRAY['reader']::name[])" in sql["shelf.sql"]
    assert " TO " not in sql["box.sql"] and "ALL (ARRAY[]::name[])" in sql["box.sql"]


def test_the_job_that_grants_has_the_owners_passwords_only(estate: Estate) -> None:
    pod = estate.get("Job", "postgres-grants")["spec"]["template"]["spec"]
    (users,) = (one["projected"] for one in pod["volumes"] if one["name"] == "users")
    assert [one["secret"]["name"] for one in users["sources"]] == ["postgres-keeper"]
    assert pod["securityContext"]["runAsUser"] == 26


def test_passwords_appear_in_secrets_only_and_marked(estate: Estate) -> None:
    for raw, item in zip(estate.raw, estate.objects, strict=True):
        if item["kind"] == "Secret":
            continue
        for password in PASSWORDS.values():
            assert password not in str(raw)
    auth = next(r for r in estate.raw if r.get("metadata", {}).get("name") == "pgpool-auth")
    assert SECRET in str(auth["stringData"])


def test_every_check_names_an_object_that_is_declared(estate: Estate) -> None:
    checks = [check for part in estate.parts for check in part.checks]
    assert {check.id for check in checks} == {
        "postgres.synchronous",
        "postgres.databases",
        "postgres.readers",
        "pgpool.write",
        "pgpool.password",
        "pgpool.nodes",
        "prometheus.targets",
        "prometheus.rules",
        "alertmanager.alert",
    }
    for check in checks:
        target = check.fault.target
        found = estate.get(target.kind, target.name)
        assert found["apiVersion"] == target.api_version
        assert found["metadata"].get("namespace") == target.namespace
        assert all(value not in str(check.json_object()) for value in PASSWORDS.values())


def test_a_fault_changes_its_target(estate: Estate) -> None:
    for part in estate.parts:
        for check in part.checks:
            before = estate.get(check.fault.target.kind, check.fault.target.name)
            after = copy.deepcopy(before)
            merge(after, check.fault.patch)
            assert after != before, check.id


def merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    """JSON merge patch (RFC 7396)."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value


def test_expected_pods_are_all_of_them(estate: Estate) -> None:
    expected = {pods.name: pods.count for part in estate.parts for pods in part.expected_pods}
    assert expected == {
        "prometheus-operator": 1,
        "cnpg-controller-manager": 1,
        "postgres": 3,
        "pgpool": 2,
        "prometheus": 1,
        "alertmanager": 1,
    }
