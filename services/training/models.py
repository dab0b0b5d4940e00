"""The reference models: their data, how they are trained, and how good they are.

Training is plain scikit-learn and NumPy with a fixed seed; nothing here knows a format.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from services.training.ops import Array, Ops

SEED = 6
WINDOW = 32
_RANK = 12
_EMBEDDING = 32
_SMALL = 1e-6


@dataclass(frozen=True)
class Trained:
    """A model that is trained: a graph with weights, and what it is measured by."""

    name: str
    description: str
    licence: str
    dataset: str
    dataset_version: str
    data: tuple[Array, ...]
    """All that it was trained and measured on; its digest is the artifact's."""
    input: str
    output: str
    graph: Callable[[Ops, Any], Any]
    held_out: Array
    """Examples that it was not trained on, in single precision."""
    measure: Callable[[Array], Mapping[str, float]]
    """Metrics from the outputs for the held-out examples."""

    @property
    def data_digest(self) -> str:
        """Over values, types and shapes, so that it does not depend on how they were stored."""
        found = hashlib.sha256()
        for array in self.data:
            plain = np.ascontiguousarray(array, dtype="<f8")
            found.update(f"{plain.shape}\n".encode())
            found.update(plain.tobytes())
        return f"sha256:{found.hexdigest()}"


def _mlp(images: Array, labels: Array, layers: tuple[int, ...], activation: str) -> MLPClassifier:
    # L-BFGS goes through all data at each step: no order of batches.
    model = MLPClassifier(
        layers, activation=activation, solver="lbfgs", alpha=0.1, max_iter=200, random_state=SEED
    )
    return model.fit(images, labels)


def _digits() -> tuple[Array, Array, Array, Array, Array, Array]:
    images, labels = load_digits(return_X_y=True)
    images = images / 16.0
    parts = train_test_split(images, labels, test_size=0.3, random_state=SEED, stratify=labels)
    train, test, train_labels, test_labels = parts
    return images, labels, train, test, train_labels, test_labels


def _digits_version() -> str:
    return f"scikit-learn-{version('scikit-learn')}"


def digits() -> Trained:
    """Images of handwritten digits into ten probabilities."""
    images, labels, train, test, train_labels, test_labels = _digits()
    model = _mlp(train, train_labels, (48,), "relu")
    (first, second), (first_bias, second_bias) = model.coefs_, model.intercepts_

    def graph(ops: Ops, x: Any) -> Any:
        rows = ops.flatten(x, 64)
        hidden = ops.relu(rows @ ops.constant(first) + ops.constant(first_bias))
        return ops.softmax(hidden @ ops.constant(second) + ops.constant(second_bias))

    def measure(scores: Array) -> Mapping[str, float]:
        return {"accuracy": float((scores.argmax(axis=1) == test_labels).mean())}

    return Trained(
        name="digits",
        description="Handwritten digits of 8x8 pixels between 0 and 1 into ten probabilities",
        licence="CC-BY-4.0",
        dataset="digits",
        dataset_version=_digits_version(),
        data=(images, labels),
        input="image",
        output="scores",
        graph=graph,
        held_out=test.reshape(-1, 8, 8).astype(np.float32),
        measure=measure,
    )


def embedder() -> Trained:
    """Images of handwritten digits into vectors: near each other when they show the same."""
    images, labels, train, test, train_labels, test_labels = _digits()
    # The last hidden layer of a classifier, which is as wide as a vector is to be.
    model = _mlp(train, train_labels, (64, _EMBEDDING), "tanh")
    weights, biases = model.coefs_[:2], model.intercepts_[:2]

    def graph(ops: Ops, x: Any) -> Any:
        rows = ops.flatten(x, 64)
        for weight, bias in zip(weights, biases, strict=True):
            rows = ops.tanh(rows @ ops.constant(weight) + ops.constant(bias))
        # A root of a sum that is not 0: no division by it.
        return rows / ops.sqrt(ops.sum(rows * rows) + ops.constant(np.array([_SMALL])))

    def measure(vectors: Array) -> Mapping[str, float]:
        near = vectors @ vectors.T
        np.fill_diagonal(near, -np.inf)
        same = test_labels[near.argmax(axis=1)] == test_labels
        return {"nearest_is_same": float(same.mean())}

    return Trained(
        name="embedder",
        description="Handwritten digits of 8x8 pixels between 0 and 1 into vectors of length 1",
        licence="CC-BY-4.0",
        dataset="digits",
        dataset_version=_digits_version(),
        data=(images, labels),
        input="image",
        output="embedding",
        graph=graph,
        held_out=test.reshape(-1, 8, 8).astype(np.float32),
        measure=measure,
    )


