"""What became of a finished upload: an event for each image that it brought, good or bad."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import IO, Any

from services import batches
from services.events import ImageQuarantined, ImageReceived, Reason
from services.transfer.images import Verdict, judge
from services.transfer.publish import Event
from services.transfer.settings import Limits
from services.transfer.store import Upload

_READ = 1 << 20
_IN_MEMORY = 16 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")

Open = Callable[[], Any]


def metadata_problem(metadata: Mapping[str, str]) -> str | None:
    """What an upload's metadata lack, in words; None when nothing does."""
    if not metadata.get("filename"):
        return "filename is missing"
    if "batch" in metadata:
        known = metadata["batch"] == batches.METADATA
        return None if known else f"batch is {metadata['batch'][:40]!r}; only tar is known"
    if not metadata.get("filetype"):
        return "filetype (a content type such as image/jpeg) is missing"
    if not _SHA256.fullmatch(metadata.get("sha256", "")):
        return "sha256 (64 hexadecimal digits, small letters) is missing"
    return None


def judged(
    upload: Upload, length: int, received_at: datetime, open_: Open, limits: Limits
) -> list[Event]:
    """The events of one finished upload of `length` bytes; `open_` begins to read it anew."""
    one = _Judge(upload, length, received_at, open_, limits)
    if problem := metadata_problem(upload.metadata):
        return [one.whole("bad-metadata", problem)]
    if length != upload.declared_length:
        return [one.whole("truncated", f"declared {upload.declared_length}, stored {length} bytes")]
    return one.batch() if "batch" in upload.metadata else [one.single()]


class _Judge:
    def __init__(
        self, upload: Upload, length: int, received_at: datetime, open_: Open, limits: Limits
    ) -> None:
        self._upload, self._length, self._open, self._limits = upload, length, open_, limits
        self._received_at = received_at

    def _event(
        self,
        verdict: Verdict,
        *,
        sha256: str,
        length: int,
        declared: str,
        name: str,
        offset: int = 0,
        member: str | None = None,
    ) -> Event:
        common: dict[str, Any] = {
            "upload_id": self._upload.id,
            "member": member,
            "bucket": self._upload.bucket,
            "key": self._upload.key,
            "offset": offset,
            "length": length,
            "sha256": sha256,
            "name": name,
            "device": self._upload.metadata.get("device"),
            "received_at": self._received_at,
        }
        if verdict.reason is None:
            assert verdict.content_type is not None
            return ImageReceived(content_type=verdict.content_type, **common)
        return ImageQuarantined(
            content_type=declared, reason=verdict.reason, detail=verdict.detail, **common
        )

    def _kept(self, length: int) -> bool:
        return length <= self._limits.image_mib << 20

    def whole(self, reason: Reason, detail: str) -> Event:
        """All of the upload is no good."""
        body = self._open()
        try:
            sha256 = hashlib.sha256()
            while read := body.read(_READ):
                sha256.update(read)
        finally:
            body.close()
        metadata = self._upload.metadata
        return self._event(
            Verdict(None, reason, detail),
            sha256=sha256.hexdigest(),
            length=self._length,
            declared=metadata.get("filetype", ""),
            name=metadata.get("filename", ""),
        )

    def single(self) -> Event:
        """The upload is one image."""
        metadata = self._upload.metadata
        body = self._open()
        try:
            with _spooled(body, self._kept(self._length)) as (file, length, sha256):
                verdict = judge(
                    file,
                    length=length,
                    sha256=sha256,
                    declared_sha256=metadata["sha256"],
                    declared=metadata["filetype"],
                    limits=self._limits,
                )
        finally:
            body.close()
        return self._event(
            verdict,
            sha256=sha256,
            length=length,
            declared=metadata["filetype"],
            name=metadata["filename"],
        )

    def batch(self) -> list[Event]:
        """Every member by itself; what the manifest declares and nobody finds, is missing."""
        events: list[Event] = []
        declared: dict[str, batches.Member] = {}
        body = self._open()
        try:
            for event in self._members(body, declared):
                events.append(event)
        except batches.BadBatch as error:
            events.append(self.whole("bad-batch", str(error)[:200]))
        finally:
            body.close()
        events += [
            self._event(
                Verdict(None, "member-missing", "in the manifest, not in the archive"),
                sha256=hashlib.sha256().hexdigest(),
                length=0,
                declared=member.content_type,
                name=member.name,
                member=member.name,
            )
            for member in declared.values()
        ]
        return events

    def _members(self, body: Any, declared: dict[str, batches.Member]) -> Iterator[Event]:
        """Yield the events of the members that are there; `declared` keeps what was not seen."""
        for found in batches.read(body):
            if isinstance(found, batches.Manifest):
                if len(found.members) > self._limits.batch_members:
                    text = f"{len(found.members)} members; {self._limits.batch_members} are taken"
                    raise batches.BadBatch(text)
                declared.update({member.name: member for member in found.members})
                continue
            member = declared.get(found.name)
            with _spooled(found.content, self._kept(found.length)) as (file, length, sha256):
                if length != found.length:
                    raise batches.BadBatch(f"it ends within {found.name[:200]!r}")
                verdict = (
                    Verdict(None, "member-undeclared", "in the archive, not in the manifest")
                    if member is None
                    else judge(
                        file,
                        length=length,
                        sha256=sha256,
                        declared_sha256=member.sha256,
                        declared=member.content_type,
                        limits=self._limits,
                    )
                )
            # Only now: one that breaks off is told of as missing.
            declared.pop(found.name, None)
            yield self._event(
                verdict,
                sha256=sha256,
                length=length,
                declared=member.content_type if member else "",
                name=found.name,
                offset=found.offset,
                member=found.name,
            )


@contextlib.contextmanager
def _spooled(stream: Any, keep: bool) -> Iterator[tuple[IO[bytes], int, str]]:
    """A stream's content as a file (on disk when it is large), its length and digest.

    What is not to be kept is only measured: the file is empty then.
    """
    length, sha256 = 0, hashlib.sha256()
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        while read := stream.read(_READ):
            length += len(read)
            sha256.update(read)
            if keep:
                file.write(read)
        yield file, length, sha256.hexdigest()
