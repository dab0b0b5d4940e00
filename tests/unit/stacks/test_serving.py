"""What an environment is to serve: from model.yaml to ConfigMaps, and what stops it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime.stack import wait_for_rpcs

from components.model import Images
from components.triton.config import TritonConfig
from configs.errors import ConfigError
from configs.schema import Environment
from model_repo.declared import Desired, RateLimit, Rollout, Serving
from services.serving.model import DECLARED_LABEL as LABEL
from stacks import serving
from stacks.context import Context
from stacks.secret_sources import SecretSources
from tests.unit.components.datalake.test_postgres_resources import Recorder, plain

LIMIT = RateLimit(resources={"memory": 1})
D1, D2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64
MODELS = {
    "digits": f"environments: {{local: {{version: 1}}, onprem: {{version: 1, digest: {D1}}}}}",
    "anomaly": "serving: {max_batch_size: 8}\nenvironments: {local: {version: 3}}",
    "edge-only": "edge_groups: {press: {version: 1}}",
}
KNOWN = {"digits": {"1": D1, "2": D2}, "anomaly": {"3": D2}, "other": {"1": D1}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in MODELS.items():
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "model.yaml").write_text(text)
    (tmp_path / "models.json").write_text(json.dumps(KNOWN))
    return tmp_path


def context(folder: Path, stack: str = "local", **changes: Any) -> Context:
    source = "rehearsal" if stack == "local" else "upstream"
    values = {
        "environment": Environment.model_validate({"images": {"source": source}}),
        "model_digests": folder / "models.json" if stack == "local" else None,
        **changes,
    }
    return Context(
        images=Images({}),
        stack=stack,
        config=pulumi.Config("estate"),
        sources=SecretSources(None),
        models=folder / "models",
        **values,
    )


def served(context: Context) -> dict[str, tuple[int, str]]:
    return {one.name: (one.version, one.digest) for one in context.desired_models()}


def test_each_environment_takes_its_own(folder: Path) -> None:
    assert served(context(folder)) == {"anomaly": (3, D2), "digits": (1, D1)}
    assert served(context(folder, "onprem")) == {"digits": (1, D1)}
    assert served(context(folder, "onprem", rehearsed=True)) == {"digits": (1, D1)}
    assert served(context(folder, "aws")) == {}


def refused(context: Context) -> str:
    with pytest.raises(ConfigError) as found:
        context.desired_models()
    (line,) = found.value.lines
    return line


def declare(folder: Path, text: str) -> None:
    (folder / "models" / "digits" / "model.yaml").write_text(text)


def test_another_environment_than_the_rehearsal_names_digests(folder: Path) -> None:
    declare(folder, "environments: {onprem: {version: 2}}")
    for rehearsed in (False, True):
        line = refused(context(folder, "onprem", rehearsed=rehearsed))
        assert "digits/model.yaml: environment onprem: version 2 has no digest" in line
        assert "./estate model promote digits 2 --environment onprem" in line
    # Those of a rehearsal that happens to be here are nobody else's.
    line = refused(context(folder, "onprem", model_digests=folder / "models.json"))
    assert "has no digest" in line


def test_a_version_that_the_rehearsal_lacks(folder: Path) -> None:
    declare(folder, "environments: {local: {version: 7}}")
    # Left out, the version that is served would go.
    line = refused(context(folder))
    assert "digits/model.yaml: environment local: version 7 is not in the" in line
    assert "last looked into (ESTATE_MODELS); ./estate preview or up looks again" in line
    assert "./estate model add FOLDER --version 7" in line
    (folder / "models.json").write_text(json.dumps({"anomaly": {"3": D2}}))
    # It is brought by `up`, or by hand: until then nothing of it is served.
    assert served(context(folder)) == {"anomaly": (3, D2)}
    assert served(context(folder, model_digests=None)) == {}


def test_a_digest_that_the_rehearsals_registry_has_not(folder: Path) -> None:
    declare(folder, f"environments: {{local: {{version: 1, digest: {D1}}}}}")
    assert served(context(folder))["digits"] == (1, D1)
    declare(folder, f"environments: {{local: {{version: 1, digest: {D2}}}}}")
    assert f"version 1 is {D2}, the rehearsal's registry has {D1}" in refused(context(folder))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ('{"digits": {"one": "x"}}', "digits.one.[key]: Input should be a valid integer"),
        ('{"digits": {"1": "x"}}', "digits.1: String should match"),
    ],
)
def test_a_file_of_digests_that_is_none(folder: Path, text: str, words: str) -> None:
    (folder / "models.json").write_text(text)
    line = refused(context(folder))
    assert line.startswith(f"ESTATE_MODELS: {folder}/models.json: ") and words in line


def test_files_that_are_not_there(folder: Path) -> None:
    (folder / "models.json").unlink()
    assert served(context(folder)) == {}  # before its registry was asked
    declare(folder, "colour: red")
    assert "digits/model.yaml: colour (red)" in refused(context(folder))


# -- as objects ------------------------------------------------------------------------------------


@pytest.fixture
def objects(folder: Path) -> Iterator[list[dict[str, Any]]]:
    recorder = Recorder()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pulumi.runtime.set_mocks(recorder, preview=False)
    serving.deploy_models(context(folder), "serving")
    loop.run_until_complete(wait_for_rpcs())
    yield [plain(one) for one in recorder.made if one.get("kind") == "ConfigMap"]
    loop.close()


def test_a_config_map_for_each(objects: list[dict[str, Any]]) -> None:
    assert {one["metadata"]["name"] for one in objects} == {"model-digits", "model-anomaly"}
    for one in objects:
        assert one["metadata"]["namespace"] == "serving"
        desired = Desired.parse(one["data"]["model.json"], "a ConfigMap")
        assert one["metadata"]["labels"][LABEL] == desired.name
        assert one["metadata"]["name"] == f"model-{desired.name}"
        assert set(one["data"]) == {"model.json"}
    (anomaly,) = [one for one in objects if one["metadata"]["name"] == "model-anomaly"]
    value = json.loads(anomaly["data"]["model.json"])
    assert (value["version"], value["digest"]) == (3, D2)
    assert value["serving"]["max_batch_size"] == 8 and value["rollout"]["steps"]


def desired(**serving: Any) -> Desired:
    return Desired(
        name="digits", version=1, digest=D1, serving=Serving(**serving), rollout=Rollout()
    )


@pytest.mark.parametrize(
    ("serving_", "words"),
    [
        (
            {"pool": "gpu"},
            (
                "digits/model.yaml: serving.pool (gpu): the environment has no such pool: take one "
                "of cpu, large, or declare it in serving.pools"
            ),
        ),
        (
            {"pool": "cpu", "rate_limit": LIMIT},
            (
                "digits/model.yaml: serving.rate_limit: pool cpu has rate_limiter false, and "
                "Triton would not heed it: set serving.pools.1.rate_limiter, or leave it out"
            ),
        ),
    ],
)
def test_what_a_model_asks_of_the_environment_is_there(
    serving_: dict[str, Any], words: str
) -> None:
    config = TritonConfig.model_validate(
        {"pools": [{"name": "large", "rate_limiter": True}, {"name": "cpu"}]}
    )
    with pytest.raises(ConfigError) as found:
        serving.placed(desired(**serving_), config)
    assert found.value.lines == [words]
    serving.placed(desired(pool="large", rate_limit=LIMIT), config)
    serving.placed(desired(pool="cpu"), config)
