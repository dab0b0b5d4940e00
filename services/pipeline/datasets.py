"""Dataset versions: manifests that never change, each named by the digest of its own bytes.

A manifest is JSON lines: what it is, then one line for each image, in order of the digests. The same
images of the same dataset are the same version, whoever makes it and whenever.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from services.pipeline.ports import Objects

KIND = "estate.dataset/1"
CONTENT_TYPE = "application/jsonl"
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
_FIELDS = ("sha256", "bucket", "key", "bytes", "content_type", "width", "height", "name")


@dataclass(frozen=True)
class Version:
    """A version: `digest` is its manifest's SHA-256 and its name."""

    name: str
    digest: str
    count: int
    parent: str | None
    annotations: Mapping[str, Any] | None
    entries: list[dict[str, Any]]


class BadManifest(ValueError):
    """A manifest that is not what its name says; the text says how."""


def manifest(
    name: str,
    images: Iterable[Mapping[str, Any]],
    *,
    parent: str | None = None,
    annotations: Mapping[str, Any] | None = None,
) -> bytes:
    """The manifest of these images (rows of the catalogue, or entries of another manifest).

    `annotations` names an object of the same bucket with its digest: key, sha256, format. Raises
    ValueError for a name that is no DNS label, for no images, and for one that is there twice.
    """
    if not _NAME.match(name):
        raise ValueError(f"dataset {name!r}: a name is lower-case letters, digits and hyphens")
    entries = sorted(
        ({field: image[field] for field in _FIELDS} for image in images),
        key=lambda entry: str(entry["sha256"]),
    )
    if not entries:
        raise ValueError(f"dataset {name}: no image is chosen; choose by another condition")
    digests = [entry["sha256"] for entry in entries]
    if len(set(digests)) < len(digests):
        raise ValueError(f"dataset {name}: an image is there twice")
    head: dict[str, Any] = {"kind": KIND, "name": name, "count": len(entries)}
    if parent is not None:
        head["parent"] = parent
    if annotations is not None:
        head["annotations"] = dict(annotations)
    return b"".join(_line(one) for one in (head, *entries))


def create(
    objects: Objects,
    name: str,
    images: Iterable[Mapping[str, Any]],
    *,
    parent: str | None = None,
    annotations: Mapping[str, Any] | None = None,
) -> Version:
    """Store a version. One that is there already is left as it is."""
    content = manifest(name, images, parent=parent, annotations=annotations)
    digest = hashlib.sha256(content).hexdigest()
    key = key_of(name, digest)
    if key not in set(objects.keys(key)):
        objects.put(key, content, CONTENT_TYPE)
    return parse(name, digest, content)


def versions(objects: Objects, name: str | None = None) -> list[tuple[str, str]]:
    """Name and digest of every version, or of a dataset's."""
    found = []
    for key in objects.keys(f"{name}/" if name else ""):
        match = re.fullmatch(r"([^/]+)/([0-9a-f]{64})\.jsonl", key)
        if match:
            found.append((match[1], match[2]))
    return found


def show(objects: Objects, name: str, digest: str) -> Version:
    """A version. Raises LookupError, and BadManifest when it is not what its name says."""
    return parse(name, digest, objects.get(key_of(name, digest)))


def verify(datasets: Objects, images: Objects, name: str, digest: str) -> list[str]:
    """What of a version is wrong: the manifest, an image that is missing or has other bytes."""
    try:
        version = show(datasets, name, digest)
    except (LookupError, BadManifest) as error:
        return [str(error)]
    problems = []
    for entry in version.entries:
        try:
            found = hashlib.sha256(images.get(entry["key"])).hexdigest()
        except LookupError as error:
            problems.append(f"image {entry['sha256']} is missing: {error}")
            continue
        if found != entry["sha256"]:
            problems.append(f"image {entry['sha256']} has other bytes, their digest is {found}")
    return problems + _annotations(datasets, version)


def _annotations(datasets: Objects, version: Version) -> list[str]:
    if version.annotations is None:
        return []
    try:
        content = datasets.get(str(version.annotations["key"]))
    except LookupError as error:
        return [f"its annotations are missing: {error}"]
    found = hashlib.sha256(content).hexdigest()
    declared = version.annotations["sha256"]
    return [] if found == declared else [f"its annotations have other bytes: {found}"]


def parse(name: str, digest: str, content: bytes) -> Version:
    """The version of a manifest's bytes. Raises BadManifest."""
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise BadManifest(f"manifest {name}/{digest} has other bytes, their digest is {found}")
    head, *entries = [json.loads(line) for line in content.decode().splitlines()]
    if head.get("kind") != KIND or head.get("name") != name or head.get("count") != len(entries):
        raise BadManifest(f"manifest {name}/{digest}: {head} does not describe it")
    return Version(
        name, digest, len(entries), head.get("parent"), head.get("annotations"), entries
    )


def key_of(name: str, digest: str) -> str:
    """The key of a version's manifest."""
    return f"{name}/{digest}.jsonl"


def _line(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode() + b"\n"
