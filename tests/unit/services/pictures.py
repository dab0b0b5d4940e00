"""Images for the tests of services: noise, so that a changed byte shows."""

from __future__ import annotations

import hashlib
import io
import random

from PIL import Image

from services.transfer.settings import Limits

LIMITS = Limits(upload_mib=64, image_mib=1, megapixels=1, batch_members=50)


def picture(kind: str, size: tuple[int, int] = (120, 90), seed: int = 0) -> bytes:
    pixels = random.Random(seed).randbytes(size[0] * size[1] * 3)
    made = io.BytesIO()
    Image.frombytes("RGB", size, pixels).save(made, kind)
    return made.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
