"""The backup of Nexus' blobs: where it runs, what it may do, what its script does and leaves."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pulumi
import pytest
from pulumi.runtime.stack import wait_for_rpcs

from components.datalake.backup_config import BackupStore as StoreConfig
from components.datalake.backup_config import CopyBackup
from components.datalake.backup_store import BackupStore
from components.flows import OUTSIDE, Pods
from components.model import Image
from components.model_repository.nexus import UID
from components.model_repository.nexus_backup import COPY, NexusBackup
from configs.schema import load
from policies.model import Subject
from stacks.backup import namespaces
from tests.policies import broken
from tests.rendering import ONPREM
from tests.unit.components.datalake.test_backup_config import STORE
from tests.unit.components.datalake.test_postgres_resources import Recorder, plain
from tests.unit.components.model_repository.test_registry import Made as Registries

NAME = "model-registry-backup"
KEY = "secret-key-of-the-test"
PODS = Pods(
    name="model-registry",
    namespace="serving",
    selector={"app.kubernetes.io/name": "model-registry", "app.kubernetes.io/part-of": "estate"},
)
CONFIG = CopyBackup(retention_days=40, max_age_h=28)


class Made:
    def __init__(self) -> None:
        recorder = Recorder()
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        pulumi.runtime.set_mocks(recorder, preview=False)
        nexus: Any = SimpleNamespace(
            claim="data-model-registry-0", pods=PODS, repository=SimpleNamespace(ready=[])
        )
        store = BackupStore(
            f"{NAME}-store",
            StoreConfig.model_validate(STORE),
            namespace="serving",
            access_key=pulumi.Output.secret("access-key-of-the-test"),
            secret_key=pulumi.Output.secret(KEY),
        )
        self.component = NexusBackup(
            NAME,
            CONFIG,
            namespace="serving",
            nexus=nexus,
            store=store,
            rclone=Image(
                repository="registry.example/rclone", tag="1", digest="sha256:" + "a" * 64
            ),
            monitors=[],
        )
        loop.run_until_complete(wait_for_rpcs())
        loop.close()
        self.objects: list[dict[str, Any]] = [plain(one) for one in recorder.made]

    def get(self, kind: str) -> dict[str, Any]:
        (found,) = [one for one in self.objects if one["kind"] == kind]
        return found

    def pod(self) -> dict[str, Any]:
        return dict(self.get("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"])


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    yield Made()


def test_every_object_keeps_every_policy_and_the_key_stays_in_its_secret(made: Made) -> None:
    assert not broken(Subject(one, False) for one in made.objects)
    assert {one["metadata"]["namespace"] for one in made.objects} == {"serving"}
    secret = made.get("Secret")
    assert (
        secret["metadata"]["name"] == "backup-store" and KEY in secret["stringData"]["rclone.conf"]
    )
    assert KEY not in json.dumps([one for one in made.objects if one["kind"] != "Secret"])


def test_it_runs_beside_nexus_as_its_user_and_only_reads_its_claim(made: Made) -> None:
    assert made.get("CronJob")["metadata"]["name"] == NAME
    pod = made.pod()
    (term,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"] == PODS.selector
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == UID
    (volume,) = [one for one in pod["volumes"] if "persistentVolumeClaim" in one]
    assert volume["persistentVolumeClaim"]["claimName"] == "data-model-registry-0"
    (upload,) = pod["containers"]
    assert "initContainers" not in pod
    mounts = {one["name"]: one for one in upload["volumeMounts"]}
    assert mounts["data"]["readOnly"] is True and mounts["store"]["readOnly"] is True
    labels = made.get("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    assert not labels.items() >= PODS.selector.items(), "Nexus' Service must not lead to it"


def test_the_claim_and_the_pods_are_those_of_nexus() -> None:
    nexus = Registries("nexus")
    (template,) = nexus.get("StatefulSet", "model-registry")["spec"]["volumeClaimTemplates"]
    assert nexus.component.claim == f"{template['metadata']['name']}-model-registry-0"
    assert nexus.component.pods.selector == PODS.selector


def test_it_reaches_the_store_and_nothing_else(made: Made) -> None:
    (flow,) = made.component.flows
    assert (flow.target, flow.ports) == (OUTSIDE, [443])
    assert (flow.source.name, flow.source.lasting) == (NAME, False)  # type: ignore[union-attr]


def test_its_age_is_judged_where_it_runs(made: Made) -> None:
    (group,) = made.get("PrometheusRule")["spec"]["groups"]
    rules = {one["alert"]: one["expr"] for one in group["rules"]}
    assert set(rules) == {"BackupModelsOld", "BackupModelsUnknown"}
    assert all(f'namespace="serving", cronjob="{NAME}"' in expr for expr in rules.values())
    (dashboard,) = made.component.dashboards
    assert (dashboard.name, dashboard.namespace) == (NAME, "serving")
    assert dashboard.health[0].red_from == CONFIG.max_age_h * 3600


def test_who_tells_ages_looks_where_the_jobs_are() -> None:
    assert namespaces(load(ONPREM).backup, None) == ["datalake", "serving"]
    assert namespaces(None, load(ONPREM).model_repository) == ["datalake"]


def run(made: Made, folder: Path, failing: str = "none") -> tuple[int, list[str]]:
    """The script with an rclone that writes down what it is asked, and fails at one command."""
    calls = folder / "calls"
    rclone = folder / "rclone"
    rclone.write_text(
        f'#!/bin/sh\necho "$*" >> {calls}\n[ "$1" != rcat ] || cat >> {calls}\n'
        f'[ "$1" != {failing} ]\n'
    )
    rclone.chmod(0o755)
    (upload,) = made.pod()["containers"]
    env = {one["name"]: one["value"] for one in upload["env"]}
    env["PATH"] = f"{folder}:{os.environ['PATH']}"
    done = subprocess.run(upload["command"], env=env, check=False)
    return done.returncode, calls.read_text(encoding="utf-8").splitlines()


def test_the_moment_of_the_records_is_before_the_copy_and_told_after_it(
    made: Made, tmp_path: Path
) -> None:
    status, (sync, rcat, moment, delete) = run(made, tmp_path)
    assert status == 0
    assert COPY.index("moment=") < COPY.index("rclone sync")
    assert sync.startswith("sync ") and sync.endswith(
        " /nexus-data/blobs store:estate/models/blobs"
    )
    assert "--backup-dir store:estate/models/deleted/2" in sync
    assert rcat == "rcat store:estate/models/records-until"
    # As backup.postgres.recover.target_time takes it.
    assert len(moment) == len("2026-11-29 04:00:00+00") and moment.endswith("+00")
    # Age by the file's own time would take at once what is old and was deleted today.
    assert delete == "delete --use-server-modtime --min-age 40d store:estate/models/deleted"


def test_a_copy_that_is_not_whole_tells_no_moment_and_deletes_nothing(
    made: Made, tmp_path: Path
) -> None:
    status, calls = run(made, tmp_path, failing="sync")
    assert status != 0 and [one.partition(" ")[0] for one in calls] == ["sync"]
