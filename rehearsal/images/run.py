"""A program of an image on this machine: its layers as an overlay, in namespaces of its own.

For work that needs what is in an image and no cluster. Without root, a user namespace is enough.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rehearsal.images.errors import ImageError
from rehearsal.images.fsio import locked, read_json
from rehearsal.images.oci import Store

_SETUP = """\
set -e
scratch=$1 lower=$2 workdir=$3 count=$4
shift 4
mount -t tmpfs -o mode=0755 tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
root=$scratch/root
mount -t overlay -o "lowerdir=$lower,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
while [ "$count" -gt 0 ]; do
  mkdir -p "$root$2"
  mount --rbind "$1" "$root$2"
  shift 2
  count=$((count - 1))
done
exec chroot "$root" /usr/bin/env -i -C "$workdir" "$@"
"""
"""A tmpfs takes what is written to the image's own paths; it goes with the mount namespace."""


@dataclass(frozen=True)
class Image:
    """An image, unpacked."""

    lower: tuple[Path, ...]
    """The folders of its layers, lowest first."""
    environment: Mapping[str, str]
    workdir: str


def unpacked(store: Store, manifest: str) -> Image:
    """An image of the store; its layers are unpacked where they are not yet.

    :raises ImageError: the store has no such image.
    """
    value = read_json(store.path(manifest))
    if value is None:
        raise ImageError(f"image {manifest} is not in the store", "Run ./estate images build")
    about = read_json(store.path(value["config"]["digest"])) or {}
    config = about["config"]
    pairs = (variable.partition("=") for variable in config["Env"])
    return Image(
        tuple(_unpacked(store, layer["digest"]) for layer in value["layers"]),
        {name: content for name, _, content in pairs},
        config["WorkingDir"],
    )


def _unpacked(store: Store, digest: str) -> Path:
    folder = store.root.parent / "unpacked"
    target = folder / digest.removeprefix("sha256:")[:16]
    with locked(folder / f".{target.name}.lock"):
        if not target.exists():
            for left in folder.glob(f".{target.name}.*.part"):  # of a killed run
                shutil.rmtree(left, ignore_errors=True)
            fresh = Path(tempfile.mkdtemp(dir=folder, prefix=f".{target.name}.", suffix=".part"))
            try:
                _extract(store.path(digest), fresh)
                fresh.chmod(0o755)
                fresh.rename(target)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    return target


def _extract(layer: Path, into: Path) -> None:
    """Unpack a layer. Its files become the user's: without root there is no other way.

    :raises ImageError: tar fails.
    """
    options = ("--extract", "--no-same-owner", "--preserve-permissions")
    done = subprocess.run(
        ["tar", *options, "--file", str(layer), "--directory", str(into)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["tar said nothing"])[0]
        raise ImageError(f"layer {layer.name[:12]} cannot be unpacked: {said}", "See what tar says")


def command(
    image: Image,
    arguments: Sequence[str],
    *,
    scratch: Path,
    binds: Mapping[Path, str] | None = None,
    network: bool = False,
) -> list[str]:
    """The command that runs a program of an image, as this machine's root or who stands for it.

    :param scratch: an existing folder to mount on; it stays empty.
    :param binds: folders of this machine, and where the program finds them.
    :param network: this machine's; else one without any interface that is up.
    """
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    own = () if network else ("--net",)
    pairs = [part for place, inside in (binds or {}).items() for part in (str(place), inside)]
    return [
        *("unshare", *user, *own, "--mount", "--pid", "--fork", "--kill-child"),
        *("sh", "-c", _SETUP, "sh", str(scratch), ":".join(map(str, reversed(image.lower)))),
        *(image.workdir, str(len(pairs) // 2), *pairs),
        *(f"{name}={value}" for name, value in image.environment.items()),
        *arguments,
    ]


def run(
    store: Store,
    manifest: str,
    arguments: Sequence[str],
    *,
    binds: Mapping[Path, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program of an image to its end, without a network; what it says is in the result."""
    image = unpacked(store, manifest)
    with tempfile.TemporaryDirectory(dir=store.root.parent, prefix=".run-") as scratch:
        return subprocess.run(
            command(image, arguments, scratch=Path(scratch), binds=binds),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
