"""Inference: Triton behind its gateway, and which models the environment serves."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi

from components.model_repository.repository import ModelRepository
from components.platform.keda import MANIFEST, Keda
from components.platform.namespaces import AUTOSCALING
from components.triton.config import TritonConfig
from components.triton.models import ModelDeclaration, config_map
from components.triton.serving import Serving
from configs.errors import ConfigError
from model_repo.declared import FILE, Desired
from stacks.context import Context, manifest
from stacks.datalake import Monitors
from stacks.foundation import Platform


def deploy(
    context: Context, platform: Platform, monitors: Monitors, repository: ModelRepository | None
) -> Serving | None:
    """Serving, where the environment declares it. Raises ConfigError."""
    config = context.environment.serving
    if config is None:
        return None
    assert repository is not None  # the environment's model asks for it
    namespace = platform.namespaces["serving"]
    models = deploy_models(context, namespace)
    for one in models:
        placed(one.desired, config)
    serving = Serving(
        "serving",
        config,
        namespace=namespace,
        image=context.images["estate_triton"],
        native_image=(
            context.images["triton"] if any(pool.native for pool in config.pools) else None
        ),
        service_image=context.images["estate_serving"],
        proxy_image=context.images["haproxy"],
        repository=repository,
        models=[one.desired for one in models],
        authority=platform.pki.authority,
        issuer=platform.pki.ready,
        monitors=monitors,
        autoscaler=_autoscaler(context, platform, monitors) if config.autoscaled else (),
        opts=pulumi.ResourceOptions(provider=context.provider, depends_on=[platform.pki]),
    )
    context.declare(serving)
    context.links["inference"] = serving.url
    pulumi.export("serving", {"url": serving.url})
    return serving


def _autoscaler(
    context: Context, platform: Platform, monitors: Monitors
) -> Sequence[pulumi.Resource]:
    """KEDA, for this layer alone."""
    keda = Keda(
        "keda",
        context.environment.keda,
        namespace=platform.namespaces[AUTOSCALING],
        scaled={"serving": platform.namespaces["serving"]},
        images=context.images,
        objects=manifest(MANIFEST),
        authority=platform.pki.authority,
        issuer=platform.pki.ready,
        monitors=monitors,
        opts=pulumi.ResourceOptions(provider=context.provider),
    )
    context.declare(keda)
    return keda.ready


def placed(model: Desired, config: TritonConfig) -> None:
    """Raises ConfigError unless the environment has what the model's way of serving asks for."""
    pools = {pool.name: pool for pool in config.pools}
    file = f"{model.name}/{FILE}"
    pool = pools.get(model.serving.pool)
    if pool is None:
        raise ConfigError(
            f"{file}: serving.pool ({model.serving.pool}): the environment has no such pool: take "
            f"one of {', '.join(sorted(pools))}, or declare it in serving.pools"
        )
    if model.serving.rate_limit is not None and not pool.rate_limiter:
        raise ConfigError(
            f"{file}: serving.rate_limit: pool {pool.name} has rate_limiter false, and Triton "
            f"would not heed it: set serving.pools.{config.pools.index(pool)}.rate_limiter, or "
            "leave it out"
        )


def deploy_models(context: Context, namespace: pulumi.Input[str]) -> list[ModelDeclaration]:
    """What `model_repo/models` declares for this environment. Raises ConfigError."""
    found = []
    for desired in context.desired_models():
        made = ModelDeclaration(
            config_map(desired.name),
            desired,
            namespace=namespace,
            opts=pulumi.ResourceOptions(provider=context.provider),
        )
        context.declare(made)
        found.append(made)
    return found
