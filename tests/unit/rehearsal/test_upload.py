from __future__ import annotations

import io
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests

from rehearsal import access, upload
from rehearsal.drills import senders
from rehearsal.errors import UsageError
from services.transfer.judge import judged
from services.transfer.settings import Limits
from services.transfer.store import Upload

LIMITS = Limits(upload_mib=64, image_mib=8, megapixels=10, batch_members=10)


def test_folders_give_their_files_with_the_path_below_them(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/b/two.png", "a/one.png", "a/.hidden", "alone.png"):
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "a" / "pipe")
    (tmp_path / "a" / "nowhere").symlink_to("missing")
    files, left_out = upload._files([tmp_path / "a", tmp_path / "alone.png"])
    assert [name for _, name in files] == ["b/two.png", "one.png", "alone.png"]
    assert left_out == [".hidden", "nowhere", "pipe"]
    with pytest.raises(UsageError, match="no such file"):
        upload._files([tmp_path / "missing"])
    for name in ("pipe", "nowhere"):
        with pytest.raises(UsageError, match="no regular file"):
            upload._files([tmp_path / "a" / name])


def test_a_name_that_is_no_utf8_is_escaped(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png")).write_bytes(b"x")
    ((_, name),), _ = upload._files([tmp_path])
    assert name == "bad\\xff.png"


def test_a_token_is_made_anew_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("rehearsal.access.time.monotonic", lambda: now[0])
    made = iter("abc")
    token = access.renewed(lambda: next(made))
    assert (token(), token()) == ("a", "a")
    now[0] = 601
    assert token() == "b"


@pytest.mark.parametrize("number", range(8))
def test_what_the_drill_sends_is_judged_as_it_expects(number: int) -> None:
    content, content_type, expected = senders.small(number)
    metadata = {"filename": "x", "filetype": content_type, "sha256": senders.sha256(content)}
    (event,) = judged(
        Upload("u", "b", "k", len(content), metadata),
        len(content),
        datetime.now(UTC),
        lambda: io.BytesIO(content),
        LIMITS,
    )
    assert getattr(event, "reason", senders.RECEIVED) == expected


def test_content_is_cut_where_it_should_be_and_whole_after_all() -> None:
    content = bytes(range(256)) * 8192
    source = senders.Content(content, [700_000, 1_500_000])
    got = b""
    cuts = 0
    while len(got) < len(content):
        try:
            for piece in source.read_from(len(got)):
                got += piece
        except requests.ConnectionError:
            cuts += 1
    assert (cuts, got) == (2, content)
