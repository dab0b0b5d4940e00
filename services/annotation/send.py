"""A dataset version to Supervisely. What is there already is not sent again."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from services.annotation.server import Place, Supervisely, Trouble
from services.pipeline.datasets import Version
from services.pipeline.ports import Objects

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class SendReport:
    """Images of the version; added to the dataset by this run; whose bytes went over the wire."""

    images: int
    added: int
    uploaded: int


def name_of(entry: Mapping[str, Any]) -> str:
    """What an image is called there: its digest, with the ending that its type asks for."""
    kind = str(entry["content_type"]).partition("/")[2]
    return f"{entry['sha256']}.{'jpg' if kind == 'jpeg' else kind}"


def hash_of(entry: Mapping[str, Any]) -> str:
    """Supervisely's hash of an image's bytes: the same SHA-256, in base64."""
    return base64.b64encode(bytes.fromhex(str(entry["sha256"]))).decode()


def send(version: Version, images: Objects, server: Supervisely, batch: int) -> SendReport:
    """Make the dataset and add what it lacks, one batch after the other. Raises Trouble.

    Killed anywhere, it is simply done again: names and hashes are made of the images' digests.
    """
    place = server.make(version)
    there = {image.name for image in server.images(place)}
    lacking = [entry for entry in version.entries if name_of(entry) not in there]
    uploaded = 0
    for part in batches(lacking, batch):
        known = server.known([hash_of(entry) for entry in part])
        old = [entry for entry in part if hash_of(entry) in known]
        new = [entry for entry in part if hash_of(entry) not in known]
        server.add(place, [name_of(one) for one in old], [hash_of(one) for one in old])
        if new:
            _upload(new, images, server, place)
        uploaded += len(new)
    return SendReport(version.count, len(lacking), uploaded)


def _upload(
    entries: Sequence[Mapping[str, Any]], images: Objects, server: Supervisely, place: Place
) -> None:
    with TemporaryDirectory(prefix="annotation-") as scratch:
        files = []
        for entry in entries:
            try:
                content = images.get(str(entry["key"]))
            except LookupError as error:
                raise Trouble(f"image {entry['sha256']} is missing: {error}") from None
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                raise Trouble(f"image {entry['sha256']} has other bytes; see datasets verify")
            file = Path(scratch) / name_of(entry)
            file.write_bytes(content)
            files.append(file)
        server.upload(place, [name_of(one) for one in entries], files)


def batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """The items, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
