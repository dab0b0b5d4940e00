"""Many images in one upload: an uncompressed tar whose first member says what the others are.

An image keeps its bytes in the archive, so that it is a range of the stored object and needs no
copy. Whoever writes one and whoever reads it share this module.

The archive is the same for the same files, whenever it is made: a client that was killed makes it
again and goes on where the server stopped. Times, owners and modes are left out for that.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.events import Sha256

MANIFEST = "manifest.json"
METADATA = "tar"
"""Value of the upload's metadata `batch`."""
MANIFEST_LIMIT = 64 << 20
_BLOCK = 512
_READ = 1 << 20


class Member(BaseModel):
    """One image as its sender declares it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=1024)
    length: int = Field(ge=0)
    sha256: Sha256
    content_type: str = Field(min_length=1, max_length=100)


class Manifest(BaseModel):
    """The first member. Names are those of the tar's members; every name once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(default=1, ge=1, le=1)
    members: list[Member]


class BadBatch(ValueError):
    """An archive that cannot be read; the text says why."""


@dataclass(frozen=True)
class Found:
    """A member of an archive that is being read: `offset` is that of its first byte."""

    name: str
    offset: int
    length: int
    content: _Content


class Archive:
    """The bytes of an archive from any offset on, without a file of it. `length` is known first."""

    def __init__(self, members: Sequence[tuple[Member, Path]]) -> None:
        manifest = Manifest(members=[member for member, _ in members]).model_dump_json().encode()
        self._pieces: list[tuple[bytes | Path, int]] = []
        self._add(MANIFEST, manifest, len(manifest))
        for member, path in members:
            self._add(member.name, path, member.length)
        # Two empty blocks end a tar.
        self._pieces.append((bytes(2 * _BLOCK), 2 * _BLOCK))
        self.length = sum(length for _, length in self._pieces)

    def _add(self, name: str, content: bytes | Path, length: int) -> None:
        info = tarfile.TarInfo(name)
        info.size = length
        header = info.tobuf(tarfile.PAX_FORMAT)
        self._pieces += [(header, len(header)), (content, length)]
        if padding := -length % _BLOCK:
            self._pieces.append((bytes(padding), padding))

    def read_from(self, offset: int) -> Iterator[bytes]:
        """The bytes from this offset to the end. Raises OSError when a file is shorter now."""
        for content, length in self._pieces:
            if offset >= length:
                offset -= length
                continue
            if isinstance(content, bytes):
                yield content[offset:]
            else:
                yield from file_from(content, offset, length)
            offset = 0


def file_from(path: Path, offset: int, length: int) -> Iterator[bytes]:
    """The bytes of a file from an offset to `length`. Raises OSError when it is shorter now."""
    with path.open("rb") as file:
        file.seek(offset)
        left = length - offset
        while left:
            read = file.read(min(_READ, left))
            if not read:
                raise OSError(f"{path} became shorter while it was sent")
            left -= len(read)
            yield read


def read(stream: IO[bytes]) -> Iterator[Manifest | Found]:
    """The manifest, then every member in the order of the archive.

    A member's content must be read before the next one is asked for. Raises BadBatch.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            first = archive.next()
            if first is None or first.name != MANIFEST or not first.isreg():
                raise BadBatch(f"its first member is not {MANIFEST}")
            if first.size > MANIFEST_LIMIT:
                raise BadBatch(f"{MANIFEST} has {first.size} bytes, more than {MANIFEST_LIMIT}")
            yield _manifest(_content(archive, first).read())
            while (info := archive.next()) is not None:
                if not info.isreg() or info.issparse():
                    raise BadBatch(f"{info.name[:200]!r} is no plain file")
                content = _content(archive, info)
                yield Found(info.name, info.offset_data, info.size, content)
    except (tarfile.TarError, EOFError) as error:
        raise BadBatch(str(error) or type(error).__name__) from None


def _manifest(text: bytes) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadBatch(f"{MANIFEST}: {where}: {first['msg']}") from None
    names = [member.name for member in manifest.members]
    if len(set(names)) < len(names):
        raise BadBatch(f"{MANIFEST} names a member twice")
    return manifest


class _Content:
    """A member's bytes; an archive that ends within them is a bad one."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content

    def read(self, size: int = -1) -> bytes:
        """At most so many bytes; none at the end. Raises BadBatch."""
        try:
            return self._content.read(size)
        except (tarfile.TarError, EOFError) as error:
            raise BadBatch(str(error) or type(error).__name__) from None


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> _Content:
    found = archive.extractfile(info)
    if found is None:
        raise BadBatch(f"{info.name[:200]!r} is no plain file")
    return _Content(found)
