"""Bring images into a containerd."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import BinaryIO, cast

from rehearsal.images.build import BuiltImage
from rehearsal.images.errors import ImageError
from rehearsal.images.oci import Store

PINNED = "io.cri-containerd.pinned=pinned"
"""Label of the images that containerd's CRI plugin and the kubelet must never collect."""


def present(ctr: Sequence[str]) -> set[str]:
    """Names of the images that a containerd has.

    :param ctr: the command of ctr, with socket and namespace.
    :raises ImageError: containerd does not answer.
    """
    done = subprocess.run([*ctr, "images", "ls", "-q"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ImageError(
            f"containerd does not answer: {done.stderr.strip()[-300:]}",
            "Check that the node's containerd runs: ./estate status",
        )
    return set(done.stdout.split())


def import_into(ctr: Sequence[str], images: Mapping[str, BuiltImage]) -> list[str]:
    """Import the images that containerd lacks, under ``repository:tag`` and ``repository@digest``.

    They travel as one stream, without a file on the way, and shared layers only once.

    :param ctr: the command of ctr, such as ``["ctr", "--address", socket, "-n", "k8s.io"]``.
    :returns: the keys that were imported.
    :raises ImageError: containerd refuses.
    """
    known = present(ctr)
    lacking = [image for image in images.values() if not set(image.named.names) <= known]
    # A tag that is there may stand for an older digest: the name with the digest decides, and
    # the import then moves the tag.
    if not lacking:
        return []
    store = Store(lacking[0].archive)
    # A pinned image is not collected when the disk runs full: no registry could give it back.
    # The local importer took 11 s for what took the transfer service 19 s (19 images, 1 GB, one
    # run each on a busy machine).
    command = [*ctr, "images", "import", "--local", "--label", PINNED, "-"]
    with (
        # What ctr says goes to a file: a pipe that nobody reads would stop it when it is full.
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said
        ) as process,
    ):
        # A ctr that gives up closes the pipe; what it said is the better message.
        with suppress(BrokenPipeError):
            store.write_archive([image.named for image in lacking], cast(BinaryIO, process.stdin))
        with suppress(BrokenPipeError):
            cast(BinaryIO, process.stdin).close()
        process.wait()
        said.seek(0)
        message = said.read().decode(errors="replace").strip()
    if process.returncode:
        raise ImageError(
            f"import of {', '.join(image.key for image in lacking)} failed: {message[-300:]}",
            "See containerd's log: ./estate logs containerd",
        )
    return [image.key for image in lacking]
