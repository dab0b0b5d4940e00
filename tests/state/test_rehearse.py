"""`./estate rehearse`: what a real control plane says of an environment's declaration.

No container runs, so it needs no right beyond a user's.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.schema import CONFIG_KEY, load
from rehearsal import paths
from tests.rendering import plain, render
from tests.state.estate import sources

ENVIRONMENT = "onprem"


def custom() -> dict[str, dict[str, Any]]:
    """One object of each custom resource kind of the environment."""
    groups = {body["kind"]: body["apiVersion"].partition("/")[0] for body in _objects()}
    kinds = [kind for kind, group in groups.items() if "." in group and "k8s.io" not in group]
    return {body["kind"]: body for body in _objects() if body["kind"] in kinds}


def _objects() -> list[dict[str, Any]]:
    return [plain(body) for body in render(ENVIRONMENT).objects()]


def estate(state: Path, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(root / "estate"), *arguments],
        env={**os.environ, "ESTATE_STATE": str(state)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="estate-"))
    try:
        yield folder
    finally:
        estate(folder, paths.root(), "down", "--name", f"rehearse-{ENVIRONMENT}")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sources of what is kept."""
    return tmp_path_factory.mktemp("onprem")


@pytest.fixture(scope="module")
def kept(state: Path, root: Path) -> dict[str, Any]:
    """The result of a rehearsal that is left running."""
    file, document, values = variant(root, ENVIRONMENT)
    # At the end it is destroyed.
    for part, declared in load(file):
        if hasattr(declared, "protect"):
            values.setdefault(part, {})["protect"] = False
    values["waivers"] = {"protected-data": "this environment is made to be destroyed"}
    file.write_text(yaml.safe_dump(document))
    done = estate(state, root, "rehearse", ENVIRONMENT, "--keep", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_is_accepted_stored_as_sent_and_scheduled(kept: dict[str, Any]) -> None:
    (digests,) = [row for row in kept["rows"] if row["state"] != "passed"]
    assert kept["ok"] and digests["id"] == "rehearse.digests" and digests["state"] == "skipped"
    ids = {row["id"] for row in kept["rows"]}
    assert {"rehearse.accepted", "estate.as-declared", "rehearse.budgets"} <= ids
    titles = " ".join(row["title"] for row in kept["rows"])
    for workload in ("datalake/postgres", "monitoring/prometheus", "platform/cert-manager"):
        assert workload in titles
    # What Strimzi's operator would make: stood in for, and placed in three zones.
    for pods in ("brokers", "controllers", "entity-operator", "cruise-control"):
        assert f"datalake/kafka-{pods}" in titles
    assert "datalake/mongodb" in titles and "datalake/annotation" in titles
    # Rook's, on the nodes that have disks, in three racks.
    for pods in ("mon", "mgr", "osd", "rgw", "mds"):
        assert f"storage/rook-ceph-{pods}" in titles
    for workload in ("transfer", "pipeline", "console", "pgpool"):
        assert f"datalake/{workload}" in titles
    assert {"containers", "operators", "secrets"} <= set(kept["not_rehearsed"])


def test_images_that_lack_a_digest_are_named(kept: dict[str, Any]) -> None:
    """What `pulumi up` would refuse."""
    (row,) = [row for row in kept["rows"] if row["id"] == "rehearse.digests"]
    named = row["detail"].partition(": ")[2].split(", ")
    assert {"rook_operator", "cephcsi", "pgpool", "tusd", "estate_console"} <= set(named)
    assert not {"postgresql", "cert_manager_acmesolver", "ferretdb"} & set(named)


def test_every_kind_of_the_data_lake_is_among_those_tried() -> None:
    assert {"Kafka", "KafkaNodePool", "KafkaTopic", "KafkaUser"} <= set(custom())
    assert {"Cluster", "Database", "MongoDBCommunity"} <= set(custom())
    assert {"ObjectStore", "ScheduledBackup"} <= set(custom())


def test_every_kind_of_rook_that_is_used_is_among_those_tried() -> None:
    assert {
        *("CephCluster", "CephBlockPool", "CephObjectStore", "CephObjectStoreUser"),
        *("CephFilesystem", "CephFilesystemSubVolumeGroup"),
        *("CephObjectRealm", "CephObjectZoneGroup", "CephObjectZone"),
    } <= set(custom())


def test_osds_are_placed_on_nodes_with_disks_alone(kept: dict[str, Any], state: Path) -> None:
    assert kept["ok"]
    asked = ("get", "pods", "--namespace", "storage", "--selector", "app=rook-ceph-osd")
    pods = json.loads(kubectl(state, *asked, "-o", "json", body={}).stdout)["items"]
    assert len(pods) == 24
    assert {pod["spec"]["nodeName"].rpartition("-")[0][:7] for pod in pods} == {"storage"}
    asked = ("get", "nodes", "--selector", "topology.rook.io/rack", "-o", "json")
    nodes = json.loads(kubectl(state, *asked, body={}).stdout)["items"]
    racks = {node["metadata"]["labels"]["topology.rook.io/rack"] for node in nodes}
    assert racks == {"rack-a", "rack-b", "rack-c"}


@pytest.mark.parametrize("kind", sorted(custom()))
def test_a_mistyped_field_of_a_custom_resource_is_refused(
    kept: dict[str, Any], state: Path, kind: str
) -> None:
    sent = custom()[kind]
    asked = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-")
    stored = kubectl(state, *asked, "-o", "json", body=sent)
    assert stored.returncode == 0, stored.stderr
    assert not lost(sent["spec"], json.loads(stored.stdout)["spec"])
    mistyped = copy.deepcopy(sent)
    mistyped["spec"]["estateTypo"] = 1
    refused = kubectl(state, *asked, body=mistyped)
    assert refused.returncode != 0 and "estateTypo" in refused.stderr


def kubectl(
    state: Path, *arguments: str, body: Mapping[str, Any]
) -> subprocess.CompletedProcess[str]:
    folder = state / f"rehearse-{ENVIRONMENT}"
    return subprocess.run(
        [str(folder / "bin" / "kubectl"), *arguments],
        env={**os.environ, "KUBECONFIG": str(folder / "kubeconfig")},
        input=json.dumps(body),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def lost(sent: Any, stored: Any) -> bool:
    """Whether something that was sent is not in what is stored, which may have defaults beside."""
    if isinstance(sent, dict):
        return not isinstance(stored, dict) or any(
            lost(value, stored.get(key)) for key, value in sent.items()
        )
    if isinstance(sent, list):
        return len(sent) != len(stored) or any(
            lost(*pair) for pair in zip(sent, stored, strict=True)
        )
    return bool(sent != stored)


def variant(folder: Path, name: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """A copy of the sources: the file for another environment, its document and its values."""
    file = sources(folder) / "configs" / f"Pulumi.{ENVIRONMENT}.yaml"
    document = yaml.safe_load(file.read_text())
    return file.with_name(f"Pulumi.{name}.yaml"), document, document["config"][CONFIG_KEY]


def test_what_cannot_be_scheduled_or_admitted_is_named(state: Path, tmp_path: Path) -> None:
    """Three faults in one environment: GPUs, zones, quota."""
    file, document, values = variant(tmp_path, "broken")
    for pool in values["nodes"]:
        pool["zones"] = ["rack-a", "rack-b"]  # for three instances, each in a zone of its own
    values["monitoring"]["prometheus"]["resources"]["gpus"] = 8  # of 3 in any node
    small = {"cpu_request_m": 15, "memory_request_mib": 4096}
    values["namespaces"]["quotas"]["platform"] = small
    file.write_text(yaml.safe_dump(document))
    done = estate(state, tmp_path, "rehearse", "broken", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    rows = {row["title"]: row for row in json.loads(done.stdout)["rows"]}
    failed = {title.split()[1]: row["detail"] for title, row in rows.items() if bad(row)}
    assert "anti-affinity" in failed["datalake/postgres"]
    assert "Insufficient nvidia.com/gpu" in failed["monitoring/prometheus"]
    assert "exceeded quota" in failed["platform/cert-manager"]
    assert "monitoring/alertmanager" not in failed
    assert not (state / "rehearse-broken").exists()
    logs = Path(done.stderr.partition("its logs are kept in ")[2].split()[0])
    assert {"kube-apiserver.log", "kube-scheduler.log"} <= {file.name for file in logs.iterdir()}


def test_a_field_that_the_program_mistypes_is_named_in_the_result(
    state: Path, tmp_path: Path
) -> None:
    file, document, _ = variant(tmp_path, "typo")
    file.write_text(yaml.safe_dump(document))
    workload = tmp_path / "components" / "workload.py"
    correct = workload.read_text()
    workload.write_text(correct.replace('"secretName": name,', '"secretNam": name,'))
    assert workload.read_text() != correct
    done = estate(state, tmp_path, "rehearse", "typo", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    row, *others = json.loads(done.stdout)["rows"]
    assert row["id"] == "rehearse.accepted" and row["state"] == "failed"
    assert {other["state"] for other in others} <= {"failed"}
    assert "-certificate: " in row["detail"]
    assert ".spec.secretNam: field not declared in schema" in row["detail"]


def test_up_destroy_up_leaves_nothing_terminating(
    kept: dict[str, Any], state: Path, root: Path
) -> None:
    """No operator runs here, so this is also the end of an estate whose operators are dead."""
    assert kept["ok"]
    for action in ("destroy", "up", "destroy"):
        done = pulumi(state, root, action)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        found = kubectl(state, "get", "namespaces", "-o", "json", body={})
        spaces = {n["metadata"]["name"]: n["status"] for n in json.loads(found.stdout)["items"]}
        assert {one["phase"] for one in spaces.values()} == {"Active"}, spaces
        assert ("datalake" in spaces) == (action == "up")


def pulumi(state: Path, root: Path, action: str) -> subprocess.CompletedProcess[str]:
    """`pulumi up` or `pulumi destroy` of a kept rehearsal, as a person at its shell would."""
    command = f"""source <(./estate env --name rehearse-{ENVIRONMENT}) && cd {root} &&
        exec pulumi {action} --stack {ENVIRONMENT} --yes --skip-preview --non-interactive"""
    return subprocess.run(
        ["bash", "-c", command],
        cwd=root,
        env={**os.environ, "ESTATE_STATE": str(state)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def bad(row: Mapping[str, Any]) -> bool:
    return bool(row["state"] == "failed" and "/" in row["title"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("local", "is itself a rehearsal"),
        ("nowhere", "no such file; environments here: local, onprem"),
        ("../onprem", "ENVIRONMENT: '../onprem'; use the middle of configs/Pulumi.<name>.yaml"),
    ],
)
def test_another_name_is_refused_in_one_line(state: Path, name: str, words: str) -> None:
    done = estate(state, paths.root(), "rehearse", name)
    assert done.returncode in (1, 2) and words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
