"""Dataset versions as the console shows and verifies them; the pipeline makes them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from services.console.backends.objects import ObjectLake
from services.console.problems import NotFound, Refused
from services.pipeline import datasets

_LONGEST_MANIFEST = 256 << 20


class DatasetSummary(BaseModel):
    """A dataset in a list."""

    name: str
    versions: int


class Version(BaseModel):
    """A version: `digest` is the SHA-256 of its manifest, and its name."""

    name: str
    digest: str
    images: int
    parent: str | None = Field(description="digest of the version that it was made of")
    annotations: dict[str, Any] | None


class Entry(BaseModel):
    """An image of a version."""

    sha256: str
    bucket: str
    key: str
    bytes: int
    content_type: str
    width: int
    height: int
    name: str


class Verification(BaseModel):
    """What was looked at, and what is wrong with it. Nothing is, when `problems` is empty."""

    name: str
    digest: str
    good: bool
    complete: bool = Field(description="whether every image was looked at in time")
    images: int
    checked: int = Field(description="images whose bytes were read and hashed")
    problems: list[str]


class Datasets:
    """The versions in the store's bucket of datasets."""

    def __init__(self, store: ObjectLake) -> None:
        self._store = store

    def all(self) -> list[DatasetSummary]:
        """Every dataset, by name."""
        counts: dict[str, int] = {}
        for name, _ in datasets.versions(_Bucket(self._store)):
            counts[name] = counts.get(name, 0) + 1
        return [DatasetSummary(name=name, versions=counts[name]) for name in sorted(counts)]

    def versions(self, name: str) -> list[str]:
        """The digests of a dataset's versions, in order. Raises NotFound."""
        found = sorted(digest for _, digest in datasets.versions(_Bucket(self._store), name))
        if not found:
            raise NotFound(f"no dataset is called {name}")
        return found

    def version(self, name: str, digest: str) -> Version:
        """A version. Raises NotFound, and Refused (409) when it is not what its name says."""
        return _version(self._parsed(name, digest))

    def entries(self, name: str, digest: str, after: str | None, limit: int) -> list[Entry]:
        """The images of a version behind the digest `after`, `limit` and one at most."""
        found = self._parsed(name, digest).entries
        behind = [one for one in found if after is None or one["sha256"] > after]
        return [Entry.model_validate(one) for one in behind[: limit + 1]]

    def verify(self, name: str, digest: str, *, within_s: float, most: int = 50) -> Verification:
        """Read and hash the manifest, its annotations and, as long as there is time, its images.

        Raises NotFound when there is no such version. `most` problems are listed.
        """
        end = time.monotonic() + within_s
        try:
            version = self._parsed(name, digest)
        except Refused as error:
            if error.status != 409:
                raise
            return _verified(name, digest, 0, 0, [error.detail])
        problems, checked = self._annotations(version.annotations), 0
        for entry in version.entries:
            if time.monotonic() > end or len(problems) >= most:
                break
            problems += self._image(entry)
            checked += 1
        return _verified(name, digest, version.count, checked, problems)

    def _image(self, entry: Mapping[str, Any]) -> list[str]:
        try:
            _, _, chunks = self._store.stream(str(entry["bucket"]), str(entry["key"]))
        except NotFound:
            return [f"image {entry['sha256']} is missing"]
        found = hashlib.sha256()
        for chunk in chunks:
            found.update(chunk)
        if found.hexdigest() == entry["sha256"]:
            return []
        return [f"image {entry['sha256']} has other bytes, their digest is {found.hexdigest()}"]

    def _annotations(self, declared: Mapping[str, Any] | None) -> list[str]:
        if declared is None:
            return []
        try:
            content = self._store.get(self._store.datasets, str(declared["key"]))
        except NotFound:
            return ["its annotations are missing"]
        found = hashlib.sha256(content).hexdigest()
        return [] if found == declared["sha256"] else [f"its annotations have other bytes: {found}"]

    def _parsed(self, name: str, digest: str) -> datasets.Version:
        key = datasets.key_of(name, digest)
        try:
            content = self._store.get(self._store.datasets, key, longest=_LONGEST_MANIFEST)
        except NotFound:
            raise NotFound(f"dataset {name} has no version {digest}") from None
        if len(content) > _LONGEST_MANIFEST:
            raise Refused(409, f"manifest {key} is longer than {_LONGEST_MANIFEST} bytes")
        try:
            return datasets.parse(name, digest, content)
        except (datasets.BadManifest, ValueError) as error:
            raise Refused(409, str(error)) from None


class _Bucket:
    """The bucket of datasets as the pipeline's own functions take it, for what only lists."""

    def __init__(self, store: ObjectLake) -> None:
        self._store = store

    def keys(self, prefix: str = "") -> list[str]:
        return list(self._store.keys(self._store.datasets, prefix))

    def get(self, key: str) -> bytes:
        return self._store.get(self._store.datasets, key)

    def put(self, key: str, content: bytes, content_type: str) -> None:
        raise NotImplementedError("the console writes no dataset")


def _version(found: datasets.Version) -> Version:
    return Version(
        name=found.name,
        digest=found.digest,
        images=found.count,
        parent=found.parent,
        annotations=dict(found.annotations) if found.annotations is not None else None,
    )


def _verified(
    name: str, digest: str, images: int, checked: int, problems: list[str]
) -> Verification:
    return Verification(
        name=name,
        digest=digest,
        good=not problems,
        complete=checked == images,
        images=images,
        checked=checked,
        problems=problems,
    )
