"""Inside the sandbox: what image transfer costs beside a plain S3 put of the same bytes.

Both go to the same store, in turns, so that other work on the machine meets both alike. Verifying
comes after an upload and is not in its time: each round waits until nothing is left to verify.
"""

from __future__ import annotations

import hashlib
import io
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from PIL import Image

from rehearsal.access import Access
from services import batches, sending

T = TypeVar("T")
BUCKET = "images-incoming"
_FILE_SIDE = 4082  # pixels: 50 MB as an uncompressed BMP
_FILES = 3  # per way and round
_ROUNDS = 2
_IMAGE_SIDE = 258  # pixels: 200 KB as an uncompressed BMP
CONNECTIONS = 64
_PER_CONNECTION = 20  # images
_RECEIPT_S = 240.0


@dataclass(frozen=True)
class Bytes:
    """A file in memory, as something to send."""

    content: bytes

    @property
    def length(self) -> int:
        """How many bytes."""
        return len(self.content)

    def read_from(self, offset: int) -> Iterator[bytes]:
        """In pieces of 1 MiB."""
        view = memoryview(self.content)
        for at in range(offset, len(view), 1 << 20):
            yield bytes(view[at : at + (1 << 20)])


def measure(access: Access) -> dict[str, Any]:
    """Megabytes per second both ways, and tusd's share of the plain put's."""
    run = time.strftime("%H%M%S")
    with tempfile.TemporaryDirectory(prefix="estate-bench-") as folder:
        s3 = _s3(access, Path(folder))
        large = _large(access, s3, run)
        small = _small(access, s3, run, Path(folder))
        _forget(s3, run)
    return {"large": large, "small": small}


def _s3(access: Access, folder: Path) -> Any:
    authority = folder / "ca.crt"
    authority.write_text(access.ca)
    return botocore.session.Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=access.s3_endpoint,
        aws_access_key_id=access.s3_access_key,
        aws_secret_access_key=access.s3_secret_key,
        verify=str(authority),
        config=Config(
            s3={"addressing_style": "path"},
            max_pool_connections=CONNECTIONS,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _large(access: Access, s3: Any, run: str) -> dict[str, Any]:
    """One file after another, by one connection."""
    base = _bmp(_FILE_SIDE, 1)
    rates: dict[str, list[float]] = {"put": [], "tusd": []}
    verified: list[float] = []
    for round_ in range(_ROUNDS):
        contents = [base[:-4] + (round_ * _FILES + n).to_bytes(4, "big") for n in range(_FILES)]
        size = sum(map(len, contents))
        seconds, _ = _timed(_put, s3, f"{run}/large-{round_}", contents)
        rates["put"].append(size / seconds)
        seconds, urls = _timed(_send, access, contents)
        rates["tusd"].append(size / seconds)
        seconds, _ = _timed(_receipts, access, urls)
        verified.append(seconds)
    return {"file_bytes": len(base), **_rates(rates), "receipts_after_s": max(verified)}


def _small(access: Access, s3: Any, run: str, folder: Path) -> dict[str, Any]:
    """As many connections as are asked for; each sends a batch, or its images one by one."""
    groups = [
        [_bmp(_IMAGE_SIDE, lane * 1000 + number) for number in range(_PER_CONNECTION)]
        for lane in range(CONNECTIONS)
    ]
    size = sum(len(image) for group in groups for image in group)
    archives = [_archive(folder, lane, group) for lane, group in enumerate(groups)]
    rates: dict[str, list[float]] = {"put": [], "tusd": []}
    with ThreadPoolExecutor(CONNECTIONS) as pool:

        def together(one: Callable[..., Any], *columns: Iterable[Any]) -> list[Any]:
            return list(pool.map(one, *columns))

        for round_ in range(_ROUNDS):
            prefixes = [f"{run}/small-{round_}-{lane}" for lane in range(CONNECTIONS)]
            seconds, _ = _timed(together, partial(_put, s3), prefixes, groups)
            rates["put"].append(size / seconds)
            seconds, urls = _timed(together, partial(_send_batch, access), archives)
            rates["tusd"].append(size / seconds)
            _receipts(access, urls)
    return {
        "image_bytes": len(groups[0][0]),
        "images": CONNECTIONS * _PER_CONNECTION,
        "connections": CONNECTIONS,
        **_rates(rates),
    }


def _put(s3: Any, prefix: str, contents: Sequence[bytes]) -> None:
    for number, content in enumerate(contents):
        s3.put_object(Bucket=BUCKET, Key=f"bench/{prefix}-{number}", Body=content)


def _send(access: Access, contents: Sequence[bytes]) -> list[str]:
    client, urls = access.door().client(), []
    for content in contents:
        metadata = {
            "filename": "bench.bmp",
            "filetype": "image/bmp",
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        urls.append(client.create(len(content), metadata))
        client.send(urls[-1], Bytes(content))
    return urls


def _send_batch(access: Access, archive: batches.Archive) -> str:
    client = access.door().client()
    url = client.create(archive.length, {"filename": "bench.tar", "batch": batches.METADATA})
    client.send(url, archive)
    return url


def _archive(folder: Path, lane: int, images: Sequence[bytes]) -> batches.Archive:
    pairs = []
    for number, image in enumerate(images):
        path = folder / f"{lane}-{number}.bmp"
        path.write_bytes(image)
        digest = hashlib.sha256(image).hexdigest()
        pairs.append(
            (
                batches.Member(
                    name=path.name, length=len(image), sha256=digest, content_type="image/bmp"
                ),
                path,
            )
        )
    return batches.Archive(pairs)


def _receipts(access: Access, urls: Sequence[str]) -> None:
    door = access.door()
    with door.session() as session:
        for url in urls:
            counts = sending.receipt(door, session, url, _RECEIPT_S)["counts"]
            if set(counts) != {"received"}:
                raise ConnectionError(f"{urlsplit(url).path}: {counts}, all were good images")


def _timed(work: Callable[..., T], *arguments: Any) -> tuple[float, T]:
    """How long it took, and what came of it."""
    began = time.monotonic()
    result = work(*arguments)
    return time.monotonic() - began, result


def _rates(rates: dict[str, list[float]]) -> dict[str, float]:
    mean = {way: sum(found) / len(found) / 1e6 for way, found in rates.items()}
    return {
        "put_mb_per_s": mean["put"],
        "tusd_mb_per_s": mean["tusd"],
        "tusd_to_put": mean["tusd"] / mean["put"],
    }


def _bmp(side: int, seed: int) -> bytes:
    numbers = random.Random(seed)
    pixels = numbers.randbytes(side * side * 3)
    made = io.BytesIO()
    Image.frombytes("RGB", (side, side), pixels).save(made, "BMP")
    return made.getvalue()


def _forget(s3: Any, run: str) -> None:
    """Take away what was put beside the uploads."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"bench/{run}/")
    for page in pages:
        for item in page.get("Contents", []):
            s3.delete_object(Bucket=BUCKET, Key=item["Key"])
