"""Inside the sandbox: further versions of a served model, good and bad, put into the registry.

Each is the served version's files under the next free number. What was changed and why is in the
file itself (ONNX's doc_string), so that nobody takes one for a model.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from model_repo import golden as golden_set
from model_repo import signing
from model_repo.oci import NotThere, OciError, Registry
from model_repo.repository import Repository
from model_repo.version import METADATA_FILE, VERSION_FILE
from rehearsal import clients
from rehearsal.access import Access
from rehearsal.drills import onnx_graph

Kind = Literal[
    "good", "unsigned", "altered", "wrong-shape", "crashing", "exhausting", "wrong-answers", "slow"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
MODEL_FILE = "model.onnx"
_KEPT_SHARE = 0.6
"""Of the bytes of a model that is cut off."""


@dataclass(frozen=True)
class Made:
    """A version that is in the registry. `files`: path -> digest of its blob."""

    version: int
    digest: str
    files: dict[str, str]


class _NoSignature(Registry):
    """A registry into which no signature comes, as if `add` had been killed before."""

    def put_manifest(self, repository: str, reference: str, content: bytes) -> str:
        """Store a manifest, unless it is one of signatures."""
        if reference.endswith(".sig"):
            return ""
        return super().put_manifest(repository, reference, content)


@dataclass(frozen=True)
class Publisher:
    """Adds versions of one model, beginning with what `source` (a digest) has.

    Args:
        opened: makes a registry of a class, for writing.
        key: what signs.
        folder: takes the files.
    """

    registry: Registry
    silent: Registry
    key: ec.EllipticCurvePrivateKey
    folder: Path
    model: str

    def add(self, kind: Kind, source: str) -> Made:
        """A version of this kind under the next number. Raises OciError."""
        number = max(self._own().numbers(self.model)) + 1
        folder = self.folder / str(number)
        stored = self._own().pull(self.model, source, folder)
        about = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
        for file in folder.iterdir():
            if file.name == METADATA_FILE or file.name.startswith("."):
                file.unlink()
        about.pop("version")
        revision = about.pop("revision")
        about["description"] = f"made by a drill: {kind}"
        if kind == "wrong-shape":
            about["outputs"][0]["shape"][-1] += 1
            file = folder / golden_set.FILE
            value = widened(json.loads(file.read_text(encoding="utf-8")))
            file.write_text(json.dumps(value), encoding="utf-8")
        (folder / VERSION_FILE).write_text(yaml.safe_dump(about), encoding="utf-8")
        if kind not in ("good", "wrong-shape"):
            file = folder / MODEL_FILE
            if not file.exists():
                raise OciError(f"{self.model}@{source}", f"has no {MODEL_FILE} to be changed")
            note = f"{self.model} {number}, made by a drill of the estate: {kind}"
            file.write_bytes(changed(file.read_bytes(), kind, note))
        into = Repository(self.silent if kind == "unsigned" else self.registry)
        made, _ = into.add(folder, number, revision, self.key)
        assert made.digest != stored.digest
        files = {path: layer.digest for path, layer in made.files.items()}
        return Made(number, made.digest, files)

    def sign(self, digest: str) -> None:
        """What was left unsigned is signed, so that the registry is whole again."""
        signing.sign(self.registry, f"models/{self.model}", digest, self.key)

    def _own(self) -> Repository:
        return Repository(self.registry, [self.key.public_key()])


def widened(value: dict[str, Any]) -> dict[str, Any]:
    """A golden set whose first output has one more value at the end of each row, as it declares."""
    output = value["outputs"][0]
    size = output["shape"][-1]
    rows = [output["data"][at : at + size] for at in range(0, len(output["data"]), size)]
    data = [one for row in rows for one in (*row, 0.0)]
    wider = {**output, "shape": [*output["shape"][:-1], size + 1], "data": data}
    return {**value, "outputs": [wider, *value["outputs"][1:]]}


def changed(content: bytes, kind: Kind, note: str) -> bytes:
    """The bytes of a model of this kind. Raises OciError where they are no ONNX model."""
    if kind == "crashing":
        return content[: max(1, int(len(content) * _KEPT_SHARE))]
    try:
        if kind in ("wrong-answers", "slow", "exhausting"):
            return onnx_graph.changed(content, kind, note)
        return onnx_graph.changed(content, "as-it-is", note)
    except ValueError as error:
        raise OciError(MODEL_FILE, str(error)) from None


def publisher(access: Access, model: str, folder: Path) -> Publisher:
    """Who may write. Raises OciError."""
    authority = folder / "ca.crt"
    authority.write_text(access.ca)
    user = (access.model_publisher, access.model_publisher_password)
    given: dict[str, Any] = {"credentials": user, "ca": authority, "writes": True}
    return Publisher(
        Registry(access.model_registry_writes, **given),
        _NoSignature(access.model_registry_writes, **given),
        signing.private_key(access.model_signing_key.encode()),
        folder,
        model,
    )


def main() -> int:
    """Say `ready`, then `add` and `sign` until `stop`; an error is said and is the end."""
    access, specification = clients.specification()
    with tempfile.TemporaryDirectory(prefix="estate-models-") as folder:
        try:
            opened = publisher(access, str(specification["model"]), Path(folder))
        except OciError as error:
            clients.emit("error", thing="drill's models", value=str(error))
            return 1

        def answer(command: dict[str, Any]) -> None:
            try:
                if command["command"] == "sign":
                    opened.sign(str(command["digest"]))
                    clients.emit("sign")
                else:
                    made = opened.add(command["kind"], str(command["source"]))
                    clients.emit("add", made=asdict(made))
            except (NotThere, OciError, OSError) as error:
                clients.emit("error", thing=f"drill's {command['command']}", value=str(error))

        stop = clients.stop_asked(answer)
        clients.emit("ready")
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
