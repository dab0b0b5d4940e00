"""What waits for Kafka, on disk: appended, synced before it counts, read in order, cut off behind.

Segments are files named after the first id in them. A frame is the length of its body and the
body's CRC-32, then the body; so a write that a power cut tore is found and cut off.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_log = logging.getLogger("collect")
_FRAME = struct.Struct(">II")
_BODY = struct.Struct(">?QQQQH")
_SUFFIX = ".segment"
_HEAD_S = 1.0
_LONGEST = 1 << 20


class Stream(NamedTuple):
    """One life of a device's counter."""

    device: str
    boot: int


class Entry(NamedTuple):
    """What goes to Kafka. Ids rise in the order of acceptance; a dead letter has sequence 0."""

    id: int
    stream: Stream
    sequence: int
    received_ms: int
    value: bytes

    @property
    def dead(self) -> bool:
        """Whether it is a dead letter."""
        return self.sequence == 0


@dataclass
class _Segment:
    first: int
    path: Path
    size: int
    last: int


class Spool:
    """The entries in a folder, `limit` bytes at the most. Raises BlockingIOError when in use."""

    def __init__(
        self,
        folder: Path,
        limit: int,
        *,
        segment: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self.limit = folder, limit
        self._segment_size = segment or max(1 << 20, limit // 32)
        self._clock = clock
        self._lock = (folder / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.torn = 0
        """Bytes of a write that was not finished, cut off at the start."""
        self.damaged = 0
        """Segments whose middle cannot be read: entries that were acknowledged are missing."""
        self._head = self._read_head()
        self._noted, self._noted_at = self._head, -_HEAD_S
        self._segments: list[_Segment] = []
        self._recover()
        self._file: int | None = None
        self._cursor = (0, 0)
        """Segment and offset of what `read` has not handed out."""

    # -- what is there -----------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(one.size for one in self._segments)

    @property
    def last(self) -> int:
        """The highest id that was ever kept here, as far as is known; 0 for none."""
        return max([self._head - 1, *(one.last for one in self._segments)])

    def __iter__(self) -> Iterator[Entry]:
        """All that is needed still, in order."""
        for segment in self._segments:
            for entry, _ in _entries(segment.path, segment.size):
                if entry.id >= self._head:
                    yield entry

    # -- in and out --------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> int:
        """Keep as many as there is room for; how many are on disk when this returns.

        Raises OSError when the disk fails: what it then holds is not known.
        """
        frames, room = [], self.limit - self.size
        for entry in entries:
            frame = _framed(entry)
            if (room := room - len(frame)) < 0:
                break
            frames.append(frame)
        if frames and self._write(entries[0].id, entries[len(frames) - 1].id, b"".join(frames)):
            return len(frames)
        return 0

    def _write(self, first: int, last: int, data: bytes) -> bool:
        try:
            if self._file is None:
                path = self._folder / f"{first:020}{_SUFFIX}"
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
                self._file = os.open(path, flags, 0o600)
                self._segments.append(_Segment(first, path, 0, first - 1))
                self._sync_folder()
            segment = self._segments[-1]
            _write(self._file, data)
            os.fdatasync(self._file)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            if self._file is not None:
                os.ftruncate(self._file, self._segments[-1].size)
            _log.error("spool: %s", error)
            return False
        segment.size += len(data)
        segment.last = last
        if segment.size >= self._segment_size:
            self._close()
        return True

    def read(self, most: int) -> list[Entry]:
        """The next ones, each once; none when all were handed out."""
        found: list[Entry] = []
        for segment in self._segments:
            at, offset = self._cursor
            if segment.first < at:
                continue
            start = offset if segment.first == at else 0
            for entry, end in _entries(segment.path, segment.size, start):
                if len(found) == most:
                    return found
                self._cursor = (segment.first, end)
                if entry.id >= self._head:
                    found.append(entry)
        return found

    def advance(self, needed: int) -> None:
        """Forget all below this id; the disk follows by whole segments."""
        if needed <= self._head:
            return
        self._head = needed
        gone = [one for one in self._segments if one.last < needed]
        if gone and self._file is not None and gone[-1] is self._segments[-1]:
            self._close()
        for one in gone:
            self._segments.remove(one)
        if gone or self._clock() - self._noted_at >= _HEAD_S:
            # Before the files go: their names are all else that tells which ids were used.
            self._note_head()
        for one in gone:
            one.path.unlink()

    def close(self) -> None:
        """Let another process have the folder."""
        if self._noted != self._head:
            self._note_head()
        self._close()
        self._lock.close()

    # -- files -------------------------------------------------------------------------------------

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _recover(self) -> None:
        paths = sorted(self._folder.glob(f"*{_SUFFIX}"))
        for path in paths:
            size, last, length = 0, 0, path.stat().st_size
            for entry, end in _entries(path, length):
                size, last = end, entry.id
            if size < length and path == paths[-1]:
                self.torn = length - size
                _log.warning("spool: %d bytes of an unfinished write cut off", self.torn)
                with path.open("r+b") as file:
                    file.truncate(size)
                    os.fsync(file.fileno())
            elif size < length:
                self.damaged += 1
                _log.error("spool: %s cannot be read from byte %d on", path, size)
                with suppress(FileExistsError):
                    path.with_suffix(".damaged").hardlink_to(path)
            if size:
                self._segments.append(_Segment(int(path.stem), path, size, last))
            else:
                path.unlink()

    def _read_head(self) -> int:
        try:
            return int((self._folder / "head").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):  # none yet, or a power cut left it empty
            return 1

    def _note_head(self) -> None:
        """Not synced: an older head costs repetitions that Kafka's tail shows, and no loss."""
        partial = self._folder / "head.new"
        partial.write_text(f"{self._head}", encoding="ascii")
        partial.replace(self._folder / "head")
        self._noted, self._noted_at = self._head, self._clock()

    def _sync_folder(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _framed(entry: Entry) -> bytes:
    key = entry.stream.device.encode()
    body = (
        _BODY.pack(
            entry.dead, entry.id, entry.received_ms, entry.stream.boot, entry.sequence, len(key)
        )
        + key
        + entry.value
    )
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def _entries(path: Path, size: int, start: int = 0) -> Iterator[tuple[Entry, int]]:
    """The whole frames from `start` to `size`, each with the offset of its end."""
    with path.open("rb") as file:
        file.seek(start)
        end = start
        while end + _FRAME.size <= size:
            length, crc = _FRAME.unpack(file.read(_FRAME.size))
            if not _BODY.size <= length <= _LONGEST or end + _FRAME.size + length > size:
                return
            body = file.read(length)
            if zlib.crc32(body) != crc:
                return
            end += _FRAME.size + length
            _, id_, received, boot, sequence, key = _BODY.unpack_from(body)
            at = _BODY.size + key
            device = body[_BODY.size : at].decode()
            yield Entry(id_, Stream(device, boot), sequence, received, body[at:]), end
