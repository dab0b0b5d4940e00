from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.console.config import ConsoleConfig
from components.console.rules import console_rules
from components.datalake.annotation_config import AnnotationConfig
from components.datalake.annotation_rules import annotation_rules, silence_s
from components.datalake.backup_config import CopyBackup, DumpBackup, PostgresBackup
from components.datalake.backup_job import job_rules
from components.datalake.ceph_config import CephConfig
from components.datalake.ceph_rules import alerts
from components.datalake.mongodb_config import MongodbConfig
from components.datalake.mongodb_operator import operator_rules
from components.datalake.mongodb_rules import mongodb_rules
from components.datalake.pgpool_config import PgpoolConfig
from components.datalake.pipeline_config import PipelineConfig
from components.datalake.pipeline_rules import pipeline_rules
from components.datalake.postgres_archive import METRICS, archive_rules
from components.datalake.postgres_config import PostgresConfig
from components.datalake.postgres_rules import pgpool_rules, postgres_rules
from components.datalake.strimzi_operator import strimzi_rules
from components.datalake.transfer_config import TransferConfig
from components.datalake.transfer_rules import transfer_rules
from components.model_repository.rules import model_repository_rules
from components.monitoring.config import DcgmConfig
from components.monitoring.dcgm_rules import dcgm_rules
from components.monitoring.rules import rules
from components.platform.certificate_rules import DAY_S, certificate_rules
from components.platform.keda import keda_rules
from components.realtime.collect_rules import collect_rules
from components.triton.config import TritonConfig
from components.triton.rules import serving_rules

POSTGRES = PostgresConfig.model_validate(
    {
        "owner": {"name": "app", "password": {"file": "postgres/app"}},
        "roles": [{"name": "monitor", "password": {"file": "postgres/monitor"}}],
    }
)
MONGODB = MongodbConfig.model_validate(
    {
        "users": [
            {
                "name": "verify",
                "password": {"file": "mongodb/verify"},
                "access": [{"database": "estate_verify"}],
            }
        ]
    }
)
PIPELINE = PipelineConfig.model_validate(
    {"users": [{"name": "verify", "password": {"file": "pipeline/verify"}}]}
)
CEPH = CephConfig.model_validate(
    {
        "fsid": "6c1f3d0e-5b7a-4d36-9a53-2f0f6d1c8e21",
        "keys": {"file": "ceph/keys"},
        "users": [{"name": "verify", "secret_key": {"file": "ceph/verify"}}],
        "buckets": [{"name": "estate-verify", "owner": "verify"}],
    }
)
ANNOTATION = AnnotationConfig.model_validate(
    {
        "host": "supervisely.example.com",
        "token": {"file": "annotation/token"},
        "team": "lake",
        "workspace": "cameras",
        "project": "estate",
        "classes": [{"name": "car", "shape": "rectangle"}],
    }
)
SERVING = TritonConfig.model_validate(
    {"pools": [{"name": "cpu", "autoscaling": {"max_replicas": 4, "queue_us": 1000}}]}
)
CEPH_OSD = 'ceph_osd_up{ceph_daemon="osd.1"}'
GROUPS = {
    "postgres": postgres_rules("postgres", "datalake", POSTGRES),
    "archive": archive_rules("postgres", "datalake", PostgresBackup(max_age_h=1)),
    "mongodb-backup": job_rules(
        "mongodb", DumpBackup(max_age_h=1), name="mongodb-backup", namespace="datalake"
    ),
    "kafka-backup": job_rules(
        "kafka", DumpBackup(max_age_h=1), name="kafka-backup", namespace="datalake"
    ),
    "models-backup": job_rules(
        "models", CopyBackup(max_age_h=1), name="model-registry-backup", namespace="serving"
    ),
    "pgpool": pgpool_rules("pgpool", "datalake", PgpoolConfig()),
    "collect": collect_rules("collect", "realtime"),
    "console": console_rules("console", "datalake", ConsoleConfig(own_issuer=True)),
    "ceph": alerts(CEPH),
    "strimzi": strimzi_rules(),
    "mongodb": mongodb_rules("mongodb", "datalake", MONGODB),
    "mongodb-operator": operator_rules(),
    "pipeline": pipeline_rules("datalake", PIPELINE),
    "transfer": transfer_rules("transfer", "datalake", TransferConfig()),
    "annotation": annotation_rules("annotation", "datalake", ANNOTATION),
    "model-registry": model_repository_rules("model-registry", "serving"),
    "monitoring": rules("monitoring"),
    "cert-manager": certificate_rules("platform"),
    "serving": serving_rules("serving", SERVING),
    "keda": keda_rules(),
    "dcgm": dcgm_rules(DcgmConfig()),
    "dcgm-profiling": dcgm_rules(DcgmConfig(profiling=True)),
}
INSTANCE = '{namespace="datalake", pod="postgres-1"}'
BACKED_UP = f"{METRICS}_last_available_backup_timestamp{INSTANCE}"
FAILED = f"{METRICS}_last_failed_backup_timestamp{INSTANCE}"
WAITING = (
    'cnpg_collector_pg_wal_archive_status{namespace="datalake", pod="postgres-1", value="ready"}'
)
DUMPED = "kube_cronjob_status_last_successful_time"
MADE = "kube_cronjob_created"
CRON = '{namespace="datalake", cronjob="mongodb-backup"}'
KAFKA_CRON = '{namespace="datalake", cronjob="kafka-backup"}'
MODELS_CRON = '{namespace="serving", cronjob="model-registry-backup"}'
ANNOTATION_POD = 'namespace="datalake", pod="annotation-a"'
ANNOTATION_UP = f'up{{{ANNOTATION_POD}, container="annotation"}}'
ANNOTATION_FAILED = f"annotation_run_failed{{{ANNOTATION_POD}}}"
ANNOTATION_ENDED = f"annotation_run_ended_timestamp_seconds{{{ANNOTATION_POD}}}"
ANNOTATION_DIFFERS = (
    f'annotation_differences{{{ANNOTATION_POD}, dataset="roads-0", kind="unknown_here"}}'
)
CONSOLE_UP = 'up{namespace="datalake", pod="console-a", container="console"}'
CONSOLE_BACKEND = 'console_backend_up{namespace="datalake", pod="console-a", backend="kafka"}'


