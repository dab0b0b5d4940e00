"""A golden set as artifacts have it, for tests."""

from __future__ import annotations

from typing import Any


def golden_json(offset: float = 0.0, examples: int = 3) -> dict[str, Any]:
    """`examples` pairs of numbers, each answered by its sum and `offset`."""
    numbers = [float(at) for at in range(2 * examples)]
    sums = [numbers[2 * at] + numbers[2 * at + 1] + offset for at in range(examples)]
    return {
        "inputs": [
            {"name": "pair", "datatype": "FP32", "shape": [examples, 2], "data": numbers},
        ],
        "outputs": [
            {"name": "sum", "datatype": "FP32", "shape": [examples, 1], "data": sums},
        ],
        "tolerance": {"absolute": 1e-4, "relative": 1e-3},
    }
