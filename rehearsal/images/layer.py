"""A layer: entries in, one deterministic tar out.

Equal entries give equal bytes: sorted paths, one time stamp, numeric owners, no extended
attributes, no compression (the content store is local: reading a tar beats inflating one).
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, BinaryIO, Literal, cast

from rehearsal.images.errors import ImageError
from rehearsal.images.fsio import CHUNK

MERGED = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")
"""Folders that Debian's merged /usr turns into links below ``usr``."""


@dataclass(frozen=True)
class Entry:
    """One path of a layer. A file's bytes are in ``data``, or ``size`` bytes of ``source``."""

    path: str
    """Relative to the root, without a leading slash."""
    kind: Literal["file", "dir", "symlink", "hardlink"] = "file"
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    target: str = ""
    data: bytes = b""
    source: Path | None = None
    offset: int = 0
    size: int = 0


def merged_usr(path: str) -> str:
    """The path below ``usr`` where a merged /usr has it: ``lib/x`` is ``usr/lib/x``."""
    head, slash, _ = path.partition("/")
    return f"usr/{path}" if head in MERGED and slash else path


def normal(path: str) -> str:
    """A path of an archive or a recipe, relative and without ``.`` and ``..``.

    :raises ImageError: the path leads out of the root.
    """
    clean = posixpath.normpath("/" + path.strip("/")).lstrip("/")
    if ".." in path.split("/"):
        raise ImageError(f"path {path!r} leads out of the image", "Write it without '..'")
    return clean


def with_usr_merged(entries: Iterable[Entry]) -> list[Entry]:
    """Entries as they go on top of a base whose /bin, /lib, ... are links."""
    result = []
    for entry in entries:
        if entry.path in MERGED and entry.kind == "dir":
            continue
        target = merged_usr(entry.target) if entry.kind == "hardlink" else entry.target
        result.append(replace(entry, path=merged_usr(entry.path), target=target))
    return result


def ordered(entries: Iterable[Entry]) -> list[Entry]:
    """Entries in the order of the tar: parents added, paths sorted, hard links last.

    Of two entries for one path the later wins. A hard link to a file that a filter dropped is an
    error of the recipe, and the writer says so.
    """
    by_path: dict[str, Entry] = {}
    for entry in entries:
        by_path[entry.path] = entry
    for path in list(by_path):
        parent = posixpath.dirname(path)
        while parent and parent not in by_path:
            by_path[parent] = Entry(parent, "dir", 0o755)
            parent = posixpath.dirname(parent)
    return sorted(by_path.values(), key=lambda entry: (entry.kind == "hardlink", entry.path))


_TYPES = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
}


class _Hashing(io.RawIOBase):
    """Passes writes on, and hashes them."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.hash = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(cast(bytes, data))
        self.hash.update(view)
        self.size += len(view)
        return self.stream.write(view)


def write_layer(entries: Iterable[Entry], stream: BinaryIO, *, epoch: int) -> tuple[str, int]:
    """Write the tar of a layer.

    :param epoch: time stamp of every entry, in seconds since 1970.
    :returns: the SHA-256 in hex, and the size in bytes.
    :raises ImageError: a hard link without its file.
    """
    sink = _Hashing(stream)
    written: set[str] = set()
    opened: dict[Path, BinaryIO] = {}
    try:
        with tarfile.open(
            fileobj=cast(IO[bytes], sink), mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK
        ) as tar:
            for entry in ordered(entries):
                info = tarfile.TarInfo(entry.path)
                info.type = _TYPES[entry.kind]
                info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
                info.mtime = epoch
                info.linkname = entry.target
                if entry.kind == "hardlink" and entry.target not in written:
                    raise ImageError(
                        f"hard link {entry.path!r} to {entry.target!r}, which is not in the layer",
                        "Keep that file, or drop the link as well",
                    )
                content: IO[bytes] | None = None
                if entry.kind == "file":
                    written.add(entry.path)
                    if entry.source is None:
                        info.size = len(entry.data)
                        content = io.BytesIO(entry.data)
                    else:
                        info.size = entry.size
                        if entry.source not in opened:
                            opened[entry.source] = entry.source.open("rb")
                        content = opened[entry.source]
                        content.seek(entry.offset)
                tar.addfile(info, content)
    finally:
        for file in opened.values():
            file.close()
    return sink.hash.hexdigest(), sink.size


def file_entry(path: str, source: Path, *, mode: int = 0o644) -> Entry:
    """A whole file of this machine as an entry."""
    return Entry(path, "file", mode, source=source, size=source.stat().st_size)


def account_files(users: Iterable[Mapping[str, object]]) -> list[Entry]:
    """/etc/passwd, /etc/group and /etc/nsswitch.conf with root, nobody and these users.

    :param users: mappings with ``name``, ``uid``, ``gid``, ``home``.
    """
    passwd = ["root:x:0:0:root:/root:/bin/sh"]
    group = ["root:x:0:", "tty:x:5:", "utmp:x:43:"]
    for user in users:
        passwd.append(f"{user['name']}:x:{user['uid']}:{user['gid']}::{user['home']}:/bin/sh")
        group.append(f"{user['name']}:x:{user['gid']}:")
    passwd.append("nobody:x:65534:65534:nobody:/nonexistent:/bin/sh")
    group.append("nogroup:x:65534:")
    switch = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\n"
    return [
        Entry("etc/passwd", data=("\n".join(passwd) + "\n").encode()),
        Entry("etc/group", data=("\n".join(group) + "\n").encode()),
        Entry("etc/nsswitch.conf", data=switch.encode()),
    ]
