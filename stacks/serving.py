"""Inference: which models the environment serves."""

from __future__ import annotations

import pulumi

from components.triton.models import ModelDeclaration, config_map
from stacks.context import Context


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