COLLECT_POD = 'namespace="realtime", pod="collect-0"'
COLLECT_UP = f'up{{{COLLECT_POD}, container="collect"}}'


def collect(name: str) -> str:
    return f"collect_{name}{{{COLLECT_POD}}}"


def collected(result: str) -> str:
    return f'collect_messages_total{{{COLLECT_POD}, result="{result}"}}'


def spool(used: int | str) -> dict[str, int | str]:
    return {collect("spool_bytes"): used, collect("spool_limit_bytes"): 100_000}


def door(name: str) -> str:
    pod = f'namespace="serving", pod="model-registry-0", proxy="{name}"'
    return f'haproxy_server_status{{{pod}, server="{name}", state="UP"}}'


def answered(code: str) -> str:
    pod = 'namespace="serving", pod="model-registry-0", proxy="read"'
    return f'haproxy_frontend_http_responses_total{{{pod}, code="{code}"}}'


def expires(name: str) -> str:
    return f'certmanager_certificate_expiration_timestamp_seconds{{namespace="a", name="{name}"}}'


def renews(name: str) -> str:
    return f'certmanager_certificate_renewal_timestamp_seconds{{namespace="a", name="{name}"}}'


SERVERS = 'haproxy_backend_active_servers{namespace="serving", proxy="cpu-stable-http"}'
ROUND_AT = 'serving_round_timestamp_seconds{namespace="serving"}'
ASKED, FAILED_S = "request_success", "request_failure"
GPU = 'namespace="gpu", Hostname="gpu-0", gpu="0"'
GIVEN = ', exported_pod="triton-gpu-stable-a"'
DCGM_UP = 'up{namespace="gpu", job="gpu/dcgm-exporter"}'
KEDA_UP = 'up{namespace="autoscaling", job="autoscaling/keda-operator"}'
KEDA_ERRORS = (
    'keda_scaler_detail_errors_total{namespace="autoscaling", exported_namespace="serving", '
    'scaledObject="triton-cpu-stable"}'
)


