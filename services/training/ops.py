"""One definition of a model, computed by NumPy and written by each framework.

A model is a function of these operations; arithmetic and `@` are Python's operators, which the
frameworks' tensors have themselves. So the four formats hold one graph and the same weights.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]


class Ops(Protocol):
    """What a model is made of. Tensors have the batch first."""

    def constant(self, value: Array) -> Any:
        """A weight."""

    def flatten(self, x: Any, size: int) -> Any:
        """Every example as one row of `size` numbers."""

    def relu(self, x: Any) -> Any:
        """No less than 0."""

    def tanh(self, x: Any) -> Any:
        """Between -1 and 1."""

    def softmax(self, x: Any) -> Any:
        """Each row as probabilities."""

    def sqrt(self, x: Any) -> Any:
        """The square root."""

    def mean(self, x: Any) -> Any:
        """Of each row, as a column."""

    def sum(self, x: Any) -> Any:
        """Of each row, as a column."""


class Reference:
    """NumPy in double precision: what the golden sets are."""

    def constant(self, value: Array) -> Any:
        """A weight, as it is in the files: rounded to single precision."""
        return value.astype(np.float32).astype(np.float64)

    def flatten(self, x: Any, size: int) -> Any:
        """Every example as one row."""
        return x.reshape(-1, size)

    def relu(self, x: Any) -> Any:
        """No less than 0."""
        return np.maximum(x, 0.0)

    def tanh(self, x: Any) -> Any:
        """Between -1 and 1."""
        return np.tanh(x)

    def softmax(self, x: Any) -> Any:
        """Each row as probabilities."""
        raised = np.exp(x - x.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)

    def sqrt(self, x: Any) -> Any:
        """The square root."""
        return np.sqrt(x)

    def mean(self, x: Any) -> Any:
        """Of each row, as a column."""
        return x.mean(axis=1, keepdims=True)

    def sum(self, x: Any) -> Any:
        """Of each row, as a column."""
        return x.sum(axis=1, keepdims=True)
