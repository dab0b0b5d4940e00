from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rehearsal import samples
from services.pipeline import features, preprocess
from services.pipeline.preprocess import Refused, dhash, prepare
from services.pipeline.settings import Limits
from tests.pipeline.conftest import received

LIMITS = Limits()


def encoded(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, format_, **options)
    return target.getvalue()


def photograph() -> Image.Image:
    with Image.open(samples.photographs()[0]) as image:
        return image.convert("RGB")


def test_an_image_is_made_smaller_and_keeps_its_shape() -> None:
    wide = photograph().resize((3000, 1500))
    made = prepare(received(encoded(wide)), encoded(wide), LIMITS)
    assert (made.width, made.height) == (1024, 512)
    assert (made.original_width, made.original_height) == (3000, 1500)
    assert Image.open(io.BytesIO(made.content)).size == (1024, 512)


def test_a_small_image_keeps_its_size() -> None:
    data = encoded(photograph().resize((40, 30)))
    assert (prepare(received(data), data, LIMITS).width) == 40


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_90),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_what_a_turned_camera_took_is_upright(orientation: int, turn: Image.Transpose) -> None:
    upright = photograph().resize((400, 300))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(upright.transpose(turn), "JPEG", exif=exif, quality=95)
    made = prepare(received(data, "image/jpeg"), data, LIMITS)
    assert (made.width, made.height) == (400, 300)
    assert not Image.open(io.BytesIO(made.content)).getexif().get(0x0112)
    difference = np.abs(
        preprocess.pixels(made.content).astype(int) - np.asarray(upright).astype(int)
    )
    assert difference.mean() < 5


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "I;16", "CMYK"])
def test_every_kind_of_pixels_becomes_rgb(mode: str) -> None:
    image = photograph().resize((64, 48))
    if mode == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 200
        image = Image.fromarray(grey)
    else:
        image = image.convert(mode)
    format_ = "TIFF" if mode == "CMYK" else "PNG"
    data = encoded(image, format_)
    made = prepare(received(data, f"image/{format_.lower()}"), data, LIMITS)
    assert preprocess.pixels(made.content).shape == (48, 64, 3)
    assert preprocess.pixels(made.content).std() > 20


def test_what_is_transparent_is_white() -> None:
    data = encoded(Image.new("RGBA", (16, 16), (0, 0, 0, 0)))
    assert preprocess.pixels(prepare(received(data), data, LIMITS).content).min() > 250


def test_the_same_bytes_give_the_same_image() -> None:
    data = encoded(photograph())
    assert prepare(received(data), data, LIMITS) == prepare(received(data), data, LIMITS)


def test_every_bad_sample_is_refused_for_its_reason(sample_folder: Path) -> None:
    seen = set()
    for one in samples.read(sample_folder):
        data = (sample_folder / one.name).read_bytes()
        if one.verdict == "good":
            prepare(received(data, one.content_type), data, LIMITS)
            continue
        with pytest.raises(Refused) as refused:
            prepare(received(data, one.content_type), data, LIMITS)
        assert refused.value.reason == one.reason, one.name
        seen.add(one.reason)
    assert seen == {
        *("corrupt", "truncated", "empty", "wrong-type", "unknown-type", "too-many-pixels")
    }


def test_other_bytes_than_announced_are_refused() -> None:
    data = encoded(photograph())
    with pytest.raises(Refused, match="checksum-mismatch"):
        prepare(received(data, sha256="0" * 64), data, LIMITS)
    with pytest.raises(Refused, match="truncated"):
        prepare(received(data), data[:-1], LIMITS)
    with pytest.raises(Refused, match="too-large"):
        preprocess.check_length((64 << 20) + 1, LIMITS)


def test_the_hash_of_a_copy_is_near_and_of_another_image_is_not() -> None:
    image = photograph()
    copy = Image.open(io.BytesIO(encoded(image.resize((300, 300)), "JPEG", quality=60)))
    assert (dhash(image) ^ dhash(copy)).bit_count() <= 3
    with Image.open(samples.photographs()[1]) as other:
        assert (dhash(image) ^ dhash(other)).bit_count() > 10
    assert dhash(Image.new("L", (9, 9), 128)) == 0


def test_statistics_say_what_an_image_is() -> None:
    flat = features.statistics(np.full((40, 40, 3), 100, dtype=np.uint8))
    assert flat["mean"] == pytest.approx(100, abs=0.1)
    assert [round(flat[key], 3) for key in ("std", "sharpness", "entropy")] == [0, 0, 0]
    board = np.indices((40, 40)).sum(axis=0) % 2 * 255
    sharp = features.statistics(np.stack([board] * 3, axis=-1).astype(np.uint8))
    assert sharp["entropy"] == pytest.approx(1)
    assert sharp["sharpness"] > 100_000
    assert features.statistics(np.zeros((1, 1, 3), dtype=np.uint8))["sharpness"] == 0


def test_noise_is_an_image_too() -> None:
    """What a broken sensor sends is larger as a JPEG than Pillow expects of one."""
    noise = Image.frombytes("RGB", (640, 480), np.random.default_rng(1).bytes(640 * 480 * 3))
    data = encoded(noise)
    made = prepare(received(data), data, LIMITS)
    assert Image.open(io.BytesIO(made.content)).size == (640, 480)


def test_samples_that_are_to_look_alike_do_so_in_any_order(tmp_path: Path) -> None:
    """Whichever comes first is stored; with this seed a WebP once lost more than it may."""
    groups: dict[int | None, list[int]] = {}
    for sample in samples.write(tmp_path, 300, 8, large=False):
        if sample.verdict == "good":
            content = (tmp_path / sample.name).read_bytes()
            image = preprocess.decode(content, sample.content_type, LIMITS)
            groups.setdefault(sample.group, []).append(dhash(image))
    pairs = [pair for hashes in groups.values() for pair in combinations(hashes, 2)]
    assert len(pairs) > 30
    assert max((one ^ other).bit_count() for one, other in pairs) <= samples.NEAR_BITS
