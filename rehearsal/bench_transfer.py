"""Inside the sandbox: what image transfer costs beside a plain S3 put of the same bytes.

Both go to the same store, in turns, so that other work on the machine meets both alike. Verifying
comes after an upload and is not in its time: each round waits until nothing is left to verify.
Why the ways differ is in the processor's seconds that each program took for a gigabyte. Large files
are put in parts too, as tusd puts them: the store's own price for what can be resumed.
"""

from __future__ import annotations

import hashlib
import io
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import botocore.session
import psutil
from botocore.config import Config
from PIL import Image

from rehearsal.access import Access
from services import batches, sending

T = TypeVar("T")
BUCKET = "images-incoming"
_FILE_SIDE = 4082  # pixels: 50 MB as an uncompressed BMP
_FILES = 3  # per way and round
_PART = 8 << 20  # bytes, as `transfer.part_mib` has it
_SHOWN = 0.05  # of a way's CPU seconds; programs below are "others"
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


@dataclass
class _Way:
    """One way into the store: what went by it, for how long, and which programs worked for it."""

    rates: list[float] = field(default_factory=list)
    sent: int = 0
    spent: Counter[str] = field(default_factory=Counter)

    def timed(self, size: int, work: Callable[..., T], *arguments: Any) -> T:
        """Do it; count its `size` bytes."""
        before, began = _processors(), time.monotonic()
        result = work(*arguments)
        self.rates.append(size / (time.monotonic() - began))
        self.spent.update(_processors() - before)
        self.sent += size
        return result

    def rate(self) -> float:
        """MB/s, the mean of the rounds."""
        return sum(self.rates) / len(self.rates) / 1e6

    def processors(self) -> dict[str, float]:
        """CPU seconds per GB by program, the most first."""
        total = self.spent.total()
        shown = {name: used for name, used in self.spent.most_common() if used >= _SHOWN * total}
        shown["others"] = total - sum(shown.values())
        return {name: used / self.sent * 1e9 for name, used in shown.items()}


def _processors() -> Counter[str]:
    """CPU seconds of all that runs on the machine, by program."""
    found: Counter[str] = Counter()
    for process in psutil.process_iter(["name", "cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None:
            found[process.info["name"]] += times.user + times.system
    return found


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
    ways = {name: _Way() for name in ("put", "parts", "tusd")}
    verified: list[float] = []
    for round_ in range(_ROUNDS):
        contents = [base[:-4] + (round_ * _FILES + n).to_bytes(4, "big") for n in range(_FILES)]
        size = sum(map(len, contents))
        ways["put"].timed(size, _put, s3, f"{run}/large-{round_}", contents)
        ways["parts"].timed(size, _put_in_parts, s3, f"{run}/parts-{round_}", contents)
        urls = ways["tusd"].timed(size, _send, access, contents)
        began = time.monotonic()
        _receipts(access, urls)
        verified.append(time.monotonic() - began)
    return {"file_bytes": len(base), **_figures(ways), "receipts_after_s": max(verified)}


def _small(access: Access, s3: Any, run: str, folder: Path) -> dict[str, Any]:
    """As many connections as are asked for; each sends a batch, or its images one by one."""
    groups = [
        [_bmp(_IMAGE_SIDE, lane * 1000 + number) for number in range(_PER_CONNECTION)]
        for lane in range(CONNECTIONS)
    ]
    size = sum(len(image) for group in groups for image in group)
    archives = [_archive(folder, lane, group) for lane, group in enumerate(groups)]
    ways = {name: _Way() for name in ("put", "tusd")}
    with ThreadPoolExecutor(CONNECTIONS) as pool:

        def together(one: Callable[..., Any], *columns: Iterable[Any]) -> list[Any]:
            return list(pool.map(one, *columns))

        for round_ in range(_ROUNDS):
            prefixes = [f"{run}/small-{round_}-{lane}" for lane in range(CONNECTIONS)]
            ways["put"].timed(size, together, partial(_put, s3), prefixes, groups)
            urls = ways["tusd"].timed(size, together, partial(_send_batch, access), archives)
            _receipts(access, urls)
    return {
        "image_bytes": len(groups[0][0]),
        "images": CONNECTIONS * _PER_CONNECTION,
        "connections": CONNECTIONS,
        **_figures(ways),
    }


def _put(s3: Any, prefix: str, contents: Sequence[bytes]) -> None:
    for number, content in enumerate(contents):
        s3.put_object(Bucket=BUCKET, Key=f"bench/{prefix}-{number}", Body=content)


def _put_in_parts(s3: Any, prefix: str, contents: Sequence[bytes]) -> None:
    """One part after another: they come by one connection, as an upload's bytes do."""
    for number, content in enumerate(contents):
        named = {"Bucket": BUCKET, "Key": f"bench/{prefix}-{number}"}
        upload = {**named, "UploadId": s3.create_multipart_upload(**named)["UploadId"]}
        parts = []
        for at in range(0, len(content), _PART):
            one = {"PartNumber": at // _PART + 1}
            put = s3.upload_part(**upload, **one, Body=content[at : at + _PART])
            parts.append({**one, "ETag": put["ETag"]})
        s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})


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


def _figures(ways: Mapping[str, _Way]) -> dict[str, Any]:
    found: dict[str, Any] = {f"{name}_mb_per_s": way.rate() for name, way in ways.items()}
    found |= {f"{name}_cpu_s_per_gb": way.processors() for name, way in ways.items()}
    return found | {"tusd_to_put": ways["tusd"].rate() / ways["put"].rate()}


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
