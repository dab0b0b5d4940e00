"""The broken models of the drill `serving-broken`, run by the real ONNX Runtime."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rehearsal.drills.onnx_graph import changed
from rehearsal.drills.serving_models import changed as broken

WEIGHTS = np.random.default_rng(7).normal(size=(64, 10)).astype(np.float32)
IMAGES = np.random.default_rng(8).random((3, 8, 8)).astype(np.float32)
SCORES = IMAGES.reshape(3, 64) @ WEIGHTS


@pytest.fixture(params=[11, 17, 21])
def model(request: pytest.FixtureRequest) -> bytes:
    """A classifier by the opset of older and of newer tools."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"], axis=1),
            helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
        ],
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(WEIGHTS, "weights")],
    )
    opset = [helper.make_opsetid("", request.param)]
    made: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return made


def opened(content: bytes) -> Any:
    onnx.checker.check_model(onnx.load_from_string(content))
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def scores(session: Any) -> Any:
    return session.run(None, {"image": IMAGES})[0]


def test_as_it_is_answers_the_same(model: bytes) -> None:
    np.testing.assert_allclose(scores(opened(changed(model, "as-it-is", "n"))), SCORES, rtol=1e-5)


def test_wrong_answers_are_wrong(model: bytes) -> None:
    found = scores(opened(changed(model, "wrong-answers", "n")))
    np.testing.assert_allclose(found, SCORES + 1, rtol=1e-5)


def test_slow_is_slow_at_every_request_and_right(model: bytes) -> None:
    session = opened(changed(model, "slow", "n"))
    scores(session)
    began = time.perf_counter()
    np.testing.assert_allclose(scores(session), SCORES, rtol=1e-5)
    # Forty products of 2 GFLOP each: a second at 86 GFLOP/s.
    assert time.perf_counter() - began > 0.1


def test_the_huge_one_is_loaded_like_any_other(model: bytes) -> None:
    opened(changed(model, "exhausting", "n"))  # asking it would take 6 GB here


def test_what_is_cut_off_is_not_loaded(model: bytes) -> None:
    with pytest.raises(Exception, match="INVALID_PROTOBUF"):
        onnxruntime.InferenceSession(
            broken(model, "crashing", "n"), providers=["CPUExecutionProvider"]
        )
