"""Models that a user could bring and nobody wants: an ONNX graph with nodes added before its end.

Only the fields of ONNX's messages that are changed are declared; protobuf keeps all others as they
were. The package onnx would say the same, and is on no host (source: onnx.proto of ONNX 1.23).
"""

from __future__ import annotations

import struct
from typing import Any, Literal

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

Kind = Literal["as-it-is", "wrong-answers", "slow", "exhausting"]
_FLOAT, _INT64, _INT = 1, 7, 2  # TensorProto.DataType and AttributeProto.AttributeType
_SLOW_SIDE, _SLOW_TIMES = 1024, 40
"""Products of two square matrices, 2 GFLOP each: 0.3 to 1 s on one core."""
_HUGE_SIDE = 40_000
"""6.4 GB of float32: more than a pod of Triton may have."""
_PACKAGE = "estate.onnx"
# message -> field -> number and type
_FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "Model": {"doc_string": (6, "string"), "graph": (7, "Graph")},
    "Graph": {"node": (1, "*Node"), "initializer": (5, "*Tensor"), "output": (12, "*Value")},
    "Node": {
        "input": (1, "*string"),
        "output": (2, "*string"),
        "name": (3, "string"),
        "op_type": (4, "string"),
        "attribute": (5, "*Attribute"),
    },
    "Attribute": {"name": (1, "string"), "i": (3, "int64"), "type": (20, "int32")},
    "Tensor": {
        "dims": (1, "*int64"),
        "data_type": (2, "int32"),
        "name": (8, "string"),
        "raw_data": (9, "bytes"),
    },
    "Value": {"name": (1, "string")},
}


def _messages() -> dict[str, Any]:
    field = descriptor_pb2.FieldDescriptorProto
    types = {
        "string": field.TYPE_STRING,
        "bytes": field.TYPE_BYTES,
        "int32": field.TYPE_INT32,
        "int64": field.TYPE_INT64,
    }
    file = descriptor_pb2.FileDescriptorProto(
        name="estate/onnx.proto", package=_PACKAGE, syntax="proto2"
    )
    for message, fields in _FIELDS.items():
        made = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            repeated, kind = kind.startswith("*"), kind.removeprefix("*")
            one = made.field.add(
                name=name,
                number=number,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
                type=types.get(kind, field.TYPE_MESSAGE),
            )
            if kind not in types:
                one.type_name = f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _FIELDS
    }


_MESSAGES = _messages()


def model() -> Any:
    """An empty model."""
    return _MESSAGES["Model"]()


def changed(content: bytes, kind: Kind, note: str) -> bytes:
    """A model's bytes with what `kind` says done to its first output, and `note` written into it.

    Raises ValueError when they are no ONNX model whose first output comes from a node.
    """
    found = model()
    try:
        found.ParseFromString(content)
    except Exception as error:  # protobuf's class for it differs by implementation
        raise ValueError(f"no ONNX model: {error}") from None
    found.doc_string = note
    if kind != "as-it-is":
        _Graph(found.graph).end_by(kind)
    done: bytes = found.SerializeToString()
    return done


class _Graph:
    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._count = 0
        if not graph.output:
            raise ValueError("no ONNX model: its graph has no output")
        self._output = str(graph.output[0].name)

    def end_by(self, kind: Kind) -> None:
        """The output as it was becomes an inner value, from which the new nodes make the output."""
        inner = self._name("inner")
        if not self._rename(inner):
            raise ValueError(f"no node of the graph makes its output {self._output}")
        if kind == "wrong-answers":
            self._node("Add", [inner, self._number(1.0)], self._output)
            return
        # Zero, but by way of the input, or it would be computed once when the model is loaded.
        total = self._node("ReduceSum", [inner], keepdims=0)
        zero = self._node("Mul", [total, self._number(0.0)])
        side = _SLOW_SIDE if kind == "slow" else _HUGE_SIDE
        matrix = self._node("Expand", [zero, self._sizes(side, side)])
        for _ in range(_SLOW_TIMES if kind == "slow" else 0):
            matrix = self._node("MatMul", [matrix, matrix])
        most = self._node("ReduceMax", [matrix], keepdims=0)
        self._node("Add", [inner, most], self._output)

    def _rename(self, inner: str) -> bool:
        made = False
        for node in self._graph.node:
            for names in (node.input, node.output):
                for at, name in enumerate(names):
                    if name == self._output:
                        made |= names is node.output
                        names[at] = inner
        return made

    def _name(self, what: str) -> str:
        self._count += 1
        return f"estate_drill_{what}_{self._count}"

    def _node(self, op: str, inputs: list[str], output: str = "", **attributes: int) -> str:
        output = output or self._name(op)
        node = self._graph.node.add(op_type=op, name=self._name("node"))
        node.input.extend(inputs)
        node.output.append(output)
        for key, value in attributes.items():
            node.attribute.add(name=key, i=value, type=_INT)
        return output

    def _number(self, value: float) -> str:
        name = self._name("number")
        self._graph.initializer.add(name=name, data_type=_FLOAT, raw_data=struct.pack("<f", value))
        return name

    def _sizes(self, *sizes: int) -> str:
        name, raw = self._name("sizes"), struct.pack(f"<{len(sizes)}q", *sizes)
        self._graph.initializer.add(name=name, data_type=_INT64, dims=[len(sizes)], raw_data=raw)
        return name