def series() -> dict[str, Array]:
    """Series that were measured, of statsmodels: sunspots a year, CO2 a week, El Nino a month."""
    spec = importlib.util.find_spec("statsmodels")
    assert spec is not None and spec.submodule_search_locations
    # Read as files: statsmodels itself would need pandas.
    folder = Path(spec.submodule_search_locations[0]) / "datasets"

    def rows(name: str) -> list[list[str]]:
        with (folder / name / f"{name}.csv").open(encoding="utf-8") as stream:
            return list(csv.reader(stream))[1:]

    co2 = np.array([float(row[1]) if row[1] else np.nan for row in rows("co2")])
    known = ~np.isnan(co2)
    co2 = np.interp(np.arange(len(co2)), np.flatnonzero(known), co2[known])
    return {
        "sunspots": np.array([float(row[1]) for row in rows("sunspots")]),
        "co2": co2,
        "elnino": np.array([float(value) for row in rows("elnino") for value in row[1:]]),
    }


def _windows(values: Array) -> Array:
    return np.lib.stride_tricks.sliding_window_view(values, WINDOW).copy()


def _standard(windows: Array) -> Array:
    spread = np.sqrt(windows.var(axis=1, keepdims=True) + _SMALL)
    made: Array = (windows - windows.mean(axis=1, keepdims=True)) / spread
    return made


def _injected(windows: Array, dice: np.random.Generator) -> Array:
    """The same windows with how sensors fail: a spike, a step, a value that sticks."""
    made = windows.copy()
    for window in made:
        spread = window.std() + _SMALL
        place = int(dice.integers(4, WINDOW - 8))
        kind = int(dice.integers(3))
        size = float(dice.uniform(3.0, 6.0) * dice.choice([-1.0, 1.0]) * spread)
        if kind == 0:
            window[place] += size
        elif kind == 1:
            window[place:] += size
        else:
            window[place : place + 8] = window[place] + size / 3.0
    return made


def anomaly() -> Trained:
    """Windows of a sensor into a score: above 1, less like the series than 95 of 100 windows."""
    train, test = [], []
    found = series()
    for values in found.values():
        cut = int(len(values) * 0.7)
        train.append(_windows(values[:cut]))
        test.append(_windows(values[cut:]))
    normal = _standard(np.concatenate(train))
    # What is left of a window beside its main components is what is odd about it.
    _, _, axes = np.linalg.svd(normal, full_matrices=False)
    axes = axes[:_RANK]
    axes = axes * np.sign(axes[np.arange(_RANK), np.abs(axes).argmax(axis=1)])[:, None]
    projector = axes.T @ axes
    left = np.linalg.norm(normal - normal @ projector, axis=1)
    limit = float(np.quantile(left, 0.95))

    clean = np.concatenate(test)
    held_out = np.concatenate([clean, _injected(clean, np.random.default_rng(SEED))])
    # Examples of both halves follow each other, so that the first ones show both.
    order = np.arange(len(held_out)).reshape(2, -1).T.ravel()
    held_out, odd = held_out[order], (np.arange(len(held_out)) >= len(clean))[order]

    def graph(ops: Ops, x: Any) -> Any:
        centred = x - ops.mean(x)
        small = ops.constant(np.array([_SMALL]))
        rows = centred / ops.sqrt(ops.mean(centred * centred) + small)
        rest = rows - rows @ ops.constant(projector)
        return ops.sqrt(ops.sum(rest * rest) + small) / ops.constant(np.array([limit]))

    def measure(scores: Array) -> Mapping[str, float]:
        flat = scores.ravel()
        return {
            "auc": float(roc_auc_score(odd, flat)),
            "false_alarms": float((flat[~odd] > 1.0).mean()),
            "found": float((flat[odd] > 1.0).mean()),
        }

    return Trained(
        name="anomaly",
        description=(
            f"{WINDOW} values of a sensor into a score; above 1 it is as odd as 5 windows of 100. "
            "Measured on spikes, steps and values that stick, put into series it has not seen"
        ),
        licence="CC0-1.0",
        dataset="sunspots-co2-elnino",
        dataset_version=f"statsmodels-{version('statsmodels')}",
        data=tuple(found.values()),
        input="window",
        output="score",
        graph=graph,
        held_out=held_out.astype(np.float32),
        measure=measure,
    )


MODELS: dict[str, Callable[[], Trained]] = {
    "digits": digits,
    "embedder": embedder,
    "anomaly": anomaly,
}
