"""The registry by Amazon ECR: repositories in AWS, and a CronJob that keeps the reader's token."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as k8s

from components.checks import ExpectedPods
from components.flows import OUTSIDE, Flow, Pods, asks_api
from components.model import Image
from components.model_repository import ecr_token
from components.model_repository.checks import ecr_checks
from components.model_repository.config import (
    NAMESPACE,
    READER,
    ModelRepositoryConfig,
)
from components.model_repository.ecr_policies import (
    SIGNATURES,
    lifecycle_policy,
    repository_policy,
)
from components.model_repository.registry import mount, trust
from components.model_repository.repository import ModelRepository
from components.model_repository.rules import ecr_rules
from components.workload import (
    API_MOUNT,
    Component,
    api_token_volume,
    checksum,
    config_map_volume,
    container_security,
    granted,
    labels,
    meta,
    pod_security,
    prometheus_rule,
    requirements,
    service_account,
)

ROLE = "eks.amazonaws.com/role-arn"
"""Annotation of a service account: EKS then gives its pods credentials of this role."""
SCHEDULE = "17 */4 * * *"
"""A token is good for 12 hours: two runs may fail, and the third is in time."""
_CODE = "/model-registry/code"
_PROGRAM = "ecr_token.py"
_UID = 1000
_KEY_DAYS = 30
"""For so long a deleted key can be had back: the most that AWS waits."""


class Ecr(Component):
    """A repository for each of `models` in AWS, and in the cluster the reader's Secret.

    Versions get in from outside, by whoever may take the publisher's principal: no Secret here has
    its password. `provider` is AWS's; without one nothing of AWS is declared: in a rehearsal.
    """

    repository: ModelRepository
    pods: Pods
    """That ask for tokens."""

    def __init__(
        self,
        name: str,
        config: ModelRepositoryConfig,
        *,
        models: Sequence[str],
        namespace: pulumi.Input[str],
        admin_image: Image,
        trusted: Sequence[pulumi.Input[str]],
        provider: pulumi.ProviderResource | None,
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:serving:ModelRepository", name, opts)
        assert config.ecr is not None  # the configuration's model asks for it
        self._name, self._namespace = name, namespace
        self._config, self._kept = config.ecr, config.protect
        self._tags = {"project": "estate", "component": name, **config.ecr.tags}
        self._secret = f"{name}-{READER}"
        self._token = f"{name}-token"
        self._selector = labels(self._token)
        self.pods = Pods(
            name=self._token, namespace=NAMESPACE, selector=self._selector, lasting=False
        )
        made = self._repositories(models, provider) if provider is not None else []
        keys = trust(namespace, labels(name), trusted, self.child())
        # Its values are the program's: Pulumi has none, and so takes none back.
        secret = k8s.core.v1.Secret(
            self._secret,
            metadata=meta(self._secret, namespace, labels(name)),
            type="Opaque",
            opts=self.child(),
        )
        first = self._jobs(admin_image, secret)
        self.flows += [
            asks_api(self.pods),
            Flow(source=self.pods, target=OUTSIDE, ports=[443]),
        ]
        if monitors is not None:
            rules = ecr_rules(self._token, NAMESPACE)
            prometheus_rule(name, namespace, rules, self.child(depends_on=list(monitors)))
        self.expected_pods.append(
            ExpectedPods(
                name=self._token,
                namespace=NAMESPACE,
                selector=self._selector,
                count=0,  # none between two runs
                resources=self._config.job_resources,
            )
        )
        self.checks += ecr_checks(
            name, url=self._config.url, secret=self._secret, models=sorted(models)
        )
        self._hand_over([*made, first], keys)

    # -- AWS ------------------------------------------------------------------------------------

    def _repositories(
        self, models: Sequence[str], provider: pulumi.ProviderResource
    ) -> list[pulumi.Resource]:
        key = aws.kms.Key(
            f"{self._name}-key",
            description=f"versions of models in ECR ({self._config.url})",
            enable_key_rotation=True,
            deletion_window_in_days=_KEY_DAYS,
            tags=self._tags,
            # Without it nothing in the repositories can be read.
            opts=self.child(provider=provider, protect=self._kept),
        )
        made: list[pulumi.Resource] = []
        for model in models:
            made += self._repository(model, key, provider)
        return made

    def _repository(
        self, model: str, key: aws.kms.Key, provider: pulumi.ProviderResource
    ) -> list[pulumi.Resource]:
        config, name = self._config, f"{self._name}-{model}"
        repository = aws.ecr.Repository(
            name,
            name=config.repository(model),
            # A signature of a second key is another manifest under the signatures' tag.
            image_tag_mutability="IMMUTABLE_WITH_EXCLUSION",
            image_tag_mutability_exclusion_filters=[
                aws.ecr.RepositoryImageTagMutabilityExclusionFilterArgs(
                    filter=SIGNATURES, filter_type="WILDCARD"
                )
            ],
            encryption_configurations=[
                aws.ecr.RepositoryEncryptionConfigurationArgs(
                    encryption_type="KMS", kms_key=key.arn
                )
            ],
            # ECR looks for packages of operating systems, of which a model's files have none: each
            # scan would end as "unsupported image" and look like a fault.
            image_scanning_configuration=aws.ecr.RepositoryImageScanningConfigurationArgs(
                scan_on_push=False
            ),
            force_delete=False,
            tags={**self._tags, "model": model},
            opts=self.child(provider=provider, protect=self._kept),
        )
        below = self.child(provider=provider)
        made: list[pulumi.Resource] = [
            repository,
            aws.ecr.RepositoryPolicy(
                name,
                repository=repository.name,
                policy=json.dumps(repository_policy(config)),
                opts=below,
            ),
        ]
        if config.expire_untagged_days:
            policy = lifecycle_policy(config.expire_untagged_days)
            made.append(
                aws.ecr.LifecyclePolicy(
                    name, repository=repository.name, policy=json.dumps(policy), opts=below
                )
            )
        return made

    # -- the reader's token ---------------------------------------------------------------------

    def _jobs(self, image: Image, secret: k8s.core.v1.Secret) -> k8s.batch.v1.Job:
        """A CronJob, and a Job for the first token: whoever reads models waits for that."""
        name = self._token
        code = k8s.core.v1.ConfigMap(
            name,
            metadata=meta(name, self._namespace, self._selector),
            data={_PROGRAM: inspect.getsource(ecr_token)},
            opts=self.child(),
        )
        account = service_account(
            name, self._namespace, self.child(), annotations={ROLE: self._config.reader}
        )
        writes = k8s.rbac.v1.PolicyRuleArgs(
            api_groups=[""],
            resources=["secrets"],
            resource_names=[self._secret],
            # To read what it replaces is not its business.
            verbs=["patch"],
        )
        role = granted(name, self._namespace, [writes], self.child(), labelled=self._selector)
        template = self._template(image, code)
        before: list[pulumi.Resource] = [secret, code, account, *role]
        k8s.batch.v1.CronJob(
            name,
            metadata=meta(name, self._namespace, self._selector),
            spec=k8s.batch.v1.CronJobSpecArgs(
                schedule=SCHEDULE,
                time_zone="Etc/UTC",
                concurrency_policy="Forbid",
                starting_deadline_seconds=3600,
                successful_jobs_history_limit=1,
                failed_jobs_history_limit=3,
                job_template=k8s.batch.v1.JobTemplateSpecArgs(spec=_job(template)),
            ),
            opts=self.child(depends_on=before),
        )
        return k8s.batch.v1.Job(
            f"{name}-first",
            metadata=meta(f"{name}-first", self._namespace, self._selector),
            spec=_job(template),
            # A Job's template cannot change: what changes here makes a new one.
            opts=self.child(depends_on=before, delete_before_replace=True),
        )

    def _template(
        self, image: Image, code: k8s.core.v1.ConfigMap
    ) -> k8s.core.v1.PodTemplateSpecArgs:
        path = f"api/v1/namespaces/{NAMESPACE}/secrets/{self._secret}"
        variables = {
            "AWS_DEFAULT_REGION": self._config.region,
            "AWS_STS_REGIONAL_ENDPOINTS": "regional",
            # Without the role's credentials it has none, and says so: never the node's.
            "AWS_EC2_METADATA_DISABLED": "true",
            "HOME": "/tmp",
        }
        container = k8s.core.v1.ContainerArgs(
            name="token",
            image=image.ref,
            image_pull_policy="IfNotPresent",
            command=[
                "/usr/bin/python3",
                f"{_CODE}/{_PROGRAM}",
                self._config.region,
                f"https://kubernetes.default.svc/{path}",
                API_MOUNT.mount_path,
            ],
            env=[k8s.core.v1.EnvVarArgs(name=key, value=variables[key]) for key in variables],
            security_context=container_security(),
            resources=requirements(self._config.job_resources),
            volume_mounts=[mount(name="code", mount_path=_CODE, read_only=True), API_MOUNT],
        )
        return k8s.core.v1.PodTemplateSpecArgs(
            metadata=k8s.meta.v1.ObjectMetaArgs(
                labels=self._selector,
                annotations={
                    "estate.dev/settings": checksum(code.data, self._config.reader),
                },
            ),
            spec=k8s.core.v1.PodSpecArgs(
                restart_policy="Never",
                service_account_name=self._token,
                automount_service_account_token=False,
                enable_service_links=False,
                security_context=pod_security(_UID),
                containers=[container],
                volumes=[config_map_volume("code", self._token), api_token_volume()],
            ),
        )

    def _hand_over(self, ready: Sequence[pulumi.Resource], keys: k8s.core.v1.ConfigMap) -> None:
        found = self._config.url
        url = pulumi.Output.all(*(one.urn for one in ready)).apply(lambda _: found)
        self.repository = ModelRepository(
            publish_url=url,
            read_url=url,
            secrets={READER: self._secret},
            ready=[*ready, keys],
            authority=None,
            read_address=found,
        )
        self.register_outputs({"publish_url": url, "read_url": url})


def _job(template: k8s.core.v1.PodTemplateSpecArgs) -> k8s.batch.v1.JobSpecArgs:
    return k8s.batch.v1.JobSpecArgs(active_deadline_seconds=600, backoff_limit=4, template=template)
