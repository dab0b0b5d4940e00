from __future__ import annotations

import hashlib
from typing import Any

import pytest

from services.pipeline import datasets
from services.pipeline.buckets import Bucket


def rows(*contents: bytes) -> list[dict[str, Any]]:
    return [
        {
            "sha256": hashlib.sha256(one).hexdigest(),
            "bucket": "images",
            "key": hashlib.sha256(one).hexdigest(),
            "bytes": len(one),
            "content_type": "image/jpeg",
            "width": 1,
            "height": 1,
            "name": one.decode(),
            "stored_at": "not part of it",
        }
        for one in contents
    ]


@pytest.fixture
def stores(s3: Any) -> tuple[Bucket, Bucket]:
    images = Bucket(s3, "images")
    for content in (b"a", b"b", b"c"):
        images.put(hashlib.sha256(content).hexdigest(), content, "image/jpeg")
    return Bucket(s3, "datasets"), images


def test_the_same_images_are_the_same_version_in_any_order(stores: tuple[Bucket, Bucket]) -> None:
    store, images = stores
    one = datasets.create(store, "roads", rows(b"a", b"b"))
    assert datasets.create(store, "roads", rows(b"b", b"a")).digest == one.digest
    other = datasets.create(store, "roads", rows(b"a", b"b", b"c"), parent=one.digest)
    assert sorted(datasets.versions(store)) == sorted(
        [("roads", one.digest), ("roads", other.digest)]
    )
    assert datasets.versions(store, "rails") == []
    shown = datasets.show(store, "roads", other.digest)
    assert (shown.count, shown.parent) == (3, one.digest)
    assert [entry["sha256"] for entry in shown.entries] == sorted(
        entry["sha256"] for entry in shown.entries
    )
    assert datasets.verify(store, images, "roads", other.digest) == []


def test_what_is_not_as_the_manifest_says_is_named(stores: tuple[Bucket, Bucket], s3: Any) -> None:
    store, images = stores
    made = datasets.create(store, "roads", rows(b"a", b"b", b"c"))
    a, b = (hashlib.sha256(one).hexdigest() for one in (b"a", b"b"))
    images.put(a, b"other", "image/jpeg")
    s3.delete_object(Bucket="images", Key=b)
    problems = datasets.verify(store, images, "roads", made.digest)
    assert len(problems) == 2
    assert any(a in one and "other bytes" in one for one in problems)
    assert any(b in one and "missing" in one for one in problems)


def test_a_changed_manifest_is_refused(stores: tuple[Bucket, Bucket]) -> None:
    store, images = stores
    made = datasets.create(store, "roads", rows(b"a"))
    key = datasets.key_of("roads", made.digest)
    store.put(key, store.get(key).replace(b'"name":"a"', b'"name":"z"'), "x")
    with pytest.raises(datasets.BadManifest, match="other bytes"):
        datasets.show(store, "roads", made.digest)
    assert "other bytes" in datasets.verify(store, images, "roads", made.digest)[0]
    with pytest.raises(LookupError):
        datasets.show(store, "roads", "0" * 64)


def test_annotations_belong_to_a_version(stores: tuple[Bucket, Bucket]) -> None:
    store, images = stores
    coco = b"{}"
    digest = hashlib.sha256(coco).hexdigest()
    store.put("roads/coco.json", coco, "application/json")
    named = {"key": "roads/coco.json", "sha256": digest, "format": "coco"}
    made = datasets.create(store, "roads", rows(b"a"), annotations=named)
    assert datasets.verify(store, images, "roads", made.digest) == []
    store.put("roads/coco.json", b"[]", "application/json")
    assert "annotations have other bytes" in datasets.verify(store, images, "roads", made.digest)[0]


@pytest.mark.parametrize(
    ("name", "contents", "expected"),
    [("Roads", (b"a",), "lower-case"), ("roads", (), "no image"), ("roads", (b"a", b"a"), "twice")],
)
def test_what_is_no_version_is_refused(
    name: str, contents: tuple[bytes, ...], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        datasets.manifest(name, rows(*contents))
