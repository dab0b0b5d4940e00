"""Golden sets: which are taken, and which answers are the same."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from model_repo import golden, version
from model_repo.golden import Golden, read
from model_repo.oci import OciError
from tests.unit.model_repo.test_repository import ABOUT, COMMIT

VERSION = version.parse({**ABOUT, "version": 1, "revision": COMMIT}, "digits")
SCORES = [0.1 * i for i in range(20)]


def values() -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "image", "datatype": "FP32", "shape": [2, 8, 8], "data": [0.5] * 127 + [1]}
        ],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [2, 10], "data": SCORES}],
        "tolerance": {"absolute": 1e-4, "relative": 1e-3},
    }


def of(value: Any) -> Golden:
    return read(json.dumps(value).encode(), VERSION, "golden.json")


def test_a_set_and_its_request() -> None:
    found = of(values())
    assert found.examples == 2
    request = found.request()
    assert request["inputs"][0]["shape"] == [2, 8, 8] and len(request["inputs"][0]["data"]) == 128
    json.dumps(request)
    assert golden.compare(found, [one.model_dump(mode="json") for one in found.outputs]) == []


def test_in_parts_that_a_model_takes() -> None:
    found = of(values())
    one, two = found.batches(1)
    assert (one.examples, one.outputs[0].shape) == (1, (1, 10))
    assert one.inputs[0].data + two.inputs[0].data == found.inputs[0].data
    assert list(two.outputs[0].data) == SCORES[10:]
    assert found.batches(2) == found.batches(32) == [found]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.pop("tolerance"), "tolerance: Field required"),
        (lambda v: v.update(more=1), "more: Extra inputs"),
        (lambda v: v["tolerance"].update(absolute=-1), "tolerance.absolute: Input should be"),
        (lambda v: v["tolerance"].update(absolute=math.nan), "tolerance.absolute: Input should"),
        (lambda v: v["inputs"][0].update(name="picture"), "inputs: ['picture'] are there, the"),
        (lambda v: v["outputs"].append(v["outputs"][0]), "outputs: ['scores', 'scores'] are"),
        (lambda v: v["outputs"][0].update(datatype="FP64"), "outputs.scores: FP64, it is FP32"),
        (lambda v: v["outputs"][0].update(shape=[2, 5, 2]), "scores: shape [2, 5, 2], it is"),
        (lambda v: v["outputs"][0].update(shape=[4, 5]), "dimensions are [2, 4]: all"),
        (lambda v: v["inputs"][0].update(shape=[-1, 8, 8]), "every dimension has a size here"),
        (lambda v: v["inputs"][0]["data"].pop(), "inputs.0: data: 127 values are there, shape"),
        (lambda v: v["inputs"][0]["data"].__setitem__(3, math.nan), "data.3 (nan): is no value"),
        (lambda v: v["inputs"][0]["data"].__setitem__(3, 1e39), "data.3 (1e+39): is no value"),
        (lambda v: v["inputs"][0]["data"].__setitem__(3, 10**400), "data.3 (1000000000"),
        (lambda v: v["inputs"][0]["data"].__setitem__(3, True), "data.3 (True): is no value of"),
        (lambda v: v["inputs"][0]["data"].__setitem__(3, "1"), "data.3 (1): is no value of FP32"),
        (lambda v: v["inputs"][0]["data"].__setitem__(3, None), "inputs.0.data.3"),
    ],
)
def test_what_is_no_set_of_this_version(
    change: Callable[[dict[str, Any]], object], words: str
) -> None:
    value = values()
    change(value)
    with pytest.raises(OciError) as found:
        of(value)
    assert words in str(found.value) and "\n" not in str(found.value)


def test_too_many_and_too_large() -> None:
    value = values()
    value["inputs"][0].update(shape=[33, 8, 8], data=[0] * 33 * 64)
    value["outputs"][0].update(shape=[33, 10], data=[0] * 330)
    with pytest.raises(OciError, match="33 examples are there, 32 is the most"):
        of(value)
    with pytest.raises(OciError, match="1048577 bytes, 1048576 is the most"):
        read(b" " * (golden.MOST + 1), VERSION, "golden.json")
    for text in (b"[]", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(OciError, match="is no JSON object"):
            read(text, VERSION, "golden.json")


@pytest.mark.parametrize(
    ("datatype", "good", "bad"),
    [
        ("BOOL", [True, False], [0, "true"]),
        ("BYTES", ["", "ä"], [1, True]),
        ("UINT8", [0, 255], [-1, 256, 1.0, True]),
        ("INT8", [-128, 127], [-129, 128]),
        ("INT64", [-(2**63), 2**63 - 1], [2**63]),
        ("UINT64", [2**64 - 1], [2**64]),
        ("FP16", [65504, 1e-3], [65505]),
        ("FP64", [1e308, -1], [math.inf]),
    ],
)
def test_values_of_each_type(datatype: str, good: list[Any], bad: list[Any]) -> None:
    def tensor(value: Any) -> golden.GoldenTensor:
        return golden.GoldenTensor.model_validate(
            {"name": "a", "datatype": datatype, "shape": [1], "data": [value]}
        )

    for value in good:
        assert tensor(value).data == (value,)
    for value in bad:
        with pytest.raises(ValueError, match="is no value of"):
            tensor(value)


def answer(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "scores", "datatype": "FP32", "shape": [2, 10], "data": SCORES, **changes}]


def moved(index: int, by: float) -> list[float]:
    found = list(SCORES)
    found[index] += by
    return found


LAST = f"scores: 1 of 20 differ; value 19 is {{}}, not {SCORES[19]}"


@pytest.mark.parametrize(
    ("got", "words"),
    [
        (answer(data=moved(10, 0.00109)), []),
        (answer(data=moved(10, 0.00111)), ["scores: 1 of 20 differ; value 10 is 1.00111, not 1.0"]),
        (answer(data=moved(0, -0.00011)), ["scores: 1 of 20 differ; value 0 is -0.00011, not 0.0"]),
        (answer(data=[math.nan] * 20), ["scores: 20 of 20 differ; value 0 is nan, not 0.0"]),
        (answer(data=[*SCORES[:-1], math.inf]), [LAST.format("inf")]),
        (answer(data=[*SCORES[:-1], None]), [LAST.format("None")]),
        (answer(data=[*SCORES[:-1], 10**400]), [LAST.format(10**39)]),
        (answer(data=SCORES[1:]), ["scores: has 19 values, not 20"]),
        (answer(data=None), ["scores: has no values, not 20"]),
        (answer(shape=[20]), ["scores: has shape [20], not [2, 10]"]),
        (answer(datatype="FP64"), ["scores: is FP64, not FP32"]),
        (answer(name="a"), ["a: is no output of the model", "scores: is not in the answer"]),
        ([], ["scores: is not in the answer"]),
        ([{}], ["None: is no output of the model", "scores: is not in the answer"]),
    ],
)
def test_answers(got: list[dict[str, Any]], words: list[str]) -> None:
    assert golden.compare(of(values()), got) == words


def test_what_has_no_distance_is_the_same_or_not() -> None:
    tensors = [
        {"name": "b", "datatype": "BOOL", "shape": [1], "data": [True]},
        {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["seven"]},
        {"name": "i", "datatype": "INT64", "shape": [1], "data": [7]},
    ]
    found = Golden.model_validate({**values(), "inputs": [tensors[0]], "outputs": tensors})
    assert golden.compare(found, tensors) == []
    others = [{**one, "data": [value]} for one, value in zip(tensors, [1, "six", 8], strict=True)]
    assert len(golden.compare(found, others)) == 3
