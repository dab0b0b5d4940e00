"""A backup on disk: files with their SHA-256, and a manifest that is written last.

    kafka/<topic>/<partition>-<first offset>.jsonl.gz
    postgres/<database>.dump
    objects/<bucket>.jsonl.gz         one line per version, names blobs by their digest
    blobs/<2 hex>/<sha256>            the content of objects, each once
    manifest.json

While it is written, the folder is hidden (`.<name>.partial`): what has no manifest is no backup.
Folders have mode 0700, files 0600.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from services.backup import BackupError

FORMAT = "estate-backup"
VERSION = 1
MANIFEST = "manifest.json"
SPARE_BYTES = 256 << 20
"""Left free on a disk, whatever is written."""
_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")

Progress = Callable[[str, int, int], None]
"""Called with what is under way, how much of it is done, and of how much."""


class Digesting:
    """A file being written: its digest and length as the bytes go by."""

    def __init__(self, handle: IO[bytes]) -> None:
        """Write to `handle`, an empty file."""
        self._handle = handle
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        """Write all of it."""
        self._sha256.update(data)
        self.bytes += len(data)
        return self._handle.write(data)

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._handle.flush()

    def entry(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {"sha256": self._sha256.hexdigest(), "bytes": self.bytes}


class Writer:
    """A backup while it is made; `files` are those that are complete."""

    def __init__(self, folder: Path) -> None:
        """Write into `folder`, which exists: what `begin` returned."""
        self.folder = folder
        self.files: dict[str, dict[str, Any]] = {}

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[Digesting]:
        """Write one file; it belongs to the backup when the block ends without an error."""
        path = self.folder / name
        private(path.parent, below=self.folder)
        with full_disk(self.folder), _open(path) as handle:
            made = Digesting(handle)
            yield made
            _sync(handle)
        self.files[name] = made.entry()

    @contextlib.contextmanager
    def lines(self, name: str) -> Iterator[Callable[[Any], object]]:
        """Write values as lines of JSON, compressed."""
        with self.file(name) as made, gzip.GzipFile("", "wb", 6, made, mtime=0) as packed:
            yield lambda value: packed.write(line(value))

    def blob(self, chunks: Iterator[bytes]) -> tuple[str, int]:
        """Keep some content under its digest, once; returns digest and length."""
        folder = self.folder / "blobs"
        private(folder, below=self.folder)
        number = os.urandom(8).hex()
        partial = folder / f".{number}.partial"
        with full_disk(self.folder):
            try:
                with _open(partial) as handle:
                    made = Digesting(handle)
                    for chunk in chunks:
                        made.write(chunk)
                    _sync(handle)
                digest = str(made.entry()["sha256"])
                target = blob(self.folder, digest)
                private(target.parent, below=self.folder)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
        return digest, made.bytes


def blob(folder: Path, digest: str) -> Path:
    """Where the content with this digest is, or would be."""
    return folder / "blobs" / digest[:2] / digest


def line(value: Any) -> bytes:
    """One line of JSON, always the same for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def read_lines(path: Path) -> Iterator[Any]:
    """What `Writer.lines` wrote."""
    with gzip.open(path, "rb") as packed:
        for one in packed:
            yield json.loads(one)


# -- making one ------------------------------------------------------------------------------------


def begin(target: Path) -> Path:
    """The hidden folder in which the backup `target` is made; what a killed run left is removed."""
    if target.exists():
        raise BackupError(f"backup {target}", "is there already", "choose another folder")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with full_disk(target.parent):
        partial.mkdir(mode=0o700)
    return partial


