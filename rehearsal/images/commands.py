"""What `./estate images` does: list, build, sbom."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rehearsal import console, paths, tools
from rehearsal.errors import EstateError, UsageError
from rehearsal.images.build import Builder, BuiltImage
from rehearsal.images.fsio import read_json
from rehearsal.images.oci import Blob
from rehearsal.images.recipe import GoLayer
from rehearsal.progress import ImageBars, ToolBars


def command(action: str, args: Sequence[str]) -> int:
    """Run one action; UsageError names what there is instead of an unknown one."""
    actions: dict[str, Callable[[Builder, Sequence[str]], int]] = {
        "list": _list,
        "build": _build,
        "sbom": _sbom,
    }
    if action not in actions:
        raise UsageError("images", f"no action {action!r}", f"choose from: {', '.join(actions)}")
    return actions[action](Builder(paths.cache() / "images"), args)


def _check(builder: Builder, keys: Sequence[str]) -> None:
    for key in keys:
        if key not in builder.recipes.images:
            known = ", ".join(sorted(builder.recipes.images))
            raise UsageError("images", f"no image {key!r}", f"choose from: {known}")


def _sbom_file(builder: Builder, key: str) -> Path:
    return builder.root / "sbom" / f"{key}.spdx.json"


def _list(builder: Builder, args: Sequence[str]) -> int:
    if args:
        raise UsageError("images list", f"unexpected {args[0]!r}", "leave it out")
    made = read_json(builder.lock_file) or {}
    rows = []
    for key, recipe in sorted(builder.recipes.images.items()):
        entry = made.get(key)
        # A recipe whose tag changed since has no image of that name yet.
        if entry is None or (entry["repository"], entry["tag"]) != (recipe.repository, recipe.tag):
            rows.append((key, recipe.reference, "to build", "", ""))
            continue
        size = f"{_size(builder, Blob(entry['digest'], entry['size'])) / 1e6:.1f} MB"
        bill = _sbom_file(builder, key).name
        rows.append((key, recipe.reference, entry["digest"], size, bill))
    title = f"Images; SBOMs lie in {builder.root / 'sbom'}"
    console.table(title, ("image", "tag", "digest", "size", "SBOM"), rows)
    return 0


def _size(builder: Builder, manifest: Blob) -> int:
    """Bytes of all layers; shared ones count in each image. 0 when the store lost the manifest."""
    value = read_json(builder.store.path(manifest.digest)) or {"layers": ()}
    return sum(int(layer["size"]) for layer in value["layers"])


def _build(builder: Builder, args: Sequence[str]) -> int:
    _check(builder, args)
    keys = list(dict.fromkeys(args)) or None
    wanted = {
        layer.tool
        for recipe in builder.recipes.chosen(keys)
        for layer in recipe.layers
        if isinstance(layer, GoLayer)
    }
    with ToolBars() as bars:
        found = tools.ensure(sorted(wanted), bars)
    with ImageBars() as bars:
        made = builder.build(keys, tools=found, progress=bars)
    rows = [(key, image.digest, _what(image)) for key, image in made.items()]
    console.table("Images", ("image", "digest", "layers"), rows)
    for note in sorted({note for image in made.values() for note in image.notes}):
        console.warn(note)
    return 0


def _what(image: BuiltImage) -> str:
    new = len(image.built)
    return f"{new} new of {len(image.layers)}" if new else f"all {len(image.layers)} from the cache"


def _sbom(builder: Builder, args: Sequence[str]) -> int:
    if len(args) != 1:
        raise UsageError(
            "images sbom", f"{len(args)} names", "give one: ./estate images sbom kafka"
        )
    _check(builder, args)
    document = read_json(_sbom_file(builder, args[0]))
    if document is None:
        raise EstateError(
            f"SBOM of image {args[0]}", "not made yet", f"run: ./estate images build {args[0]}"
        )
    print(json.dumps(document, indent=2))
    return 0
