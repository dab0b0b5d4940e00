"""MongoDB's community operator: its definition, rights and limits.

The definition is that of release 0.13.0, the newest that the Go module proxy has. 0.12.0 runs: the
newest whose image's digest is public. Between the two the definition gained one field, which the
estate does not use. The release's manifests are declared here again, with smaller rights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.checks import ExpectedPods
from components.dashboards import operator_dashboard
from components.datalake.operators_config import MongodbOperatorConfig
from components.flows import Pods, asks_api, scraped
from components.model import Image
from components.platform.release import Object, apply_release
from components.workload import (
    Component,
    alert,
    container_security,
    granted,
    labels,
    meta,
    pod_monitor,
    pod_security,
    probe,
    prometheus_rule,
    requirements,
    service_account,
    waive,
)

MANIFEST = "mongodb-community-0.13.0"
NAMESPACE = "platform"
NAME = "mongodb-kubernetes-operator"
SELECTOR = labels(NAME)
PODS = Pods(name=NAME, namespace=NAMESPACE, selector=SELECTOR)
UID = 2000
PORT = 8080  # controller-runtime's metrics, its default
GROUP = "mongodbcommunity.mongodb.com"
_ALL = ("create", "delete", "get", "list", "patch", "update", "watch")
_OPERATED = ("get", "patch", "list", "update", "watch")


class MongodbOperator(Component):
    """The operator in namespace `platform`; it acts in the namespace `watched` alone.

    `ready` holds the resources after which a `MongoDBCommunity` is accepted and acted on; `images`
    has what it puts into its pods: `agent`, `hook`, `readiness`, `server`.
    """

    ready: Sequence[pulumi.Resource]

    def __init__(
        self,
        name: str,
        config: MongodbOperatorConfig,
        *,
        namespace: pulumi.Input[str],
        watched: tuple[str, pulumi.Input[str]],
        image: Image,
        images: Mapping[str, Image],
        objects: Sequence[Object],
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:MongodbOperator", name, opts)
        self._config, self._namespace, self._image = config, namespace, image
        definitions = apply_release(objects, self, protect_crds=config.protect)
        account = service_account(NAME, namespace, self.child())
        rights = self._rights(watched[1])
        waived = {
            "checkov.CKV_K8S_38": "an operator works on the API",
            "images.operator": "MONGODB_IMAGE is part of a name; the replica set has the digest",
        }
        deployment = k8s.apps.v1.Deployment(
            NAME,
            metadata=meta(NAME, namespace, SELECTOR, waive(waived)),
            spec=k8s.apps.v1.DeploymentSpecArgs(
                replicas=1,
                # Two of them would both act.
                strategy=k8s.apps.v1.DeploymentStrategyArgs(type="Recreate"),
                selector=k8s.meta.v1.LabelSelectorArgs(match_labels=SELECTOR),
                template=k8s.core.v1.PodTemplateSpecArgs(
                    metadata=k8s.meta.v1.ObjectMetaArgs(labels=SELECTOR),
                    spec=self._pod(watched[0], images),
                ),
            ),
            opts=self.child(depends_on=[*definitions, *rights, account]),
        )
        self.ready = [*definitions, *rights, deployment]
        self.expected_pods.append(
            ExpectedPods(
                name=NAME,
                namespace=NAMESPACE,
                selector=SELECTOR,
                count=1,
                resources=config.resources,
            )
        )
        self.flows.append(asks_api(PODS))
        if monitors is not None:
            self._monitor(self.child(depends_on=list(monitors)))
            self.flows.append(scraped(PODS, PORT))
        self.register_outputs({"namespace": NAMESPACE})

    def _rights(self, watched: pulumi.Input[str]) -> list[pulumi.Resource]:
        rule = k8s.rbac.v1.PolicyRuleArgs
        own = ["", "/status", "/spec", "/finalizers"]
        rules = [
            rule(
                api_groups=[""],
                resources=["pods", "services", "configmaps", "secrets"],
                verbs=list(_ALL),
            ),
            rule(api_groups=["apps"], resources=["statefulsets"], verbs=list(_ALL)),
            rule(
                api_groups=[GROUP],
                resources=[f"mongodbcommunity{part}" for part in own],
                verbs=list(_OPERATED),
            ),
        ]
        return granted(
            NAME,
            watched,
            rules,
            self.child(),
            labelled=SELECTOR,
            account_namespace=self._namespace,
        )

    def _pod(self, watched: str, images: Mapping[str, Image]) -> k8s.core.v1.PodSpecArgs:
        variable = k8s.core.v1.EnvVarArgs
        server = images["server"]
        repository, _, image = server.repository.rpartition("/")
        environment = {
            "WATCH_NAMESPACE": watched,
            "OPERATOR_NAME": NAME,
            "AGENT_IMAGE": images["agent"].ref,
            "VERSION_UPGRADE_HOOK_IMAGE": images["hook"].ref,
            "READINESS_PROBE_IMAGE": images["readiness"].ref,
            # Two parts of a name, which the operator puts together for sets that name no image.
            "MONGODB_IMAGE": image,
            "MONGODB_REPO_URL": repository,
        }
        name = variable(
            name="POD_NAME",
            value_from=k8s.core.v1.EnvVarSourceArgs(
                field_ref=k8s.core.v1.ObjectFieldSelectorArgs(field_path="metadata.name")
            ),
        )
        alive = ("/metrics", "metrics")
        return k8s.core.v1.PodSpecArgs(
            service_account_name=NAME,
            automount_service_account_token=True,
            enable_service_links=False,
            security_context=pod_security(UID),
            containers=[
                k8s.core.v1.ContainerArgs(
                    name="operator",
                    image=self._image.ref,
                    image_pull_policy="IfNotPresent",
                    command=["/usr/local/bin/entrypoint"],
                    env=[
                        *(variable(name=key, value=value) for key, value in environment.items()),
                        name,
                    ],
                    ports=[k8s.core.v1.ContainerPortArgs(name="metrics", container_port=PORT)],
                    security_context=container_security(),
                    resources=requirements(self._config.resources),
                    # It has no health endpoint; its metrics come from the same manager.
                    startup_probe=probe(http=alive, period_s=2, failures=60),
                    readiness_probe=probe(http=alive, period_s=10, timeout_s=5),
                    liveness_probe=probe(http=alive, period_s=30, timeout_s=5, failures=4),
                )
            ],
        )

    def _monitor(self, opts: pulumi.ResourceOptions) -> None:
        waived = {"encryption": "counters of the operator's own work, nothing of a database"}
        pod_monitor(NAME, self._namespace, SELECTOR, [{"port": "metrics"}], opts, waived=waived)
        prometheus_rule(NAME, self._namespace, operator_rules(), opts)
        self.dashboards.append(
            operator_dashboard(
                NAME,
                NAMESPACE,
                "MongoDB operator",
                alerts="MongodbOperator.+",
                description="The operator of MongoDB.",
            )
        )


def operator_rules() -> list[dict[str, Any]]:
    """What a person must know of the operator."""
    job = f'namespace="{NAMESPACE}", job=~".*{NAME}"'
    return [
        alert(
            "MongodbOperatorDown",
            f"absent(up{{{job}}} == 1)",
            "no MongoDB operator answers: members and users are not kept as declared",
            for_s=300,
        ),
        alert(
            "MongodbOperatorReconcileErrors",
            f"sum(rate(controller_runtime_reconcile_errors_total{{{job}}}[5m])) > 0.1",
            "the MongoDB operator keeps failing; see its log",
            for_s=600,
            severity="warning",
        ),
    ]