def phase(name: str) -> str:
    return f'serving_phase_timestamp_seconds{{namespace="serving", model="digits", phase="{name}"}}'


def triton(name: str, model: str = "digits") -> str:
    return (
        f'nv_inference_{name}{{namespace="serving", pool="cpu", track="stable", model="{model}"}}'
    )


def answers(code: str) -> str:
    return (
        'haproxy_frontend_http_responses_total{namespace="serving", proxy="inference", '
        f'code="{code}"}}'
    )


def gpu(name: str, more: str = "") -> str:
    return f"{name}{{{GPU}{more}}}"


def rising(by: int) -> str:
    """A counter that rises by so many each minute."""
    return f"0+{by}"


def refused(model: str) -> str:
    return f'serving_model_refused{{namespace="serving", model="{model}"}}'


def memory(used: int, free: int, part: str = "") -> dict[str, int | str]:
    of = f', GPU_I_ID="{part}"' if part else ""
    return {gpu("DCGM_FI_DEV_FB_USED", of): used, gpu("DCGM_FI_DEV_FB_FREE", of): free}


def xid(number: int) -> str:
    return gpu("DCGM_EXP_XID_ERRORS_COUNT", f', xid="{number}"')


DATALAKE = '{namespace="datalake"}'


def lag() -> str:
    return 'pipeline_lag{namespace="datalake", topic="images.received"}'


def images(state: str) -> str:
    return f'pipeline_images{{namespace="datalake", state="{state}"}}'


def beat(daemon: str) -> str:
    return f'pipeline_daemon_heartbeat_timestamp_seconds{{namespace="datalake", daemon="{daemon}"}}'


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool on PATH: ./estate tools builds it, source <(./estate env)")
    return found


