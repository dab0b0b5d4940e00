from __future__ import annotations

import json
import mimetypes
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from services.events import ImageQuarantined, ImageReceived, content_type_of
from services.transfer.images import CONTENT_TYPES

WHAT = {
    "upload_id": "u1",
    "bucket": "images-incoming",
    "key": "u1",
    "offset": 0,
    "length": 5,
    "sha256": "a" * 64,
    "content_type": "image/png",
    "name": "one.png",
    "received_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
}


def test_a_message_comes_back_as_it_was() -> None:
    received = ImageReceived(**WHAT, device="camera-1")  # type: ignore[arg-type]
    assert ImageReceived.from_message(received.to_message()) == received
    assert received.message_key() == b"a" * 64
    plain = json.loads(received.to_message())
    assert (plain["schema_version"], plain["member"]) == (1, None)
    assert plain["received_at"] == "2026-01-02T03:04:05Z"


def test_a_reason_is_one_of_the_known() -> None:
    known = ImageQuarantined(**WHAT, reason="truncated", detail="")  # type: ignore[arg-type]
    assert ImageQuarantined.from_message(known.to_message()).reason == "truncated"
    with pytest.raises(ValidationError, match="reason"):
        ImageQuarantined(**WHAT, reason="ugly", detail="")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"schema_version": 2}, {"sha256": "A" * 64}, {"offset": -1}, {"colour": "red"}]
)
def test_what_is_not_in_the_contract_is_refused(change: dict[str, object]) -> None:
    plain = {**json.loads(ImageReceived(**WHAT).to_message()), **change}  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        ImageReceived.from_message(json.dumps(plain))


def test_every_type_that_is_taken_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no table of its own, too."""
    monkeypatch.setattr("mimetypes.knownfiles", [])
    mimetypes.init()
    try:
        suffixes = ("jpg", "png", "WEBP", "tif", "bmp")
        assert [content_type_of(f"one.{suffix}") for suffix in suffixes] == list(CONTENT_TYPES)
        assert content_type_of("webp") == "application/octet-stream"
    finally:
        monkeypatch.undo()
        mimetypes.init()
