"""Nodes added to an ONNX graph; what such a model does is seen by the drill."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from rehearsal.drills import onnx_graph
from rehearsal.drills.onnx_graph import Kind, changed


def small(output: str = "scores") -> bytes:
    """Two nodes, the last of which makes the output, and a field that nobody here declares."""
    made = onnx_graph.model()
    first = made.graph.node.add(op_type="Flatten")
    first.input.append("image")
    first.output.append("flat")
    last = made.graph.node.add(op_type="MatMul")
    last.input.extend(["flat", "weights"])
    last.output.append("scores")
    made.graph.output.add(name=output)
    # ir_version (field 1): 8
    return b"\x08\x08" + bytes(made.SerializeToString())


def parsed(content: bytes) -> Any:
    found = onnx_graph.model()
    found.ParseFromString(content)
    return found


def test_as_it_is_differs_by_the_note_alone() -> None:
    found = parsed(changed(small(), "as-it-is", "by a drill"))
    assert found.doc_string == "by a drill"
    found.ClearField("doc_string")
    assert found == parsed(small())


@pytest.mark.parametrize(
    "kind, operations",
    [
        ("wrong-answers", ["Add"]),
        ("slow", ["ReduceSum", "Mul", "Expand", *["MatMul"] * 40, "ReduceMax", "Add"]),
        ("exhausting", ["ReduceSum", "Mul", "Expand", "ReduceMax", "Add"]),
    ],
)
def test_the_output_comes_from_the_new_nodes(kind: Kind, operations: list[str]) -> None:
    content = changed(small(), kind, "by a drill")
    found = parsed(content)
    nodes = list(found.graph.node)
    assert [node.op_type for node in nodes[2:]] == operations
    assert [one.name for one in found.graph.output] == ["scores"]
    made = [name for node in nodes for name in node.output]
    assert made.count("scores") == 1 and nodes[-1].output[0] == "scores"
    assert len(set(made)) == len(made)
    known = {"image", "weights", *(one.name for one in found.graph.initializer)}
    for node in nodes:  # in order, as ONNX wants them
        assert set(node.input) <= known
        known |= set(node.output)
    assert content[:0] == b"" and b"\x08\x08" in content  # ir_version is kept


def test_the_huge_one_is_huge() -> None:
    found = parsed(changed(small(), "exhausting", ""))
    (sizes,) = (one for one in found.graph.initializer if one.dims)
    side, other = struct.unpack("<2q", sizes.raw_data)
    assert side * other * 4 > 6e9


@pytest.mark.parametrize(
    "content, said",
    [
        (b"\xff\xff\xff", "no ONNX model"),
        (b"", "no output"),
        (small(output="else"), "no node of the graph makes its output else"),
    ],
)
def test_what_cannot_be_changed_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        changed(content, "slow", "")
