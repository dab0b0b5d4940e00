"""`python3 -m services.training MODEL --out FOLDER`: a model in four formats."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import torch
import yaml

from services.serving.backend import model as backend
from services.training import formats
from services.training.models import MODELS, Trained
from services.training.ops import Array, Reference

GOLDEN = 16
TOLERANCE = {"absolute": 1e-4, "relative": 1e-3}
_PLACES = 6
"""Decimals of a metric: fewer than what the order of a sum may change."""


def _tensor(name: str, values: Array) -> dict[str, Any]:
    """A tensor of KServe's v2 protocol. A single's shortest digits give it back exactly."""
    plain = values.astype(np.float32)
    data = [float(str(value)) for value in plain.ravel()]
    return {"name": name, "datatype": "FP32", "shape": list(plain.shape), "data": data}


def _measured(
    trained: Trained, folder: Path, golden_inputs: Array, golden: Array
) -> dict[str, float]:
    """What the files in the folder achieve, run as Triton's backend runs them."""
    run = backend.load(folder, [trained.input], [trained.output], 1)
    (outputs,) = run([trained.held_out])
    # Of another batch size than the one before: a batch that was frozen into a file is found.
    (answers,) = run([golden_inputs])
    apart = np.abs(answers.astype(np.float64) - golden)
    if (apart > TOLERANCE["absolute"] + TOLERANCE["relative"] * np.abs(golden)).any():
        raise SystemExit(f"{folder.name}: {apart.max():g} away from the reference")
    metrics = {name: round(value, _PLACES) for name, value in trained.measure(outputs).items()}
    return {**metrics, "golden_max_difference": float(f"{apart.max():.1e}")}


def write(trained: Trained, out: Path) -> None:
    """The four folders of a model. Raises SystemExit when a format does not agree."""
    inputs = trained.held_out[:GOLDEN]
    golden = trained.graph(Reference(), inputs.astype(np.float64))
    text = json.dumps(
        {
            "inputs": [_tensor(trained.input, inputs)],
            "outputs": [_tensor(trained.output, golden)],
            "tolerance": TOLERANCE,
        },
        separators=(",", ":"),
    )
    for framework, writer in formats.WRITERS.items():
        name = f"{trained.name}-{framework}"
        folder = out / name
        folder.mkdir(parents=True)
        writer(trained, golden.shape[1], folder)
        (folder / "golden.json").write_text(text + "\n", encoding="utf-8")
        about = {
            "name": name,
            "framework": framework,
            "inputs": [_declared(trained.input, inputs)],
            "outputs": [_declared(trained.output, golden)],
            "metrics": _measured(trained, folder, inputs, golden),
            "training_data": {
                "dataset": trained.dataset,
                "version": trained.dataset_version,
                "digest": trained.data_digest,
            },
            "licence": trained.licence,
            "description": trained.description,
        }
        with (folder / "version.yaml").open("w", encoding="utf-8") as stream:
            yaml.safe_dump(about, stream, sort_keys=False, width=100)
        print(f"{name}: {about['metrics']}", flush=True)


def _declared(name: str, values: Array) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": [-1, *values.shape[1:]]}


def main() -> int:
    """Train and write; 0 when all formats agree with the reference."""
    parser = argparse.ArgumentParser(prog="services.training", description=__doc__)
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("--out", type=Path, required=True, help="folder for the four folders")
    options = parser.parse_args()
    # One thread: the order of a sum is then the same each time.
    torch.set_num_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    write(MODELS[options.model](), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
