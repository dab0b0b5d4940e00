"""A trained model in each format, so that the same model gives the same bytes each time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
import torch
from onnx import TensorProto, helper, numpy_helper
from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef

from services.training.models import Trained
from services.training.ops import Array, Ops

_OPSET, _IR = 17, 8
"""Of ONNX: old enough for whatever an edge device has."""


class _Symbol:
    """A tensor of an ONNX graph that is being written."""

    def __init__(self, ops: _Onnx, name: str) -> None:
        self.ops, self.name = ops, name

    def __add__(self, other: _Symbol) -> _Symbol:
        return self.ops.node("Add", self, other)

    def __sub__(self, other: _Symbol) -> _Symbol:
        return self.ops.node("Sub", self, other)

    def __mul__(self, other: _Symbol) -> _Symbol:
        return self.ops.node("Mul", self, other)

    def __truediv__(self, other: _Symbol) -> _Symbol:
        return self.ops.node("Div", self, other)

    def __matmul__(self, other: _Symbol) -> _Symbol:
        return self.ops.node("MatMul", self, other)


class _Onnx:
    """Writes the nodes of an ONNX graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: _Symbol, **attributes: Any) -> _Symbol:
        """Add a node; its output."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        names = [one.name for one in inputs]
        self.nodes.append(helper.make_node(kind, names, [name], name=name, **attributes))
        return _Symbol(self, name)

    def constant(self, value: Array) -> _Symbol:
        return self._stored(value.astype(np.float32))

    def _stored(self, value: Array) -> _Symbol:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return _Symbol(self, name)

    def flatten(self, x: _Symbol, size: int) -> _Symbol:
        return self.node("Reshape", x, self._stored(np.array([-1, size], np.int64)))

    def relu(self, x: _Symbol) -> _Symbol:
        return self.node("Relu", x)

    def tanh(self, x: _Symbol) -> _Symbol:
        return self.node("Tanh", x)

    def softmax(self, x: _Symbol) -> _Symbol:
        return self.node("Softmax", x, axis=1)

    def sqrt(self, x: _Symbol) -> _Symbol:
        return self.node("Sqrt", x)

    def mean(self, x: _Symbol) -> _Symbol:
        return self.node("ReduceMean", x, axes=[1], keepdims=1)

    def sum(self, x: _Symbol) -> _Symbol:
        return self.node("ReduceSum", x, self._stored(np.array([1], np.int64)), keepdims=1)


class _Torch:
    """PyTorch's own operations."""

    def constant(self, value: Array) -> Any:
        return torch.from_numpy(value.astype(np.float32))

    def flatten(self, x: Any, size: int) -> Any:
        return x.reshape(-1, size)

    def relu(self, x: Any) -> Any:
        return torch.relu(x)

    def tanh(self, x: Any) -> Any:
        return torch.tanh(x)

    def softmax(self, x: Any) -> Any:
        return torch.softmax(x, dim=1)

    def sqrt(self, x: Any) -> Any:
        return torch.sqrt(x)

    def mean(self, x: Any) -> Any:
        return x.mean(dim=1, keepdim=True)

    def sum(self, x: Any) -> Any:
        return x.sum(dim=1, keepdim=True)


class _TensorFlow:
    """TensorFlow's own operations."""

    def constant(self, value: Array) -> Any:
        return tf.constant(value.astype(np.float32))

    def flatten(self, x: Any, size: int) -> Any:
        return tf.reshape(x, [-1, size])

    def relu(self, x: Any) -> Any:
        return tf.nn.relu(x)

    def tanh(self, x: Any) -> Any:
        return tf.tanh(x)

    def softmax(self, x: Any) -> Any:
        return tf.nn.softmax(x, axis=1)

    def sqrt(self, x: Any) -> Any:
        return tf.sqrt(x)

    def mean(self, x: Any) -> Any:
        return tf.reduce_mean(x, axis=1, keepdims=True)

    def sum(self, x: Any) -> Any:
        return tf.reduce_sum(x, axis=1, keepdims=True)


def onnx_file(model: Trained, width: int, folder: Path) -> None:
    """`model.onnx`."""
    ops = _Onnx()
    made = model.graph(ops, _Symbol(ops, model.input))
    ops.nodes[-1].output[0] = model.output
    assert made.name == ops.nodes[-1].name
    shape = ["batch", *model.held_out.shape[1:]]
    graph = helper.make_graph(
        ops.nodes,
        model.name,
        [helper.make_tensor_value_info(model.input, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(model.output, TensorProto.FLOAT, ["batch", width])],
        ops.weights,
    )
    whole = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR
    )
    onnx.checker.check_model(whole, full_check=True)
    (folder / "model.onnx").write_bytes(whole.SerializeToString(deterministic=True))


class _Module(torch.nn.Module):  # type: ignore[misc]  # PyTorch is not beside mypy
    def __init__(self, graph: Callable[[Ops, Any], Any]) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x: Any) -> Any:
        return self.graph(_Torch(), x)


def torch_file(model: Trained, width: int, folder: Path) -> None:
    """`model.pt`: TorchScript, traced."""
    example = torch.from_numpy(model.held_out[:2])
    with warnings.catch_warnings():
        # That weights become constants, which is what is wanted.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(_Module(model.graph).eval(), example)
    torch.jit.save(traced, str(folder / "model.pt"))


def saved_model(model: Trained, width: int, folder: Path) -> None:
    """`model.savedmodel`."""
    spec = tf.TensorSpec([None, *model.held_out.shape[1:]], tf.float32, name=model.input)
    module = tf.Module()

    def graph(x: Any) -> dict[str, Any]:
        return {model.output: tf.ensure_shape(model.graph(_TensorFlow(), x), [None, width])}

    module.serve = serve = tf.function(graph, input_signature=[spec])
    target = folder / "model.savedmodel"
    tf.saved_model.save(module, str(target), signatures=serve.get_concrete_function())
    # The one thing in it that is drawn by lot, beside checksums of all the rest.
    mark = target / "fingerprint.pb"
    fingerprint = FingerprintDef.FromString(mark.read_bytes())
    fingerprint.uuid = str(fingerprint.saved_model_checksum)
    mark.write_bytes(fingerprint.SerializeToString(deterministic=True))


def tflite_file(model: Trained, width: int, folder: Path) -> None:
    """`model.tflite`, converted from the SavedModel that lies beside its folder."""
    source = folder.parent / f"{model.name}-tensorflow" / "model.savedmodel"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a converter of another package is newer
        made = tf.lite.TFLiteConverter.from_saved_model(str(source)).convert()
    (folder / "model.tflite").write_bytes(made)


WRITERS: dict[str, Callable[[Trained, int, Path], None]] = {
    "onnx": onnx_file,
    "pytorch": torch_file,
    "tensorflow": saved_model,
    "tflite": tflite_file,
}
