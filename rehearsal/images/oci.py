"""The store: one OCI image layout whose blobs all images share."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from rehearsal.images.fsio import CHUNK, atomic, digest_of, write_json

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Names of the kernel and of OCI (and of Debian) for the same architecture."""


@dataclass(frozen=True)
class Blob:
    """Content of the store."""

    digest: str
    """``sha256:...``."""
    size: int
    """In bytes."""

    def descriptor(self, media_type: str) -> dict[str, Any]:
        """The OCI descriptor."""
        return {"mediaType": media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class Named:
    """A manifest under a name."""

    repository: str
    tag: str
    manifest: Blob

    @property
    def names(self) -> tuple[str, str]:
        """``repository:tag`` and ``repository@digest``: a kubelet asks for the second."""
        return f"{self.repository}:{self.tag}", f"{self.repository}@{self.manifest.digest}"


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class Store:
    """An OCI image layout in a folder.

    :param root: the folder; made when missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"
        self.blobs.mkdir(parents=True, exist_ok=True)
        layout = root / "oci-layout"
        if not layout.exists():
            with atomic(layout) as stream:
                stream.write(b'{"imageLayoutVersion":"1.0.0"}')

    def path(self, digest: str) -> Path:
        """Where a blob lies."""
        return self.blobs / digest.removeprefix("sha256:")

    def put(self, data: bytes) -> Blob:
        """Store a small blob."""
        blob = Blob(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
        if not self.path(blob.digest).exists():
            with atomic(self.path(blob.digest)) as stream:
                stream.write(data)
        return blob

    def put_image(
        self, layers: Sequence[Blob], config: Mapping[str, Any], *, architecture: str, epoch: int
    ) -> Blob:
        """Store the configuration and the manifest of an image; the manifest's blob.

        :param layers: lowest first; tars without compression, so that digest and diff id agree.
        :param config: the ``config`` object of an OCI image configuration.
        """
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
        document = {
            "architecture": architecture,
            "os": "linux",
            "created": created,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            "history": [{"created": created, "created_by": "estate-images"} for _ in layers],
        }
        return self.put(
            _canonical(
                {
                    "schemaVersion": 2,
                    "mediaType": MANIFEST,
                    "config": self.put(_canonical(document)).descriptor(CONFIG),
                    "layers": [layer.descriptor(LAYER) for layer in layers],
                }
            )
        )

    @staticmethod
    def index(images: Iterable[Named]) -> dict[str, Any]:
        """An index with two names for each image, by tag and by digest."""
        manifests = []
        for image in images:
            for name in image.names:
                descriptor = image.manifest.descriptor(MANIFEST)
                annotations = {
                    "io.containerd.image.name": name,
                    "org.opencontainers.image.ref.name": name,
                }
                manifests.append({**descriptor, "annotations": annotations})
        return {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}

    def write_index(self, images: Iterable[Named]) -> None:
        """Make the layout's index list exactly these images."""
        write_json(self.root / "index.json", self.index(images))

    def parts(self, manifest: Blob) -> list[Blob]:
        """The manifest, its configuration and its layers."""
        value = json.loads(self.path(manifest.digest).read_bytes())
        described = [value["config"], *value["layers"]]
        return [manifest, *(Blob(part["digest"], part["size"]) for part in described)]

    def write_archive(self, images: Sequence[Named], stream: BinaryIO) -> None:
        """Write these images as one OCI archive; a layer that several have is in it once."""
        blobs = {part.digest: part for image in images for part in self.parts(image.manifest)}
        with tarfile.open(
            fileobj=cast(IO[bytes], stream), mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK
        ) as tar:
            for name, data in (
                ("oci-layout", (self.root / "oci-layout").read_bytes()),
                ("index.json", _canonical(self.index(images))),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            for digest in sorted(blobs):
                info = tarfile.TarInfo(f"blobs/sha256/{digest.removeprefix('sha256:')}")
                info.size = blobs[digest].size
                with self.path(digest).open("rb") as blob:
                    tar.addfile(info, blob)


def image_key(layers: Sequence[str], config: Mapping[str, Any], reference: str) -> str:
    """A key of everything that an image is made of, without making it."""
    return digest_of({"layers": list(layers), "config": config, "reference": reference})
