"""The registry of models, by the implementation that the environment chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pulumi

from components.model_repository.config import (
    LINKS,
    NAME,
    PUBLISHER,
    READER,
    ModelRepositoryConfig,
    TrustedKey,
)
from components.model_repository.distribution import Distribution
from components.model_repository.nexus import Nexus
from components.model_repository.repository import ModelRepository
from configs.errors import ConfigError
from model_repo import declared
from model_repo.oci import OciError
from stacks import backup
from stacks.backup import Backups
from stacks.context import Context
from stacks.datalake import Databases, Monitors
from stacks.foundation import Platform

if TYPE_CHECKING:
    from components.model_repository.ecr import Ecr


def deploy(
    context: Context,
    platform: Platform,
    monitors: Monitors,
    databases: Databases | None,
    backups: Backups | None,
) -> ModelRepository | None:
    """The registry, where the environment declares it, and the backup of its blobs."""
    config = context.environment.model_repository
    if config is None:
        return None
    passwords = {user: context.secret(ref) for user, ref in config.passwords().items()}
    trusted = [_key(context, one) for one in config.trusted_keys]
    opts = pulumi.ResourceOptions(provider=context.provider, depends_on=[platform.pki])
    registry: Distribution | Nexus | Ecr
    if config.ecr is not None:
        registry = _ecr(context, platform, monitors, config, trusted)
    elif config.nexus is not None:
        postgres = context.environment.postgres
        assert postgres is not None and databases is not None  # the environment's model asks
        database = next(one for one in postgres.databases if one.name == config.nexus.database)
        owner = next(role for role in postgres.roles if role.name == database.owner)
        registry = Nexus(
            NAME,
            config,
            namespace=platform.namespaces["serving"],
            image=context.images["nexus"],
            proxy_image=context.images["haproxy"],
            admin_image=context.images["estate_admin"],
            passwords=passwords,
            admin_password=context.secret(config.nexus.admin),
            trusted=trusted,
            postgres=databases.postgres,
            database=database,
            database_password=context.secret(owner.password),
            databases=databases.ready,
            authority=platform.pki.authority,
            issuer=platform.pki.ready,
            monitors=monitors,
            opts=opts,
        )
    else:
        registry = Distribution(
            NAME,
            config,
            namespace=platform.namespaces["serving"],
            image=context.images["registry"],
            proxy_image=context.images["haproxy"],
            passwords=passwords,
            trusted=trusted,
            authority=platform.pki.authority,
            issuer=platform.pki.ready,
            monitors=monitors,
            opts=opts,
        )
    context.declare(registry)
    if isinstance(registry, Nexus):
        backup.deploy_models(context, platform, monitors, backups, registry)
    repository = registry.repository
    if repository.pods is not None:  # the gateway leads into the cluster alone
        context.links[LINKS[PUBLISHER]] = repository.publish_url
        context.links[LINKS[READER]] = repository.read_url
    pulumi.export(
        "model_repository",
        {"publish_url": repository.publish_url, "read_url": repository.read_url},
    )
    return repository


def _ecr(
    context: Context,
    platform: Platform,
    monitors: Monitors,
    config: ModelRepositoryConfig,
    trusted: Sequence[pulumi.Input[str]],
) -> Ecr:
    # Not above: the package of AWS is large, and every other environment does without it.
    import pulumi_aws as aws

    from components.model_repository.ecr import Ecr

    assert config.ecr is not None
    try:
        models = declared.names(context.models)
    except OciError as error:
        raise ConfigError(f"{error}; mend the folder") from None
    provider = None
    if not context.rehearsed:
        provider = aws.Provider(
            "aws",
            region=config.ecr.region,
            # Of another account's credentials nothing is made.
            allowed_account_ids=[config.ecr.account],
        )
    return Ecr(
        NAME,
        config,
        models=models,
        namespace=platform.namespaces["serving"],
        admin_image=context.images["estate_admin"],
        trusted=trusted,
        provider=provider,
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )


def _key(context: Context, key: TrustedKey) -> pulumi.Input[str]:
    if key.pem is not None:
        return key.pem
    assert key.reference is not None
    return context.secret(key.reference)