def test_promtool_accepts_every_group(promtool: str, tmp_path: Path) -> None:
    for name, found in GROUPS.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(json.dumps({"groups": [{"name": name, "rules": found}]}))
        done = subprocess.run(
            [promtool, "check", "rules", file], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{len(found)} rules found" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("group", "alert", "series", "fires"),
    [
        # A number that stays, or one that grows by so much a minute (`0+60`).
        ("model-registry", "ModelRegistryDown", {door("publish"): 1}, True),
        ("model-registry", "ModelRegistryDown", {door("read"): 1}, False),
        ("model-registry", "ModelRegistryTakesNothing", {door("read"): 1}, True),
        ("model-registry", "ModelRegistryTakesNothing", {door("publish"): 1}, False),
        ("model-registry", "ModelRegistryFails", {answered("5xx"): "0+1"}, True),
        ("model-registry", "ModelRegistryFails", {answered("5xx"): 7}, False),
        (
            "model-registry",
            "ModelRegistryRefuses",
            {answered("4xx"): "0+300", answered("2xx"): "0+6"},
            True,
        ),
        (
            "model-registry",
            "ModelRegistryRefuses",
            {answered("4xx"): "0+300", answered("2xx"): "0+300"},
            False,
        ),
        (
            "transfer",
            "TransferUploadsWait",
            {'transfer_unreceipted{namespace="datalake", pod="transfer-0"}': 3},
            True,
        ),
        (
            "transfer",
            "TransferUploadsWait",
            {'transfer_unreceipted{namespace="datalake", pod="transfer-0"}': 0},
            False,
        ),
        (
            "transfer",
            "TransferReplicasMissing",
            {
                'haproxy_server_status{namespace="datalake", pod="transfer-0", '
                'proxy="own", server="tusd", state="UP"}': 1
            },
            True,
        ),
        ("transfer", "TransferDown", {}, True),
        (
            "transfer",
            "TransferDown",
            {
                'haproxy_server_status{namespace="datalake", pod="transfer-0", '
                'proxy="own", server="tusd", state="UP"}': 1
            },
            False,
        ),
        (
            "transfer",
            "TransferDoesNotSweep",
            {'transfer_swept_timestamp_seconds{namespace="datalake", pod="transfer-0"}': 1},
            True,
        ),
        (
            "postgres",
            "PostgresNoPrimary",
            {'cnpg_pg_replication_in_recovery{namespace="datalake", pod="postgres-1"}': 1},
            True,
        ),
        (
            "postgres",
            "PostgresNoPrimary",
            {'cnpg_pg_replication_in_recovery{namespace="datalake", pod="postgres-1"}': 0},
            False,
        ),
        (
            "postgres",
            "PostgresStandbyNotStreaming",
            {'cnpg_pg_replication_streaming_replicas{namespace="datalake", pod="postgres-1"}': 1},
            True,
        ),
        (
            "postgres",
            "PostgresStandbyNotStreaming",
            {'cnpg_pg_replication_streaming_replicas{namespace="datalake", pod="postgres-1"}': 2},
            False,
        ),
        (
            "postgres",
            "PostgresNoSynchronousStandby",
            {'cnpg_pg_replication_streaming_replicas{namespace="datalake", pod="postgres-1"}': 0},
            True,
        ),
        (
            "pgpool",
            "PgpoolCannotWrite",
            {'sql_pgpool_writable{namespace="datalake", pod="pgpool-a"}': 1},
            False,
        ),
        (
            "pgpool",
            "PgpoolCannotWrite",
            {
                'sql_pgpool_writable{namespace="datalake", pod="pgpool-a"}': 1,
                'sql_exporter_last_scrape_failed{namespace="datalake", pod="pgpool-a", '
                'query="pgpool_writable"}': 1,
            },
            True,
        ),
        ("collect", "CollectDown", {"nothing": 1}, True),
        ("collect", "CollectDown", {COLLECT_UP: 0}, True),
        ("collect", "CollectDown", {COLLECT_UP: 1}, False),
        ("collect", "CollectNotSubscribed", {collect("mqtt_connected"): 0}, True),
        ("collect", "CollectNotSubscribed", {collect("mqtt_connected"): 1}, False),
        ("collect", "CollectSpools", {collect("spooling"): 1}, True),
        ("collect", "CollectSpools", {collect("spooling"): 0}, False),
        ("collect", "CollectSpoolFills", spool(26_000), True),
        ("collect", "CollectSpoolFills", spool(24_000), False),
        # 135 minutes after the start: 67,500 of 100,000, and 30,000 an hour; then 60,000 an hour.
        ("collect", "CollectSpoolFullWithinAnHour", spool("0+500"), False),
        ("collect", "CollectSpoolFullWithinAnHour", spool("0+600"), True),
        ("collect", "CollectSpoolFullWithinAnHour", spool(99_000), False),
        ("collect", "CollectSpoolFull", {collect("spool_full"): 1}, True),
        ("collect", "CollectSpoolFull", {collect("spool_full"): 0}, False),
        ("collect", "CollectSpoolDamaged", {collect("spool_damaged"): 1}, True),
        ("collect", "CollectSpoolDamaged", {collect("spool_damaged"): 0}, False),
        (
            "collect",
            "CollectMalformed",
            {collected("taken"): rising(97), collected("not-json"): rising(3)},
            True,
        ),
        (
            "collect",
            "CollectMalformed",
            {collected("taken"): rising(9990), collected("invalid"): rising(10)},
            False,
        ),
        # Nothing comes at all.
        ("collect", "CollectMalformed", {collected("taken"): 5, collected("invalid"): 5}, False),
        ("collect", "CollectGivenUp", {collect("readings_given_up_total"): rising(1)}, True),
        ("collect", "CollectGivenUp", {collect("readings_given_up_total"): 7}, False),
        ("console", "ConsoleDown", {CONSOLE_UP: 0}, True),
        ("console", "ConsoleDown", {CONSOLE_UP: 1}, False),
        ("console", "ConsoleReplicasMissing", {CONSOLE_UP: 1}, True),
        (
            "console",
            "ConsoleReplicasMissing",
            {CONSOLE_UP: 1, CONSOLE_UP.replace("console-a", "console-b"): 1},
            False,
        ),
        ("console", "ConsoleBackendAway", {CONSOLE_BACKEND: 0}, True),
        (
            "console",
            "ConsoleBackendAway",
            {CONSOLE_BACKEND: 0, CONSOLE_BACKEND.replace("console-a", "console-b"): 1},
            False,
        ),
        (
            "mongodb",
            "MongodbReplicasMissing",
            {
                'up{namespace="datalake", pod="mongodb-a"}': 1,
                'up{namespace="datalake", pod="mongodb-b"}': 0,
            },
            True,
        ),
        (
            "mongodb",
            "MongodbReplicasMissing",
            {f'up{{namespace="datalake", pod="mongodb-{pod}"}}': 1 for pod in "ab"},
            False,
        ),
        ("mongodb", "MongodbDown", {'up{namespace="datalake", pod="mongodb-a"}': 0}, True),
        ("mongodb", "MongodbDown", {'up{namespace="datalake", pod="mongodb-a"}': 1}, False),
        (
            "mongodb-operator",
            "MongodbOperatorDown",
            {'up{namespace="platform", job="platform/mongodb-kubernetes-operator"}': 1},
            False,
        ),
        ("mongodb-operator", "MongodbOperatorDown", {"nothing": 1}, True),
        ("ceph", "CephMetricsMissing", {"nothing": 1}, True),
        ("ceph", "CephMetricsMissing", {"ceph_health_status": 0}, False),
        ("ceph", "CephHealthError", {"ceph_health_status": 2}, True),
        ("ceph", "CephHealthError", {"ceph_health_status": 1}, False),
        ("ceph", "CephHealthWarning", {"ceph_health_status": 1}, True),
        ("ceph", "CephHealthWarning", {"ceph_health_status": 0}, False),
        ("ceph", "CephOsdDown", {CEPH_OSD: 0}, True),
        ("ceph", "CephOsdDown", {CEPH_OSD: 1}, False),
        ("ceph", "CephMonitorsOutOfQuorum", {"ceph_mon_quorum_status": 0}, True),
        ("ceph", "CephMonitorsOutOfQuorum", {"ceph_mon_quorum_status": 1}, False),
        ("ceph", "CephPlacementGroupsInactive", {"ceph_pg_total": 8, "ceph_pg_active": 7}, True),
        ("ceph", "CephPlacementGroupsInactive", {"ceph_pg_total": 8, "ceph_pg_active": 8}, False),
        (
            "ceph",
            "CephNearFull",
            {"ceph_cluster_total_used_bytes": 9, "ceph_cluster_total_bytes": 10},
            True,
        ),
        (
            "ceph",
            "CephNearFull",
            {"ceph_cluster_total_used_bytes": 7, "ceph_cluster_total_bytes": 10},
            False,
        ),
        (
            "strimzi",
            "StrimziNotReconciled",
            {'strimzi_resource_state{kind="Kafka", name="k", resource_namespace="datalake"}': 0},
            True,
        ),
        (
            "strimzi",
            "StrimziNotReconciled",
            {'strimzi_resource_state{kind="Kafka", name="k", resource_namespace="datalake"}': 1},
            False,
        ),
        # The clock of a rule test begins at 0 and is asked at 8,100 s.
        ("cert-manager", "CertificateExpiresSoon", {expires("kafka-tls"): 14 * DAY_S}, True),
        ("cert-manager", "CertificateExpiresSoon", {expires("kafka-tls"): 15 * DAY_S}, False),
        ("cert-manager", "CertificateExpiresSoon", {expires("kafka-tls"): 0}, False),
        ("cert-manager", "AuthorityExpiresSoon", {expires("estate-ca"): 89 * DAY_S}, True),
        ("cert-manager", "AuthorityExpiresSoon", {expires("estate-ca-2"): 89 * DAY_S}, True),
        ("cert-manager", "AuthorityExpiresSoon", {expires("estate-ca"): 91 * DAY_S}, False),
        ("cert-manager", "AuthorityExpiresSoon", {expires("kafka-tls"): 29 * DAY_S}, False),
        ("cert-manager", "CertificateRenewalOverdue", {renews("kafka-tls"): -DAY_S}, True),
        ("cert-manager", "CertificateRenewalOverdue", {renews("kafka-tls"): 1}, False),
        ("cert-manager", "CertificateRenewalOverdue", {renews("kafka-tls"): 0}, False),
        (
            "cert-manager",
            "CertificateNotReady",
            {'certmanager_certificate_ready_status{namespace="a", name="b", condition="False"}': 1},
            True,
        ),
        (
            "cert-manager",
            "CertificateNotReady",
            {'certmanager_certificate_ready_status{namespace="a", name="b", condition="True"}': 1},
            False,
        ),
        # No backup yet, which the plugin calls 0; one of a minute ago, by the other instance.
        ("archive", "PostgresBackupOld", {BACKED_UP: 0}, True),
        ("archive", "PostgresBackupOld", {BACKED_UP: 8000}, False),
        (
            "archive",
            "PostgresBackupOld",
            {BACKED_UP: 0, BACKED_UP.replace("postgres-1", "postgres-2"): 8000},
            False,
        ),
        ("archive", "PostgresBackupUnknown", {"nothing": 1}, True),
        ("archive", "PostgresBackupUnknown", {BACKED_UP: 0}, False),
        ("archive", "PostgresBackupFailed", {BACKED_UP: 10, FAILED: 20}, True),
        ("archive", "PostgresBackupFailed", {BACKED_UP: 20, FAILED: 10}, False),
        ("archive", "PostgresWalNotArchived", {WAITING: 17}, True),
        ("archive", "PostgresWalNotArchived", {WAITING: 16}, False),
        ("mongodb-backup", "BackupMongodbOld", {MADE + CRON: 0, DUMPED + CRON: 1}, True),
        ("mongodb-backup", "BackupMongodbOld", {MADE + CRON: 0, DUMPED + CRON: 8000}, False),
        # It never succeeded: its own age counts.
        ("mongodb-backup", "BackupMongodbOld", {MADE + CRON: 1}, True),
        ("mongodb-backup", "BackupMongodbOld", {MADE + CRON: 8000}, False),
        ("mongodb-backup", "BackupMongodbUnknown", {MADE + KAFKA_CRON: 1}, True),
        ("mongodb-backup", "BackupMongodbUnknown", {MADE + CRON: 1}, False),
        ("kafka-backup", "BackupKafkaOld", {MADE + KAFKA_CRON: 0, DUMPED + KAFKA_CRON: 1}, True),
        ("kafka-backup", "BackupKafkaOld", {MADE + KAFKA_CRON: 0, DUMPED + CRON: 8000}, True),
        (
            "models-backup",
            "BackupModelsOld",
            {MADE + MODELS_CRON: 0, DUMPED + MODELS_CRON: 1},
            True,
        ),
        (
            "models-backup",
            "BackupModelsOld",
            {MADE + MODELS_CRON: 0, DUMPED + MODELS_CRON: 8000},
            False,
        ),
        ("models-backup", "BackupModelsUnknown", {MADE + CRON: 1}, True),
        ("models-backup", "BackupModelsUnknown", {MADE + MODELS_CRON: 1}, False),
        ("annotation", "AnnotationDown", {"nothing": 1}, True),
        ("annotation", "AnnotationDown", {ANNOTATION_UP: 1}, False),
        ("annotation", "AnnotationFails", {ANNOTATION_FAILED: 1}, True),
        ("annotation", "AnnotationFails", {ANNOTATION_FAILED: 0}, False),
        ("annotation", "AnnotationStandsStill", {ANNOTATION_ENDED: 1}, True),
        (
            "annotation",
            "AnnotationStandsStill",
            {ANNOTATION_ENDED: 8100 - silence_s(ANNOTATION)},
            False,
        ),
        ("annotation", "AnnotationDiffers", {ANNOTATION_DIFFERS: 2}, True),
        ("annotation", "AnnotationDiffers", {ANNOTATION_DIFFERS: 0}, False),
        ("pipeline", "PipelineLags", {lag(): 5001}, True),
        ("pipeline", "PipelineLags", {lag(): 5000}, False),
        ("pipeline", "PipelineStandsStill", {lag(): 1, images("stored"): 7}, True),
        ("pipeline", "PipelineStandsStill", {lag(): 0, images("stored"): 7}, False),
        ("pipeline", "PipelineDaemonSilent", {beat("sensor"): 1}, True),
        ("pipeline", "PipelineDaemonSilent", {beat("sensor"): 8000}, False),
        (
            "pipeline",
            "PipelineMetricsStale",
            {f"pipeline_looked_timestamp_seconds{DATALAKE}": 8000},
            False,
        ),
        ("pipeline", "PipelineMetricsStale", {"up": 1}, True),
        ("serving", "ServingPoolDownCpu", {SERVERS: 0}, True),
        ("serving", "ServingPoolDownCpu", {"nothing": 1}, True),
        ("serving", "ServingPoolDownCpu", {SERVERS: 1}, False),
        ("serving", "ServingReplicasMissingCpu", {SERVERS: 1}, True),
        ("serving", "ServingReplicasMissingCpu", {SERVERS: 2}, False),
        (
            "serving",
            "ServingPoolFullCpu",
            {SERVERS: 4, triton("queue_duration_us"): rising(6001), triton(ASKED): rising(6)},
            True,
        ),
        (
            "serving",
            "ServingPoolFullCpu",
            {SERVERS: 4, triton("queue_duration_us"): rising(5999), triton(ASKED): rising(6)},
            False,
        ),
        (
            "serving",
            "ServingPoolFullCpu",
            {SERVERS: 3, triton("queue_duration_us"): rising(60_000), triton(ASKED): rising(6)},
            False,
        ),
        # Nobody asks: no time is waited, and none is divided by.
        (
            "serving",
            "ServingPoolFullCpu",
            {SERVERS: 4, triton("queue_duration_us"): 9000, triton(ASKED): 6},
            False,
        ),
        ("serving", "ServingModelRefused", {refused("a"): 1, refused("b"): 0}, True),
        ("serving", "ServingModelRefused", {refused("a"): 0}, False),
        # The clock of a rule test begins at 0 and is asked at 8,100 s.
        ("serving", "ServingRolloutHangs", {phase("golden"): 7400}, True),
        ("serving", "ServingRolloutHangs", {phase("golden"): 7600}, False),
        # Idle it may be for ever, and a step lasts as long as it is declared.
        ("serving", "ServingRolloutHangs", {phase("idle"): 0, phase("canary"): 0}, False),
        ("serving", "ServingControllerStopped", {ROUND_AT: 7900}, True),
        ("serving", "ServingControllerStopped", {"nothing": 1}, True),
        ("serving", "ServingControllerStopped", {ROUND_AT: 8100}, False),
        ("serving", "ServingFails", {triton(ASKED): rising(97), triton(FAILED_S): rising(3)}, True),
        (
            "serving",
            "ServingFails",
            {triton(ASKED): rising(9990), triton(FAILED_S): rising(10)},
            False,
        ),
        # All fail, so that none succeeds.
        ("serving", "ServingFails", {triton(ASKED): 0, triton(FAILED_S): rising(10)}, True),
        # The failures of one model are not lost among the requests of another.
        (
            "serving",
            "ServingFails",
            {
                triton(ASKED): rising(97),
                triton(FAILED_S): rising(3),
                triton(ASKED, "busy"): rising(100_000),
                triton(FAILED_S, "busy"): 0,
            },
            True,
        ),
        (
            "serving",
            "ServingGatewayFails",
            {answers("2xx"): rising(900), answers("5xx"): rising(100)},
            True,
        ),
        (
            "serving",
            "ServingGatewayFails",
            {answers("2xx"): rising(9990), answers("5xx"): rising(10), answers("4xx"): rising(99)},
            False,
        ),
        (
            "serving",
            "ServingQueues",
            {triton("queue_duration_us"): rising(60_000_000), triton(ASKED): rising(1000)},
            True,
        ),
        (
            "serving",
            "ServingQueues",
            {triton("queue_duration_us"): rising(6_000_000), triton(ASKED): rising(1000)},
            False,
        ),
        ("keda", "KedaDown", {"nothing": 1}, True),
        ("keda", "KedaDown", {KEDA_UP: 0}, True),
        ("keda", "KedaDown", {KEDA_UP: 1}, False),
        ("keda", "KedaTriggerFails", {KEDA_ERRORS: rising(1)}, True),
        ("keda", "KedaTriggerFails", {KEDA_ERRORS: 7}, False),
        ("dcgm", "GpuMetricsMissing", {"nothing": 1}, True),
        ("dcgm", "GpuMetricsMissing", {DCGM_UP: 0}, True),
        ("dcgm", "GpuMetricsMissing", {DCGM_UP: 1}, False),
        ("dcgm", "GpuError", {xid(79): 1}, True),
        # A program's own mistake, and none at all.
        ("dcgm", "GpuError", {xid(31): 2, xid(0): 9, gpu("DCGM_EXP_XID_ERRORS_COUNT"): 0}, False),
        ("dcgm", "GpuError", {xid(31): 2, xid(94): 1}, True),
        ("dcgm", "GpuMemoryBroken", {gpu("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"): rising(1)}, True),
        ("dcgm", "GpuMemoryBroken", {gpu("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"): 2}, False),
        ("dcgm", "GpuRowsNotReplaced", {gpu("DCGM_FI_DEV_ROW_REMAP_FAILURE"): 1}, True),
        ("dcgm", "GpuRowsNotReplaced", {gpu("DCGM_FI_DEV_ROW_REMAP_FAILURE"): 0}, False),
        ("dcgm", "GpuHot", {gpu("DCGM_FI_DEV_GPU_TEMP"): 86}, True),
        ("dcgm", "GpuHot", {gpu("DCGM_FI_DEV_GPU_TEMP"): 85}, False),
        ("dcgm", "GpuMemoryNearlyFull", memory(77, 3), True),
        ("dcgm", "GpuMemoryNearlyFull", memory(75, 5), False),
        # One slice of a GPU is full, the next to it is empty.
        ("dcgm", "GpuMemoryNearlyFull", {**memory(9, 0, "1"), **memory(0, 9, "2")}, True),
        ("dcgm", "GpuIdle", {gpu("DCGM_FI_DEV_GPU_UTIL", GIVEN): 0}, True),
        ("dcgm", "GpuIdle", {gpu("DCGM_FI_DEV_GPU_UTIL", GIVEN): 1}, False),
        # Nobody was given it.
        ("dcgm", "GpuIdle", {gpu("DCGM_FI_DEV_GPU_UTIL"): 0}, False),
        ("dcgm-profiling", "GpuIdle", {gpu("DCGM_FI_PROF_GR_ENGINE_ACTIVE", GIVEN): 0}, True),
        ("dcgm-profiling", "GpuIdle", {gpu("DCGM_FI_PROF_GR_ENGINE_ACTIVE", GIVEN): 1}, False),
        ("monitoring", "TargetDown", {'up{namespace="x", job="j", pod="p"}': 0}, True),
        ("monitoring", "TargetDown", {'up{namespace="x", job="j", pod="p"}': 1}, False),
    ],
)
def test_an_alert_fires_when_it_should_and_only_then(
    promtool: str,
    tmp_path: Path,
    group: str,
    alert: str,
    series: dict[str, int | str],
    fires: bool,
) -> None:
    rule = next(rule for rule in GROUPS[group] if rule["alert"] == alert)
    file = tmp_path / "rule.yaml"
    # Labels and summary are the rule's own business; whether it fires is what is asked here.
    bare: dict[str, Any] = {"alert": alert, "expr": f"count({rule['expr']})", "for": rule["for"]}
    file.write_text(json.dumps({"groups": [{"name": group, "rules": [bare]}]}))
    test = {
        "rule_files": [str(file)],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": f"{value}x160"} for name, value in series.items()
                ],
                "alert_rule_test": [
                    {
                        "eval_time": "135m",
                        "alertname": alert,
                        "exp_alerts": [{"exp_labels": {}}] if fires else [],
                    }
                ],
            }
        ],
    }
    script = tmp_path / "test.yaml"
    script.write_text(json.dumps(test))
    done = subprocess.run(
        [promtool, "test", "rules", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
