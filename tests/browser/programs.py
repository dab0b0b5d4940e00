"""What the browser's tests run, fetched once below the cache: nothing of it is installed."""

from __future__ import annotations

import platform
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rehearsal import paths, wheels
from rehearsal.images import Apt, npm, recipes, unpack_tools
from rehearsal.images.debian import content
from rehearsal.images.fsio import digest_of
from rehearsal.images.recipe import NpmLayer
from rehearsal.locking import locked

LOCK = paths.root() / "rehearsal" / "toolchain" / "requirements-browser.lock"
_CHROMIUM = "chromium-headless-shell"
_PACKAGES = (_CHROMIUM, "haproxy", "openssl")
_WITHOUT = ("x11-utils", "xdg-utils")
"""What a desktop's browser starts; Mesa and LLVM come with them."""
_FONTS = """\
<?xml version="1.0"?>
<fontconfig>
  <dir>{root}/usr/share/fonts</dir>
  <cachedir>{root}/var/cache/fontconfig</cachedir>
</fontconfig>
"""


@dataclass(frozen=True)
class Debian:
    """Programs of this machine's Debian release: Chromium without windows, HAProxy, openssl."""

    root: Path

    @property
    def chromium(self) -> Path:
        return self.root / "usr" / "lib" / "chromium" / _CHROMIUM

    @property
    def chromium_environment(self) -> dict[str, str]:
        """Where it finds its libraries and fonts; of the host's variables it gets none."""
        libraries = self.root / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
        folders = (libraries, libraries / "nss", libraries / "pulseaudio")
        return {
            "LD_LIBRARY_PATH": ":".join(map(str, folders)),
            "FONTCONFIG_FILE": str(self.root / "fonts.conf"),
            "LC_ALL": "C.UTF-8",  # of the names of files
        }

    @property
    def path(self) -> str:
        """Folders of the other programs, for PATH."""
        return f"{self.root}/usr/sbin:{self.root}/usr/bin"


@cache
def debian() -> Debian:
    """Unpack what lacks or is an older version. Raises ImageError where it can't be had."""
    root = paths.ensure(paths.cache(), "cache") / "debian-browser"
    apt = Apt(paths.cache() / "images" / "apt")
    unpack_tools(_PACKAGES, root, apt=apt, without=_WITHOUT)
    paths.replace(root / "fonts.conf", _FONTS.format(root=root))
    return Debian(root)


@cache
def packages() -> Path:
    """The folder with Playwright, axe and Flask. Raises EstateError where pip can't have them."""
    folder = paths.ensure(paths.cache() / "browser", "cache") / "wheels"
    return wheels.unpacked(
        LOCK, folder, what="playwright", way_out="give pip a package index that has playwright"
    )


def from_npm() -> Path:
    """The folder with what npm brings into the page of the image. Raises ImageError."""
    made = recipes()
    (layer,) = (one for one in made.images["estate_transfer"].layers if isinstance(one, NpmLayer))
    key = digest_of(npm.described(layer, made.folder))
    cache = paths.ensure(paths.cache() / "browser", "cache")
    target = cache / f"page-{key[:12]}"
    with locked(cache / ".page.lock"):
        if target.exists():
            return target
        with tempfile.TemporaryDirectory(dir=cache, prefix=".page.") as scratch:
            images = paths.cache() / "images"
            entries, _ = npm.layer_content(layer, made.folder, images, Path(scratch))
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            for entry in entries:
                (fresh / Path(entry.path).name).write_bytes(content(entry))
            shutil.move(fresh, target)
    return target
