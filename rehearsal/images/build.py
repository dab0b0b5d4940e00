"""Make images: resolve, build the layers that are new, compose, describe."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from rehearsal.images import inputs as layer_inputs
from rehearsal.images.apt import Apt
from rehearsal.images.errors import ImageError
from rehearsal.images.fsio import atomic, locked, read_json, write_json
from rehearsal.images.layer import write_layer
from rehearsal.images.oci import ARCHITECTURES, Blob, Named, Store, image_key
from rehearsal.images.recipe import RECIPES, Recipe, Recipes, load
from rehearsal.images.sbom import Component, spdx

WORKERS = 2
"""Images made side by side; more only wait for each other's disk."""


class Progress(Protocol):
    """What a caller may show while images are made. Called from several threads."""

    def started(self, image: str, layers: int) -> None:
        """An image is begun; it has so many layers."""

    def advanced(self, image: str, layer: str, built: bool) -> None:
        """A layer is there: newly built, or from the cache."""

    def finished(self, image: str, digest: str, built: int) -> None:
        """The image is there; so many of its layers were new."""


class Silent:
    """Shows nothing."""

    def started(self, image: str, layers: int) -> None:
        """Nothing."""

    def advanced(self, image: str, layer: str, built: bool) -> None:
        """Nothing."""

    def finished(self, image: str, digest: str, built: int) -> None:
        """Nothing."""


@dataclass(frozen=True)
class BuiltImage:
    """An image in the store."""

    key: str
    repository: str
    tag: str
    manifest: Blob
    layers: tuple[Blob, ...]
    sbom: Path
    archive: Path
    """The OCI image layout that holds it, together with all others."""
    smoke: tuple[str, ...]
    built: tuple[str, ...] = ()
    """Names of the layers that were not in the cache."""
    notes: tuple[str, ...] = ()
    """What the person should be told."""

    @property
    def digest(self) -> str:
        """Of the manifest, ``sha256:...``."""
        return self.manifest.digest

    @property
    def named(self) -> Named:
        """The image under its names."""
        return Named(self.repository, self.tag, self.manifest)

    @property
    def size(self) -> int:
        """Bytes of all layers; shared ones count in each image."""
        return sum(layer.size for layer in self.layers)


