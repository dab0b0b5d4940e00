"""``python -m rehearsal.images``: for those who work on recipes."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rehearsal.images.build import Builder
from rehearsal.images.errors import ImageError
from rehearsal.images.maven import write_lock
from rehearsal.images.recipe import MavenLayer


class _Lines:
    """Progress as lines."""

    def __init__(self) -> None:
        self.since: dict[str, float] = {}

    def started(self, image: str, layers: int) -> None:
        """Start the clock."""
        self.since[image] = time.monotonic()

    def advanced(self, image: str, layer: str, built: bool) -> None:
        """A layer: only new ones are worth a line."""
        if built:
            print(f"{image}: built layer {layer}", flush=True)

    def finished(self, image: str, digest: str, built: int) -> None:
        """The image."""
        print(f"{image}: {digest} ({time.monotonic() - self.since[image]:.1f} s)", flush=True)


def main() -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m rehearsal.images", description=__doc__)
    parser.add_argument("action", choices=("build", "lock", "list"))
    parser.add_argument("images", nargs="*", help="keys of images; all when none is given")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the cache")
    parser.add_argument("--tool", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--force", action="store_true", help="resolve package versions anew")
    options = parser.parse_intermixed_args()
    try:
        builder = Builder(options.cache, force=options.force)
        chosen = builder.recipes.chosen(options.images or None)
        if options.action == "list":
            for recipe in chosen:
                print(f"{recipe.key:32} {recipe.reference}")
        elif options.action == "lock":
            for recipe in chosen:
                for layer in recipe.layers:
                    if isinstance(layer, MavenLayer):
                        folder = builder.recipes.folder
                        count = write_lock(layer, folder, builder.root, builder.apt)
                        print(f"{recipe.key}: {count} jars in {layer.lock}")
        else:
            pairs = (tool.partition("=") for tool in options.tool)
            tools = {name: Path(path) for name, _, path in pairs}
            keys = [recipe.key for recipe in chosen]
            made = builder.build(keys, tools=tools, progress=_Lines())
            for image in made.values():
                print(f"{image.key:32} {image.size / 1e6:7.1f} MB  {image.digest}")
            for note in sorted({note for image in made.values() for note in image.notes}):
                print(f"note: {note}")
    except ImageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
