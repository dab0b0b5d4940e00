"""References to Vault under the real engine: secret in the state, refused or stood in for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.engine import Project, needs_pulumi
from tests.vault_server import TOKEN, Vault, serving

pytestmark = needs_pulumi
ROOT = Path(__file__).resolve().parents[2]
VALUE = "canary-of-the-engine"

PROGRAM = """
import os
import pulumi
from components.model import Images, SecretRef
from configs.errors import ConfigError
from configs.schema import Environment
from stacks.context import PLACEHOLDERS_VARIABLE, Context
from stacks.secret_sources import SecretSources

context = Context(
    environment=Environment(),
    images=Images({}),
    stack=pulumi.get_stack(),
    config=pulumi.Config("estate"),
    sources=SecretSources(None),
    placeholders=os.environ.get(PLACEHOLDERS_VARIABLE) == "1",
)
try:
    for key in ("admin", "bridge", "admin"):
        ref = SecretRef.model_validate({"vault": {"path": "kafka", "key": key}})
        pulumi.export(key, context.secret(ref).apply(lambda value: f"user:{value}"))
    pulumi.export("own", context.secret(SecretRef(pulumi="own")))
except ConfigError as error:
    raise pulumi.RunError(str(error)) from None
"""


@pytest.fixture
def vault() -> Iterator[Vault]:
    with serving() as server:
        server.secrets["secret/data/kafka"] = {"admin": VALUE, "bridge": VALUE[::-1]}
        yield server


@pytest.fixture
def program(project: Project, vault: Vault) -> Project:
    # Not in `stacks`: that name is the package's under test here.
    (project.root / "program").mkdir()
    (project.root / "program" / "__main__.py").write_text(PROGRAM)
    (project.root / "Pulumi.yaml").write_text("name: demo\nruntime: python\nmain: program\n")
    environment = {
        **project.environment,
        "PYTHONPATH": str(ROOT),
        "VAULT_ADDR": vault.address,
        "VAULT_TOKEN": TOKEN,
        "NO_PROXY": "127.0.0.1",
    }
    made = replace(project, environment=environment)
    made.pulumi("config", "set", "--secret", "estate:own", "of-pulumi")
    return made


def without_vault(project: Project, **more: str) -> Project:
    values = {key: value for key, value in project.environment.items() if key != "VAULT_ADDR"}
    return replace(project, environment={**values, **more})


def test_values_are_secret_in_output_and_state_and_fetched_once(
    program: Project, vault: Vault
) -> None:
    shown = program.pulumi("up", "--yes", "--skip-preview")
    shown += program.pulumi("stack", "output", "--json")
    state = program.pulumi("stack", "export")
    for value in (VALUE, VALUE[::-1], "of-pulumi"):
        assert value not in shown + state
    assert vault.asked == {"secret/data/kafka": 1}
    assert f"user:{VALUE}" in program.pulumi("stack", "output", "admin", "--show-secrets")


def test_without_access_a_preview_is_refused_or_takes_placeholders(program: Project) -> None:
    program.pulumi("up", "--yes", "--skip-preview")
    assert "vault secret/kafka: VAULT_ADDR is empty" in without_vault(program).pulumi(
        "preview", code=1
    )
    stood_in = without_vault(program, ESTATE_PLACEHOLDERS="1")
    shown = stood_in.pulumi("preview", "--diff")
    for key in ("admin", "bridge"):
        assert f"vault secret/kafka#{key}: a placeholder in this preview" in shown
    assert "own" not in [line.split(":")[0].strip(" ~+-") for line in shown.splitlines()]
    refused = stood_in.pulumi("up", "--yes", "--skip-preview", code=1)
    assert "ESTATE_PLACEHOLDERS is for previews; unset it" in refused
    assert VALUE in program.pulumi("stack", "output", "admin", "--show-secrets")


def test_with_access_the_variable_changes_nothing(program: Project) -> None:
    program.pulumi("up", "--yes", "--skip-preview")
    can_read = replace(program, environment={**program.environment, "ESTATE_PLACEHOLDERS": "1"})
    can_read.pulumi("preview", "--diff", "--expect-no-changes")
    can_read.pulumi("up", "--yes", "--skip-preview", "--expect-no-changes")
