"""The Python backend's model: batches, and what is wrong with one request of several."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from services.serving.backend import model as backend
from services.serving.backend.model import Array, Arrays, Run, TritonPythonModel

CONFIG: dict[str, Any] = {
    "input": [
        {"name": "a", "data_type": "TYPE_FP32", "dims": [2]},
        {"name": "b", "data_type": "TYPE_FP32", "dims": ["-1"]},
    ],
    "output": [{"name": "sum", "data_type": "TYPE_FP32"}],
}


class Tensor:
    """As triton_python_backend_utils has it."""

    def __init__(self, name: str, values: Array) -> None:
        self.name, self.values = name, values

    def as_numpy(self) -> Array:
        return self.values


@dataclass
class Response:
    output_tensors: list[Tensor] = field(default_factory=list)
    error: str | None = None


@pytest.fixture(autouse=True)
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("triton_python_backend_utils")
    module.Tensor, module.InferenceResponse, module.TritonError = Tensor, Response, str
    module.get_input_tensor_by_name = lambda request, name: request[name]
    module.triton_string_to_numpy = {"TYPE_FP32": np.float32, "TYPE_STRING": np.object_}.get
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def calls() -> list[tuple[int, ...]]:
    return []


@pytest.fixture
def served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]]
) -> TritonPythonModel:
    def load(file: Path, inputs: list[str], outputs: list[str], threads: int) -> Run:
        assert (inputs, outputs, threads) == (["a", "b"], ["sum"], 3)

        def run(arrays: Arrays) -> Arrays:
            calls.append(arrays[0].shape)
            if (arrays[0] < 0).any():
                raise ValueError("a number\nbelow 0")
            if (arrays[0] == 7).any():
                return [(arrays[0] + arrays[1]).astype(np.float64)]
            if (arrays[0] == 8).any():
                return [np.zeros((1, 2), np.float32)]
            return [arrays[0] + arrays[1]]

        return run

    monkeypatch.setitem(backend.FRAMEWORKS, "model.onnx", load)
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "model.onnx").touch()
    return initialized(tmp_path, {"threads": {"string_value": "3"}})


def initialized(folder: Path, parameters: dict[str, Any]) -> TritonPythonModel:
    made = TritonPythonModel()
    made.initialize(
        {
            "model_config": json.dumps({**CONFIG, "parameters": parameters}),
            "model_repository": str(folder),
            "model_version": "5",
        }
    )
    return made


def request(first: float, rows: int = 1, width: int = 2) -> dict[str, Tensor]:
    a = np.full((rows, width), first, np.float32)
    return {"a": Tensor("a", a), "b": Tensor("b", np.ones_like(a))}


def answers(responses: list[Response]) -> list[Any]:
    return [one.error if one.error else one.output_tensors[0].values.tolist() for one in responses]


WARM = {"threads": {"string_value": "3"}, "warm_up": {"string_value": "true"}}


def test_zeros_are_answered_before_a_version_is_ready(
    tmp_path: Path, served: TritonPythonModel, calls: list[tuple[int, ...]]
) -> None:
    assert not calls
    initialized(tmp_path, WARM)
    assert calls == [(1, 2)]


def test_a_version_that_cannot_answer_zeros_is_none(
    tmp_path: Path, served: TritonPythonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> Run:
        return lambda arrays: [arrays[0].astype(np.float64)]

    monkeypatch.setitem(backend.FRAMEWORKS, "model.onnx", load)
    with pytest.raises(ValueError, match="output sum is float64"):
        initialized(tmp_path, WARM)


def test_zeros_of_words_are_empty_ones(
    tmp_path: Path, served: TritonPythonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = served._zeros({"data_type": "TYPE_STRING", "dims": [2, -1]})
    assert words.shape == (1, 2, 1) and set(words.flat) == {b""}


def test_a_batch_is_one_inference_and_each_gets_its_rows(
    served: TritonPythonModel, calls: list[tuple[int, ...]]
) -> None:
    found = served.execute([request(1), request(2, rows=2), request(3)])
    assert calls == [(4, 2)]
    assert answers(found) == [[[2, 2]], [[3, 3], [3, 3]], [[4, 4]]]
    assert [one.output_tensors[0].name for one in found] == ["sum"] * 3


def test_what_is_wrong_with_one_is_its_own_answer(served: TritonPythonModel) -> None:
    found = served.execute([request(1), request(-1), request(3)])
    assert answers(found) == [[[2, 2]], "ValueError: a number below 0", [[4, 4]]]


def test_shapes_that_do_not_go_together_are_answered_apart(
    served: TritonPythonModel, calls: list[tuple[int, ...]]
) -> None:
    found = served.execute([request(1, width=2), request(2, width=3)])
    assert answers(found) == [[[2, 2]], [[3, 3, 3]]]
    assert calls == [(1, 2), (1, 3)]


@pytest.mark.parametrize(
    ("number", "said"),
    [(7, "output sum is float64 of shape [2, 2]"), (8, "output sum is float32 of shape [1, 2]")],
)
def test_an_output_that_is_not_as_declared(
    served: TritonPythonModel, number: float, said: str
) -> None:
    (found,) = served.execute([request(number, rows=2)])
    assert found.error is not None
    assert said in found.error
    assert "must be float32 with 2 rows" in found.error


@pytest.mark.parametrize("files", [(), ("model.onnx", "model.pt")])
def test_a_version_has_exactly_one_model(tmp_path: Path, files: tuple[str, ...]) -> None:
    (tmp_path / "5").mkdir()
    for name in files:
        (tmp_path / "5" / name).touch()
    with pytest.raises(ValueError, match=r"has (no model|model.onnx, model.pt): it must have"):
        initialized(tmp_path, {})


def test_a_file_may_have_more_outputs_than_are_asked() -> None:
    backend._match(["a"], ["x"], ["a"], ["x", "y"])


@pytest.mark.parametrize(
    ("takes", "gives"), [(["a", "b"], ["x"]), (["b"], ["x"]), (["a"], ["y"]), ([], ["x"])]
)
def test_tensors_are_those_of_the_file(takes: list[str], gives: list[str]) -> None:
    with pytest.raises(ValueError, match=r"takes .* and gives .*: declared are a and x"):
        backend._match(["a"], ["x"], takes, gives)
