"""From received bytes to a normalised image: decoded, upright, of bounded size, with its hashes."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from services.events import ImageQuarantined, ImageReceived, Reason
from services.pipeline.ports import Prepared, Reader
from services.pipeline.settings import Limits
from services.transfer.images import CONTENT_TYPES, sniff

CONTENT_TYPE = "image/jpeg"
"""Of every stored image."""
_HASH_SIDE = 8

# The limit is checked by the size that the header says, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
ImageFile.LOAD_TRUNCATED_IMAGES = False


class Refused(Exception):
    """Bytes that do not become an image."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def batch(
    events: Sequence[ImageReceived], reader: Reader, limits: Limits
) -> tuple[list[Prepared], list[ImageQuarantined]]:
    """Prepare every image; what cannot be is quarantined with its reason."""
    prepared, quarantined = [], []
    for event in events:
        try:
            # By what the event says, so that nothing is fetched only to be too large.
            check_length(event.length, limits)
            prepared.append(prepare(event, reader.read(event), limits))
        except Refused as error:
            quarantined.append(refusal(event, error.reason, error.detail))
        except LookupError as error:
            quarantined.append(refusal(event, "truncated", f"its bytes are not there: {error}"))
    return prepared, quarantined


def refusal(event: ImageReceived, reason: Reason, detail: str) -> ImageQuarantined:
    """The event of an image that is no good."""
    return ImageQuarantined(**event.model_dump(), reason=reason, detail=detail)


def check_length(length: int, limits: Limits) -> None:
    """Raise Refused for no bytes or too many."""
    if length == 0:
        raise Refused("empty", "no bytes")
    if length > limits.image_mib << 20:
        raise Refused("too-large", f"{length} bytes; an image may have {limits.image_mib} MiB")


def prepare(event: ImageReceived, data: bytes, limits: Limits) -> Prepared:
    """The normalised image of these bytes. Raises Refused."""
    check_length(len(data), limits)
    if len(data) != event.length:
        raise Refused("truncated", f"{len(data)} bytes are there, {event.length} were announced")
    found = hashlib.sha256(data).hexdigest()
    if found != event.sha256:
        raise Refused("checksum-mismatch", f"announced {event.sha256}, stored {found}")
    type_ = sniff(data[:16])
    if type_ is None:
        text = f"declared {event.content_type}; begins like no type taken"
        raise Refused("unknown-type", text)
    if type_ != event.content_type:
        raise Refused("wrong-type", f"declared {event.content_type}, is {type_}")
    image = decode(data, type_, limits)
    size = image.size
    image = bounded(image, limits.side_px)
    encoded = io.BytesIO()
    # No chroma subsampling: what is thin and coloured (signs, lights) stays.
    # Not `optimize`: for that Pillow has a buffer that the noise of a bad sensor overflows.
    image.save(encoded, "JPEG", quality=limits.quality, subsampling=0)
    content = encoded.getvalue()
    return Prepared(
        event=event,
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        phash=dhash(image),
        width=image.width,
        height=image.height,
        original_width=size[0],
        original_height=size[1],
    )


def decode(data: bytes, content_type: str, limits: Limits) -> Image.Image:
    """The first frame, upright as its EXIF says, in RGB. Raises Refused."""
    try:
        with warnings.catch_warnings():
            # About metadata that a decoder skips: the pixels count.
            warnings.simplefilter("ignore")
            image: Image.Image = Image.open(io.BytesIO(data), formats=[CONTENT_TYPES[content_type]])
            pixels = image.width * image.height
            if pixels > limits.megapixels * 1_000_000:
                text = f"{image.width} x {image.height}, more than {limits.megapixels} megapixels"
                raise Refused("too-many-pixels", text)
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except Refused:
        raise
    except UnidentifiedImageError:
        raise Refused("corrupt", "begins well, but its header cannot be read") from None
    except MemoryError:
        raise Refused("too-many-pixels", "does not fit into memory") from None
    except Exception as error:  # a decoder given bad bytes may raise anything
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        ends = any(word in text.lower() for word in ("truncated", "unexpected end", "not enough"))
        raise Refused("truncated" if ends else "corrupt", text) from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # 16 and 32 bits: the range that is there becomes the whole range.
        values = np.asarray(image, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        scaled = (values - low) * (255.0 / (high - low) if high > low else 0.0)
        image = Image.fromarray(scaled.round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        # What is transparent is white, and not whatever colour lies below.
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")


def bounded(image: Image.Image, side_px: int) -> Image.Image:
    """The image, made smaller when a side is longer than this."""
    if max(image.size) <= side_px:
        return image
    smaller = image.copy()
    smaller.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return smaller


def dhash(image: Image.Image) -> int:
    """A difference hash of 64 bits: whether each of 8 x 8 cells is brighter than its left one.

    Not by the library `imagehash`, which brings SciPy and PyWavelets for the other hashes (ADR 24).
    """
    grey = image.convert("L").resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.LANCZOS)
    cells = np.asarray(grey, dtype=np.int16)
    bits = (cells[:, 1:] > cells[:, :-1]).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def pixels(content: bytes) -> npt.NDArray[np.uint8]:
    """The pixels of a stored image: rows, columns, RGB."""
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        return np.asarray(image.convert("RGB"))
