"""Rules over all objects of a stack together: budgets, network policies, values of secrets."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from policies.model import Finding, Subject, selects, texts
from policies.pods import CUSTOM, pod_labels

Found = Iterator[tuple[Subject, Finding]]


def _replicas(subject: Subject) -> int:
    spec = subject.body.get("spec") or {}
    key = CUSTOM[subject.kind].replicas if subject.kind in CUSTOM else "replicas"
    return int(spec.get(key, 1))


def _within(subjects: Iterable[Subject], kind: str, namespace: str) -> list[Subject]:
    return [one for one in subjects if one.kind == kind and one.namespace == namespace]


def disruption_budgets(subjects: Sequence[Subject]) -> Found:
    """Whatever has replicas has one budget, and that lets one of them go."""
    for subject in subjects:
        spec = subject.body.get("spec") or {}
        if subject.kind == "Cluster":  # its operator makes the budgets
            if spec.get("enablePDB") is False:
                yield subject, Finding("enablePDB is false")
            continue
        if subject.kind not in ("Deployment", "StatefulSet", "Prometheus", "Alertmanager"):
            continue
        replicas, labels = _replicas(subject), pod_labels(subject) or {}
        if replicas < 2:
            continue
        budgets = [
            one
            for one in _within(subjects, "PodDisruptionBudget", subject.namespace)
            if selects((one.body.get("spec") or {}).get("selector"), labels)
        ]
        if not budgets:
            yield subject, Finding(f"{replicas} replicas and no PodDisruptionBudget")
        if len(budgets) > 1:
            names = ", ".join(one.name for one in budgets)
            yield subject, Finding(f"selected by {names}: no pod of two budgets can be evicted")
        for budget in budgets:
            limits = budget.body["spec"]
            lowest, highest = limits.get("minAvailable"), limits.get("maxUnavailable")
            free = (
                _pods(highest, replicas) if lowest is None else replicas - _pods(lowest, replicas)
            )
            if free < 1:
                yield budget, Finding("lets no pod go: a node could never be drained")


def _pods(limit: object, replicas: int) -> int:
    """A number of pods or a part of all, which Kubernetes rounds up; without a limit, all."""
    text = str(replicas if limit is None else limit)
    # Pulumi hands numbers over as floats.
    return -(-replicas * int(text[:-1]) // 100) if text.endswith("%") else int(float(text))


def network_policies(subjects: Sequence[Subject]) -> Found:
    """Each namespace denies everything by default; each workload has a policy of its own."""
    for subject in subjects:
        if subject.kind == "Namespace":
            policies = _within(subjects, "NetworkPolicy", subject.name)
            if not any(_denies_all(one) for one in policies):
                yield subject, Finding("no NetworkPolicy that denies all ingress and egress")
        elif (labels := pod_labels(subject)) is not None:
            policies = _within(subjects, "NetworkPolicy", subject.namespace)
            selectors = [(one.body.get("spec") or {}).get("podSelector") for one in policies]
            if not any(selector and selects(selector, labels) for selector in selectors):
                yield subject, Finding("its pods are selected by no NetworkPolicy of their own")
        elif subject.kind == "NetworkPolicy":
            spec = subject.body.get("spec") or {}
            for way, peers in (("ingress", "from"), ("egress", "to")):
                if any(_allows_all(one, peers) for one in spec.get(way) or []):
                    yield subject, Finding(f"a rule of {way} allows everything", way)


def _allows_all(rule: Mapping[str, Any], peers: str) -> bool:
    """Whether a rule names no port, and no peer or one that is anybody."""
    return not rule.get("ports") and any(map(_is_anybody, rule.get(peers) or [{}]))


def _is_anybody(peer: Mapping[str, Any]) -> bool:
    if block := peer.get("ipBlock"):
        return str(block.get("cidr")).endswith("/0") and not block.get("except")
    # Without a namespace selector it is about its own namespace; an empty one takes all of them.
    return not peer or (peer.get("namespaceSelector") == {} and not peer.get("podSelector"))


def _denies_all(policy: Subject) -> bool:
    spec = policy.body.get("spec") or {}
    both = {"Ingress", "Egress"} <= set(spec.get("policyTypes") or [])
    rules = spec.get("ingress") or spec.get("egress")
    return both and not spec.get("podSelector") and not rules


# -- values of secrets -----------------------------------------------------------------------------

# An access key of S3 is a user's name: the other half is the secret.
_PUBLIC = re.compile(r"(^|[._-])(username|user|access-key|crt|cert|pub)$")
_SHORTEST = 8
"""Characters: shorter ones are found everywhere by chance."""


def secret_values(subjects: Sequence[Subject]) -> Found:
    """No value of a Secret is, plain or in base64 with whatever around, in any other object."""
    values = {value for one in subjects if one.kind == "Secret" for value in _values(one.body)}
    if not values:
        return
    encoded = {form for value in values for form in _in_base64(value)}
    pattern = re.compile("|".join(re.escape(value) for value in sorted(values | encoded)))
    for subject in subjects:
        if subject.kind in ("Secret", "CustomResourceDefinition"):
            continue
        for path, text in texts(subject.body):
            if pattern.search(text):
                yield subject, Finding(f"{path} holds the value of a Secret")


def _in_base64(value: str) -> Iterator[str]:
    """Its letters of base64 for each number of bytes before it, without those of the neighbours."""
    for lead in range(3):
        coded = base64.b64encode(b"\0" * lead + value.encode()).decode()
        yield coded[(0, 2, 3)[lead] : len(coded.rstrip("=")) - 1]


def _values(body: Mapping[str, object]) -> Iterator[str]:
    for field in ("data", "stringData"):
        items = body.get(field)
        for key, value in items.items() if isinstance(items, Mapping) else ():
            if _PUBLIC.search(str(key)) or not isinstance(value, str):
                continue
            if field == "data":
                try:
                    value = base64.b64decode(value, validate=True).decode()
                except (binascii.Error, UnicodeDecodeError):
                    continue  # no text, so no password
            if len(value.strip()) >= _SHORTEST:
                yield value.strip()
