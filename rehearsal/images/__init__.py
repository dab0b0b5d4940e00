"""OCI images built from packages: the same inputs give the same digest.

``build`` makes them in a cache, ``import_into`` brings them into a containerd, ``unpack_tools``
unpacks Debian packages for the node itself. Recipes lie in ``recipes/``.
"""

from rehearsal.images.apt import Apt, Package
from rehearsal.images.build import Builder, BuiltImage, Progress, build
from rehearsal.images.commands import command
from rehearsal.images.containerd import import_into
from rehearsal.images.errors import ImageError
from rehearsal.images.recipe import load as recipes
from rehearsal.images.tooling import unpack_tools

__all__ = [
    "Apt",
    "Builder",
    "BuiltImage",
    "ImageError",
    "Package",
    "Progress",
    "build",
    "command",
    "import_into",
    "recipes",
    "unpack_tools",
]  # fmt: skip
