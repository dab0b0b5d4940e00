"""Backups for production: what each part is told, who it reaches, where its secrets are."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml
from pulumi.runtime.stack import wait_for_rpcs

from components.authority import Authority
from components.datalake import barman_cloud, cloudnative_pg
from components.datalake.backup_config import BackupConfig, PostgresBackup
from components.datalake.backup_store import BackupStore
from components.datalake.barman_cloud import BarmanCloud
from components.datalake.kafka_backup import KafkaBackup
from components.datalake.mongodb_backup import MongodbBackup
from components.datalake.operators_config import BarmanCloudConfig
from components.datalake.postgres import Postgres
from components.datalake.postgres_archive import PostgresArchive
from components.datalake.postgres_config import PostgresConfig
from components.flows import OUTSIDE, Flow, Pods
from components.model import Image
from components.monitoring.config import StateMetricsConfig
from components.monitoring.state_metrics import StateMetrics
from components.workload import Component
from policies.model import Subject, broken
from policies.rules import RULES
from stacks.context import manifest
from tests.unit.components.datalake.test_backup_config import STORE
from tests.unit.components.datalake.test_postgres_resources import Recorder, plain

RELEASE = "plugin-barman-cloud-0.15.0"
ACCESS, KEY, PASSWORD = "access-key-of-the-test", "secret-key-of-the-test", 'pass"word: of-the-test'
CA = "-----BEGIN CERTIFICATE-----\n"
CONFIG = BackupConfig.model_validate(
    {
        "store": STORE | {"endpoint": "https://s3.example.com:8443", "ca": CA},
        "postgres": {
            "server": "postgres-2",
            "recover": {"server": "postgres", "target_time": "2026-11-29 04:00:00+00"},
        },
        "mongodb": {"retention_days": 14},
        "kafka": {},
    }
)
POSTGRES = PostgresConfig.model_validate(
    {
        "owner": {"name": "app", "password": {"file": "app"}},
        "roles": [{"name": "monitor", "password": {"file": "monitor"}}],
    }
)


def image(name: str) -> Image:
    return Image(repository=f"registry.example/{name}", tag="1", digest="sha256:" + "a" * 64)


class Server(Component):
    """What the backups ask of a Kafka and of a MongoDB."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__("estate:test:Server", name)
        self.address = f"mongodb://{name}.datalake.svc.cluster.local:{port}/?tls=true&replicaSet=m"
        self.brokers = self.pods = Pods(name=name, namespace="datalake", selector={"app": name})
        self.port, self.ready = port, ()


