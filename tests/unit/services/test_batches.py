from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from services import batches
from services.batches import BadBatch, Found, Manifest, Member
from tests.unit.services.pictures import sha256


def member(name: str, content: bytes) -> Member:
    return Member(name=name, length=len(content), sha256=sha256(content), content_type="image/jpeg")


def archive(folder: Path, contents: dict[str, bytes]) -> batches.Archive:
    pairs = []
    for number, (name, content) in enumerate(contents.items()):
        path = folder / str(number)
        path.write_bytes(content)
        pairs.append((member(name, content), path))
    return batches.Archive(pairs)


CONTENTS = {
    "a.jpg": b"a" * 700,
    "empty.jpg": b"",
    "block.jpg": b"b" * 512,
    "ü/" + "long" * 60 + ".jpg": b"c",
}


def test_members_are_ranges_of_the_archive(tmp_path: Path) -> None:
    made = archive(tmp_path, CONTENTS)
    whole = b"".join(made.read_from(0))
    assert len(whole) == made.length
    manifest, *found = [
        (one, one.content.read()) if isinstance(one, Found) else one
        for one in batches.read(io.BytesIO(whole))
    ]
    assert isinstance(manifest, Manifest)
    assert [one.name for one in manifest.members] == list(CONTENTS)
    for entry, (name, content) in zip(found, CONTENTS.items(), strict=True):
        assert isinstance(entry, tuple)
        one, read = entry
        assert (one.name, one.length, read) == (name, len(content), content)
        assert whole[one.offset : one.offset + one.length] == content


def test_it_is_a_tar_for_everybody_else(tmp_path: Path) -> None:
    whole = b"".join(archive(tmp_path, CONTENTS).read_from(0))
    with tarfile.open(fileobj=io.BytesIO(whole)) as read:
        assert read.getnames() == [batches.MANIFEST, *CONTENTS]


def test_it_goes_on_from_any_offset_and_is_the_same_when_made_again(tmp_path: Path) -> None:
    first, second = archive(tmp_path, CONTENTS), archive(tmp_path, CONTENTS)
    whole = b"".join(first.read_from(0))
    for offset in range(0, len(whole) + 1, 97):
        assert b"".join(second.read_from(offset)) == whole[offset:]


def test_a_file_that_became_shorter_is_no_silent_end(tmp_path: Path) -> None:
    made = archive(tmp_path, {"a.jpg": b"a" * 100})
    (tmp_path / "0").write_bytes(b"a" * 50)
    with pytest.raises(OSError, match="became shorter"):
        b"".join(made.read_from(0))


def tar(*entries: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive_:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content), kind
            archive_.addfile(info, io.BytesIO(content))
    return made.getvalue()


TWICE = Manifest(members=[member("a", b"a"), member("a", b"a")]).model_dump_json().encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty|not"),
        (b"no tar at all" * 100, "header|truncated|tar"),
        (tar(("a.jpg", b"a")), "first member is not manifest.json"),
        (tar((batches.MANIFEST, b"{}")), "members"),
        (tar((batches.MANIFEST, b'{"version": 2, "members": []}')), "version"),
        (tar((batches.MANIFEST, TWICE)), "twice"),
        (tar((batches.MANIFEST, b""), kind=tarfile.SYMTYPE), "first member is not"),
    ],
)
def test_what_is_no_batch_says_why(content: bytes, words: str) -> None:
    with pytest.raises(BadBatch, match=words):
        list(batches.read(io.BytesIO(content)))


def test_a_batch_that_ends_early_is_bad_from_there_on(tmp_path: Path) -> None:
    whole = b"".join(archive(tmp_path, {"a": b"a" * 600, "b": b"b" * 9000}).read_from(0))
    seen = []
    with pytest.raises(BadBatch):
        for one in batches.read(io.BytesIO(whole[:-6000])):
            if isinstance(one, Found):
                seen.append((one.name, len(one.content.read())))
    assert seen[0] == ("a", 600)
