"""What is computed from an image's pixels: an embedding by the repository's model, statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.pipeline import preprocess
from services.pipeline.ports import Described, Prepared


class Embedder(Protocol):
    """A model; `digest` is the SHA-256 of its file."""

    digest: str

    def embed(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[list[float]]:
        """A vector of length 1 for each image."""


class OnnxEmbedder:
    """The model that `model.build` makes, run by ONNX Runtime on one thread."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Threads would be as many as the node has cores, whatever the pod may use.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._side = int(self._session.get_inputs()[0].shape[1])
        self.digest = hashlib.sha256(model).hexdigest()

    def embed(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[list[float]]:
        """A vector of length 1 for each image."""
        found: list[list[float]] = []
        for start in range(0, len(images), 32):
            squares = [square(one, self._side) for one in images[start : start + 32]]
            (vectors,) = self._session.run(None, {"image": np.stack(squares)})
            found += [[float(value) for value in vector] for vector in vectors]
        return found


def square(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.float32]:
    """The model's input: all of the image as a square of this side, values from 0 to 1."""
    shrunk = Image.fromarray(image).resize((side, side), Image.Resampling.BOX)
    return np.asarray(shrunk, dtype=np.float32) / np.float32(255)


def batch(images: Sequence[Prepared], embedder: Embedder) -> list[Described]:
    """Describe every image."""
    decoded = [preprocess.pixels(image.content) for image in images]
    vectors = embedder.embed(decoded)
    return [
        Described(image, vector, embedder.digest, statistics(array))
        for image, vector, array in zip(images, vectors, decoded, strict=True)
    ]


def statistics(image: npt.NDArray[np.uint8]) -> Mapping[str, float]:
    """Of the luminance from 0 to 255: `mean`, `std`, `sharpness` (variance of the Laplacian) and
    `entropy` (bits of its histogram).
    """
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    shares = np.bincount(grey.round().astype(np.int64).ravel(), minlength=256) / grey.size
    there = shares[shares > 0]
    inner = grey[1:-1, 1:-1]
    if inner.size:
        around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        sharpness = float((around - 4 * inner).var())
    else:
        sharpness = 0.0
    return {
        "mean": float(grey.mean()),
        "std": float(grey.std()),
        "sharpness": sharpness,
        "entropy": float(-(there * np.log2(there)).sum()) + 0.0,
    }
