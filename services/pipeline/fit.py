"""`python -m services.pipeline.fit FOLDER`: fit the embedder's projection to photographs again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.pipeline import features, model


def crops(photographs: Sequence[Path]) -> Iterator[npt.NDArray[np.uint8]]:
    """A fixed grid of views of every photograph: all of it, and its parts in three sizes."""
    for path in photographs:
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        height, width = pixels.shape[:2]
        for parts in (1, 2, 4):
            for row in range(parts):
                for column in range(parts):
                    yield pixels[
                        row * height // parts : (row + 1) * height // parts,
                        column * width // parts : (column + 1) * width // parts,
                    ]


def projection(photographs: Sequence[Path]) -> dict[str, Any]:
    """The projection that these photographs give."""
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(
        model.build(None), providers=["CPUExecutionProvider"]
    )
    found = [
        session.run(None, {"image": features.square(one, model.SIDE)[None]})[0][0]
        for one in crops(sorted(photographs, key=lambda path: path.name))
    ]
    return model.fit(np.stack(found))


def main() -> None:
    """Write the projection beside the model."""
    fitted = projection([Path(name) for name in sys.argv[1:]])
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in fitted["components"])
    mean = json.dumps(fitted["mean"], separators=(",", ":"))
    model.PROJECTION.write_text(f'{{"mean":{mean},\n"components":[\n{rows}]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
