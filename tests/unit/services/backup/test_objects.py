"""Objects into a backup and back, over S3 as moto serves it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from moto import mock_aws

from services.backup import BackupError, folder, objects
from services.backup.folder import Writer

BUCKETS = ("plain", "versioned")


@pytest.fixture
def s3() -> Iterator[Any]:
    with mock_aws():
        made = botocore.session.Session().create_client(
            "s3", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
        )
        for bucket in BUCKETS:
            made.create_bucket(Bucket=bucket)
        made.put_bucket_versioning(
            Bucket="versioned", VersioningConfiguration={"Status": "Enabled"}
        )
        yield made


def fill(s3: Any, chance: random.Random) -> None:
    """Objects of every kind: empty, with metadata, headers and tags, overwritten and deleted."""
    for bucket in BUCKETS:
        for number in range(chance.randrange(25)):
            key = f"f/{number % 9} é"
            if chance.random() < 0.2:
                s3.delete_object(Bucket=bucket, Key=key)
                continue
            headers = {"ContentType": "image/png", "CacheControl": "no-store"}
            s3.put_object(
                Bucket=bucket,
                Key=key,
                Body=chance.randbytes(chance.choice((0, 1, 5000))),
                Metadata={"number": str(number)} if chance.random() < 0.5 else {},
                **(headers if chance.random() < 0.5 else {}),
            )
            if chance.random() < 0.4:
                tags = {"TagSet": [{"Key": "state", "Value": str(number)}]}
                s3.put_object_tagging(Bucket=bucket, Key=key, Tagging=tags)


def saved(s3: Any, target: Path) -> tuple[Path, dict[str, Any]]:
    writer = Writer(folder.begin(target))
    part = objects.save(dict.fromkeys(BUCKETS, s3), writer, lambda *_: None)
    return writer.folder, part


@pytest.mark.parametrize("seed", range(8))
def test_what_went_in_comes_back(s3: Any, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    fill(s3, chance)
    where, part = saved(s3, tmp_path / "one")
    buckets = dict.fromkeys(BUCKETS, s3)
    assert objects.compare(buckets, where, part, lambda *_: None) == []
    for bucket in BUCKETS:
        objects.empty(s3, bucket)
        assert objects.is_empty(s3, bucket)
    fill(s3, chance)
    for bucket in BUCKETS:
        objects.empty(s3, bucket)
    objects.restore(buckets, where, part, lambda *_: None)
    assert objects.compare(buckets, where, part, lambda *_: None) == []
    again, same = saved(s3, tmp_path / "two")
    for bucket in BUCKETS:
        index = f"objects/{bucket}.jsonl.gz"
        assert (again / index).read_bytes() == (where / index).read_bytes()
    assert same == part


def test_each_difference_is_named(s3: Any, tmp_path: Path) -> None:
    for key in "abcde":
        s3.put_object(Bucket="plain", Key=key, Body=b"1", Metadata={"m": "1"})
    s3.put_object(Bucket="versioned", Key="v", Body=b"1")
    where, part = saved(s3, tmp_path / "one")
    s3.put_object(Bucket="plain", Key="a", Body=b"2", Metadata={"m": "1"})
    s3.put_object(Bucket="plain", Key="b", Body=b"1", Metadata={"m": "2"})
    s3.put_object_tagging(Bucket="plain", Key="c", Tagging={"TagSet": [{"Key": "t", "Value": "1"}]})
    s3.delete_object(Bucket="plain", Key="d")
    s3.put_object(Bucket="plain", Key="new", Body=b"")
    s3.delete_object(Bucket="versioned", Key="v")
    assert objects.compare(dict.fromkeys(BUCKETS, s3), where, part, lambda *_: None) == [
        "object plain/a: version 0 has another sha256",
        "object plain/b: version 0 has another metadata",
        "object plain/c: version 0 has another tags",
        "object plain/new: is in no backup",
        "object plain/d: is missing",
        "object versioned/v: has 2 versions, not 1",
    ]


def test_the_order_of_versions_is_kept(s3: Any, tmp_path: Path) -> None:
    for content in (b"1", b"2", b"3"):
        s3.put_object(Bucket="versioned", Key="v", Body=content)
    s3.delete_object(Bucket="versioned", Key="v")
    where, part = saved(s3, tmp_path / "one")
    ((_, versions),) = objects.versions_of(where, part["buckets"]["versioned"]["index"])
    contents = [
        None if one.get("marker") else folder.blob(where, one["sha256"]).read_bytes()
        for one in versions
    ]
    assert contents == [b"1", b"2", b"3", None]


def test_a_body_that_ends_early_is_no_object() -> None:
    class Cut:
        def get_object(self, **_: Any) -> dict[str, Any]:
            class Body:
                def iter_chunks(self, _: int) -> Iterator[bytes]:
                    yield b"ha"

            return {"Body": Body(), "ContentLength": 4}

    version = {"Key": "k", "VersionId": "v", "marker": False}
    with pytest.raises(BackupError, match="object b/k: 2 of 4 bytes came"):
        objects.described(Cut(), "b", version, lambda chunks: ("", sum(map(len, chunks))))


def test_buckets_that_lack_are_refused() -> None:
    part: dict[str, Any] = {"buckets": {"a": {}, "b": {}}}
    objects.fits(part, ["a", "b", "c"])
    with pytest.raises(BackupError, match=r"bucket b: .* not here \(there are: a\); declare it"):
        objects.fits(part, ["a"])
