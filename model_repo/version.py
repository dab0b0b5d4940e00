"""What is written of a model version, and the OCI artifact that it becomes.

The artifact is a ModelPack of the CNCF (artifactType `application/vnd.cncf.model.manifest.v1+json`,
one raw layer for each file). What serving needs and ModelPack has no field for (shapes, metrics,
training data) is a layer of its own, `version.json`, as strict as this module.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model_repo.oci import Descriptor, OciError, canonical, image_manifest, objects, parsed

ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
METADATA = "application/vnd.estate.model.version.v1+json"
FILEPATH = "org.cncf.model.filepath"
METADATA_FILE = "version.json"
METADATA_MOST = 1 << 20
VERSION_FILE = "version.yaml"
"""What a folder says of itself when it is added."""

Framework = Literal["onnx", "pytorch", "tensorflow", "tflite"]
MODEL_FILES: dict[Framework, str] = {
    "onnx": "model.onnx",
    "pytorch": "model.pt",
    "tensorflow": "model.savedmodel",
    "tflite": "model.tflite",
}
"""File (TensorFlow: folder) of the model in a version, as Triton's native backends have it."""
# fmt: off
DataType = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES", "BF16",
]
# fmt: on
"""The names of KServe's v2 protocol (Open Inference Protocol, "Tensor Data Types")."""
Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=63)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Tensor(_Strict):
    """One input or output: -1 stands for a dimension of any length; the first is the batch's."""

    name: str = Field(min_length=1, max_length=200)
    datatype: DataType
    shape: tuple[int, ...] = Field(min_length=1, max_length=8, strict=False)

    @model_validator(mode="after")
    def _dimensions(self) -> Tensor:
        if any(size != -1 and size < 1 for size in self.shape):
            raise ValueError(f"shape {list(self.shape)}: a dimension is 1 or more, or -1")
        return self


class TrainingData(_Strict):
    """The dataset version that it was trained on."""

    dataset: Name
    version: str = Field(min_length=1, max_length=100)
    digest: Digest


class ModelVersion(_Strict):
    """One version of a model in one framework. `revision`: the Git commit of the training code."""

    name: Name
    version: int = Field(ge=1, description="Triton's: a folder's name")
    framework: Framework
    inputs: tuple[Tensor, ...] = Field(min_length=1, strict=False)
    outputs: tuple[Tensor, ...] = Field(min_length=1, strict=False)
    metrics: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(min_length=1)
    training_data: TrainingData
    licence: str = Field(min_length=1, max_length=100, description="an SPDX expression")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    description: str = Field(default="", max_length=2000)

    @model_validator(mode="after")
    def _once(self) -> ModelVersion:
        for what, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [tensor.name for tensor in tensors]
            if len(set(names)) != len(names):
                raise ValueError(f"{what}: a name is there twice: {sorted(names)}")
        return self


def parse(value: Any, thing: str) -> ModelVersion:
    """Raises OciError that names the key, the value and what is allowed."""
    try:
        return ModelVersion.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "version"
        given = "" if first["type"] == "missing" else f" ({str(first.get('input'))[:80]})"
        raise OciError(thing, f"{place}{given}: {first['msg']}") from None


def read(folder: Path, number: int, revision: str) -> ModelVersion:
    """What `version.yaml` in a folder says, with its number and commit. Raises OciError."""
    file = folder / VERSION_FILE
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OciError(str(file), "is not there: it says what the model is") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise OciError(str(file), f"cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise OciError(str(file), "is no mapping of names to values")
    for key in ("version", "revision"):
        if key in value:
            raise OciError(str(file), f"{key}: is not written there, `model add` knows it")
    return parse({**value, "version": number, "revision": revision}, str(file))


def contract(before: ModelVersion, after: ModelVersion) -> list[str]:
    """What a client of one version would have to change for another; nothing: the same tensors."""
    found = []
    for what, old, new in (
        ("input", before.inputs, after.inputs),
        ("output", before.outputs, after.outputs),
    ):
        olds, news = {one.name: one for one in old}, {one.name: one for one in new}
        found += [f"{what} {name} is gone" for name in olds if name not in news]
        found += [f"{what} {name} is new" for name in news if name not in olds]
        found += [
            f"{what} {name} is {_told(news[name])}, not {_told(one)}"
            for name, one in olds.items()
            if name in news and news[name] != one
        ]
    return found


def _told(tensor: Tensor) -> str:
    return f"{tensor.datatype} {list(tensor.shape)}"


def metadata(version: ModelVersion) -> bytes:
    """`version.json`."""
    return canonical(version.model_dump(mode="json"))


def config(version: ModelVersion, layers: Sequence[Descriptor]) -> bytes:
    """ModelPack's configuration of the artifact."""
    descriptor = {
        "name": version.name,
        "version": str(version.version),
        "revision": version.revision,
        "licenses": [version.licence],
    }
    if version.description:
        descriptor["description"] = version.description
    return canonical(
        {
            "descriptor": descriptor,
            "config": {"format": version.framework},
            "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
        }
    )


def manifest(version: ModelVersion, about: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """The artifact's manifest: the same version of the same files gives the same digest."""
    return image_manifest(
        about,
        layers,
        artifactType=ARTIFACT,
        annotations={
            "org.opencontainers.image.title": version.name,
            "org.opencontainers.image.version": str(version.version),
            "org.opencontainers.image.revision": version.revision,
            "org.opencontainers.image.licenses": version.licence,
        },
    )


def described_by(content: bytes, thing: str) -> tuple[Descriptor, list[Descriptor]]:
    """Configuration and layers of an artifact's manifest. Raises OciError when it is no model."""
    value = parsed(content, thing)
    kind = value.get("artifactType")
    if kind != ARTIFACT:
        raise OciError(thing, f"is no model: its artifactType is {str(kind)[:80]!r}")
    (about,) = objects([value.get("config")], thing)
    layers = objects(value.get("layers"), thing)
    return Descriptor.from_json(about), [Descriptor.from_json(layer) for layer in layers]


def file_name(layer: Descriptor, thing: str) -> str:
    """The path of a layer's file below the version's folder. Raises OciError when it leaves it."""
    name = layer.annotations.get(FILEPATH, "")
    parts = name.split("/")
    if parts[0] == METADATA_FILE or any(
        not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", part) for part in parts
    ):
        raise OciError(thing, f"{FILEPATH} {name!r}: is no path below the model's folder")
    return name
