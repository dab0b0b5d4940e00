"""Every rule takes a good object and refuses the same one with one thing wrong."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from typing import Any

import pytest

from policies import model
from policies.model import PREFIX, Rule, Subject
from policies.rules import NETWORK_POLICY, RULES, STACK_RULES, by_name

Body = dict[str, Any]
Change = Callable[[Body], object]

DIGEST = "@sha256:" + "a" * 64
NAMESPACE: Body = {
    "kind": "Namespace",
    "metadata": {
        "name": "space",
        "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    },
}
PROBE = {"httpGet": {"path": "/healthz", "port": 8080}}
DEPLOYMENT: Body = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "thing", "namespace": "space"},
    "spec": {
        "replicas": 2,
        "template": {
            "metadata": {"labels": {"app": "thing"}},
            "spec": {
                "securityContext": {
                    "runAsNonRoot": True,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "initContainers": [],
                "containers": [
                    {
                        "name": "main",
                        "image": f"registry.example:5000/a/b:1.0{DIGEST}",
                        "args": ["--listen=:8080", f"--image=c/d:2{DIGEST}", "--secret-name=x"],
                        "env": [
                            {"name": "PASSWORD_FILE", "value": "/run/password"},
                            {"name": "URL", "value": "http://localhost:8080"},
                        ],
                        "resources": {
                            "requests": {"cpu": "1m", "memory": "1Mi"},
                            "limits": {"memory": "1Mi"},
                        },
                        "livenessProbe": PROBE,
                        "readinessProbe": PROBE,
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }
                ],
                "volumes": [{"name": "scratch", "emptyDir": {}}],
            },
        },
    },
}
BUDGET: Body = {
    "kind": "PodDisruptionBudget",
    "metadata": {"name": "thing", "namespace": "space"},
    "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "thing"}}},
}
DENY: Body = {
    "kind": "NetworkPolicy",
    "metadata": {"name": "default-deny", "namespace": "space"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}
ALLOW: Body = {
    "kind": "NetworkPolicy",
    "metadata": {"name": "thing", "namespace": "space"},
    "spec": {
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["thing"]}]}
    },
}
MONITOR: Body = {
    "kind": "PodMonitor",
    "metadata": {"name": "thing", "namespace": "space"},
    "spec": {"podMetricsEndpoints": [{"port": "metrics", "scheme": "https"}]},
}
PROMETHEUS: Body = {
    "kind": "Prometheus",
    "metadata": {"name": "prometheus", "namespace": "space"},
    "spec": {
        "replicas": 2,
        "image": f"p/p:1{DIGEST}",
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "web": {"tlsConfig": {"minVersion": "TLS12"}},
        "alerting": {"alertmanagers": [{"scheme": "https"}]},
    },
}
CLUSTER: Body = {
    "kind": "Cluster",
    "metadata": {"name": "postgres", "namespace": "space"},
    "spec": {
        "instances": 3,
        "imageName": f"p/p:1{DIGEST}",
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        "postgresql": {
            "pg_hba": ["hostssl all all all scram-sha-256", "hostnossl all all all reject"]
        },
    },
}
STRIMZI: Body = {
    "kind": "Kafka",
    "metadata": {"name": "kafka", "namespace": "space"},
    "spec": {"kafka": {"listeners": [{"name": "tls", "tls": True}]}},
}
FILES: Body = {
    "kind": "ConfigMap",
    "metadata": {"name": "files", "namespace": "space"},
    "data": {
        "server.properties": "listeners=A://:1,B://:2\n"
        "listener.security.protocol.map=A:SSL,B:SASL_SSL\n",
        "mosquitto.conf": "listener 1883 127.0.0.1\nlistener 8883\ncertfile /tls.crt\n",
        "pgpool.conf": "ssl = on\n",
        "pool_hba.conf": "# who\nhostssl all all 0.0.0.0/0 scram-sha-256\n",
        "other": "https://example.org/?user=a:b@c",
    },
}
STATEFUL: Body = {
    **DEPLOYMENT,
    "kind": "StatefulSet",
    "spec": {**DEPLOYMENT["spec"], "volumeClaimTemplates": [{"metadata": {"name": "data"}}]},
}
GOOD = (
    *(NAMESPACE, DEPLOYMENT, BUDGET, DENY, ALLOW, MONITOR, CLUSTER, STRIMZI, FILES, STATEFUL),
    PROMETHEUS,
)


def pod(body: Body) -> Body:
    found: Body = body["spec"]["template"]["spec"]
    return found


def main(body: Body) -> Body:
    found: Body = pod(body)["containers"][0]
    return found


def put(*path: str | int, to: Any) -> Change:
    """A change of what lies at a path of an object, or of its first container."""

    def change(body: Body) -> None:
        at: Any = main(body) if path[0] == "main" else body
        for key in path[path[0] == "main" : -1]:
            at = at.setdefault(key, {}) if isinstance(at, dict) else at[key]
        at[path[-1]] = to

    return change


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
        FILES,
        put("data", "server.properties", to="listeners=PLAINTEXT://:9092\n"),
        "PLAINTEXT",
    ),
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
    ("no-secret", FILES, put("data", "tls.key", to=KEY), "private key"),
    ("no-secret", FILES, put("data", "other", to="amqp://me:hunter2@far.example"), "password"),
]


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
    "body", [NAMESPACE, CLUSTER, STATEFUL, PROMETHEUS], ids=lambda b: b["kind"]
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


# -- over a stack ----------------------------------------------------------------------------------


def refused(name: str, *bodies: Body) -> list[str]:
    rule = by_name(name)
    assert not isinstance(rule, Rule)
    found = model.broken_by_stack(rule, [Subject(body) for body in bodies])
    return [f"{subject.where}: {finding.message}" for subject, finding in found]


def changed(body: Body, change: Change) -> Body:
    body = copy.deepcopy(body)
    change(body)
    return body


def test_replicas_have_one_budget_that_lets_one_go() -> None:
    name = "disruption-budget"
    assert not refused(name, DEPLOYMENT, BUDGET, CLUSTER)
    assert "no PodDisruptionBudget" in refused(name, DEPLOYMENT)[0]
    other = changed(BUDGET, put("metadata", "namespace", to="elsewhere"))
    assert refused(name, DEPLOYMENT, other)
    assert "two budgets" in refused(name, DEPLOYMENT, BUDGET, BUDGET)[0]
    for key, value in (("maxUnavailable", 0), ("minAvailable", 2)):
        tight = changed(BUDGET, put("spec", key, to=value))
        assert "lets no pod go" in refused(name, DEPLOYMENT, tight)[0]
    assert not refused(name, changed(DEPLOYMENT, put("spec", "replicas", to=1)))
    assert refused(name, changed(CLUSTER, put("spec", "enablePDB", to=False)))
    labels = {"prometheus": "prometheus"}
    selecting = changed(BUDGET, put("spec", "selector", to={"matchLabels": labels}))
    assert not refused(name, PROMETHEUS, selecting)
    assert refused(name, PROMETHEUS, BUDGET)


def test_namespaces_deny_and_workloads_declare() -> None:
    name = NETWORK_POLICY.name
    assert not refused(name, NAMESPACE, DENY, ALLOW, DEPLOYMENT)
    assert "no NetworkPolicy that denies" in refused(name, NAMESPACE, ALLOW, DEPLOYMENT)[0]
    assert "of their own" in refused(name, NAMESPACE, DENY, DEPLOYMENT)[0]
    half = changed(DENY, put("spec", "policyTypes", to=["Ingress"]))
    assert refused(name, NAMESPACE, half, ALLOW, DEPLOYMENT)
    open_ = changed(DENY, put("spec", "egress", to=[{}]))
    assert refused(name, NAMESPACE, open_, ALLOW, DEPLOYMENT)
    elsewhere = changed(ALLOW, put("metadata", "namespace", to="elsewhere"))
    assert refused(name, NAMESPACE, DENY, elsewhere, DEPLOYMENT)
    assert refused(name, NAMESPACE, DENY, ALLOW, CLUSTER)


def test_the_value_of_a_secret_is_nowhere_else() -> None:
    name, value = "secret-values", "correct horse battery"
    encoded = base64.b64encode(value.encode()).decode()
    public = base64.b64encode(b"CERTIFICATE of everybody").decode()
    secret: Body = {
        "kind": "Secret",
        "metadata": {"name": "s"},
        "stringData": {"password": value, "username": "everybody"},
        "data": {"ca.crt": public},
    }
    assert not refused(name, secret, DEPLOYMENT, FILES)
    for leak in (value, f"x={value};", encoded):
        found = refused(name, secret, changed(FILES, put("data", "other", to=leak)))
        assert found == ["ConfigMap space/files: data.other holds the value of a Secret"]
        assert value not in found[0]
    stored = {**secret, "stringData": {}, "data": {"password": encoded}}
    assert refused(name, stored, changed(DEPLOYMENT, put("main", "args", to=[value])))
    assert not refused(name, secret, changed(FILES, put("data", "ca.crt", to=public)))


def test_every_rule_over_a_stack_is_tried_here() -> None:
    assert {rule.name for rule in (*STACK_RULES, NETWORK_POLICY)} == {
        "disruption-budget",
        "network-policy",
        "secret-values",
    }


# -- waivers ---------------------------------------------------------------------------------------

REASON = "an exporter that nobody waits for"


def waived(key: str, reason: str = REASON) -> Body:
    body = changed(DEPLOYMENT, put("main", "readinessProbe", to=None))
    body["metadata"]["annotations"] = {f"{PREFIX}{key}": reason}
    return body


@pytest.mark.parametrize("key", ["probes", "probes.main", "probes.main.readiness"])
def test_a_waiver_covers_its_part(key: str) -> None:
    subject = Subject(waived(key))
    rule = next(rule for rule in RULES if rule.name == "probes")
    assert not list(model.broken(rule, subject))
    assert not list(model.bad_waivers(subject, ["probes"]))


@pytest.mark.parametrize("key", ["probes.mai", "probes.main.liveness", "resources"])
def test_a_waiver_covers_nothing_else_and_then_is_itself_refused(key: str) -> None:
    subject = Subject(waived(key))
    found = [finding.message for rule in RULES for finding in model.broken(rule, subject)]
    assert found == ["no readiness probe", f"waiver {key} waives nothing"] or found == [
        f"waiver {key} waives nothing",
        "no readiness probe",
    ]


def test_a_waiver_needs_a_rule_and_a_reason() -> None:
    rules = ["pod-security", "probes"]
    (bad,) = model.bad_waivers(Subject(waived("prob")), rules)
    assert "no such rule; there are pod-security" in bad.message
    (bad,) = model.bad_waivers(Subject(waived("probes", "because")), rules)
    assert "no reason" in bad.message
    assert not list(model.bad_waivers(Subject(waived("checkov.CKV_K8S_40")), rules))


def test_a_waiver_holds_over_a_stack_too() -> None:
    body = copy.deepcopy(DEPLOYMENT)
    body["metadata"]["annotations"] = {f"{PREFIX}disruption-budget": REASON}
    assert not refused("disruption-budget", body)
    assert refused("disruption-budget", body, BUDGET) == [
        "Deployment space/thing: waiver disruption-budget waives nothing"
    ]
