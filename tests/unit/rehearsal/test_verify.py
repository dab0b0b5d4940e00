"""verify without a rehearsal: choosing, comparing, taking back, asking."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import pytest

from rehearsal import drift, journal, verify, workloads
from rehearsal.errors import UsageError
from rehearsal.kube import Api, ApiError, Object
from tests.state import probes

SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}


def state(inputs: Object, **more: Any) -> list[Object]:
    resource = {"type": f"kubernetes:x:{inputs.get('kind')}", "custom": True, "inputs": inputs}
    return [{**resource, **more}]


def deployment(**spec: Any) -> Object:
    metadata = {"name": "pool", "namespace": "lake", "annotations": {"pulumi.com/skipAwait": "1"}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


class Server:
    """Answers a dry run as the API server does for the one normalisation used here."""

    def __init__(self, live: Object | None, error: ApiError | None = None) -> None:
        self.live, self.error = live, error

    def dry_apply(self, body: Object) -> Object:
        if self.error:
            raise self.error
        text = json.dumps(merged(self.live, body)).replace('"1000m"', '"1"')
        return cast(Object, json.loads(text))


def compare(declared: Object, live: Object | None, error: ApiError | None = None) -> str:
    item = drift.declared(state(declared))[0]
    return drift.compare(cast(Api, Server(live, error)), item, live)


def test_as_declared_is_no_drift_whatever_controllers_added() -> None:
    live = deployment(replicas=2, revisionHistoryLimit=10)
    live["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "1"}
    live["status"] = {"readyReplicas": 2}
    assert compare(deployment(replicas=2), live) == ""


@pytest.mark.parametrize(
    ("live", "words"),
    [
        (None, "deleted by hand"),
        (deployment(replicas=0), "changed by hand: spec.replicas is 0, declared 2"),
        (deployment(), "changed by hand: spec.replicas removed"),
    ],
)
def test_a_change_is_named_with_its_property(live: Object | None, words: str) -> None:
    assert compare(deployment(replicas=2), live) == words


def test_an_object_about_to_go_is_named() -> None:
    live = deployment(replicas=2)
    live["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert compare(deployment(replicas=2), live) == "is being deleted"


def test_what_only_the_server_writes_otherwise_is_no_drift() -> None:
    assert compare(deployment(cpu="1000m"), deployment(cpu="1")) == ""
    assert "cpu" in compare(deployment(cpu="1000m"), deployment(cpu="2"))


def test_a_refused_dry_run_falls_back_to_the_letter_but_silence_does_not() -> None:
    refused = ApiError(400, "no dry run")
    live = deployment(replicas=0, extra=1)
    assert "spec.replicas is 0" in compare(deployment(replicas=2), live, refused)
    for silent in (ApiError(0, "no answer"), ApiError(500, "failed calling webhook")):
        with pytest.raises(ApiError):
            compare(deployment(replicas=2), live, silent)


def test_what_kubectl_added_is_named() -> None:
    live = deployment(replicas=2, paused=True)
    fields: Object = {"f:spec": {"f:replicas": {}, "f:paused": {}}}
    live["metadata"]["managedFields"] = [
        {"manager": "kubectl-edit", "operation": "Update", "fieldsV1": fields},
        {"manager": "kube-controller-manager", "fieldsV1": {"f:metadata": {"f:labels": {}}}},
    ]
    assert compare(deployment(replicas=2), live) == "changed by hand: spec.paused added"


def test_list_items_of_kubectl_are_found_by_their_keys() -> None:
    ports = [{"containerPort": 1, "name": "a"}]
    live = deployment(ports=[*ports, {"containerPort": 2}])
    keys: Object = {f'k:{{"containerPort":{n},"protocol":"TCP"}}': {".": {}} for n in (1, 2)}
    live["metadata"]["managedFields"] = [
        {"manager": "kubectl-patch", "fieldsV1": {"f:spec": {"f:ports": keys}}}
    ]
    assert compare(deployment(ports=ports), live).endswith("spec.ports[2] added")


def test_a_sealed_secret_is_compared_and_what_is_beside_it_asked_of_the_server() -> None:
    want = deployment(cpu="1000m", token={**SECRET, "plaintext": json.dumps("hunter2")})
    (item,) = drift.unseal(drift.seal(drift.declared(state(want)), b"key"), b"key")
    assert "hunter2" not in json.dumps(item.body)

    def said(live: Object) -> str:
        return drift.compare(cast(Api, Server(live)), item, live)

    assert said(deployment(cpu="1", token="hunter2")) == ""
    assert said(deployment(cpu="1", token="hunter3")) == "changed by hand: spec.token"
    assert said(deployment(cpu="2", token="hunter2")) == "changed by hand: spec.cpu"


class Patched:
    """Serves one object and keeps the patch that it got."""

    def __init__(self, body: Object) -> None:
        self.body, self.patch = body, list[Object]()

    def get(self, path: str) -> Object:
        return self.body

    def path_of(self, body: Object) -> str:
        return "/pool"

    def request(self, method: str, path: str, patch: list[Object], content_type: str) -> None:
        assert (method, path, content_type) == ("PATCH", "/pool", "application/json-patch+json")
        self.patch = patch


def test_what_kubectl_added_is_taken_away_and_nothing_else() -> None:
    ports = [{"containerPort": number} for number in (1, 2, 3)]
    live = deployment(ports=ports, paused=True)
    live["metadata"]["annotations"] = {"a/b~c": "mine", "theirs": "x"}
    keys: Object = {f'k:{{"containerPort":{n},"protocol":"TCP"}}': {".": {}} for n in (2, 3, 4)}
    notes: Object = {"f:metadata": {"f:annotations": {".": {}, "f:a/b~c": {}}}}
    fields = {**notes, "f:spec": {"f:ports": keys, "f:paused": {}}}
    live["metadata"]["managedFields"] = [{"manager": "kubectl-edit", "fieldsV1": fields}]
    api = Patched(live)
    (item,) = drift.declared(state(deployment(ports=ports[:1])))
    with patch.object(drift, "compare", return_value="changed"):
        (found,) = drift._of_kind(cast(Api, api), ("apps/v1", "Deployment"), [item])
    drift.take_away(cast(Api, api), found)
    assert [one["op"] for one in api.patch] == ["remove"] * 4
    assert [one["path"] for one in api.patch] == [
        "/spec/ports/2",
        "/spec/ports/1",
        "/spec/paused",
        "/metadata/annotations/a~1b~0c",
    ]


def test_secrets_are_compared_and_never_shown() -> None:
    text = {**SECRET, "plaintext": json.dumps({"password": "hidden"})}
    declared = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "n"}}
    live = {**declared, "data": {"password": base64.b64encode(b"hidden").decode()}}
    assert compare({**declared, "stringData": text}, live) == ""
    live["data"] = {"password": base64.b64encode(b"other").decode()}
    assert compare({**declared, "stringData": text}, live) == "changed by hand: data.password"


def test_what_the_cluster_was_given_is_compared_too() -> None:
    (item,) = drift.given([deployment(replicas=2)])
    assert drift.compare(cast(Api, Server(None)), item, None) == "deleted by hand"


def test_only_objects_of_the_cluster_are_declared() -> None:
    assert drift.declared(state(deployment(), custom=False)) == []
    assert drift.declared(state(deployment(), delete=True)) == []
    assert drift.declared(state({"kind": "Deployment"})) == []
    assert [item.key for item in drift.declared(state(deployment()))] == [("lake", "pool")]


def merged(live: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(live) if isinstance(live, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"replicas": 0}},
        {"spec": {"new": {"deep": 1}}},
        {"spec": {"synchronous": None}},
        {"spec": {"synchronous": {"number": None, "data": "required"}}},
        {"data": {"acl": "user nobody\n"}},
        {"spec": {"list": []}},
        {"spec": {"replicas": {"was": "a number"}}},
    ],
)
def test_a_patch_is_taken_back_exactly(patch: Object) -> None:
    live = {"spec": {"replicas": 2, "synchronous": {"number": 1}, "list": [1, {"a": 2}]}}
    broken = merged(live, patch)
    assert broken != live
    assert journal.applied(patch, broken) and not journal.applied(patch, live)
    restored = merged(broken, journal.inverse(patch, live))
    assert restored == live


def test_the_journal_outlives_its_process_but_not_its_entries(tmp_path: Path) -> None:
    file = tmp_path / "prove.json"
    notes = journal.Journal(file)
    notes.add("a.b", {"name": "x"})
    assert file.stat().st_mode & 0o777 == 0o600
    assert journal.Journal.left_behind(file) == {}, "its process still runs"
    notes.drop("a.b")
    assert not file.exists()
    code = (
        "import os, pathlib; from rehearsal.journal import Journal\n"
        f"Journal(pathlib.Path({str(file)!r})).add('a.b', {{'name': 'x'}}); os._exit(9)"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(root)}, check=False
    )
    assert done.returncode == 9
    assert journal.Journal.left_behind(file) == {"a.b": {"name": "x"}}


def test_only_takes_prefixes_and_names_what_is_known() -> None:
    checks = [{"id": "kafka.acks"}, {"id": "kafka.acl"}, {"id": "mosquitto.acl"}]
    chosen = verify._choose(checks, ["kafka", "host."])
    assert [check["id"] for check in chosen] == ["kafka.acks", "kafka.acl"]
    with pytest.raises(UsageError, match=r"'kafka\.acx'.*estate\.as-declared.*kafka\.acl"):
        verify._choose(checks, ["kafka.acx"])


def a_check(name: str, **args: Any) -> Object:
    return {"id": f"test.{name}", "title": "", "probe": name, "args": args}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    def says(ctx: probes.ProbeContext, *, word: str) -> str:
        assert word != "wrong", "it is\nwrong"
        if word == "crash":
            raise OSError("no route")
        if word == "hang":
            threading.Event().wait(30)
        return f"{word} {ctx.tmp.is_dir()}"

    monkeypatch.setitem(probes.PROBES, "says", says)


@pytest.mark.parametrize(
    ("word", "ok", "detail"),
    [
        ("hello", True, "hello True"),
        ("wrong", False, "it is wrong"),
        ("crash", False, "OSError: no route"),
        ("hang", False, "no answer within 1 s"),
    ],
)
def test_a_probe_always_answers(
    word: str, ok: bool, detail: str, known: None, tmp_path: Path
) -> None:
    began = time.monotonic()
    check = a_check("says", word=word)
    result = probes.run_check(check, tmp_path, cast(Any, object()), timeout_s=1)
    assert (result.ok, result.detail.partition(" assert ")[0]) == (ok, detail)
    assert time.monotonic() - began < 5


def test_every_probe_is_found_in_the_module_that_registers_it() -> None:
    for name in probes.modules():
        assert probes.find(name) is not None, name
    assert set(probes.PROBES) == set(probes.modules())


def test_an_unknown_probe_is_red(tmp_path: Path) -> None:
    result = probes.run_check(a_check("nobody"), tmp_path, cast(Any, object()))
    assert not result.ok and "'nobody'" in result.detail


# -- workloads -------------------------------------------------------------------------------------


class Cluster:
    """Lists of objects by kind."""

    def __init__(self, **kinds: list[Object]) -> None:
        self.kinds = {"Namespace": [{"metadata": {"name": "lake"}}], **kinds}

    def items(self, _: str, kind: str, **__: str) -> list[Object]:
        return self.kinds.get(kind, [])


def pod(name: str, ready: bool = True, **status: Any) -> Object:
    conditions = [{"type": "Ready", "status": str(ready)}]
    metadata = {"name": name, "namespace": "lake"}
    return {"metadata": metadata, "status": {"conditions": conditions, **status}}


def test_what_is_not_ready_is_named_with_kubernetes_reason() -> None:
    waiting = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    pods = [
        pod("good"),
        pod("ended", ready=False, phase="Succeeded"),
        pod("looping", ready=False, containerStatuses=[waiting]),
        pod("unplaced", ready=False) | {"status": {"conditions": [unplaced]}},
        {**pod("going"), "metadata": {**pod("going")["metadata"], "deletionTimestamp": "now"}},
        {"metadata": {"name": "foreign", "namespace": "kube-system"}},
    ]
    short = {**deployment(replicas=2), "status": {"readyReplicas": 1}}
    api = cast(Api, Cluster(Pod=pods, Deployment=[short]))
    assert workloads.unready(api) == (
        4,
        [
            "lake/looping: CrashLoopBackOff",
            "lake/unplaced: Unschedulable",
            "lake/going: Terminating",
            "lake/pool: 1 of 2 pods ready",
        ],
    )
    (row,) = verify.ready_rows(api)
    assert row.state == "failed" and "lake/looping: CrashLoopBackOff" in row.detail


def test_no_pods_at_all_is_not_ready() -> None:
    (row,) = verify.ready_rows(cast(Api, Cluster()))
    assert (row.state, row.detail) == ("failed", "no pods")
    (row,) = verify.ready_rows(cast(Api, Cluster(Pod=[pod("good")])))
    assert (row.state, row.detail) == ("passed", "1 pods")


@pytest.mark.parametrize(
    ("desired", "have", "complete"), [(2, 2, True), (2, 1, False), (0, 0, False)]
)
def test_a_daemon_set_wants_a_pod_on_some_node_and_all_ready(
    desired: int, have: int, complete: bool
) -> None:
    status = {"desiredNumberScheduled": desired, "numberReady": have}
    agent = {"metadata": {"name": "agent", "namespace": "lake"}, "spec": {}, "status": status}
    (one,) = workloads.workloads(cast(Api, Cluster(DaemonSet=[agent])))
    assert (one.complete, one.detail) == (complete, f"{have} of {desired} pods ready")


def test_reasons_are_those_of_its_own_pods() -> None:
    def unplaced(kind: str, owner: str, why: str) -> Object:
        metadata = {
            "name": f"{owner}-x",
            "namespace": "lake",
            "ownerReferences": [{"kind": kind, "name": owner}],
        }
        condition = {"type": "PodScheduled", "status": "False", "message": why}
        return {"metadata": metadata, "status": {"conditions": [condition]}}

    def refused(kind: str, owner: str, why: str) -> Object:
        about = {"kind": kind, "name": owner, "namespace": "lake"}
        return {"involvedObject": about, "message": why}

    api = cast(
        Api,
        Cluster(
            Pod=[
                unplaced("ReplicaSet", "pool-6f9c", "no node"),
                unplaced("StatefulSet", "pool-db", "no zone"),
            ],
            Event=[refused("StatefulSet", "pool", "quota"), refused("Job", "pool-db", "policy")],
        ),
    )
    assert workloads.reasons(api, "Deployment", "lake", "pool") == "no node"
    assert workloads.reasons(api, "StatefulSet", "lake", "pool-db") == "no zone"
    assert workloads.reasons(api, "StatefulSet", "lake", "pool") == "quota"
    assert workloads.reasons(api, "Job", "lake", "pool") == ""


def test_an_interrupted_wait_does_not_wait_for_the_estate_to_settle() -> None:
    over = threading.Event()
    over.set()
    began = time.monotonic()
    (row,) = verify.ready_rows(cast(Api, Cluster()), 60.0, over)
    assert row.state == "failed" and time.monotonic() - began < 30
