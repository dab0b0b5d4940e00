"""`model.yaml`: what is read, what is refused, and the models of the repository itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_repo import declared
from model_repo.declared import DeclaredModel, Desired, Place, Served
from model_repo.oci import OciError
from rehearsal import paths

DIGEST = "sha256:" + "0" * 64


def test_the_repositorys_own_models_are_of_environments_that_there_are() -> None:
    models = declared.models()
    assert {"digits-onnx", "digits-pytorch", "digits-tensorflow", "digits-tflite"} <= set(models)
    assert {"embedder-onnx", "anomaly-onnx"} <= set(models)
    configs = (paths.root() / "configs").glob("Pulumi.*.yaml")
    known = {file.name.split(".")[1] for file in configs}
    for name, model in models.items():
        assert set(model.environments) <= known, name
        for place, served in model.places().items():
            assert served.digest or place == Place("environments", declared.REHEARSAL), name


def test_a_folder_of_models(tmp_path: Path) -> None:
    for name in ("b", "a-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.yaml").write_text("edge_groups: {press: {version: 3}}\n")
    (tmp_path / "README.md").write_text("no model")
    found = declared.models(tmp_path)
    assert list(found) == ["a-1", "b"]
    assert found["b"].places() == {Place("edge_groups", "press"): Served(version=3)}
    assert [str(place) for place in found["b"].places()] == ["edge group press"]


def test_what_a_folder_of_models_cannot_have(tmp_path: Path) -> None:
    with pytest.raises(OciError, match=r"nowhere: cannot be read: No such file"):
        declared.models(tmp_path / "nowhere")
    (tmp_path / "digits").mkdir()
    with pytest.raises(OciError, match=r"digits/model\.yaml: is not there"):
        declared.models(tmp_path)
    (tmp_path / "Digits_2").mkdir()
    with pytest.raises(OciError, match=r"Digits_2: a model's name is its folder's"):
        declared.models(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "model.yaml: is no mapping"),
        ("- a", "model.yaml: is no mapping"),
        ("a: [", "model.yaml: cannot be read"),
        ("environments: {}\n---\nedge_groups: {}\n", "model.yaml: cannot be read"),
        ("? {a: 1}\n: 2\n", "model.yaml: cannot be read"),
        ("[" * 3000, "model.yaml: cannot be read"),
        ("a: !!python/none x", "model.yaml: cannot be read"),
        ("serving: {}\nserving: {}\n", "model.yaml:2: serving: is there twice"),
        ("environments:\n  a: {version: 1, version: 2}\n", "model.yaml:2: version: is there twice"),
        ("environments: &e {a: {version: 1}}\nedge_groups: *e\n", "model.yaml:1: is referred to"),
        ("<<: {serving: {}}\n", "model.yaml:1: <<: merging"),
        ("colour: red", "model.yaml: colour (red): Extra inputs"),
        ("environments: {local: {version: '1'}}", "environments.local.version (1): Input should"),
        ("environments: {local: {version: 0}}", "environments.local.version (0): Input should"),
        ("environments: {Local: {version: 1}}", "environments.Local.[key] (Local)"),
        ("environments: {a: {version: 1, digest: abc}}", "environments.a.digest (abc)"),
        ("rollout: {steps: [{weight: 9, for_s: 1}, {weight: 5, for_s: 1}]}", "do not rise"),
        ("serving: {dynamic_batching: {preferred_sizes: [64]}}", "is not within 1 and"),
    ],
)
def test_what_a_file_cannot_say(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(text)
    with pytest.raises(OciError) as found:
        declared.read(file)
    assert words in str(found.value) and "\n" not in str(found.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_bytes(b"\xff")
    with pytest.raises(OciError, match=r"model\.yaml: cannot be read"):
        declared.read(tmp_path / "model.yaml")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OciError, match=r"folder: cannot be read: Is a directory"):
        declared.read(tmp_path / "folder")


def test_what_is_desired_comes_back_as_it_was_written() -> None:
    model = DeclaredModel()
    desired = Desired(
        name="digits", version=2, digest=DIGEST, serving=model.serving, rollout=model.rollout
    )
    text = desired.document()
    assert Desired.parse(text, "model.json") == desired
    assert text == Desired.parse(text.encode(), "model.json").document()
    assert set(declared.parse(b"{}", "x").model_dump()) > {"serving", "rollout"}
    with pytest.raises(OciError, match=r"map: version \(0\): Input should be greater"):
        Desired.parse(text.replace('"version":2', '"version":0'), "map")
    with pytest.raises(OciError, match=r"map: model\.json"):
        Desired.parse("nonsense", "map")
