"""What is finished there, compared with the version that was sent, and as COCO."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.annotation.send import batches, hash_of, name_of
from services.annotation.server import SHAPES, Place, Supervisely
from services.annotation.settings import Settings
from services.pipeline.datasets import Version


@dataclass
class Seen:
    """A version as it is there. Lists hold SHA-256s of images, or names where there is none."""

    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unfinished: int = 0
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    """SHA-256 -> annotation."""
    problems: list[str] = field(default_factory=list)
    """Labels that cannot become COCO, each in words."""
    place: Place | None = None


def look(version: Version, server: Supervisely, settings: Settings) -> Seen:
    """Ask for images and for the annotations of those that are finished. Raises Trouble."""
    place = server.find(version)
    if place is None:
        return Seen(missing=[str(entry["sha256"]) for entry in version.entries])
    seen = Seen(place=place)
    entries = {name_of(entry): entry for entry in version.entries}
    images = {image.name: image for image in server.images(place)}
    seen.unknown = sorted(set(images) - set(entries))
    done = []
    for name, entry in entries.items():
        digest, image = str(entry["sha256"]), images.get(name)
        if image is None:
            seen.missing.append(digest)
        elif image.hash != hash_of(entry):
            seen.changed.append(digest)
        elif server.is_finished(place, image):
            done.append((digest, image))
        else:
            seen.unfinished += 1
    for part in batches(done, settings.batch):
        found = server.annotations(place, [image for _, image in part])
        seen.finished |= {digest: one for (digest, _), one in zip(part, found, strict=True)}
    shapes = {one.name: one.shape for one in settings.classes}
    for entry in version.entries:
        if (annotation := seen.finished.get(str(entry["sha256"]))) is not None:
            seen.problems += _problems(entry, annotation, shapes)
    return seen


def _problems(
    entry: Mapping[str, Any], annotation: Mapping[str, Any], classes: Mapping[str, str]
) -> list[str]:
    size = annotation["size"]
    found = []
    if (size["width"], size["height"]) != (entry["width"], entry["height"]):
        found.append(f"image {entry['sha256']} is {size['width']} x {size['height']} there")
    for label in annotation["objects"]:
        name, shape = label["classTitle"], label["geometryType"]
        if name not in classes:
            found.append(f"image {entry['sha256']}: class {name!r} is not declared")
        elif shape not in SHAPES:
            found.append(f"image {entry['sha256']}: {name} is a {shape}, which COCO has not")
    return found


def coco(version: Version, seen: Seen, server: Supervisely, settings: Settings) -> dict[str, Any]:
    """COCO of what is finished, by the SDK's own converter; the same labels give the same bytes.

    `file_name` is the image's key in the bucket of images.
    """
    assert seen.place is not None
    names = sorted(one.name for one in settings.classes)
    ids = {name: number for number, name in enumerate(names, 1)}
    images, annotations = [], list[dict[str, Any]]()
    done = [entry for entry in version.entries if str(entry["sha256"]) in seen.finished]
    for number, entry in enumerate(done, 1):
        raw = seen.finished[str(entry["sha256"])]
        # The server's order of labels is not promised, and their numbers are COCO's ids.
        ordered = {**raw, "objects": sorted(raw["objects"], key=lambda label: label["id"])}
        size = {key: entry[key] for key in ("width", "height")}
        images.append({"id": number, "file_name": entry["key"], **size})
        server.parsed(seen.place, ordered).to_coco(number, ids, annotations)
    plain: dict[str, Any] = json.loads(
        json.dumps(
            {
                "info": {"description": f"{version.name} {version.digest}"},
                "licenses": [],
                "images": images,
                "annotations": annotations,
                "categories": [
                    {"id": ids[name], "name": name, "supercategory": name} for name in names
                ],
            },
            default=lambda number: number.item(),  # NumPy's
        )
    )
    return plain


def by_image(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """File name -> its labels, comparable between two documents."""
    names = {one["id"]: one["file_name"] for one in document["images"]}
    kinds = {one["id"]: one["name"] for one in document["categories"]}
    found: dict[str, list[str]] = {name: [] for name in names.values()}
    for one in document["annotations"]:
        what: Sequence[Any] = (
            *(kinds[one["category_id"]], one["bbox"], one["area"], one["segmentation"]),
        )
        found[names[one["image_id"]]].append(json.dumps(what))
    return {name: sorted(labels) for name, labels in found.items()}
