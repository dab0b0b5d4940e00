"""`./estate model train`: a reference model in its four formats, made by the image on this machine.

The image has the frameworks in the versions that Triton's has; no cluster is needed, nor root where
users may make namespaces.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from model_repo import version
from model_repo.oci import OciError
from rehearsal import console, paths
from rehearsal.errors import EstateError, UsageError
from rehearsal.images import run
from rehearsal.images.build import Builder
from rehearsal.images.oci import Store
from rehearsal.progress import ImageBars

IMAGE = "estate_training"
CODE = "services/training"
MODELS = ("anomaly", "digits", "embedder")
NO_COMMIT = "0" * 40


@dataclass(frozen=True)
class Image:
    """The image that trains; the same digest makes the same models."""

    store: Store
    digest: str


def image() -> Image:
    """Built where it lacks. Raises ImageError."""
    builder = Builder(paths.cache() / "images")
    with ImageBars() as bars:
        made = builder.build([IMAGE], tools={}, progress=bars)[IMAGE]
    return Image(builder.store, made.digest)


def train(model: str, out: Path, made: Image | None = None) -> list[Path]:
    """Train a model; the folders `<model>-<format>` in `out`, as `./estate model add` takes them.

    A folder that is there is replaced, by the same bytes when nothing has changed. `made` is the
    image, of who has it already.

    Raises:
        UsageError: there is no such model, or nothing can be written into `out`.
        EstateError: the image can't be had or run, or a format does not agree with the reference.
    """
    if model not in MODELS:
        raise UsageError("model", model, f"choose from: {', '.join(MODELS)}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=out, prefix=f".{model}."))
    except OSError as error:
        text = error.strerror or str(error)
        raise UsageError("--out", str(out), f"{text}; name a folder that you may write") from None
    try:
        made = made or image()
        console.step(f"training {model}")
        command = ("/usr/bin/python3", "-m", "services.training", model, "--out", "/out")
        done = run.run(made.store, made.digest, command, binds={scratch: "/out"})
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            way_out = "try: unshare --user --map-root-user --mount --pid --fork true"
            raise EstateError(f"training of {model}", said, way_out)
        return [_placed(folder, out) for folder in sorted(scratch.iterdir())]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _placed(folder: Path, out: Path) -> Path:
    try:
        version.read(folder, 1, NO_COMMIT)
    except OciError as error:
        way_out = "correct services/training"
        raise EstateError(error.thing, error.words, way_out) from None
    target = out / folder.name
    if target.exists():
        shutil.rmtree(target)
    return folder.rename(target)


def command(model: str, out: Path) -> int:
    """The command; 0 when the folders are there."""
    for folder in train(model, out):
        metrics = version.read(folder, 1, NO_COMMIT).metrics
        told = ", ".join(f"{name} {value:g}" for name, value in metrics.items())
        console.say(f"{folder}: {told}")
    return 0
