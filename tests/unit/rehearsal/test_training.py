"""Training of a reference model: what becomes of the folders that the image writes."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from rehearsal import training
from rehearsal.errors import EstateError, UsageError
from rehearsal.images import run

ABOUT = {
    "name": "digits-onnx",
    "framework": "onnx",
    "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 8, 8]}],
    "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
    "metrics": {"accuracy": 0.98},
    "training_data": {"dataset": "digits", "version": "1", "digest": "sha256:" + "0" * 64},
    "licence": "CC-BY-4.0",
}


class Image:
    """Stands for the image: writes what it is told, ends as it is told."""

    def __init__(self) -> None:
        self.about: dict[str, Any] = dict(ABOUT)
        self.code, self.said = 0, ""

    def __call__(
        self, store: object, digest: str, arguments: tuple[str, ...], *, binds: Mapping[Path, str]
    ) -> subprocess.CompletedProcess[str]:
        assert arguments[-3:] == ("digits", "--out", "/out")
        ((folder, inside),) = binds.items()
        assert inside == "/out"
        target = folder / self.about["name"]
        target.mkdir()
        (target / "version.yaml").write_text(yaml.safe_dump(self.about))
        return subprocess.CompletedProcess(arguments, self.code, "", self.said)


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch) -> Image:
    made = Image()
    built = {training.IMAGE: SimpleNamespace(digest="sha256:0")}
    builder = SimpleNamespace(store=None, build=lambda keys, tools, progress: built)
    monkeypatch.setattr(training, "Builder", lambda cache: builder)
    monkeypatch.setattr(run, "run", made)
    return made


def test_an_unknown_model_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose from: anomaly, digits, embedder"):
        training.train("digit", tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=f"--out: {tmp_path}/file/out; Not a directory"):
        training.train("digits", tmp_path / "file" / "out")


def test_what_was_trained_replaces_what_was_there(image: Image, tmp_path: Path) -> None:
    old = tmp_path / "out" / "digits-onnx" / "old"
    old.mkdir(parents=True)
    (folder,) = training.train("digits", tmp_path / "out")
    assert folder == tmp_path / "out" / "digits-onnx"
    assert [file.name for file in folder.iterdir()] == ["version.yaml"]
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["digits-onnx"]


def test_a_failure_says_why_and_leaves_what_was_there(image: Image, tmp_path: Path) -> None:
    old = tmp_path / "digits-onnx" / "old"
    old.mkdir(parents=True)
    image.code, image.said = 1, "noise\ndigits-onnx: 0.5 away from the reference\n"
    with pytest.raises(EstateError, match=r"digits-onnx: 0\.5 away from the reference"):
        training.train("digits", tmp_path)
    assert old.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["digits-onnx"]


def test_a_version_that_could_not_be_added_is_refused(image: Image, tmp_path: Path) -> None:
    image.about["licence"] = ""
    with pytest.raises(EstateError, match=r"version\.yaml: licence"):
        training.train("digits", tmp_path)
    assert not list(tmp_path.iterdir())
