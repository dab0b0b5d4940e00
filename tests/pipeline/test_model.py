from __future__ import annotations

import hashlib
import json

import numpy as np
from PIL import Image

from rehearsal import samples
from services.pipeline import fit, model
from services.pipeline.features import OnnxEmbedder

DIGEST = "47c161dd1230104d7b879a61d3715eec364fb1c7a976dce620f823a9f72d9e2a"


def test_the_model_has_the_same_bytes_on_every_machine(embedder: OnnxEmbedder) -> None:
    assert hashlib.sha256(model.build()).hexdigest() == DIGEST == embedder.digest


def test_the_projection_is_what_the_photographs_give() -> None:
    kept = json.loads(model.PROJECTION.read_text(encoding="utf-8"))
    again = fit.projection(samples.photographs())
    np.testing.assert_allclose(again["mean"], kept["mean"], atol=2e-3)
    # A component may lean on another processor's last bits; that it is the same says its angle.
    for one, other in zip(again["components"], kept["components"], strict=True):
        angle = np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other))
        assert angle > 0.99


def test_what_looks_alike_is_near_and_every_vector_has_length_1(embedder: OnnxEmbedder) -> None:
    images = []
    for path in samples.photographs()[:6]:
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        images += [pixels, pixels[5:-5, 5:-5]]
    vectors = np.array(embedder.embed(images))
    assert vectors.shape == (12, model.DIMENSIONS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    likeness = vectors @ vectors.T - 2 * np.eye(12)
    assert likeness.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10]
