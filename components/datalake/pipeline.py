"""The pipeline: Dagster on PostgreSQL, between the image topic and the three stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import ExpectedPods
from components.datalake import pipeline_files as files
from components.datalake import pipeline_pods as pods
from components.datalake.kafka_cluster import KafkaCluster
from components.datalake.kafka_files import CLIENTS_PORT as KAFKA_PORT
from components.datalake.mongodb_cluster import MongodbCluster
from components.datalake.mongodb_config import PORT as MONGODB_PORT
from components.datalake.object_store import ObjectStore
from components.datalake.pipeline_checks import pipeline_checks
from components.datalake.pipeline_config import (
    CATALOGUE,
    DAGSTER,
    METRICS_PORT,
    NAMESPACE,
    PORT,
    USER,
    PipelineConfig,
)
from components.datalake.pipeline_dashboard import pipeline_dashboard
from components.datalake.pipeline_pods import Secrets
from components.datalake.pipeline_rules import pipeline_rules
from components.datalake.postgres import Postgres
from components.datalake.postgres_config import PORT as POSTGRES_PORT
from components.flows import Flow, Pods, asks_api, scraped
from components.model import Image, Resources, together
from components.workload import (
    Component,
    certificate,
    checksum,
    granted,
    labels,
    meta,
    pod_monitor,
    prometheus_rule,
    service_account,
    service_dns,
    waive,
)


class Pipeline(Component):
    """One pod: Dagster's web pages behind a proxy that asks for a password, its daemon, the code.

    `url` is where people go.
    """

    url: pulumi.Output[str]
    pods: Pods

    def __init__(
        self,
        name: str,
        config: PipelineConfig,
        *,
        namespace: pulumi.Input[str],
        namespace_name: str = NAMESPACE,
        image: Image,
        proxy_image: Image,
        store: ObjectStore,
        kafka: KafkaCluster,
        mongodb: MongodbCluster,
        postgres: Postgres,
        databases: Sequence[pulumi.Resource],
        passwords: Mapping[str, pulumi.Input[str]],
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:Pipeline", name, opts)
        self._name, self._config, self._namespace = name, config, namespace
        self._namespace_name, self._image = namespace_name, image
        self._selector, self._runs = labels(name), labels(f"{name}-run")
        self._store, self._kafka, self._mongodb = store, kafka, mongodb
        self._postgres, self._passwords = postgres, passwords
        self._secrets = Secrets(
            s3=store.secrets[USER],
            kafka=f"kafka-{USER}",
            mongodb=mongodb.secret_name(USER),
            dagster=postgres.secret_name(DAGSTER),
            catalogue=postgres.secret_name(CATALOGUE),
        )
        host = f"{name}.{namespace_name}.svc.cluster.local"
        settings = self._settings()
        users = self._users()
        tls = certificate(
            f"{name}-tls",
            namespace,
            service_dns(name, namespace_name),
            self.child(depends_on=list(issuer)),
            issuer=authority.issuer,
        )
        made: list[pulumi.Resource] = [*settings, *users.values(), tls, self._service()]
        made += self._accounts()
        deployment = self._deployment(
            proxy_image,
            settings,
            [*made, *store.ready, *kafka.ready, *mongodb.ready, *databases],
        )
        self.pods = Pods(name=name, namespace=namespace_name, selector=self._selector)
        self._flows()
        if monitors is not None:
            self._monitor(monitors)
        self.url = deployment.id.apply(lambda _: f"https://{host}:{PORT}/")
        self.expected_pods.append(
            ExpectedPods(
                name=name,
                namespace=namespace_name,
                selector=self._selector,
                count=1,
                resources=_together(config),
            )
        )
        self.checks += pipeline_checks(
            name,
            namespace=namespace_name,
            host=host,
            store=store,
            kafka=kafka.address,
            mongodb=mongodb,
            postgres=postgres,
        )
        self.register_outputs({"url": self.url})

    @property
    def _on_kubernetes(self) -> bool:
        return self._config.launcher == "kubernetes"

    def _settings(self) -> list[k8s.core.v1.ConfigMap]:
        name, config, host = self._name, self._config, self._postgres.host("rw")
        launcher = pods.launcher(
            name,
            config,
            namespace=self._namespace_name,
            image=self._image,
            secrets=self._secrets,
            selector=self._runs,
        )
        told = self._mongodb.url.apply(
            lambda url: files.settings(
                config,
                endpoint=self._store.endpoint,
                region=self._store.region,
                bootstrap=self._kafka.address,
                mongo_url=url,
                postgres=host,
                port=POSTGRES_PORT,
                metrics_port=METRICS_PORT,
            )
        )
        contents: dict[str, dict[str, pulumi.Input[str]]] = {
            "config": {
                "settings.json": told,
                "dagster.yaml": files.dagster_yaml(config, host, POSTGRES_PORT, launcher),
                "workspace.yaml": files.workspace_yaml(),
                "code.sh": files.code_start(abandon=not self._on_kubernetes),
                "web.sh": files.WEB,
                "daemon.sh": files.DAEMON,
                "health.py": files.HEALTH,
            },
            "proxy": {"haproxy.cfg": files.haproxy_cfg(), "serve.sh": files.PROXY_SERVE},
        }
        return [
            k8s.core.v1.ConfigMap(
                f"{name}-{part}",
                metadata=meta(f"{name}-{part}", self._namespace, self._selector),
                data=data,
                opts=self.child(),
            )
            for part, data in contents.items()
        ]

    def _users(self) -> dict[str, k8s.core.v1.Secret]:
        return {
            user.name: k8s.core.v1.Secret(
                self._user(user.name),
                metadata=meta(self._user(user.name), self._namespace, self._selector),
                string_data={"username": user.name, "password": self._passwords[user.name]},
                opts=self.child(),
            )
            for user in self._config.users
        }

    def _user(self, name: str) -> str:
        return f"{self._name}-user-{name}"

    def _service(self) -> k8s.core.v1.Service:
        return k8s.core.v1.Service(
            self._name,
            metadata=meta(
                self._name, self._namespace, self._selector, {"pulumi.com/skipAwait": "true"}
            ),
            spec=k8s.core.v1.ServiceSpecArgs(
                selector=self._selector,
                ports=[k8s.core.v1.ServicePortArgs(name="https", port=PORT, target_port="https")],
            ),
            opts=self.child(),
        )

    def _accounts(self) -> list[pulumi.Resource]:
        """Who the pods are; with runs in Jobs, the pod may make Jobs, and a run's may nothing."""
        name, namespace = self._name, self._namespace
        account = service_account(name, namespace, self.child())
        if not self._on_kubernetes:
            return [account]
        rule = k8s.rbac.v1.PolicyRuleArgs
        rights = granted(
            name,
            namespace,
            [
                rule(
                    api_groups=["batch"],
                    resources=["jobs", "jobs/status"],
                    verbs=["create", "get", "list", "watch", "delete", "patch"],
                ),
                rule(
                    api_groups=[""],
                    resources=["pods", "pods/log", "pods/status", "events"],
                    verbs=["get", "list", "watch"],
                ),
            ],
            self.child(),
            labelled=self._selector,
        )
        return [account, *rights, service_account(f"{name}-run", namespace, self.child())]

    def _deployment(
        self,
        proxy_image: Image,
        settings: Sequence[k8s.core.v1.ConfigMap],
        depends_on: Sequence[pulumi.Resource],
    ) -> k8s.apps.v1.Deployment:
        name = self._name
        reasons = {
            "kube-score.deployment-replicas": "Dagster's daemon must be one; images wait for it",
            "kube-score.deployment-strategy": "two daemons would start every run twice",
        }
        if self._on_kubernetes:
            reasons["checkov.CKV_K8S_38"] = "it starts a Job for each run"
        spec = pods.dagster_pod(
            name,
            self._config,
            image=self._image,
            proxy_image=proxy_image,
            secrets=self._secrets,
            users={user.name: self._user(user.name) for user in self._config.users},
            asks_api=self._on_kubernetes,
        )
        return k8s.apps.v1.Deployment(
            name,
            metadata=meta(name, self._namespace, self._selector, waive(reasons)),
            spec=k8s.apps.v1.DeploymentSpecArgs(
                replicas=1,
                # Two daemons would start every run twice.
                strategy=k8s.apps.v1.DeploymentStrategyArgs(type="Recreate"),
                selector=k8s.meta.v1.LabelSelectorArgs(match_labels=self._selector),
                template=k8s.core.v1.PodTemplateSpecArgs(
                    metadata=k8s.meta.v1.ObjectMetaArgs(
                        labels=self._selector,
                        annotations={
                            "estate.dev/settings": checksum(*(one.data for one in settings))
                        },
                    ),
                    spec=spec,
                ),
            ),
            opts=self.child(depends_on=list(depends_on)),
        )

    def _flows(self) -> None:
        at_work = [self.pods]
        if self._on_kubernetes:
            run = Pods(
                name=f"{self._name}-run",
                namespace=self._namespace_name,
                selector=self._runs,
                lasting=False,
            )
            at_work.append(run)
            self.flows.append(asks_api(self.pods))
        for source in at_work:
            self.flows += [
                Flow(source=source, target=self._store.pods, ports=[self._store.target_port]),
                Flow(source=source, target=self._kafka.brokers, ports=[KAFKA_PORT]),
                Flow(source=source, target=self._mongodb.pods, ports=[MONGODB_PORT]),
                Flow(source=source, target=self._postgres.pods, ports=[POSTGRES_PORT]),
            ]

    def _monitor(self, depends_on: Sequence[pulumi.Resource]) -> None:
        name, opts = self._name, self.child(depends_on=list(depends_on))
        waived = {"encryption": "counts of images and runs, no names and no credentials"}
        endpoints = [{"port": "metrics"}]
        pod_monitor(name, self._namespace, self._selector, endpoints, opts, waived=waived)
        rules = pipeline_rules(self._namespace_name, self._config)
        prometheus_rule(name, self._namespace, rules, opts)
        self.dashboards.append(pipeline_dashboard(name, self._namespace_name, self._config))
        self.flows.append(scraped(self.pods, METRICS_PORT))


def _together(config: PipelineConfig) -> Resources:
    """What the pod asks for."""
    parts = (
        *(config.proxy_resources, config.web_resources, config.daemon_resources),
        *(config.code_resources, config.metrics_resources),
    )
    return together(*parts)
