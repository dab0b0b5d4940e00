"""Whether some bytes are the image that they are said to be.

What is sent by strangers is decoded here, so little is trusted: only the decoders of the types that
are taken, no more pixels than allowed, and every error of a decoder is an answer.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from typing import IO

from PIL import Image, UnidentifiedImageError

from services.events import Reason
from services.transfer.settings import Limits

CONTENT_TYPES = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/tiff": "TIFF",
    "image/bmp": "BMP",
}
"""What is taken: content type -> Pillow's name of the decoder."""

MAGIC = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (8, b"WEBP", "image/webp"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
    (0, b"BM", "image/bmp"),
)
"""Offset, bytes, content type: how each type begins."""

_HEAD = 16
_LARGE_PIXELS = 16_000_000

# The limit is checked here, by the size that the header says, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
_one_large_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Verdict:
    """`reason` is None for a good image, whose `content_type` is then the true one."""

    content_type: str | None
    reason: Reason | None = None
    detail: str = ""


def sniff(head: bytes) -> str | None:
    """The content type that the first bytes show, None when it is none that is taken."""
    for offset, magic, content_type in MAGIC:
        if head[offset : offset + len(magic)] == magic:
            if content_type == "image/webp" and head[:4] != b"RIFF":
                continue
            return content_type
    return None


def judge(
    file: IO[bytes],
    *,
    length: int,
    sha256: str,
    declared_sha256: str,
    declared: str,
    limits: Limits,
) -> Verdict:
    """Judge `length` bytes of a file whose digest is known. The file is read from its beginning.

    The order is that of the damage: what has been altered on its way is not asked what it is.
    """
    if length == 0:
        return Verdict(None, "empty", "no bytes")
    if sha256 != declared_sha256:
        return Verdict(None, "checksum-mismatch", f"declared {declared_sha256}, stored {sha256}")
    if length > limits.image_mib << 20:
        text = f"{length} bytes; an image may have {limits.image_mib} MiB"
        return Verdict(None, "too-large", text)
    file.seek(0)
    found = sniff(file.read(_HEAD))
    if found is None:
        return Verdict(None, "unknown-type", f"declared {declared}; begins like no type taken")
    if found != declared:
        return Verdict(found, "wrong-type", f"declared {declared}, is {found}")
    file.seek(0)
    return _decoded(file, found, limits)


def _decoded(file: IO[bytes], content_type: str, limits: Limits) -> Verdict:
    try:
        with warnings.catch_warnings():
            # About metadata that a decoder skips: the pixels count.
            warnings.simplefilter("ignore")
            image = Image.open(file, formats=[CONTENT_TYPES[content_type]])
            pixels = image.width * image.height * getattr(image, "n_frames", 1)
            if pixels > limits.megapixels * 1_000_000:
                text = (
                    f"{image.width} x {image.height}, {pixels / 1e6:.0f} megapixels of all frames"
                )
                return Verdict(content_type, "too-many-pixels", text)
            if pixels > _LARGE_PIXELS:
                # Decoded it takes some bytes a pixel: two at once could be too much.
                with _one_large_at_a_time:
                    _load(image)
            else:
                _load(image)
    except UnidentifiedImageError:
        return Verdict(content_type, "corrupt", "begins well, but its header cannot be read")
    except MemoryError:
        return Verdict(content_type, "too-many-pixels", "does not fit into memory")
    except Exception as error:  # a decoder given bad bytes may raise anything
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return Verdict(content_type, "truncated" if _ends_early(text) else "corrupt", text)
    return Verdict(content_type)


def _load(image: Image.Image) -> None:
    """Decode every frame, so that damage anywhere shows."""
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()


def _ends_early(text: str) -> bool:
    return any(word in text.lower() for word in ("truncated", "unexpected end", "not enough"))
