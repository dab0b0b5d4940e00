"""A preview by the real engine: another version of a model is one ConfigMap's change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rehearsal import paths
from tests.contract.engine import Project, needs_pulumi

pytestmark = [needs_pulumi, pytest.mark.usefixtures("kubernetes")]

PROGRAM = """
import sys
sys.path.insert(0, ROOT)
sys.modules.pop("stacks", None)
from pathlib import Path
import pulumi, pulumi_kubernetes as k8s
from components.model import Images
from configs.errors import ConfigError
from configs.schema import Environment
from stacks import serving
from stacks.context import Context
from stacks.secret_sources import SecretSources

class Rendering(Context):
    # As the estate's, but into files: ConfigMaps are updated in place.
    provider = k8s.Provider(
        "render", render_yaml_to_directory="rendered", enable_config_map_mutable=True)

context = Rendering(
    environment=Environment.model_validate({"images": {"source": "rehearsal"}}),
    images=Images({}), stack="local", config=pulumi.Config("estate"),
    sources=SecretSources(None), models=Path(MODELS), model_digests=Path(DIGESTS))
try:
    serving.deploy_models(context, "serving")
except ConfigError as error:
    raise pulumi.RunError(error.lines[0]) from None
"""


def declare(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "model.yaml").write_text(text)


def changes(project: Project) -> list[tuple[str, str, Any]]:
    """Operation, name and data after of everything that a preview would not leave alone."""
    shown = json.loads(project.pulumi("preview", "--json"))
    return [
        (one["op"], one["urn"].rpartition("::")[2], one["newState"].get("inputs", {}).get("data"))
        for one in shown["steps"]
        if one["op"] != "same"
    ]


def test_another_version_is_an_update_of_its_config_map_alone(
    project: Project, tmp_path: Path
) -> None:
    models, digests = tmp_path / "models", tmp_path / "models.json"
    text = "# a comment\nenvironments:\n  local: {version: 1}\n"
    declare(models, "digits-onnx", text)
    declare(models, "anomaly-onnx", text)
    known = {str(number): f"sha256:{number:064x}" for number in (1, 2)}
    digests.write_text(json.dumps({"digits-onnx": known, "anomaly-onnx": known}))
    program = PROGRAM.replace("ROOT", repr(str(paths.root())))
    project.write(
        program.replace("MODELS", repr(str(models))).replace("DIGESTS", repr(str(digests)))
    )
    project.pulumi("up", "--yes", "--skip-preview")
    assert changes(project) == []

    declare(models, "digits-onnx", text.replace("a comment", "another one"))
    assert changes(project) == []

    declare(models, "digits-onnx", text.replace("version: 1", "version: 2"))
    ((operation, name, data),) = changes(project)
    assert (operation, name) == ("update", "model-digits-onnx")
    after = json.loads(data["model.json"])
    assert (after["version"], after["digest"]) == (2, known["2"])
    diff = project.pulumi("preview", "--diff")
    assert "~ version: 1 => 2" in diff and "1 to update" in diff, diff

    declare(models, "digits-onnx", "environments:\n  local: {version: 3}\n")
    assert "version 3 is not in the rehearsal" in project.pulumi("preview", code=1)
