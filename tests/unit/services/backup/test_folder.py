"""A backup on disk: whole or none, and refused when it is not what it was."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from services.backup import BackupError, folder
from services.backup.folder import Backup, Writer

PARTS: dict[str, Any] = {"kafka": {"topics": {}, "groups": {}}, "postgres": {"databases": {}}}


def made(parent: Path, name: str = "one") -> Backup:
    """A backup with a file, and a bucket with two objects of the same content and one other."""
    target = parent / name
    partial = folder.begin(target)
    writer = Writer(partial)
    with writer.file("postgres/app.dump") as file:
        file.write(b"dump " * 1000)
    same, size = writer.blob(iter([b"al", b"ike"]))
    assert writer.blob(iter([b"alike"])) == (same, size)
    other, length = writer.blob(iter([]))
    with writer.lines("objects/b.jsonl.gz") as write:
        for key, digest, bytes_ in (("a", same, size), ("b", same, size), ("c", other, length)):
            write({"key": key, "sha256": digest, "size": bytes_})
        write({"key": "d", "marker": True})
    objects = {"buckets": {"b": {"index": "objects/b.jsonl.gz"}}, "blob_bytes": 5, "blobs": 2}
    folder.seal(partial, target, {"parts": {**PARTS, "objects": objects}, "files": writer.files})
    return folder.open_(target)


def test_what_was_written_is_whole(tmp_path: Path) -> None:
    backup = made(tmp_path)
    seen: list[tuple[int, int]] = []
    folder.check(backup, lambda _, done, total: seen.append((done, total)))
    assert seen[-1] == (backup.bytes, backup.bytes)
    assert [one["key"] for one in folder.read_lines(backup.folder / "objects/b.jsonl.gz")] == [
        *"abcd"
    ]


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        backup = made(tmp_path)
    finally:
        os.umask(old)
    modes = {path: path.stat().st_mode & 0o777 for path in [backup.folder, *_all(backup.folder)]}
    assert set(modes.values()) == {0o700, 0o600}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())


def _all(path: Path) -> list[Path]:
    return sorted(path.rglob("*"))


def test_the_same_content_is_the_same_files(tmp_path: Path) -> None:
    one, two = made(tmp_path, "one"), made(tmp_path, "two")
    assert one.manifest == two.manifest


def test_a_half_written_one_is_no_backup(tmp_path: Path) -> None:
    target = tmp_path / "one"
    partial = folder.begin(target)
    writer = Writer(partial)
    with pytest.raises(KeyboardInterrupt), writer.file("postgres/app.dump") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert writer.files == {}
    assert not target.exists()
    with pytest.raises(BackupError, match=r"has no manifest\.json; choose another backup"):
        folder.open_(partial)
    assert _all(folder.begin(target)) == []


def test_none_is_written_over_another(tmp_path: Path) -> None:
    backup = made(tmp_path)
    with pytest.raises(BackupError, match="is there already; choose another folder"):
        folder.begin(backup.folder)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (flip, "has digest"),
        (cut, "cut off: "),
        (grow, "too long: "),
        (Path.unlink, "is missing"),
    ],
)
def test_every_file_is_missed(tmp_path: Path, change: Callable[[Path], object], says: str) -> None:
    backup = made(tmp_path)
    files = [
        path
        for path in _all(backup.folder)
        if path.is_file() and path.name != folder.MANIFEST and path.stat().st_size
    ]
    assert len(files) == 3
    for number, path in enumerate(files):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(backup.folder, copy)
        changed = copy / path.relative_to(backup.folder)
        change(changed)
        with pytest.raises(BackupError, match=says) as told:
            folder.check(folder.open_(copy))
        assert told.value.thing == f"file {changed}"


@pytest.mark.parametrize("seed", range(5))
def test_every_byte_of_the_manifest_counts(tmp_path: Path, seed: int) -> None:
    manifest = made(tmp_path).folder / folder.MANIFEST
    good = manifest.read_bytes()
    chance = random.Random(seed)
    for _ in range(40):
        at = chance.randrange(len(good))
        bad = bytearray(good)
        bad[at] ^= 1 << chance.randrange(7)
        try:
            same = json.loads(bad) == json.loads(good)
        except ValueError:
            same = False
        manifest.write_bytes(bad)
        if not same:  # white space between the values carries nothing
            with pytest.raises(BackupError):
                folder.open_(manifest.parent)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is no JSON: cut off or changed"),
        (b"[]", "is no manifest of format estate-backup"),
        (b'{"format": "other"}', "is no manifest of format estate-backup"),
        (
            b'{"format": "estate-backup", "version": 2, "facts": {"commit": "abc"}}',
            r"version 2 of the format, and .* knows 1; restore it with .* \(commit abc\)",
        ),
        (b'{"format": "estate-backup", "version": 1}', "is not what its digest says"),
    ],
)
def test_an_unknown_manifest_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / folder.MANIFEST).write_bytes(content)
    with pytest.raises(BackupError, match=says):
        folder.open_(tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd"])
def test_a_file_outside_is_refused(tmp_path: Path, name: str) -> None:
    target = tmp_path / "one"
    files = {name: {"sha256": "0" * 64, "bytes": 0}}
    folder.seal(folder.begin(target), target, {"parts": PARTS, "files": files})
    with pytest.raises(BackupError, match="names a file outside"):
        folder.check(folder.open_(target))


def test_a_blob_outside_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "one"
    partial = folder.begin(target)
    writer = Writer(partial)
    with writer.lines("objects/b.jsonl.gz") as write:
        write({"key": "a", "sha256": "../../../etc/passwd", "size": 1})
    objects = {"buckets": {"b": {"index": "objects/b.jsonl.gz"}}}
    folder.seal(partial, target, {"parts": {**PARTS, "objects": objects}, "files": writer.files})
    with pytest.raises(BackupError, match="no digest"):
        folder.check(folder.open_(target))


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(folder.begin(tmp_path / "one"))

    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackupError, match="No space left on device; free some room there"):
        writer.blob(iter([b"some"]))
    assert [path for path in _all(writer.folder) if path.is_file()] == []


def test_too_little_room_is_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300 << 20))
    folder.room(tmp_path, 40 << 20, "the backup")
    with pytest.raises(BackupError, match="300 MiB free; the backup needs 356 MiB: free some"):
        folder.room(tmp_path, 100 << 20, "the backup")


def test_other_errors_are_not_hidden(tmp_path: Path) -> None:
    def broken() -> Iterator[Any]:
        yield b"some"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        Writer(folder.begin(tmp_path / "one")).blob(broken())
