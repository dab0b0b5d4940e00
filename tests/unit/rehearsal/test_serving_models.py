"""Versions that a drill puts into a registry (one in memory)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_repo.oci import Registry
from model_repo.repository import Repository
from model_repo.signing import Unsigned
from rehearsal.drills.serving_models import KINDS, MODEL_FILE, Kind, Publisher, _NoSignature
from rehearsal.golden import Golden
from tests.unit.model_repo.registry import MemoryRegistry
from tests.unit.model_repo.test_repository import ABOUT, COMMIT, KEY
from tests.unit.rehearsal.test_onnx_graph import small

MODEL = str(ABOUT["name"])
GOLDEN = {
    "inputs": [{"name": "image", "datatype": "FP32", "shape": [2, 8, 8], "data": [0.0] * 128}],
    "outputs": [
        {
            "name": "scores",
            "datatype": "FP32",
            "shape": [2, 10],
            "data": [float(at) for at in range(20)],
        }
    ],
    "tolerance": {"absolute": 1e-4, "relative": 1e-3},
}


@pytest.fixture
def server() -> Iterator[MemoryRegistry]:
    made = MemoryRegistry()
    yield made
    made.close()


@pytest.fixture
def reader(server: MemoryRegistry) -> Repository:
    return Repository(Registry(server.url), [KEY.public_key()])


@pytest.fixture
def source(server: MemoryRegistry, tmp_path: Path) -> str:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "version.yaml").write_text(json.dumps({**ABOUT, "framework": "onnx"}))
    (folder / MODEL_FILE).write_bytes(small())
    (folder / "golden.json").write_text(json.dumps(GOLDEN))
    registry = Registry(server.url, writes=True)
    return Repository(registry).add(folder, 1, COMMIT, KEY)[0].digest


@pytest.fixture
def publisher(server: MemoryRegistry, tmp_path: Path) -> Publisher:
    folder = tmp_path / "publisher"
    folder.mkdir()
    opened = Registry(server.url, writes=True), _NoSignature(server.url, writes=True)
    return Publisher(*opened, KEY, folder, MODEL)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unsigned"])
def test_each_kind_is_the_next_signed_version(
    kind: Kind, publisher: Publisher, reader: Repository, source: str
) -> None:
    before = reader.show(MODEL, source)
    made = publisher.add(kind, source)
    assert made.version == 2
    found = reader.show(MODEL, made.digest)
    assert found.version.version == 2
    assert kind in found.version.description
    assert found.version.outputs == before.version.outputs or kind == "wrong-shape"
    same = made.files[MODEL_FILE] == before.files[MODEL_FILE].digest
    assert same is (kind in ("good", "wrong-shape"))
    same = made.files["golden.json"] == before.files["golden.json"].digest
    assert same is (kind != "wrong-shape")


def test_another_shape_is_another_shape_in_the_golden_set_too(
    publisher: Publisher, reader: Repository, source: str, tmp_path: Path
) -> None:
    before = reader.show(MODEL, source).version.outputs[0].shape
    made = reader.pull(MODEL, publisher.add("wrong-shape", source).digest, tmp_path / "pulled")
    assert made.version.outputs[0].shape == (*before[:-1], before[-1] + 1)
    found = Golden.of(json.loads((tmp_path / "pulled" / "golden.json").read_text()))
    assert found.outputs[0].values.shape == (2, 11)
    assert found.outputs[0].values[1].tolist() == [*(float(at) for at in range(10, 20)), 0.0]


def test_the_unsigned_one_is_there_and_unsigned_until_it_is_signed(
    publisher: Publisher, reader: Repository, source: str
) -> None:
    made = publisher.add("unsigned", source)
    assert reader.numbers(MODEL) == [1, 2]
    with pytest.raises(Unsigned):
        reader.show(MODEL, made.digest)
    publisher.sign(made.digest)
    assert reader.verify(MODEL, made.digest).version.version == 2


def test_numbers_are_never_taken_twice(publisher: Publisher, source: str) -> None:
    made = [publisher.add(kind, source) for kind in ("good", "altered", "slow")]
    assert [one.version for one in made] == [2, 3, 4]
    assert len({one.digest for one in made}) == 3
