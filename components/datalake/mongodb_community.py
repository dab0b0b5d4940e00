"""MongoDB as a replica set that MongoDB's community operator runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource

from components.authority import Authority
from components.checks import ExpectedPods, Fault, ObjectRef
from components.datalake import mongodb_spec as spec
from components.datalake.mongodb_checks import Faults, checks
from components.datalake.mongodb_cluster import MongodbCluster
from components.datalake.mongodb_config import NAMESPACE, PORT, VERIFY_USER, MongodbConfig
from components.datalake.mongodb_dashboard import mongodb_dashboard
from components.datalake.mongodb_rules import mongodb_rules
from components.flows import Flow, Pods, asks_api, scraped
from components.model import Image, together
from components.monitoring import prometheus_operator
from components.workload import (
    by_https,
    certificate,
    disruption_budget,
    granted,
    labels,
    meta,
    pod_monitor,
    prometheus_rule,
    service_dns,
)


class MongodbCommunity(MongodbCluster):
    """A `MongoDBCommunity`, its certificate, users, rights and budget.

    `operator` holds what must exist before the kind is accepted and acted on; Pulumi deletes it
    last. `images` has `server`, `agent`, `hook` and `readiness`.
    """

    def __init__(
        self,
        name: str,
        config: MongodbConfig,
        *,
        namespace: pulumi.Input[str],
        namespace_name: str = NAMESPACE,
        images: Mapping[str, Image],
        passwords: Mapping[str, pulumi.Input[str]],
        metrics_password: pulumi.Input[str],
        authority: Authority,
        operator: Sequence[pulumi.Resource] = (),
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:MongodbCommunity", name, opts)
        self._name, self._config = name, config
        self._namespace, self._namespace_name = namespace, namespace_name
        tls = certificate(
            f"{name}-tls",
            namespace,
            # Members come and go by number, the certificate stays.
            [*service_dns(name, namespace_name), f"*.{name}.{namespace_name}.svc.cluster.local"],
            self.child(depends_on=list(issuer)),
            # Members are clients of one another.
            client=True,
            issuer=authority.issuer,
        )
        secrets = self._passwords(passwords)
        metrics = k8s.core.v1.Secret(
            f"{name}-metrics",
            metadata=meta(f"{name}-metrics", namespace, labels(name)),
            string_data={"username": "prometheus", "password": metrics_password},
            opts=self.child(),
        )
        rights = self._rights()
        cluster = CustomResource(
            name,
            api_version=spec.API_VERSION,
            kind="MongoDBCommunity",
            metadata=meta(
                name,
                namespace,
                labels(name),
                {"pulumi.com/waitFor": "jsonpath={.status.phase}=Running"},
            ),
            spec=spec.community_spec(
                name, config, images, tls=f"{name}-tls", metrics=f"{name}-metrics"
            ),
            opts=self.child(
                depends_on=[*operator, tls, metrics, *rights, *secrets.values()],
                protect=config.protect,
                custom_timeouts=pulumi.CustomTimeouts(create="30m", update="60m", delete="15m"),
            ),
        )
        selector = spec.pod_labels(name)
        disruption_budget(
            name,
            namespace,
            selector,
            self.child(),
            # Only an absolute number holds for pods of a controller without `scale`.
            min_available=config.replicas - 1,
        )
        self.pods = Pods(name=name, namespace=namespace_name, selector=selector)
        self.flows += [
            # Agents read what the operator wants, and say on their pods how far they are.
            asks_api(self.pods),
            Flow(source=self.pods, target=self.pods, ports=[PORT]),
        ]
        if monitors is not None:
            self._monitor(self.child(depends_on=list(monitors)))
            self.flows.append(scraped(self.pods, spec.METRICS_PORT))
        self.expected_pods.append(
            ExpectedPods(
                name=name,
                namespace=namespace_name,
                selector=selector,
                count=config.replicas,
                resources=together(config.resources, config.replica_set.agent_resources),
                spread=config.spread,
                claims=[config.replica_set.storage.size_gib, config.replica_set.logs.size_gib],
            )
        )
        self.checks = checks(
            name,
            namespace_name,
            config,
            self._faults(),
            selector=",".join(f"{key}={value}" for key, value in selector.items()),
            replica_set=name,
        )
        self._declare(secrets, [cluster], f"&replicaSet={name}")

    def _rights(self) -> list[pulumi.Resource]:
        """What an agent may do, to its own replica set alone."""
        name, rule = self._name, k8s.rbac.v1.PolicyRuleArgs
        members = [f"{name}-{i}" for i in range(self._config.replicas)]
        rules = [
            rule(
                api_groups=[""],
                resources=["secrets"],
                resource_names=[f"{name}-config"],
                verbs=["get"],
            ),
            rule(
                api_groups=[""],
                resources=["pods"],
                resource_names=members,
                verbs=["get", "patch", "delete"],
            ),
        ]
        account = k8s.core.v1.ServiceAccount(
            spec.ACCOUNT,
            metadata=meta(spec.ACCOUNT, self._namespace, labels(name)),
            opts=self.child(),
        )
        made = self._bound(spec.ACCOUNT, rules, spec.ACCOUNT, self._namespace)
        return [account, *made]

    def _bound(
        self,
        name: str,
        rules: list[k8s.rbac.v1.PolicyRuleArgs],
        account: str,
        of: pulumi.Input[str],
    ) -> list[pulumi.Resource]:
        return granted(
            name,
            self._namespace,
            rules,
            self.child(),
            labelled=labels(self._name),
            account=account,
            account_namespace=of,
        )

    def _monitor(self, opts: pulumi.ResourceOptions) -> None:
        name = self._name
        # The exporter asks for a password: this one Secret is shown to who writes Prometheus's
        # configuration, and no other.
        self._bound(
            f"{name}-metrics",
            [
                k8s.rbac.v1.PolicyRuleArgs(
                    api_groups=[""],
                    resources=["secrets"],
                    resource_names=[f"{name}-metrics"],
                    verbs=["get"],
                )
            ],
            prometheus_operator.NAME,
            prometheus_operator.NAMESPACE,
        )
        pod_monitor(
            name,
            self._namespace,
            spec.pod_labels(name),
            [
                {
                    "portNumber": spec.METRICS_PORT,
                    **by_https(f"{name}.{self._namespace_name}.svc.cluster.local"),
                    "basicAuth": {
                        key: {"name": f"{name}-metrics", "key": key}
                        for key in ("username", "password")
                    },
                }
            ],
            opts,
        )
        rules = mongodb_rules(name, self._namespace_name, self._config)
        prometheus_rule(name, self._namespace, rules, opts)
        self.dashboards.append(mongodb_dashboard(name, self._namespace_name, self._config))

    def _faults(self) -> Faults:
        """All in what the operator is told: what it makes it mends at once."""
        config, name = self._config, self._name
        others = [user for user in config.users if user.name != VERIFY_USER]

        def fault(patch: dict[str, Any]) -> Fault:
            target = ObjectRef(
                api_version=spec.API_VERSION,
                kind="MongoDBCommunity",
                namespace=self._namespace_name,
                name=name,
            )
            return Fault(target=target, patch={"spec": patch})

        open_to_all = {"additionalMongodConfig": {"security.authorization": "disabled"}}
        return Faults(
            round_trip=fault({"users": spec.users(name, others)}),
            wrong_password=fault(open_to_all),
            encrypted=fault({"security": {"tls": {"optional": True}}}),
            declared=fault({"users": spec.users(name, config.users[1:])}),
            replicas=fault({"members": config.replicas - 1}),
        )
