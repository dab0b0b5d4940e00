"""Entries of files of this repository: what runs inside the estate and is ours."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

from rehearsal import paths
from rehearsal.images.errors import ImageError
from rehearsal.images.fsio import sha256_of
from rehearsal.images.layer import Entry, file_entry, normal
from rehearsal.images.recipe import SourceLayer


def _files(layer: SourceLayer) -> dict[str, Path]:
    """Path in the image -> file.

    :raises ImageError: the recipe names nothing that is here.
    """
    root = paths.root() / layer.path
    into = normal(layer.into)
    if root.is_file():
        return {into: root}
    found = {
        posixpath.join(into, file.relative_to(root).as_posix()): file
        for file in sorted(root.rglob("*"))
        if file.suffix in layer.suffixes and "node_modules" not in file.parts
    }
    if not found:
        raise ImageError(
            f"source {layer.path!r} has no file of {', '.join(layer.suffixes)}",
            "Name a folder or a file of the repository",
        )
    return found


def described(layer: SourceLayer) -> dict[str, Any]:
    """A JSON value with everything that decides the layer's bytes."""
    files = {path: sha256_of(file) for path, file in _files(layer).items()}
    return {"kind": layer.kind, "files": files}


def entries(layer: SourceLayer) -> list[Entry]:
    """The files as entries, readable by everyone."""
    return [file_entry(path, file) for path, file in _files(layer).items()]