def seal(partial: Path, target: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest and give the backup its name: from now on it is whole."""
    document = {"format": FORMAT, "version": VERSION, **manifest}
    document["digest"] = _digest(document)
    with full_disk(partial), _open(partial / MANIFEST) as handle:
        handle.write(json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
        _sync(handle)
    _sync_folder(partial)
    partial.rename(target)
    _sync_folder(target.parent)
    return document


def room(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what the disk cannot hold. Raises BackupError."""
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise BackupError(
            f"disk of {folder}",
            f"{free / 2**20:.0f} MiB free",
            f"{what} needs {(needed + SPARE_BYTES) / 2**20:.0f} MiB: free some, or choose another "
            "folder",
        )


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Turn an error of the disk into one that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise BackupError(
            f"folder {folder}", error.strerror or error, "free some room there, or choose another"
        ) from None


# -- reading one -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Backup:
    """A whole backup: its folder and its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def parts(self) -> Mapping[str, Any]:
        """What is in it, by part: `kafka`, `postgres`, `objects`."""
        found: Mapping[str, Any] = self.manifest["parts"]
        return found

    @property
    def bytes(self) -> int:
        """The length of all files and of all blobs."""
        files = sum(int(one["bytes"]) for one in self.manifest["files"].values())
        return files + int(self.parts.get("objects", {}).get("blob_bytes", 0))


def open_(folder: Path) -> Backup:
    """The backup in a folder, its files not yet looked at. Raises BackupError."""
    path = folder / MANIFEST
    way_out = "choose another backup, one that ./estate backup has finished"
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BackupError(f"backup {folder}", f"has no {MANIFEST}", way_out) from None
    except OSError as error:
        raise BackupError(f"file {path}", error.strerror or error, way_out) from None
    except ValueError:
        raise BackupError(f"file {path}", "is no JSON: cut off or changed", way_out) from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BackupError(f"file {path}", f"is no manifest of format {FORMAT}", way_out)
    if document.get("version") != VERSION:
        raise BackupError(
            f"file {path}",
            f"has version {document.get('version')!r} of the format, and this program knows "
            f"{VERSION}",
            "restore it with the program that made it (commit "
            f"{(document.get('facts') or {}).get('commit')})",
        )
    given = document.pop("digest", None)
    if given != _digest(document):
        raise BackupError(f"file {path}", "is not what its digest says: it was changed", way_out)
    return Backup(folder, document)


def check(backup: Backup, progress: Progress = lambda *_: None) -> None:
    """Read every file and blob, and compare it with its digest. Raises BackupError."""
    total, done = backup.bytes, 0
    for name, entry in sorted(backup.manifest["files"].items()):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BackupError(f"backup {backup.folder}", f"names a file outside: {name}", _ANOTHER)
        _check_file(backup.folder / name, entry["sha256"], entry["bytes"])
        done += entry["bytes"]
        progress("digests", done, total)
    seen: set[str] = set()
    for bucket in backup.parts.get("objects", {}).get("buckets", {}).values():
        for version in read_lines(backup.folder / bucket["index"]):
            digest = version.get("sha256")
            if digest is None or digest in seen:
                continue
            if not _SHA256.fullmatch(digest):
                raise BackupError(f"backup {backup.folder}", f"no digest: {digest!r}", _ANOTHER)
            _check_file(blob(backup.folder, digest), digest, version["size"])
            seen.add(digest)
            done += version["size"]
            progress("digests", done, total)


_ANOTHER = "it was damaged after it was made: take another backup, or another copy of this one"


def _check_file(path: Path, sha256: str, length: int) -> None:
    try:
        found = path.stat().st_size
        if found != length:
            what = "cut off" if found < length else "too long"
            raise BackupError(f"file {path}", f"{what}: {found} bytes, not {length}", _ANOTHER)
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
    except FileNotFoundError:
        raise BackupError(f"file {path}", "is missing", _ANOTHER) from None
    except OSError as error:
        raise BackupError(f"file {path}", error.strerror or error, _ANOTHER) from None
    if digest != sha256:
        raise BackupError(
            f"file {path}", f"has digest {digest[:16]}…, not {sha256[:16]}…", _ANOTHER
        )


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(line(dict(document))).hexdigest()


# -- files -----------------------------------------------------------------------------------------


def private(folder: Path, below: Path) -> None:
    """Make folders below one that is there, nobody else's to read."""
    if folder == below:
        return
    private(folder.parent, below)
    with full_disk(below), contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)


def _open(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _sync(handle: IO[bytes]) -> None:
    handle.flush()
    os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
