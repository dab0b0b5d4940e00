"""Debian's Chromium without windows, unpacked below the cache with the libraries that it needs."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from rehearsal import paths
from rehearsal.images import Apt, unpack_tools

_PACKAGE = "chromium-headless-shell"
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
class Chromium:
    """A program, and the variables that it finds its libraries and fonts by."""

    program: Path
    environment: dict[str, str]


def unpacked() -> Chromium:
    """The browser of this machine's Debian release, fetched when it is not there or an older one.

    Raises ImageError where Debian's packages can't be had.
    """
    root = paths.cache() / "debian-chromium"
    apt = Apt(paths.ensure(paths.cache(), "cache") / "images" / "apt")
    unpack_tools([_PACKAGE], root, apt=apt, without=_WITHOUT)
    fonts = root / "fonts.conf"
    paths.replace(fonts, _FONTS.format(root=root))
    libraries = root / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
    # Not the host's variables: what a desktop sets (proxies, displays) is no part of a test.
    folders = (libraries, libraries / "nss", libraries / "pulseaudio")
    variables = {
        "LD_LIBRARY_PATH": ":".join(map(str, folders)),
        "FONTCONFIG_FILE": str(fonts),
    }
    return Chromium(root / "usr" / "lib" / "chromium" / _PACKAGE, variables)
