"""Entries and contents of a Go tool's binary."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from rehearsal.images.errors import ImageError
from rehearsal.images.fsio import sha256_of
from rehearsal.images.layer import Entry, file_entry, normal
from rehearsal.images.recipe import GoLayer
from rehearsal.images.sbom import Component

_BUILD_INFO = b"\xff Go buildinf:"
_ELF_INTERPRETER = 3


def tool_path(layer: GoLayer, tools: Mapping[str, Path]) -> Path:
    """The binary of the layer's tool.

    :raises ImageError: the caller gave none, or there is no such file.
    """
    path = tools.get(layer.tool)
    if path is None or not path.is_file():
        raise ImageError(
            f"tool {layer.tool!r} is not built ({path or 'no path given'})",
            "Build it first: ./estate tools",
        )
    return path


def needs_loader(binary: Path) -> bool:
    """Whether an ELF file of 64 bits names an interpreter, that is, needs a libc in its image."""
    with binary.open("rb") as stream:
        header = stream.read(64)
        if header[:5] != b"\x7fELF\x02":
            return False
        (table,) = struct.unpack_from("<Q", header, 32)
        entry_size, count = struct.unpack_from("<HH", header, 54)
        stream.seek(table)
        entries = stream.read(entry_size * count)
    kinds = {struct.unpack_from("<I", entries, at)[0] for at in range(0, len(entries), entry_size)}
    return _ELF_INTERPRETER in kinds


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def linked_modules(binary: Path) -> list[tuple[str, str]]:
    """Modules (path, version) that were linked in, read from Go's build information.

    Empty for a binary without it, or of a Go older than 1.18.
    """
    data = binary.read_bytes()
    # The information is aligned to 16 bytes; other places that hold the magic are code.
    at = data.find(_BUILD_INFO)
    while at >= 0 and (at % 16 or not data[at + 15] & 2):
        at = data.find(_BUILD_INFO, at + 1)
    if at < 0:
        return []
    size, start = _varint(data, at + 32)
    size, start = _varint(data, start + size)
    # 16 bytes of a marker stand before and behind the text.
    text = data[start + 16 : start + size - 16].decode(errors="replace")
    modules: list[tuple[str, str]] = []
    for line in text.splitlines():
        fields = line.split("\t")
        if fields[0] == "dep" and len(fields) >= 3:
            modules.append((fields[1], fields[2]))
        elif fields[0] == "=>" and len(fields) >= 3 and modules:
            modules[-1] = (fields[1], fields[2])
    return sorted(set(modules))


def go_components(layer: GoLayer, binary: Path) -> list[Component]:
    """The tool itself, with its binary's SHA-256, and the modules inside."""
    tool = Component("golang", layer.tool, layer.version, sha256_of(binary))
    return [tool] + [
        Component("golang", name, version, "") for name, version in linked_modules(binary)
    ]


def go_entries(layer: GoLayer, binary: Path) -> list[Entry]:
    """The binary and the links to it."""
    path = normal(layer.path)
    return [file_entry(path, binary, mode=0o755)] + [
        Entry(normal(link), "symlink", 0o777, target="/" + path) for link in layer.links
    ]
