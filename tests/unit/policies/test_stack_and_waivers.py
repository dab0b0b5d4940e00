"""Rules over a whole stack, and what waivers waive."""

from __future__ import annotations

import base64
import copy

import pytest

from policies import model
from policies.model import PREFIX, Rule, Subject
from policies.rules import RULES, STACK_RULES, by_name
from tests.unit.policies.objects import (
    ALLOW,
    BUDGET,
    CLUSTER,
    DENY,
    DEPLOYMENT,
    FILES,
    NAMESPACE,
    PROMETHEUS,
    Body,
    Change,
    put,
)


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
    for key, value in (
        *(("maxUnavailable", 0), ("maxUnavailable", "0%"), ("minAvailable", 2.0)),
        *(("minAvailable", 3), ("minAvailable", "90%"), ("minAvailable", "51%")),
    ):
        tight = changed(BUDGET, lambda body: body["spec"].pop("maxUnavailable"))
        put("spec", key, to=value)(tight)
        assert "lets no pod go" in refused(name, DEPLOYMENT, tight)[0]
    half = changed(BUDGET, lambda body: body["spec"].pop("maxUnavailable"))
    assert not refused(name, DEPLOYMENT, changed(half, put("spec", "minAvailable", to="50%")))
    assert not refused(name, changed(DEPLOYMENT, put("spec", "replicas", to=1)))
    assert refused(name, changed(CLUSTER, put("spec", "enablePDB", to=False)))
    labels = {"prometheus": "prometheus"}
    selecting = changed(BUDGET, put("spec", "selector", to={"matchLabels": labels}))
    assert not refused(name, PROMETHEUS, selecting)
    assert refused(name, PROMETHEUS, BUDGET)


def test_namespaces_deny_and_workloads_declare() -> None:
    name = "network-policy"
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
    anybody = [
        {"ipBlock": {"cidr": "0.0.0.0/0"}},
        {"ipBlock": {"cidr": "::/0"}},
        {"namespaceSelector": {}},
    ]
    for way, peers in (("ingress", "from"), ("egress", "to")):
        for rule in ({}, *({peers: [{"podSelector": {}}, peer]} for peer in anybody)):
            everything = changed(ALLOW, put("spec", way, to=[rule]))
            found = refused(name, NAMESPACE, DENY, everything, DEPLOYMENT)
            assert found == [f"NetworkPolicy space/thing: a rule of {way} allows everything"]
        for peer in (*anybody, {"podSelector": {}}):
            named = {peers: [peer], "ports": [{"port": 443}]}
            assert not refused(
                name, NAMESPACE, DENY, changed(ALLOW, put("spec", way, to=[named])), DEPLOYMENT
            )


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
    around = [base64.b64encode(b"x" * n + value.encode() + b"; more").decode() for n in range(3)]
    for leak in (value, f"x={value};", encoded, *around):
        found = refused(name, secret, changed(FILES, put("data", "other", to=leak)))
        assert found == ["ConfigMap space/files: data.other holds the value of a Secret"]
        assert value not in found[0]
    stored = {**secret, "stringData": {}, "data": {"password": encoded}}
    assert refused(name, stored, changed(DEPLOYMENT, put("main", "args", to=[value])))
    assert not refused(name, secret, changed(FILES, put("data", "ca.crt", to=public)))


def test_every_rule_over_a_stack_is_tried_here() -> None:
    assert {rule.name for rule in STACK_RULES} == {
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
    for good in ("checkov.CKV_K8S_40", "checkov.CKV2_K8S_6", "kube-score.deployment-replicas"):
        assert not list(model.bad_waivers(Subject(waived(good)), rules))
    for none in ("checkov.CKV_NO", "checkov", "kube-score.Nothing"):
        (bad,) = model.bad_waivers(Subject(waived(none)), rules)
        assert "no name of a check" in bad.message


def test_a_waiver_holds_over_a_stack_too() -> None:
    body = copy.deepcopy(DEPLOYMENT)
    body["metadata"]["annotations"] = {f"{PREFIX}disruption-budget": REASON}
    assert not refused("disruption-budget", body)
    assert refused("disruption-budget", body, BUDGET) == [
        "Deployment space/thing: waiver disruption-budget waives nothing"
    ]
