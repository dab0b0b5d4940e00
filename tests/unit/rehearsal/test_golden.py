"""Golden sets: what is asked, what comes back, what is right."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rehearsal.golden import HEADER_LENGTH, Golden, Unusable, http_answer
from tests.unit.rehearsal.golden_sets import golden_json


def outputs(*values: float) -> dict[str, Any]:
    return {"sum": np.array([values], dtype="<f4")}


@pytest.mark.parametrize(
    "answer, said",
    [
        (outputs(5.0), None),
        (outputs(5.004), None),
        (outputs(5.1), "sum is up to 0.1 away"),
        (outputs(float("nan")), "up to nan away"),
        (outputs(5.0, 5.0), "has shape [1, 2], not [1, 1]"),
        ({"other": np.zeros((1, 1))}, "sum is missing"),
    ],
)
def test_an_answer_is_right_within_the_tolerance(answer: dict[str, Any], said: str | None) -> None:
    found = Golden.of(golden_json()).wrong(1, answer)
    assert found is None if said is None else said in str(found)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"tolerance": None}, "golden.json"),
        ({"inputs": []}, "examples"),
        ({"inputs": [{"name": "a", "datatype": "BYTES", "shape": [1], "data": [0]}]}, "BYTES"),
        ({"inputs": [{"name": "a", "datatype": "FP32", "shape": [2], "data": [0]}]}, "a: "),
        ({"inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "data": [0]}]}, "[1, 3]"),
        ({"outputs": [{"name": "a", "datatype": "FP32", "shape": [3, 1]}]}, "data"),
    ],
)
def test_a_set_that_cannot_be_used_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(Unusable) as caught:
        Golden.of({**golden_json(), **change})
    assert said in str(caught.value)


def test_a_request_holds_one_example_as_binary_data() -> None:
    body, headers = Golden.of(golden_json()).http(2)
    length = int(headers[HEADER_LENGTH])
    (tensor,) = json.loads(body[:length])["inputs"]
    assert tensor["shape"] == [1, 2] and tensor["parameters"] == {"binary_data_size": 8}
    assert np.frombuffer(body[length:], "<f4").tolist() == [4.0, 5.0]
    assert headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("binary", [True, False])
def test_an_answer_is_read_with_its_version(binary: bool) -> None:
    tensor: dict[str, Any] = {"name": "sum", "datatype": "FP32", "shape": [1, 1]}
    more: dict[str, Any] = {"data": [5.0]}
    data = b""
    if binary:
        more, data = {"parameters": {"binary_data_size": 4}}, np.float32(5.0).tobytes()
    head = json.dumps({"model_version": "7", "outputs": [tensor | more]}).encode()
    headers = {HEADER_LENGTH: str(len(head))} if binary else {}
    found = http_answer(head + data, headers, "canary")
    assert (found.version, found.track) == ("7", "canary")
    assert Golden.of(golden_json()).wrong(1, found.outputs) is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"model_version": "1"}', b"\xff"])
def test_what_is_no_answer_is_unusable(body: bytes) -> None:
    with pytest.raises(Unusable):
        http_answer(body, {}, "")


def test_an_answer_that_is_cut_off_is_unusable() -> None:
    tensor: dict[str, Any] = {"name": "sum", "datatype": "FP32", "shape": [1, 1]}
    tensor |= {"parameters": {"binary_data_size": 4}}
    head = json.dumps({"model_version": "1", "outputs": [tensor]}).encode()
    with pytest.raises(Unusable):
        http_answer(head + b"\0\0", {HEADER_LENGTH: str(len(head))}, "")


def test_sets_of_two_versions_must_ask_the_same() -> None:
    one = Golden.of(golden_json())
    assert one.asks_the_same(Golden.of(golden_json(offset=1.0)))
    assert not one.asks_the_same(Golden.of(golden_json(examples=2)))