class Builder:
    """Makes images in a cache.

    :param cache: folder for everything that is kept: packages, layers, the store, the locks.
    :param recipes: folder of the recipes.
    :param force: resolve the newest package versions even when the last resolve is of today.
    """

    def __init__(self, cache: Path, *, recipes: Path = RECIPES, force: bool = False) -> None:
        self.root = cache.resolve() / "images"
        self.root.mkdir(parents=True, exist_ok=True)
        self.recipes: Recipes = load(recipes)
        self.apt = Apt(self.root / "apt")
        self.store = Store(self.root / "oci")
        self.force = force
        machine = platform.machine()
        self.architecture = ARCHITECTURES.get(machine, machine)

    @property
    def lock_file(self) -> Path:
        """``images.json``: repository, tag, digest and archive of every image made so far."""
        return self.root / "images.json"

    def inputs_key(self, key: str, tools: Mapping[str, Path | str]) -> str:
        """A key of all inputs of an image, without building it.

        :param tools: binaries; or, for a tool that is not built, any string that identifies it.
        """
        (recipe,) = self.recipes.chosen([key])
        layers = layer_inputs.resolve(recipe, self.recipes, self.apt, tools, force=self.force)
        return image_key([layer.key for layer in layers], _config(recipe), recipe.reference)

    def build(
        self,
        keys: Sequence[str] | None = None,
        *,
        tools: Mapping[str, Path],
        progress: Progress | None = None,
    ) -> dict[str, BuiltImage]:
        """Make images (all when ``keys`` is ``None``); only layers with new inputs are written.

        When one fails, those that are already begun are finished and kept, and the first error
        is raised.

        :raises ImageError: naming image, layer, value and way out.
        """
        chosen = self.recipes.chosen(tuple(keys) if keys is not None else None)
        shown = progress or Silent()
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="image")
        try:
            futures = [pool.submit(self._image, recipe, tools, shown) for recipe in chosen]
            errors = []
            made: dict[str, BuiltImage] = {}
            for recipe, future in zip(chosen, futures, strict=True):
                try:
                    made[recipe.key] = future.result()
                except ImageError as error:
                    errors.append(error)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        self._record(made.values())
        if errors:
            raise errors[0]
        return made

    def _image(self, recipe: Recipe, tools: Mapping[str, Path], progress: Progress) -> BuiltImage:
        progress.started(recipe.key, len(recipe.layers))
        layers = layer_inputs.resolve(recipe, self.recipes, self.apt, tools, force=self.force)
        blobs: list[Blob] = []
        components: list[Component] = []
        built: list[str] = []
        for layer in layers:
            try:
                blob, parts, new = self._layer(layer, tools)
            except ImageError as error:
                raise error.within(recipe.key, layer.layer.name) from error
            blobs.append(blob)
            components += parts
            if new:
                built.append(layer.layer.name)
            progress.advanced(recipe.key, layer.layer.name, new)
        manifest = self.store.put_image(
            blobs, _config(recipe), architecture=self.architecture, epoch=self.recipes.epoch
        )
        bill = self.root / "sbom" / f"{recipe.key}.spdx.json"
        write_json(
            bill,
            spdx(recipe.reference, manifest.digest, components, epoch=self.recipes.epoch),
        )
        progress.finished(recipe.key, manifest.digest, len(built))
        return BuiltImage(
            key=recipe.key, repository=recipe.repository, tag=recipe.tag, manifest=manifest,
            layers=tuple(blobs), sbom=bill, archive=self.store.root, smoke=recipe.smoke,
            built=tuple(built), notes=(*_drift(recipe, layers), *self.apt.notes),
        )  # fmt: skip

    def _layer(
        self, layer: layer_inputs.Inputs, tools: Mapping[str, Path]
    ) -> tuple[Blob, list[Component], bool]:
        """A layer's blob, what it was made of, and whether it had to be written."""
        record_file = self.root / "layers" / f"{layer.key}.json"
        with locked(self.root / "layers" / f"{layer.key}.lock"):
            record = read_json(record_file)
            if record is not None:
                blob = Blob(record["digest"], record["size"])
                path = self.store.path(blob.digest)
                if path.exists() and path.stat().st_size == blob.size:
                    return blob, [Component(**part) for part in record["components"]], False
            with tempfile.TemporaryDirectory(dir=self.root, prefix=".scratch-") as scratch:
                entries, components = layer_inputs.entries(
                    layer, self.recipes, self.apt, tools, self.root, Path(scratch)
                )
                written = Path(scratch) / "layer.tar"
                with atomic(written) as stream:
                    checksum, size = write_layer(entries, stream, epoch=self.recipes.epoch)
                blob = Blob(f"sha256:{checksum}", size)
                written.replace(self.store.path(blob.digest))
            write_json(
                record_file,
                {
                    "digest": blob.digest,
                    "size": blob.size,
                    "components": [asdict(part) for part in components],
                    "inputs": dict(layer.described),
                },
            )
        return blob, components, True

    def _record(self, made: Iterable[BuiltImage]) -> None:
        """Add images to images.json and to the layout's index; the others stay."""
        with locked(self.root / ".images.lock"):
            known = read_json(self.lock_file) or {}
            for image in made:
                known[image.key] = {
                    "repository": image.repository,
                    "tag": image.tag,
                    "digest": image.digest,
                    "size": image.manifest.size,
                    "archive": str(image.archive),
                }
            known = {key: value for key, value in known.items() if key in self.recipes.images}
            self.store.write_index(
                Named(value["repository"], value["tag"], Blob(value["digest"], value["size"]))
                for _, value in sorted(known.items())
            )
            write_json(self.lock_file, known)

    def archive(self, images: Sequence[BuiltImage], path: Path) -> None:
        """Write images as one OCI archive (a tar), as ``ctr images import`` takes it."""
        with atomic(path) as stream:
            self.store.write_archive([image.named for image in images], stream)


def _config(recipe: Recipe) -> dict[str, object]:
    """The ``config`` object of the image."""
    config = recipe.config
    env = {"PATH": "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin", **config.env}
    return {
        "Cmd": list(config.cmd),
        "Env": [f"{name}={value}" for name, value in sorted(env.items())],
        "User": config.user,
        "WorkingDir": config.workdir,
        "Labels": {"org.opencontainers.image.version": recipe.tag},
    }


def _drift(recipe: Recipe, layers: Sequence[layer_inputs.Inputs]) -> list[str]:
    """A note when the tag no longer names the version that is inside."""
    tag = recipe.tag.removeprefix("v")
    for package in (package for layer in layers for package in layer.packages):
        if package.name == recipe.version_from and not f"{package.upstream}.".startswith(f"{tag}."):
            held = f"{package.name} {package.upstream}"
            way_out = "change the tag here and in configs/versions.toml"
            return [f"image {recipe.key} is tagged {recipe.tag}, but holds {held}: {way_out}"]
    return []


def build(
    keys: Sequence[str] | None = None,
    *,
    tools: Mapping[str, Path],
    cache: Path,
    progress: Progress | None = None,
    force: bool = False,
) -> dict[str, BuiltImage]:
    """Make images; see :meth:`Builder.build`."""
    return Builder(cache, force=force).build(keys, tools=tools, progress=progress)