class Made:
    def __init__(self) -> None:
        self.recorder = Recorder()
        self.parts: dict[str, Any] = {}

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [plain(one) for one in self.recorder.made]

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found = [o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        assert len(found) == 1, f"{len(found)} objects are {kind}/{name}"
        return found[0]

    def pod(self, name: str) -> dict[str, Any]:
        spec = self.get("CronJob", name)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        return dict(spec)

    def flows(self, part: str) -> list[Flow]:
        return list(self.parts[part].flows)


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    side = Made()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pulumi.runtime.set_mocks(side.recorder, preview=False)
    side.parts = compose()
    loop.run_until_complete(wait_for_rpcs())
    loop.close()
    yield side


def compose() -> dict[str, Any]:
    assert CONFIG.postgres and CONFIG.mongodb and CONFIG.kafka
    store = BackupStore(
        "backup-store",
        CONFIG.store,
        namespace="datalake",
        access_key=pulumi.Output.secret(ACCESS),
        secret_key=pulumi.Output.secret(KEY),
    )
    plugin = BarmanCloud(
        "barman-cloud",
        BarmanCloudConfig(),
        namespace="platform",
        image=image("plugin"),
        sidecar=image("sidecar"),
        objects=manifest(RELEASE),
        authority=Authority(),
    )
    archive = PostgresArchive(
        "postgres-archive", CONFIG.postgres, namespace="datalake", store=store, plugin=plugin.ready
    )
    postgres = Postgres(
        "postgres",
        POSTGRES,
        namespace="datalake",
        image=image("postgresql"),
        passwords={"app": "app-password", "monitor": "monitor-password"},
        authority=Authority(),
        archive=archive,
        monitors=[],
    )
    mongodb = MongodbBackup(
        "mongodb-backup",
        CONFIG.mongodb,
        namespace="datalake",
        mongodb=Server("mongodb", 27017),  # type: ignore[arg-type]
        password=pulumi.Output.secret(PASSWORD),
        store=store,
        image=image("mongo"),
        rclone=image("rclone"),
        monitors=[],
    )
    kafka = KafkaBackup(
        "kafka-backup",
        CONFIG.kafka,
        namespace="datalake",
        kafka=Server("kafka", 9093),  # type: ignore[arg-type]
        store=store,
        image=image("admin"),
        rclone=image("rclone"),
        monitors=[],
    )
    state = StateMetrics(
        "state-metrics",
        StateMetricsConfig(),
        namespace="monitoring",
        watched={"datalake": "datalake"},
        image=image("state"),
        authority=Authority(),
    )
    return {
        "plugin": plugin,
        "postgres": postgres,
        "mongodb": mongodb,
        "kafka": kafka,
        "state": state,
    }


def test_every_object_keeps_every_policy_and_no_key_leaves_its_secret(made: Made) -> None:
    waived = "protected-data"  # mocks do not tell what is protected
    found = [
        f"{rule.name}: {one['kind']} {one['metadata']['name']}: {finding.message}"
        for one in made.objects
        for rule in RULES
        for finding in broken(rule, Subject(one, False))
        if rule.name != waived
    ]
    assert not found
    others = json.dumps([one for one in made.objects if one["kind"] != "Secret"])
    assert not any(secret in others for secret in (ACCESS, KEY, "of-the-test"))


# -- PostgreSQL ------------------------------------------------------------------------------------


def test_wal_goes_to_the_archive_by_the_plugin(made: Made) -> None:
    spec = made.get("Cluster", "postgres")["spec"]
    (plugin,) = spec["plugins"]
    assert plugin["isWALArchiver"] is True and plugin["name"] == barman_cloud.PLUGIN
    store = made.get("ObjectStore", plugin["parameters"]["barmanObjectName"])["spec"]
    where = store["configuration"]
    assert where["destinationPath"] == "s3://estate/postgres"
    assert where["endpointURL"] == "https://s3.example.com:8443"
    assert store["retentionPolicy"] == "30d"
    data = made.get("Secret", "backup-store")["stringData"]
    keys = [where["endpointCA"], *where["s3Credentials"].values()]
    assert [data[one["key"]] for one in keys] == [CA, ACCESS, KEY]
    assert {one["name"] for one in keys} == {"backup-store"}


def test_a_base_backup_is_made_at_once_and_then_by_the_schedule(made: Made) -> None:
    spec = made.get("ScheduledBackup", "postgres")["spec"]
    assert spec["schedule"] == "0 0 1 * * *" and spec["immediate"] is True
    assert (spec["method"], spec["cluster"]) == ("plugin", {"name": "postgres"})


def test_a_recovered_cluster_reads_one_archive_and_writes_another(made: Made) -> None:
    spec = made.get("Cluster", "postgres")["spec"]
    assert spec["plugins"][0]["parameters"]["serverName"] == "postgres-2"
    assert "initdb" not in spec["bootstrap"]
    recovery = spec["bootstrap"]["recovery"]
    assert recovery["recoveryTarget"] == {"targetTime": "2026-11-29 04:00:00+00"}
    assert (recovery["database"], recovery["owner"]) == ("app", "app")
    (source,) = spec["externalClusters"]
    assert source["name"] == recovery["source"]
    assert source["plugin"]["parameters"]["serverName"] == "postgres"


def test_a_cluster_without_a_recovery_is_made_new() -> None:
    archive = PostgresArchive.__new__(PostgresArchive)
    archive.config, archive.object_name = PostgresBackup(), "a"
    assert set(archive.cluster_spec({})) == {"plugins"}


def test_instances_reach_the_store_and_ask_for_the_sidecars_share(made: Made) -> None:
    outside = [flow.ports for flow in made.flows("postgres") if flow.target == OUTSIDE]
    assert outside == [[8443]]
    (expected,) = made.parts["postgres"].expected_pods
    assert CONFIG.postgres is not None
    both = POSTGRES.resources.memory_request_mib + CONFIG.postgres.resources.memory_request_mib
    assert expected.resources.memory_request_mib == both


def test_the_operator_alone_calls_the_plugin(made: Made) -> None:
    callers = [flow.source for flow in made.flows("plugin") if flow.target == barman_cloud.PODS]
    assert callers == [cloudnative_pg.PODS]
    service = made.get("Service", "barman-cloud")["metadata"]
    assert service["namespace"] == "platform"
    assert service["labels"]["cnpg.io/pluginName"] == barman_cloud.PLUGIN
    mounted = made.get("Deployment", "barman-cloud")["spec"]["template"]["spec"]["volumes"]
    issued = {one["spec"]["secretName"] for one in made.objects if one["kind"] == "Certificate"}
    named = {
        service["annotations"]["cnpg.io/pluginClientSecret"],
        service["annotations"]["cnpg.io/pluginServerSecret"],
    }
    assert named == {one["secret"]["secretName"] for one in mounted} and named <= issued


def test_what_runs_beside_a_database_is_pinned(made: Made) -> None:
    (container,) = made.get("Deployment", "barman-cloud")["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "SIDECAR_IMAGE", "value": image("sidecar").ref}]
    assert not [o for o in made.objects if o["metadata"]["name"].startswith("plugin-barman-cloud-")
                and o["kind"] == "Secret"]  # fmt: skip


def test_the_dashboard_shows_what_the_alerts_judge(made: Made) -> None:
    (dashboard,) = made.parts["postgres"].dashboards
    assert "Age of the last backup" in [panel.title for panel in dashboard.health]
    assert "WAL that waits for the archive" in [panel.title for panel in dashboard.saturation]
    assert CONFIG.mongodb is not None
    (dashboard,) = made.parts["mongodb"].dashboards
    assert dashboard.health[0].red_from == CONFIG.mongodb.max_age_h * 3600


# -- dumps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "port"), [("mongodb", 27017), ("kafka", 9093)])
def test_a_dump_is_uploaded_after_it_is_whole(made: Made, part: str, port: int) -> None:
    spec = made.get("CronJob", f"{part}-backup")["spec"]
    assert (spec["concurrencyPolicy"], spec["timeZone"]) == ("Forbid", "Etc/UTC")
    pod = made.pod(f"{part}-backup")
    ((dump,), (upload,)) = pod["initContainers"], pod["containers"]
    assert (dump["name"], upload["name"]) == ("dump", "upload")
    env = {one["name"]: one["value"] for one in upload["env"]}
    assert (env["BUCKET"], env["PART"]) == ("estate", part)
    assert env["KEEP_DAYS"] == ("14" if part == "mongodb" else "30")
    seen = [{one["mountPath"] for one in container["volumeMounts"]} for container in (dump, upload)]
    assert "/scratch" in seen[0] & seen[1]
    # Keys of the store are none of the dump's business, and passwords none of the upload's.
    assert seen[0] & seen[1] == {"/scratch", "/tmp"}
    reached = {(str(flow.target), *flow.ports) for flow in made.flows(part)}
    server = Pods(name=part, namespace="datalake", selector={"app": part})
    assert reached == {(str(server), port), (OUTSIDE, 8443)}


def test_rclone_is_told_by_a_mounted_file(made: Made) -> None:
    data = made.get("Secret", "backup-store")["stringData"]
    lines = data["rclone.conf"].splitlines()
    assert lines[0] == "[store]" and f"secret_access_key = {KEY}" in lines
    pod = made.pod("mongodb-backup")
    (volume,) = [one["secret"] for one in pod["volumes"] if one["name"] == "store"]
    assert {one["key"] for one in volume["items"]} == {"rclone.conf", "ca.crt"}


def test_mongodumps_password_is_a_string_of_yaml(made: Made) -> None:
    data = made.get("Secret", "mongodump")["stringData"]
    assert yaml.safe_load(data["mongodump.yaml"]) == {"password": PASSWORD}
    (dump,) = made.pod("mongodb-backup")["initContainers"]
    words = dump["command"][-1]
    assert "mongodb://backup@mongodb.datalake" in words and "--oplog" in words


def test_kafkas_dump_has_all_the_code_that_it_imports(made: Made, tmp_path: Path) -> None:
    data = made.get("ConfigMap", "kafka-backup")["data"]
    pod = made.pod("kafka-backup")
    (volume,) = [one["configMap"] for one in pod["volumes"] if one["name"] == "code"]
    for item in volume["items"]:
        file = tmp_path / item["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(data[item["key"]])
    (dump,) = pod["initContainers"]
    assert dump["command"][1:3] == ["-m", "services.backup.messages"]
    found = subprocess.run(
        [sys.executable, "-c", "import services.backup.messages as m; print(m.__file__)"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(str(tmp_path))


def test_state_metrics_reads_jobs_and_nothing_else(made: Made) -> None:
    (role,) = [one for one in made.objects if one["kind"] == "Role"
               and one["metadata"]["name"] == "kube-state-metrics"]  # fmt: skip
    (rule,) = role["rules"]
    assert rule == {
        "apiGroups": ["batch"],
        "resources": ["cronjobs", "jobs"],
        "verbs": ["list", "watch"],
    }
    (endpoint,) = made.get("PodMonitor", "kube-state-metrics")["spec"]["podMetricsEndpoints"]
    assert endpoint["scheme"] == "https" and endpoint["honorLabels"] is True
