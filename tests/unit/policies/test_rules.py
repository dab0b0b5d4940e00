"""Every rule takes a good object and refuses the same one with one thing wrong."""

from __future__ import annotations

import copy

import pytest

from policies.model import Rule, Subject
from policies.rules import RULES
from tests.unit.policies.objects import (
    CEPH,
    CLUSTER,
    DEPLOYMENT,
    DIGEST,
    FILES,
    GOOD,
    MONGODB,
    MONITOR,
    NAMESPACE,
    OBJECT_STORE,
    PROMETHEUS,
    STATEFUL,
    STRIMZI,
    Body,
    Change,
    pod,
    put,
)

SECURITY = ("main", "securityContext")
POD = ("spec", "template", "spec")
KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcC"

BROKEN: list[tuple[str, Body, Change, str]] = [
    ("pod-security", NAMESPACE, put("metadata", "labels", to={}), "privileged"),
    ("pod-security", DEPLOYMENT, put(*POD, "hostNetwork", to=True), "hostNetwork"),
    ("pod-security", DEPLOYMENT, put(*POD, "hostPID", to=True), "hostPID"),
    (
        "pod-security",
        DEPLOYMENT,
        put(*POD, "volumes", to=[{"name": "h", "hostPath": {"path": "/"}}]),
        "hostPath",
    ),
    (
        "pod-security",
        DEPLOYMENT,
        put(*POD, "volumes", to=[{"name": "n", "nfs": {"server": "s"}}]),
        "volume of type nfs",
    ),
    (
        "pod-security",
        DEPLOYMENT,
        put(*POD, "securityContext", "sysctls", to=[{"name": "kernel.msgmax", "value": "1"}]),
        "sysctl",
    ),
    ("pod-security", DEPLOYMENT, put(*POD, "securityContext", to={}), "runAsNonRoot"),
    ("pod-security", DEPLOYMENT, put(*POD, "securityContext", "runAsUser", to=0), "is 0"),
    ("pod-security", DEPLOYMENT, put(*SECURITY, "privileged", to=True), "privileged"),
    ("pod-security", DEPLOYMENT, put(*SECURITY, "procMount", to="Unmasked"), "procMount"),
    ("pod-security", DEPLOYMENT, put(*SECURITY, "runAsUser", to=0), "is 0"),
    (
        "pod-security",
        DEPLOYMENT,
        put(*SECURITY, "allowPrivilegeEscalation", to=True),
        "allowPrivilegeEscalation",
    ),
    ("pod-security", DEPLOYMENT, put(*SECURITY, "capabilities", to={}), "lacks ALL"),
    (
        "pod-security",
        DEPLOYMENT,
        put(*SECURITY, "capabilities", "add", to=["SYS_ADMIN"]),
        "capability SYS_ADMIN",
    ),
    (
        "pod-security",
        DEPLOYMENT,
        put(*SECURITY, "seccompProfile", to={"type": "Unconfined"}),
        "seccompProfile",
    ),
    (
        "pod-security",
        DEPLOYMENT,
        put(*SECURITY, "seLinuxOptions", to={"type": "spc_t"}),
        "seLinux",
    ),
    ("pod-security", DEPLOYMENT, put("main", "ports", to=[{"hostPort": 80}]), "hostPort"),
    (
        "pod-security",
        DEPLOYMENT,
        put("main", "livenessProbe", to={"httpGet": {"host": "example.org"}}),
        "another host",
    ),
    ("pod-security", PROMETHEUS, put("spec", "securityContext", to={}), "runAsNonRoot"),
    ("read-only", DEPLOYMENT, put(*SECURITY, "readOnlyRootFilesystem", to=False), "readOnly"),
    ("resources", DEPLOYMENT, put("main", "resources", to={}), "requests.cpu"),
    ("resources", DEPLOYMENT, put("main", "resources", "limits", to={}), "limits.memory"),
    (
        "resources",
        DEPLOYMENT,
        lambda body: pod(body)["initContainers"].append({"name": "first"}),
        "requests.memory",
    ),
    ("resources", CLUSTER, put("spec", "resources", to={}), "limits.memory"),
    ("probes", DEPLOYMENT, put("main", "livenessProbe", to=None), "no liveness"),
    ("probes", DEPLOYMENT, put("main", "readinessProbe", to=None), "no readiness"),
    (
        "probes",
        DEPLOYMENT,
        lambda body: pod(body)["initContainers"].append(
            {"name": "sidecar", "restartPolicy": "Always"}
        ),
        "no liveness",
    ),
    ("images", DEPLOYMENT, put("main", "image", to="a/b:1.0"), "a/b:1.0"),
    ("images", DEPLOYMENT, put("main", "image", to=f"a/b{DIGEST}"), "repository:tag"),
    ("images", DEPLOYMENT, put("main", "args", to=["--solver-image=a/b:1"]), "a/b:1"),
    (
        "images",
        DEPLOYMENT,
        put("main", "env", to=[{"name": "OPERAND_IMAGE_NAME", "value": "a/b:1"}]),
        "a/b:1",
    ),
    (
        "images",
        DEPLOYMENT,
        put(*POD, "volumes", to=[{"name": "m", "image": {"reference": "m:1"}}]),
        "m:1",
    ),
    ("images", CLUSTER, put("spec", "imageName", to="a/b:1"), "a/b:1"),
    ("images", CEPH, put("spec", "cephVersion", to={"image": "a/c:1"}), "a/c:1"),
    ("images", FILES, put("data", "CSI_IMAGE", to="a/d:1"), "a/d:1"),
    (
        "encryption",
        MONITOR,
        put("spec", "podMetricsEndpoints", to=[{"port": "metrics"}]),
        "without TLS",
    ),
    ("encryption", PROMETHEUS, put("spec", "web", to={}), "tlsConfig"),
    ("encryption", PROMETHEUS, put("spec", "alerting", to={"alertmanagers": [{}]}), "alerts"),
    (
        "encryption",
        PROMETHEUS,
        put("spec", "remoteWrite", to=[{"url": "http://far.example/write"}]),
        "remoteWrite",
    ),
    (
        "encryption",
        CLUSTER,
        put("spec", "postgresql", "pg_hba", to=["hostssl all all all md5"]),
        "refuses nobody",
    ),
    (
        "encryption",
        CLUSTER,
        lambda body: body["spec"]["postgresql"]["pg_hba"].insert(0, "host all all all md5"),
        "host all all all md5",
    ),
    ("encryption", STRIMZI, put("spec", "kafka", "listeners", to=[{"name": "plain"}]), "listener"),
    (
        "encryption",
        CEPH,
        put("spec", "network", "connections", "encryption", to={}),
        "encryption is not enabled",
    ),
    (
        "encryption",
        CEPH,
        put("spec", "network", "connections", "requireMsgr2", to=False),
        "messenger v1",
    ),
    ("encryption", CEPH, put("spec", "dashboard", "ssl", to=False), "dashboard.ssl"),
    ("encryption", OBJECT_STORE, put("spec", "gateway", "port", to=80), "serves without TLS"),
    (
        "encryption",
        FILES,
        put("data", "server.properties", to="listeners=PLAINTEXT://:9092\n"),
        "PLAINTEXT",
    ),
    ("encryption", MONGODB, put("spec", "security", "tls", to={"enabled": False}), "without TLS"),
    (
        "encryption",
        MONGODB,
        put("spec", "security", "tls", to={"enabled": True, "optional": True}),
        "without TLS",
    ),
    ("encryption", MONGODB, put("spec", "prometheus", to={"username": "a"}), "exporter"),
    ("encryption", FILES, put("data", "FERRETDB_LISTEN_ADDR", to=":27017"), ":27017"),
    ("encryption", FILES, put("data", "mosquitto.conf", to="listener 1883\n"), "listener 1883"),
    ("encryption", FILES, put("data", "pgpool.conf", to="ssl = off\n"), "ssl"),
    ("encryption", FILES, put("data", "pool_hba.conf", to="host all all ::/0 md5\n"), "host all"),
    (
        "encryption",
        DEPLOYMENT,
        put("main", "args", to=["--to=http://far.example/x"]),
        "http://far.example/x",
    ),
    (
        "encryption",
        {"kind": "Ingress", "metadata": {"name": "door"}, "spec": {"tls": [{}]}},
        put("spec", "tls", to=[]),
        "spec.tls",
    ),
    (
        "no-secret",
        DEPLOYMENT,
        put("main", "env", to=[{"name": "DB_PASSWORD", "value": "hunter2"}]),
        "DB_PASSWORD",
    ),
    ("no-secret", DEPLOYMENT, put("main", "args", to=["--api-token=abc"]), "--api-token"),
    ("encryption", FILES, put("data", "x", to="url: http://far.example/x"), "far.example"),
    ("encryption", FILES, put("data", "x", to="postgresql://a/b?sslmode=disable"), "sslmode"),
    (
        "encryption",
        DEPLOYMENT,
        put("main", "args", to=["host=a sslmode=prefer"]),
        "sslmode",
    ),
    ("no-secret", FILES, put("data", "password", to="hunter2hunter2"), "password has"),
    ("no-secret", FILES, put("data", "app.conf", to="a = 1\npassword=hunter2\n"), "password has"),
    ("no-secret", FILES, put("data", "a.yaml", to="db:\n  db_pass: hunter2\n"), "db_pass has"),
    ("no-secret", DEPLOYMENT, put("main", "args", to=["--password", "hunter2"]), "--password"),
    (
        "no-secret",
        DEPLOYMENT,
        put("main", "command", to=["sh", "-c", "PGPASSWORD=hunter2 psql"]),
        "PGPASSWORD",
    ),
    (
        "no-secret",
        DEPLOYMENT,
        put("main", "env", to=[{"name": "DB_PASS", "value": "hunter2"}]),
        "DB_PASS",
    ),
    (
        "no-secret",
        DEPLOYMENT,
        put("main", "env", to=[{"name": "TOKEN_FILE", "value": "hunter2"}]),
        "TOKEN_FILE",
    ),
    ("no-secret", FILES, put("data", "tls.key", to=KEY), "private key"),
    ("no-secret", FILES, put("data", "other", to="amqp://me:hunter2@far.example"), "password"),
]


