"""Versions of models in a registry: added once, signed, never changed, read by digest.

A version becomes visible by its tag, which is written last: what was interrupted before is not
there, and the same command goes on.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.asymmetric import ec

from model_repo import golden as golden_set
from model_repo import signing, version
from model_repo.oci import Descriptor, NotThere, OciError, Registry, described, digest_of, parsed
from model_repo.version import ModelVersion

_MARK = ".digest"
"""Of the manifest, in a folder that was pulled; no file of a version can have this name."""
Progress = Callable[[str, int], None]
"""Called with a file's name and how many of its bytes are through."""


@dataclass(frozen=True)
class Stored:
    """A version in the registry. `files`: every one with its path below the version's folder."""

    version: ModelVersion
    digest: str
    files: dict[str, Descriptor]
    config: Descriptor

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(one.size for one in self.files.values())


@dataclass(frozen=True)
class Repository:
    """The models of one registry, each a repository below `models/`.

    `trusted` are the keys of which one must have signed a version before it is read.
    """

    registry: Registry
    trusted: Sequence[ec.EllipticCurvePublicKey] = ()

    def add(
        self,
        folder: Path,
        number: int,
        revision: str,
        key: ec.EllipticCurvePrivateKey,
        sent: Progress = lambda *_: None,
    ) -> tuple[Stored, bool]:
        """Store a folder's files as a version, signed; and whether it is new.

        The same files and metadata again change nothing; others under the number of a version that
        is there are refused. Raises OciError.
        """
        told = version.read(folder, number, revision)
        name = place(told.name)
        files = _files(folder)
        model = version.MODEL_FILES[told.framework]
        if not any(path.split("/")[0] == model for path in files):
            raise OciError(str(folder), f"has no {model}, which is a model in {told.framework}")
        if golden_set.FILE in files:
            file = folder / golden_set.FILE
            golden_set.read(file.read_bytes(), told, str(file))
        metadata = version.metadata(told)
        layers = [
            _descriptor(version.WEIGHT, folder / path, {version.FILEPATH: path}) for path in files
        ]
        written = {version.FILEPATH: version.METADATA_FILE}
        layers.append(described(version.METADATA, metadata, written))
        config = version.config(told, layers)
        about = described(version.CONFIG, config)
        manifest = version.manifest(told, about, layers)
        digest = digest_of(manifest)
        stored = Stored(told, digest, dict(zip(files, layers, strict=False)), about)
        before = self.registry.digest(name, str(number))
        if before not in (None, digest):
            raise OciError(
                f"{told.name} version {number}",
                f"is there with other content ({before}); versions are never changed: take another "
                "number",
            )
        if before is None:
            for path, layer in stored.files.items():
                self.registry.put_blob(name, layer, _opened(folder / path))
                sent(path, layer.size)
            self.registry.put_bytes(name, layers[-1], metadata)
            self.registry.put_bytes(name, about, config)
            self.registry.put_manifest(name, digest, manifest)
        signing.sign(self.registry, name, digest, key)
        if before is None:
            self.registry.put_manifest(name, str(number), manifest)
            if (now := self.registry.digest(name, str(number))) != digest:
                raise OciError(
                    f"{told.name} version {number}",
                    f"somebody else added it at the same moment ({now}): take another number",
                )
        return stored, before is None

    def numbers(self, model: str) -> list[int]:
        """The versions of a model, the newest last. Raises NotThere."""
        tags = self.registry.tags(place(model))
        return sorted(int(tag) for tag in tags if re.fullmatch("[1-9][0-9]{0,17}", tag))

    def show(self, model: str, reference: str) -> Stored:
        """A version by its number or digest, once a trusted key's signature was found.

        Raises signing.Unsigned, NotThere and OciError.
        """
        name, thing = place(model), f"{model}:{reference}"
        content, digest = self.registry.manifest(name, reference)
        signing.verify(self.registry, name, digest, self.trusted)
        about, layers = version.described_by(content, thing)
        written = [layer for layer in layers if layer.media_type == version.METADATA]
        if len(written) != 1 or written[0].size > version.METADATA_MOST:
            raise OciError(thing, f"has {len(written)} {version.METADATA_FILE}, or a huge one")
        value = parsed(b"".join(self.registry.blob(name, written[0])), thing)
        told = version.parse(value, thing)
        if told.name != model:
            raise OciError(thing, f"is a version of {told.name}")
        if reference not in (digest, str(told.version)):
            raise OciError(thing, f"is version {told.version} of it")
        files: dict[str, Descriptor] = {}
        for layer in layers:
            if layer.media_type == version.METADATA:
                continue
            path = version.file_name(layer, thing)
            if path in files:
                raise OciError(thing, f"has two files {path}")
            files[path] = layer
        return Stored(told, digest, files, about)

    def verify(self, model: str, reference: str) -> Stored:
        """As `show`, and every byte of every file is read and compared with its digest."""
        stored = self.show(model, reference)
        for layer in (*stored.files.values(), stored.config):
            for _ in self.registry.blob(place(model), layer):
                pass
        return stored

    def golden(self, stored: Stored) -> golden_set.Golden:
        """What the version answers to a few inputs, without reading the rest of it.

        Raises NotThere when it has none, and OciError.
        """
        told = stored.version
        thing = f"{told.name} version {told.version}: {golden_set.FILE}"
        layer = stored.files.get(golden_set.FILE)
        if layer is None:
            raise NotThere(thing, "is not there: nothing says what the version is to answer")
        if layer.size > golden_set.MOST:
            raise OciError(thing, f"has {layer.size} bytes, {golden_set.MOST} is the most")
        content = b"".join(self.registry.blob(place(told.name), layer))
        return golden_set.read(content, told, thing)

    def remove(self, model: str, number: int, digest: str) -> None:
        """Take a version away, and then its signatures. Raises OciError, NotThere if it is gone.

        In this order, and so that an interrupted call leaves signatures of nothing, which
        `orphans` finds, and never a version without a signature.
        """
        name = place(model)
        self.registry.delete_manifest(name, digest)
        if self.registry.digest(name, str(number)) == digest:
            raise OciError(f"{model} version {number}", "was deleted, and the registry has it yet")
        if signatures := self.registry.digest(name, signing.tag_of(digest)):
            self.registry.delete_manifest(name, signatures)

    def orphans(self, model: str) -> dict[str, str]:
        """Tags of signatures whose manifest is gone, each with its own manifest's digest."""
        name = place(model)
        found = {}
        for tag in self.registry.tags(name):
            signed = signing.signed_by(tag)
            if signed is None or self.registry.digest(name, signed) is not None:
                continue
            if own := self.registry.digest(name, tag):
                found[tag] = own
        return found

    def trusts(self, stored: Stored) -> bool:
        """Whether one of the trusted keys has signed the version. Raises OciError."""
        try:
            signing.verify(self.registry, place(stored.version.name), stored.digest, self.trusted)
        except signing.Unsigned:
            return False
        return True

    def pull(self, model: str, reference: str, folder: Path) -> Stored:
        """A version's files into a folder that appears whole or not at all.

        A folder that holds this very version already is left as it is. Raises OciError.
        """
        stored = self.show(model, reference)
        if folder.exists():
            if not _holds(folder, stored):
                raise OciError(str(folder), "is there and holds something else: name another one")
            return stored
        making = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
        try:
            for path, layer in stored.files.items():
                target = making / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    file.writelines(self.registry.blob(place(model), layer))
                    file.flush()
                    os.fsync(file.fileno())
            (making / version.METADATA_FILE).write_bytes(version.metadata(stored.version))
            (making / _MARK).write_text(stored.digest, encoding="ascii")
            making.rename(folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
        return stored


def place(model: str) -> str:
    """The repository of a model below the registry's address."""
    return f"models/{model}"


def _files(folder: Path) -> list[str]:
    """Every file below a folder but `version.yaml`; links and odd names are refused."""
    found = []

    def unreadable(error: OSError) -> None:
        raise OciError(str(error.filename), f"cannot be read: {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in sorted([*names, *(one for one in folders if Path(parent, one).is_symlink())]):
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            if relative == version.VERSION_FILE:
                continue
            if path.is_symlink() or not path.is_file():
                raise OciError(str(path), "is no regular file: a version holds nothing else")
            if path.stat().st_size == 0:
                raise OciError(str(path), "is empty")
            version.file_name(Descriptor("", "", 0, {version.FILEPATH: relative}), str(path))
            found.append(relative)
    if not found:
        raise OciError(str(folder), f"has no file beside {version.VERSION_FILE}")
    return found


def _opened(file: Path) -> Callable[[], BinaryIO]:
    return lambda: file.open("rb")


def _descriptor(kind: str, file: Path, annotations: dict[str, str]) -> Descriptor:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return Descriptor(kind, f"sha256:{digest}", opened.tell(), annotations)


def _holds(folder: Path, stored: Stored) -> bool:
    """Whether a folder was pulled, is of this version, and its files are still what they were."""
    try:
        if (folder / _MARK).read_text(encoding="ascii") != stored.digest:
            return False
        return all(
            _descriptor(layer.media_type, folder / path, {}).digest == layer.digest
            for path, layer in stored.files.items()
        )
    except (OSError, ValueError):
        return False
