"""The rules of the estate, in the order in which they are reported."""

from __future__ import annotations

from collections.abc import Iterator

from policies import encryption, pod_security, pods, stack
from policies.model import Finding, Rule, StackRule, Subject
from policies.pods import CUSTOM

_DATA = (
    *CUSTOM,
    "Kafka",
    "KafkaNodePool",
    "KafkaTopic",
    "MongoDBCommunity",
    "CephCluster",
    "CephBlockPool",
    "CephFilesystem",
    "CephObjectStore",
    "CephObjectZone",
    "Namespace",
    "CustomResourceDefinition",
    "PersistentVolumeClaim",
)


def protected_data(subject: Subject) -> Iterator[Finding]:
    """What takes data with it when it is deleted can only be deleted on purpose."""
    claims = subject.kind == "StatefulSet" and bool(
        (subject.body.get("spec") or {}).get("volumeClaimTemplates")
    )
    if (claims or subject.kind in _DATA) and not subject.protect:
        yield Finding("not protected, and its data goes with it")


RULES = (
    Rule(
        "pod-security",
        "Pods keep the Pod Security level of their namespace, which is restricted.",
        "use pod_security() and container_security() of components/workload.py",
        pod_security.pod_security,
    ),
    Rule(
        "read-only",
        "Containers have a read-only root file system.",
        "set readOnlyRootFilesystem: true, and mount an emptyDir where the program writes",
        pod_security.read_only,
    ),
    Rule(
        "resources",
        "Containers have requests of CPU and memory, and a limit of memory.",
        "give the component's configuration a Resources and use requirements()",
        pods.resources,
    ),
    Rule(
        "probes",
        "Whatever runs on has a liveness and a readiness probe.",
        "declare both; a program without an endpoint can be asked by command",
        pods.probes,
    ),
    Rule(
        "images",
        "Every image is pinned by its digest.",
        "take it from Images: configs/versions.toml has the digests",
        pods.images,
    ),
    Rule(
        "encryption",
        "Nothing is declared to be served, scraped or called in clear text.",
        "use certificate() and TLS on both ends",
        encryption.encryption,
    ),
    Rule(
        "no-secret",
        "No environment, command line or ConfigMap gives a value to what is named like a secret.",
        "put it into a Secret and mount that as a file",
        pods.no_secret,
    ),
    Rule(
        "protected-data",
        "What holds data is protected against deletion.",
        "set protect: true, or waive it for the whole environment in its file",
        protected_data,
    ),
)

STACK_RULES = (
    StackRule(
        "disruption-budget",
        "What has replicas has one PodDisruptionBudget that lets one of them go.",
        "use disruption_budget() of components/workload.py",
        stack.disruption_budgets,
    ),
    StackRule(
        "secret-values",
        "No value of a Secret, of 8 characters or more, is found in another object.",
        "mount the Secret instead of copying from it",
        stack.secret_values,
    ),
    StackRule(
        "network-policy",
        "Namespaces deny all traffic by default, every workload declares its own, none allows all.",
        "declare the workload's flows (components/flows.py)",
        stack.network_policies,
    ),
)

WAIVERS = "waivers"
"""The rule about waivers themselves; it can't be waived."""


def by_name(name: str) -> Rule | StackRule:
    """The rule of this name. Raises KeyError."""
    return {rule.name: rule for rule in (*RULES, *STACK_RULES)}[name]
