"""A rehearsal's whole life: up, proof, use, faults, repair, down. The tests build on each other.

They need what a real node needs (root, namespaces, cgroups); elsewhere they say so and are skipped.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import urllib3
import yaml
from PIL import Image

from components.platform.namespaces import NAMESPACES
from configs.schema import CONFIG_KEY, load, secret_refs
from rehearsal import credentials, doctor, paths
from rehearsal.processes import wait_for
from rehearsal.verify import DRIFT, HOSTS, READY
from tests.rendering import plain, render
from tests.state import snapshot
from tests.state.canary import Canary, Watch
from tests.state.estate import Estate, failed, sources

NAME = "test"
_OPERATORS_ELSEWHERE = (
    *("barmancloud.cnpg.io", "ceph.rook.io"),
    *("kafka.strimzi.io", "keda.sh", "mongodbcommunity.mongodb.com"),
)
_POSSIBLE, _REASON = doctor.containers_possible()

pytestmark = pytest.mark.skipif(not _POSSIBLE, reason=f"no real node here: {_REASON}")


@pytest.fixture(scope="module")
def estate() -> Iterator[Estate]:
    # Paths of Unix sockets end at 108 characters, so no folder of pytest's.
    state = Path(tempfile.mkdtemp(prefix="estate-"))
    made = Estate(state, NAME, snapshot.take(str(state)))
    try:
        yield made
    finally:
        made.start("down").communicate(timeout=120)
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="module")
def canary(estate: Estate) -> Canary:
    """Every secret of the environment, planted where `up` would make it."""
    environment = load(paths.root() / "configs" / "Pulumi.local.yaml")
    files = {str(ref.file) for _, ref in secret_refs(environment) if ref.file}
    folder = estate.folder / "secrets"
    credentials.ensure(folder, sorted(files))
    # What is public has a private half beside it, which is not.
    names = {name.removesuffix(credentials.PUBLIC) for name in files}
    planted = {name: (folder / name).read_text().strip() for name in names}
    # A repeated `up` keeps it; a first one makes it, after this.
    passphrase = estate.folder / "pulumi" / "passphrase"
    if not passphrase.exists():
        passphrase.parent.mkdir(parents=True, exist_ok=True)
        passphrase.touch(mode=0o600)
        passphrase.write_text(secrets.token_urlsafe(32))
    planted["pulumi/passphrase"] = passphrase.read_text().strip()
    return Canary(planted)


@pytest.fixture(scope="module")
def watch(estate: Estate, canary: Canary) -> Iterator[Watch]:
    """All processes, looked at again and again until the last test."""
    with Watch(canary) as watching:
        yield watching


@pytest.fixture(scope="module")
def up(estate: Estate, watch: Watch) -> Estate:
    """The rehearsal, green; every test starts from here."""
    estate("up", seconds=900)
    return estate


def test_up_ends_green_and_verify_agrees(up: Estate) -> None:
    rows = up.settles(240)
    components = {row["id"].partition(".")[0] for row in rows}
    assert {"mosquitto", "kafka", "pgpool", "prometheus", "estate", "host"} <= components


def test_second_up_changes_nothing(up: Estate) -> None:
    done = up("up")
    assert "unchanged" in done.stdout + done.stderr
    for word in (" created", " updated", " replaced", " deleted"):
        assert f"{word}\n" not in done.stdout, done.stdout


def test_preview_of_a_changed_memory_limit_shows_that_change_only(
    up: Estate, tmp_path: Path
) -> None:
    for part in ("components", "configs", "model_repo", "policies", "services", "stacks"):
        shutil.copytree(paths.root() / part, tmp_path / part)
    shutil.copy(paths.root() / "Pulumi.yaml", tmp_path)
    environment = tmp_path / "configs" / "Pulumi.local.yaml"
    document = yaml.safe_load(environment.read_text())
    values = document["config"]["estate:environment"]
    values["mosquitto"]["resources"] = {"memory_limit_mib": 333}
    environment.write_text(yaml.safe_dump(document))
    # As its users know it: the shell lines of `estate env`, then pulumi itself.
    command = f"{up('env').stdout}\nexec pulumi preview --stack local --json --diff"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads(done.stdout)["steps"]
    different = [step for step in steps if step["op"] not in ("same", "read")]
    assert [step["op"] for step in different] == ["update"], different
    assert "StatefulSet::mosquitto" in different[0]["urn"]
    assert all("resources.limits.memory" in path for path in different[0]["detailedDiff"])


def test_what_is_changed_or_deleted_by_hand_is_named(up: Estate) -> None:
    budget = json.loads(up.kubectl("get", "pdb", "-A", "-o", "json"))["items"][0]["metadata"]
    where = f"{budget['namespace']}/{budget['name']}"
    saved = up.kubectl("get", "pdb", "-n", budget["namespace"], budget["name"], "-o", "yaml")
    up.kubectl("scale", "-n", "datalake", "statefulset/pgpool", "--replicas=3")
    up.kubectl("delete", "pdb", "-n", budget["namespace"], budget["name"])
    try:
        titles = {row["title"]: row["detail"] for row in up.rows("estate.as-declared", code=1)}
    finally:
        up.kubectl("scale", "-n", "datalake", "statefulset/pgpool", "--replicas=2")
        file = up.state / "budget.yaml"
        file.write_text(saved)
        up.kubectl("create", "-f", str(file))
    assert "spec.replicas is 3, declared 2" in titles["StatefulSet datalake/pgpool"]
    assert titles[f"PodDisruptionBudget {where}"] == "deleted by hand"
    assert not failed(up.rows("estate.as-declared"))


def test_the_pages_that_status_names_answer_on_loopback(up: Estate) -> None:
    pages = json.loads(up("status", "--json").stdout)["pages"]
    assert set(pages) == {"prometheus", "alertmanager"}
    authority = up.kubectl(
        *("get", "configmap", "-n", "monitoring", "estate-ca", "-o", r"jsonpath={.data.ca\.crt}")
    )
    with tempfile.NamedTemporaryFile("w", suffix=".crt") as file:
        file.write(authority)
        file.flush()
        for name, path, words in (
            ("prometheus", "/query", "<title>"),
            ("prometheus", "/-/healthy", "Healthy"),
            ("alertmanager", "/-/healthy", "OK"),
        ):
            # The certificate is for the name inside the cluster.
            connection = urllib3.HTTPSConnectionPool(
                "127.0.0.1",
                int(pages[name].rpartition(":")[2]),
                ca_certs=file.name,
                assert_hostname=f"{name}.monitoring.svc",
            )
            answer = connection.request("GET", path, retries=False)
            assert answer.status == 200 and words in answer.data.decode(), (name, answer.data)


def test_unknown_check_is_refused_with_the_known_ones(up: Estate) -> None:
    done = up("verify", "--only", "kafka.nonsense", code=2)
    assert "kafka.nonsense" in done.stderr and "kafka.produce-consume" in done.stderr


def test_demo_accounts_for_every_message(up: Estate) -> None:
    up("demo", "--messages", "100", "--rate", "50")


def test_the_api_server_takes_what_another_environment_declares(up: Estate) -> None:
    """A server-side dry run of `onprem`: schemas, admission and operators' webhooks are real.

    Kinds of operators that do not run here are unknown, and so are the namespaces of Rook, KEDA
    and GPUs; `rehearse onprem` tries them.
    """
    objects = [
        plain(body)
        for body in render("onprem").objects()
        if body["apiVersion"].partition("/")[0] not in _OPERATORS_ELSEWHERE
        and body["metadata"].get("namespace") in (None, "kube-system", *NAMESPACES)
    ]
    for body in objects:
        # Else the step from here to there is judged: by a webhook, and some cannot change.
        if body["kind"] in ("Cluster", "Job", "StatefulSet"):
            body["metadata"]["name"] += "-another"
    file = up.state / "onprem.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    dry = ("--server-side", "--dry-run=server", "--force-conflicts")
    taken = up.kubectl("apply", *dry, "-f", str(file)).splitlines()
    assert len(taken) == len(objects) > 100
    spoilt = [body for body in objects if body["kind"] == "Prometheus"]
    spoilt[0]["spec"]["replicas"] = "two"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": spoilt}))
    with pytest.raises(subprocess.CalledProcessError):
        up.kubectl("apply", *dry, "-f", str(file))


@pytest.mark.parametrize("command", [("drill", "mosquitto"), ("bench",)], ids=lambda c: c[0])
def test_drill_and_bench_write_figures_with_the_commit(
    up: Estate, command: tuple[str, ...], tmp_path: Path
) -> None:
    up(*command, "--out", str(tmp_path / "figures.json"))
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["kind"] == command[0] and {"commit", "machine", "at"} <= set(found)
    if command[0] == "drill":
        (drill,) = found["drills"]
        assert drill["acknowledged"] > 0 and drill["lost"] == 0 and drill["green"]
    else:
        figures = found["figures"]
        rates = [figures["kafka"]["produce_acks_all_per_s"], figures["kafka"]["consume_per_s"]]
        assert min(rates) > 0 and figures["postgres"]["pool_p50_ms"] > 0


def test_killed_processes_are_named_and_repaired(up: Estate) -> None:
    for name in ("kubelet", "kube-apiserver"):
        up.process(name).kill()
    assert "kube-apiserver" in up("status", code=1).stderr
    assert {"kubelet", "kube-apiserver"} <= {row["id"] for row in up.rows(code=1)}
    up("up")
    up.settles(120)


def test_an_interrupted_proof_is_restored(up: Estate) -> None:
    proof = up.start("verify", "--prove", "--only", "mosquitto.acl")
    journal = up.folder / "prove.json"
    assert wait_for(journal.exists, 60), "the proof broke nothing"
    # Kill what wrote the journal, whatever launched it.
    psutil.Process(json.loads(journal.read_text())["pid"]).kill()
    proof.communicate(timeout=30)
    done = up("verify", "--only", "estate.as-declared")
    assert "mosquitto.acl" in done.stderr, "what was restored is not named"
    assert not journal.exists()


def test_every_check_is_proven_able_to_fail(up: Estate) -> None:
    up("up")
    proofs = json.loads(up("verify", "--prove", "--json", seconds=900).stdout)["proofs"]
    assert {proof["id"] for proof in proofs if not proof["ok"]} == set()
    assert len(proofs) >= 10
    assert {*HOSTS, DRIFT, READY} <= {proof["id"] for proof in proofs}


def test_a_second_rehearsal_killed_as_it_comes_up_converges_beside_the_first(
    up: Estate, tmp_path: Path
) -> None:
    """Of the message broker alone: two whole estates are too much for a small machine."""
    root = sources(tmp_path / "second")
    file = root / "configs" / "Pulumi.local.yaml"
    document = yaml.safe_load(file.read_text())
    values = document["config"][CONFIG_KEY]
    kept = {"waivers", "images", "namespaces", "network", "cert_manager", "pki", "mosquitto"}
    document["config"][CONFIG_KEY] = {key: values[key] for key in kept}
    file.write_text(yaml.safe_dump(document))
    second = replace(up, name="second", root=root)
    with ExitStack() as after:
        after.callback(second, "down")
        fresh = second.start("up")
        after.callback(fresh.kill)
        assert wait_for(lambda: _deploying(second), 400), "nothing was deployed"
        fresh.kill()
        fresh.wait(10)
        second("up", seconds=900)
        for one in (up, second):
            one.settles(300)
        assert second.folder != up.folder
        # Also `down` ends what a killed `up` left running: Pulumi, which has something to put back.
        second.kubectl("delete", "networkpolicies", "--all", "-n", "realtime")
        again = second.start("up")
        after.callback(again.kill)
        assert wait_for(lambda: second.runs("pulumi"), 240), "no pulumi was started"
    up.settles(180)


def _deploying(estate: Estate) -> bool:
    """Whether `pulumi up` has made its first workload."""
    try:
        return "cert-manager" in estate.kubectl(
            "get", "deployments", "-n", "platform", "-o", "name"
        )
    except (OSError, subprocess.CalledProcessError):
        return False


def test_the_lake_comes_up_beside_the_core_and_judges_images(up: Estate, tmp_path: Path) -> None:
    up("up", "--profile", "lake", seconds=1800)
    components = {row["id"].partition(".")[0] for row in up.settles(300)}
    assert {"ceph", "mongodb", "transfer", "pipeline", "console"} <= components
    says = json.loads(up("status", "--json").stdout)["health"]
    assert says == {"ceph": "HEALTH_OK", "postgres": "Cluster in healthy state"}
    Image.effect_noise((64, 48), 80).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:-200])
    (tmp_path / "mistyped.jpg").write_bytes((tmp_path / "good.png").read_bytes())
    told = json.loads(up("upload", "--json", str(tmp_path), code=1).stdout)
    assert (told["received"], told["quarantined"], told["uploads_failed"]) == (1, 2, 0)
    reasons = {image["name"]: image.get("reason") for image in told["images"]}
    assert reasons["cut.png"] != reasons["mistyped.jpg"] and reasons["good.png"] is None


def test_models_are_served_beside_the_lake_and_replaced_under_load(up: Estate) -> None:
    up("up", "--profile", "serving", seconds=1800)
    components = {row["id"].partition(".")[0] for row in up.settles(300)}
    assert {"model-registry", "serving"} <= components
    # The four frameworks on one server, each answer compared with the golden set.
    for model in ("digits-onnx", "digits-pytorch", "digits-tensorflow", "digits-tflite"):
        up("model", "load", model, "--rate", "20", "--for", "3")
    up("drill", "serving-promote", seconds=600)


def test_no_secret_was_ever_in_a_process_list_or_environment(up: Estate, watch: Watch) -> None:
    """From the first `up` on: checks, proofs, demo, drill, bench, a second rehearsal, the lake."""
    assert watch.found == {}
    assert watch.samples > 500


def test_no_secret_is_in_state_logs_settings_or_what_was_said(up: Estate, canary: Canary) -> None:
    """All files but those that hold secrets by design: Kubernetes' own store and mounts."""
    mine = [up.folder / name for name in ("secrets", "kwok", "node", "volumes", "bin")]
    mine += [up.folder / "pulumi" / name for name in ("home", "passphrase")]
    assert canary.files(up.folder, mine) == {}
    assert list((up.folder / "pulumi" / "state").rglob("local.json")), "no state was looked at"
    assert len(up.said) > 20 and canary.inside("\n".join(up.said).encode()) == set()


def test_down_leaves_nothing_behind(up: Estate) -> None:
    up("down")
    assert not list(up.state.glob(f"*{NAME}*"))
    assert snapshot.differences(up.before, snapshot.take(str(up.state))) == []