TOPIC: Body = {"kind": "KafkaTopic", "metadata": {"name": "images", "namespace": "space"}}
PLACES: Body = {
    **FILES,
    "data": {
        "app.conf": "password_encryption = scram-sha-256\npassword = ${DB_PASSWORD}\n"
        "password_file: /run/password\ntoken:\n  name: x\nsecret: /run/secret\n",
    },
}
SHELL = copy.deepcopy(DEPLOYMENT)
put("main", "args", to=["--token-file", "/run/a", "--password", "--x", "PGPASSWORD=$(cat /a) b"])(
    SHELL
)


def test_where_a_secret_is_may_be_said() -> None:
    rule = next(rule for rule in RULES if rule.name == "no-secret")
    for body in (PLACES, SHELL):
        assert not list(rule.check(Subject(body)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_good_objects_are_taken(rule: Rule) -> None:
    for body in GOOD:
        assert not list(rule.check(Subject(body, protect=True))), body["kind"]


@pytest.mark.parametrize(
    ("name", "body", "change", "words"), BROKEN, ids=[f"{n}-{w}" for n, _, _, w in BROKEN]
)
def test_an_object_with_one_thing_wrong_is_refused(
    name: str, body: Body, change: Change, words: str
) -> None:
    body = copy.deepcopy(body)
    rule = next(rule for rule in RULES if rule.name == name)
    assert not list(rule.check(Subject(body, protect=True)))
    change(body)
    messages = [finding.message for finding in rule.check(Subject(body, protect=True))]
    assert any(words in message for message in messages), messages


def test_every_rule_has_an_object_that_it_refuses() -> None:
    assert {name for name, *_ in BROKEN} | {"protected-data"} == {rule.name for rule in RULES}


@pytest.mark.parametrize(
    "body",
    [NAMESPACE, CLUSTER, STATEFUL, PROMETHEUS, CEPH, OBJECT_STORE, TOPIC],
    ids=lambda b: b["kind"],
)
def test_data_is_protected(body: Body) -> None:
    rule = next(rule for rule in RULES if rule.name == "protected-data")
    assert list(rule.check(Subject(body, protect=False)))
    assert not list(rule.check(Subject(body, protect=True)))
    assert not list(rule.check(Subject(DEPLOYMENT, protect=False)))


def test_the_level_of_the_namespace_counts() -> None:
    rule = next(rule for rule in RULES if rule.name == "pod-security")
    body = copy.deepcopy(DEPLOYMENT)
    put(*SECURITY, "capabilities", to={})(body)
    assert list(rule.check(Subject(body, level="restricted")))
    assert not list(rule.check(Subject(body, level="baseline")))
    put(*POD, "hostNetwork", to=True)(body)
    assert list(rule.check(Subject(body, level="baseline")))
    assert not list(rule.check(Subject(body, level="privileged")))
