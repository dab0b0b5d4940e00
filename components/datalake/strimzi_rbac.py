"""What Strimzi's cluster operator may do: the rights of its release, less OpenShift's.

Rights over operands hold in the watched namespaces alone. The names of the roles that it hands on
(`strimzi-entity-operator`, `strimzi-kafka-broker`) are built into the operator; it must hold what
they grant, or the API server refuses that it grants it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.workload import granted, labels, meta

Rule = k8s.rbac.v1.PolicyRuleArgs

LEASE = "strimzi-cluster-operator"
_ALL = ("get", "list", "watch", "create", "delete", "patch", "update")
_STATUS = ("get", "patch", "update")
_OPERATED = (
    "kafkas",
    "kafkanodepools",
    "kafkarebalances",
    # Watched from the start, whether there is one or not.
    "kafkaconnects",
    "kafkaconnectors",
    "kafkabridges",
    "kafkamirrormaker2s",
)
_ENTITIES = ("kafkatopics", "kafkausers")
_API = "rbac.authorization.k8s.io"


def _rule(
    group: str, resources: Sequence[str], verbs: Sequence[str], names: Sequence[str] | None = None
) -> Rule:
    return Rule(
        api_groups=[group],
        resources=list(resources),
        verbs=list(verbs),
        resource_names=list(names) if names else None,
    )


def _kinds(group: str, kinds: Sequence[str], verbs: Sequence[str]) -> list[Rule]:
    """Objects, their status and their finalizers, which owner references need."""
    return [
        _rule(group, kinds, verbs),
        _rule(group, [f"{kind}/status" for kind in kinds], _STATUS),
        _rule(group, [f"{kind}/finalizers" for kind in kinds], ("update",)),
    ]


_CORE = ("pods", "serviceaccounts", "configmaps", "services", "endpoints", "secrets")

OPERANDS: Mapping[str, list[Rule]] = {
    "strimzi-cluster-operator-namespaced": [
        _rule("", (*_CORE, "persistentvolumeclaims"), _ALL),
        _rule("", ("pods/resize",), ("patch", "update")),
        _rule("apps", ("deployments", "replicasets"), _ALL),
        _rule("apps", ("deployments/scale",), _STATUS),
        _rule("policy", ("poddisruptionbudgets",), _ALL),
        _rule("networking.k8s.io", ("networkpolicies", "ingresses"), _ALL),
        _rule("gateway.networking.k8s.io", ("tlsroutes",), _ALL),
        _rule("events.k8s.io", ("events",), ("create",)),
        _rule(_API, ("roles", "rolebindings"), _ALL),
    ],
    "strimzi-cluster-operator-watched": [
        *_kinds(
            "kafka.strimzi.io", _OPERATED, ("get", "list", "watch", "create", "patch", "update")
        ),
        # It ends the rebalances that it began itself.
        _rule("kafka.strimzi.io", ("kafkarebalances",), ("delete",)),
        *_kinds("core.strimzi.io", ("strimzipodsets",), _ALL),
    ],
    "strimzi-entity-operator": [
        *_kinds("kafka.strimzi.io", _ENTITIES, _ALL),
        _rule("", ("secrets",), _ALL),
    ],
}
"""ClusterRoles that are bound in each watched namespace, and nowhere else."""

CLUSTER: Mapping[str, list[Rule]] = {
    "strimzi-cluster-operator-global": [
        # A broker reads its node's zone by a binding of its own. Nodes are not listed: that is for
        # listeners on node ports, which the estate has none of.
        _rule(_API, ("clusterrolebindings",), _ALL),
        _rule("storage.k8s.io", ("storageclasses",), ("get",)),
    ],
    "strimzi-kafka-broker": [_rule("", ("nodes",), ("get",))],
}
"""ClusterRoles that are bound in the whole cluster."""


def grant(
    account: str,
    namespace: pulumi.Input[str],
    watched: Sequence[pulumi.Input[str]],
    names: Sequence[str],
    opts: pulumi.ResourceOptions,
) -> list[pulumi.Resource]:
    """Give the account of the operator's `namespace` its rights; `watched` are named `names`."""
    subject = k8s.rbac.v1.SubjectArgs(kind="ServiceAccount", name=account, namespace=namespace)
    made: list[pulumi.Resource] = []
    for role, rules in {**OPERANDS, **CLUSTER}.items():
        metadata = meta(role, None, labels(account))
        made.append(k8s.rbac.v1.ClusterRole(role, metadata=metadata, rules=rules, opts=opts))
    for role in OPERANDS:
        for space, name in zip(watched, names, strict=True):
            made.append(
                k8s.rbac.v1.RoleBinding(
                    f"{role}-{name}",
                    metadata=meta(role, space, labels(account)),
                    role_ref=_ref("ClusterRole", role),
                    subjects=[subject],
                    opts=opts,
                )
            )
    for role in CLUSTER:
        made.append(
            k8s.rbac.v1.ClusterRoleBinding(
                role,
                metadata=meta(role, None, labels(account)),
                role_ref=_ref("ClusterRole", role),
                subjects=[subject],
                opts=opts,
            )
        )
    return [*made, *_election(account, namespace, opts)]


def _election(
    account: str,
    namespace: pulumi.Input[str],
    opts: pulumi.ResourceOptions,
) -> list[pulumi.Resource]:
    name = f"{account}-election"
    lease = "coordination.k8s.io"
    return granted(
        name,
        namespace,
        # Who may create one cannot be held to a name.
        [_rule(lease, ("leases",), ("create",)), _rule(lease, ("leases",), _ALL, (LEASE,))],
        opts,
        labelled=labels(account),
        account=account,
    )


def _ref(kind: str, name: str) -> k8s.rbac.v1.RoleRefArgs:
    return k8s.rbac.v1.RoleRefArgs(api_group=_API, kind=kind, name=name)
