from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.events import ImageQuarantined, ImageReceived
from services.transfer.images import CONTENT_TYPES, judge, sniff
from services.transfer.judge import judged
from services.transfer.publish import Event
from services.transfer.store import Upload
from tests.unit.services.pictures import LIMITS, picture, sha256
from tests.unit.services.test_batches import archive, tar

AT = datetime(2026, 1, 1, tzinfo=UTC)
JPEG = picture("JPEG")
PNG = picture("PNG")


@pytest.mark.parametrize(("content_type", "kind"), CONTENT_TYPES.items())
def test_every_type_that_is_taken_is_known_by_its_first_bytes(content_type: str, kind: str) -> None:
    content = picture(kind)
    assert sniff(content[:16]) == content_type
    verdict = judge(
        io.BytesIO(content),
        length=len(content),
        sha256=sha256(content),
        declared_sha256=sha256(content),
        declared=content_type,
        limits=LIMITS,
    )
    assert verdict.reason is None, verdict


def events(content: bytes, **metadata: str) -> list[Event]:
    complete = {
        "filename": "one",
        "filetype": "image/jpeg",
        "sha256": sha256(content),
        **metadata,
    }
    upload = Upload(
        "u1", "bucket", "uploads/u1", len(content), {k: v for k, v in complete.items() if v}
    )
    return judged(upload, len(content), AT, lambda: io.BytesIO(content), LIMITS)


def test_a_good_image_is_all_of_its_object() -> None:
    (event,) = events(JPEG, device="camera-1")
    assert isinstance(event, ImageReceived)
    assert (event.offset, event.length, event.sha256) == (0, len(JPEG), sha256(JPEG))
    assert (event.key, event.content_type, event.device) == ("uploads/u1", "image/jpeg", "camera-1")


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("content", "metadata", "reason"),
    [
        (b"", {}, "empty"),
        (JPEG, {"sha256": "0" * 64}, "checksum-mismatch"),
        (JPEG + bytes(1 << 20), {}, "too-large"),
        (b"GIF89a" + bytes(100), {"filetype": "image/gif"}, "unknown-type"),
        (b"short", {}, "unknown-type"),
        (PNG, {}, "wrong-type"),
        (JPEG[: len(JPEG) // 2], {}, "truncated"),
        (PNG[: len(PNG) // 2], {"filetype": "image/png"}, "truncated"),
        (flipped(PNG), {"filetype": "image/png"}, "corrupt"),
        (b"\xff\xd8\xff" + bytes(2000), {}, "corrupt"),
        (picture("PNG", (2000, 600))[:9000], {"filetype": "image/png"}, "too-many-pixels"),
        (JPEG, {"filetype": ""}, "bad-metadata"),
        (JPEG, {"sha256": "xyz"}, "bad-metadata"),
        (JPEG, {"batch": "zip"}, "bad-metadata"),
        (JPEG, {"batch": "tar"}, "bad-batch"),
    ],
)
def test_what_is_no_good_is_told_with_its_reason(
    content: bytes, metadata: dict[str, str], reason: str
) -> None:
    (event,) = events(content, **metadata)
    assert isinstance(event, ImageQuarantined)
    assert event.reason == reason, event.detail
    assert event.detail
    assert (event.sha256, event.length) == (sha256(content), len(content))


def test_a_store_that_has_less_than_was_declared_is_found_out() -> None:
    upload = Upload("u1", "b", "k", 10, {"filename": "a", "filetype": "x", "sha256": "0" * 64})
    (event,) = judged(upload, 9, AT, lambda: io.BytesIO(b"123456789"), LIMITS)
    assert isinstance(event, ImageQuarantined)
    assert (event.reason, event.detail) == ("truncated", "declared 10, stored 9 bytes")


def reasons(found: list[Event]) -> dict[str | None, str]:
    return {event.member: getattr(event, "reason", "received") for event in found}


def test_members_of_a_batch_are_judged_one_by_one(tmp_path: Path) -> None:
    whole = b"".join(
        archive(tmp_path, {"good": JPEG, "not": b"text", "cut": JPEG[:800]}).read_from(0)
    )
    found = events(whole, batch="tar")
    assert reasons(found) == {"good": "received", "not": "unknown-type", "cut": "truncated"}
    good = found[0]
    assert whole[good.offset : good.offset + good.length] == JPEG


def test_a_batch_that_breaks_off_keeps_what_was_whole(tmp_path: Path) -> None:
    whole = b"".join(archive(tmp_path, {"a": JPEG, "b": JPEG, "c": JPEG}).read_from(0))
    found = events(whole[: len(whole) - len(JPEG) - 2000], batch="tar")
    assert reasons(found) == {
        "a": "received",
        None: "bad-batch",
        "b": "member-missing",
        "c": "member-missing",
    }


def test_what_manifest_and_archive_do_not_share_is_told() -> None:
    manifest = b'{"members": [{"name": "gone", "length": 1, "sha256": "%s", "content_type": "x"}]}'
    whole = tar(("manifest.json", manifest % (b"0" * 64)), ("extra", JPEG))
    assert reasons(events(whole, batch="tar")) == {
        "extra": "member-undeclared",
        "gone": "member-missing",
    }


def test_a_batch_with_too_many_members_is_refused_as_a_whole(tmp_path: Path) -> None:
    contents = {str(number): b"x" for number in range(LIMITS.batch_members + 1)}
    whole = b"".join(archive(tmp_path, contents).read_from(0))
    (event,) = events(whole, batch="tar")
    assert isinstance(event, ImageQuarantined)
    assert event.reason == "bad-batch"
