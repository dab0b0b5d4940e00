"""The embedding model, built by the repository itself: fixed filters, then a fitted projection.

Oriented filters of two wavelengths and three colour channels, their energy on a 4 x 4 grid, the
logarithm, and the principal components (whitened) that `fit` found in the photographs of
scikit-image and scikit-learn. Small, the same bytes on every machine, and enough to find images that
look alike; a trained network takes its place by the same interface.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIDE = 64
"""Of the square that the model takes: float32 [n, 64, 64, 3], values from 0 to 1."""
DIMENSIONS = 32
PROJECTION = Path(__file__).with_name("embedder.json")
_GRID, _KERNEL = 4, 7
_ORIENTATIONS, _WAVELENGTHS = 6, (3.0, 6.0)
_COLOURS = ((0.299, 0.587, 0.114), (0.5, -0.5, 0.0), (0.25, 0.25, -0.5))
"""Luminance, red against green, yellow against blue."""
CHANNELS = _ORIENTATIONS * len(_WAVELENGTHS) + len(_COLOURS)
FEATURES = CHANNELS * _GRID * _GRID
_OPSET, _IR = 17, 8

Array = npt.NDArray[np.float32]


def filters() -> Array:
    """The bank: [channels, colours, 7, 7]. Rounded, so that every processor makes the same."""
    bank = np.zeros((CHANNELS, len(_COLOURS), _KERNEL, _KERNEL))
    reach = _KERNEL // 2
    number = 0
    for wavelength in _WAVELENGTHS:
        for turn in range(_ORIENTATIONS):
            angle = math.pi * turn / _ORIENTATIONS
            wave = np.zeros((_KERNEL, _KERNEL))
            for y in range(-reach, reach + 1):
                for x in range(-reach, reach + 1):
                    along = x * math.cos(angle) + y * math.sin(angle)
                    window = math.exp(-(x * x + y * y) / (2 * (0.5 * wavelength) ** 2))
                    wave[y + reach, x + reach] = window * math.cos(2 * math.pi * along / wavelength)
            wave -= wave.mean()
            bank[number, 0] = wave / np.abs(wave).sum()
            number += 1
    for colour in range(len(_COLOURS)):
        bank[number, colour, reach, reach] = 1.0
        number += 1
    return bank.round(4).astype(np.float32)


def build(projection: Path | None = PROJECTION) -> bytes:
    """The model as ONNX. Without a projection its output are the features that `fit` takes."""
    from onnx import TensorProto, checker, helper

    constants: dict[str, npt.NDArray[Any]] = {
        "colours": np.array(_COLOURS, dtype=np.float32).reshape(len(_COLOURS), 3, 1, 1),
        "filters": filters(),
        "floor": np.array(0.01, dtype=np.float32),
    }
    node = helper.make_node
    cell = SIDE // _GRID
    nodes = [
        node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "colours"], ["opponents"]),
        node("Conv", ["opponents", "filters"], ["waves"], pads=[_KERNEL // 2] * 4),
        node("Abs", ["waves"], ["energy"]),
        node("AveragePool", ["energy"], ["cells"], kernel_shape=[cell] * 2, strides=[cell] * 2),
        node("Flatten", ["cells"], ["flat"]),
        node("Add", ["flat", "floor"], ["above"]),
        node("Log", ["above"], ["features"]),
    ]
    output, width = "features", FEATURES
    if projection is not None:
        fitted = json.loads(projection.read_text(encoding="utf-8"))
        constants["mean"] = np.array(fitted["mean"], dtype=np.float32)
        constants["components"] = np.array(fitted["components"], dtype=np.float32).T
        nodes += [
            node("Sub", ["features", "mean"], ["centred"]),
            node("MatMul", ["centred", "components"], ["projected"]),
            node("LpNormalization", ["projected"], ["embedding"], axis=1, p=2),
        ]
        output, width = "embedding", DIMENSIONS
    float_ = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "estate-embedder",
        [helper.make_tensor_value_info("image", float_, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(output, float_, ["n", width])],
        [
            helper.make_tensor(name, float_, value.shape, value.tobytes(), raw=True)
            for name, value in constants.items()
        ],
    )
    made = helper.make_model(
        graph,
        producer_name="estate",
        ir_version=_IR,
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
    checker.check_model(made)
    return bytes(made.SerializeToString(deterministic=True))


def fit(features: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Mean and whitened principal components of features [n, FEATURES], rounded, as JSON has them.

    A component's sign is free: the one whose largest weight is positive is taken.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features.astype(np.float64) - mean
    _, spread, components = np.linalg.svd(centred, full_matrices=False)
    kept = components[:DIMENSIONS]
    signs = np.sign(kept[np.arange(DIMENSIONS), np.abs(kept).argmax(axis=1)])
    deviations = spread[:DIMENSIONS] / math.sqrt(len(features) - 1)
    whitened = kept * (signs / deviations)[:, None]
    return {"mean": mean.round(4).tolist(), "components": whitened.round(4).tolist()}
