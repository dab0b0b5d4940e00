"""Inside the sandbox: what image transfer costs beside a plain S3 put of the same bytes.

Both go to the same store, in turns, so that other work on the machine meets both alike. Verifying
comes after an upload and is not in its time: each way waits until nothing is left to verify, and
the machine is at rest. `several` files in a row are beside it: there the former are judged while
the next are sent.
Why the ways differ is in the processor's seconds that each program took for a gigabyte. Large files
are put in parts too, as tusd puts them: the store's own price for what can be resumed. They go over
connections that are open before the clock starts, each way's alike.
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
from statistics import median
from typing import Any, TypeVar
from urllib.parse import urlsplit

import botocore.session
import psutil
from botocore.config import Config
from PIL import Image

from components.datalake.transfer_config import TransferConfig
from rehearsal.access import Access
from rehearsal.drills import lake
from services import batches, sending, tus

T = TypeVar("T")
BUCKET = "images-incoming"
_FILE_SIDE = 4082  # pixels: 50 MB as an uncompressed BMP
_FILES = 3  # per way and round
_PART = TransferConfig().part_mib << 20  # bytes
_TURNS = 9  # of one file per way; a multiple of the ways
_PAUSE_S = 2.0  # the store writes out what it has
_TAKEN_UP_S = 12.0  # the pipeline's sensor looks every 10 s, and rest before that is none
_REST_S, _QUIET_S, _REST_PERCENT = 40.0, 6.0, 8.0
_SHOWN = 0.05  # of a way's CPU seconds; programs below are "others"
_ROUNDS = 2  # of several files
_BATCH_ROUNDS = 4  # of all connections
_IMAGE_SIDE = 258  # pixels: 200 KB as an uncompressed BMP
CONNECTIONS = 64
_PER_CONNECTION = 10  # images
_RECEIPT_S, _ANSWER_S = 240.0, 10.0


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
        """MB/s, the median of the turns: one in ten or so meets a tick of another program."""
        return median(self.rates) / 1e6

    def processors(self) -> dict[str, float]:
        """CPU seconds per GB by program, the most first."""
        total = self.spent.total()
        shown = {name: used for name, used in self.spent.most_common() if used >= _SHOWN * total}
        shown["others"] = total - sum(shown.values())
        return {name: used / self.sent * 1e9 for name, used in shown.items()}


class _Rest:
    """Waits until the machine does no more than it did at the start, so that nothing that one way
    left behind (verdicts, the pipeline's run some seconds later) is paid for by the next.
    """

    def __init__(self) -> None:
        self._at_rest = psutil.cpu_percent(_QUIET_S)

    def wait(self) -> None:
        """Until it was so for a while, or for as long as it may take."""
        ends = time.monotonic() + _REST_S
        while time.monotonic() < ends:
            if psutil.cpu_percent(_QUIET_S) <= self._at_rest + _REST_PERCENT:
                return


def _processors() -> Counter[str]:
    """CPU seconds of all that runs on the machine, by program."""
    found: Counter[str] = Counter()
    for process in psutil.process_iter(["name", "cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None:
            found[process.info["name"]] += times.user + times.system
    return found


def measure(access: Access) -> dict[str, Any]:
    """Megabytes per second both ways, and tusd's share of the plain put's. All is taken away."""
    run = time.strftime("%H%M%S")
    with tempfile.TemporaryDirectory(prefix="estate-bench-") as folder:
        s3 = _s3(access, Path(folder))
        sent: list[str] = []
        try:
            rest = _Rest()
            large = _large(access, s3, run, sent, rest)
            small = _small(access, s3, run, Path(folder), sent, rest)
        finally:
            _forget(s3, run)
            lake.take_away(access, map(sending.upload_name, sent))
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


def _large(access: Access, s3: Any, run: str, sent: list[str], rest: _Rest) -> dict[str, Any]:
    """One file at a time, by one connection; then several without waiting for verdicts."""
    base = _bmp(_FILE_SIDE, 1)
    door = access.door()
    session = door.session()
    client = tus.Client(door.url, door.token, session=session)
    doing: dict[str, Callable[[str, Sequence[bytes]], list[str]]] = {
        "put": partial(_put, s3),
        "parts": partial(_put_in_parts, s3),
        "tusd": lambda _, contents: _send(client, contents),
    }

    def connect() -> None:
        """What was idle for a while may have been closed by the other side."""
        s3.head_bucket(Bucket=BUCKET)
        session.options(door.url, timeout=_ANSWER_S)

    def turns(count: int, files: int, names: Sequence[str]) -> tuple[dict[str, _Way], list[float]]:
        """Each way goes first as often as the others."""
        ways, judged = {name: _Way() for name in names}, []
        for turn in range(count):
            contents = [base[:-8] + random.randbytes(8) for _ in range(files)]
            for name in (*names[turn % len(names) :], *names[: turn % len(names)]):
                key = f"{run}/{name}-{files}-{turn}"
                rest.wait()
                connect()
                urls = ways[name].timed(files * len(base), doing[name], key, contents)
                sent.extend(urls)
                began = time.monotonic()
                _receipts(access, urls)
                if urls:
                    judged.append(time.monotonic() - began)
                time.sleep(_TAKEN_UP_S if urls else _PAUSE_S)
        return ways, judged

    ways, judged = turns(_TURNS, 1, ("put", "parts", "tusd"))
    several, _ = turns(_ROUNDS, _FILES, ("put", "tusd"))
    return {
        "file_bytes": len(base),
        **_figures(ways),
        "receipt_after_s": max(judged),
        "several": _figures(several),
    }


def _small(
    access: Access, s3: Any, run: str, folder: Path, sent: list[str], rest: _Rest
) -> dict[str, Any]:
    """As many connections as are asked for; each sends a batch, or its images one by one.

    The two ways go first in turns.
    """
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

        for round_ in range(_BATCH_ROUNDS):
            prefixes = [f"{run}/small-{round_}-{lane}" for lane in range(CONNECTIONS)]
            for name in ("put", "tusd") if round_ % 2 == 0 else ("tusd", "put"):
                rest.wait()
                if name == "put":
                    ways[name].timed(size, together, partial(_put, s3), prefixes, groups)
                    continue
                urls = ways[name].timed(size, together, partial(_send_batch, access), archives)
                sent.extend(urls)
                _receipts(access, urls)
                time.sleep(_TAKEN_UP_S)
    return {
        "image_bytes": len(groups[0][0]),
        "images": CONNECTIONS * _PER_CONNECTION,
        "connections": CONNECTIONS,
        **_figures(ways),
    }


def _put(s3: Any, prefix: str, contents: Sequence[bytes]) -> list[str]:
    for number, content in enumerate(contents):
        s3.put_object(Bucket=BUCKET, Key=f"bench/{prefix}-{number}", Body=content)
    return []  # nothing of it is judged


def _put_in_parts(s3: Any, prefix: str, contents: Sequence[bytes]) -> list[str]:
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
    return []


def _send(client: tus.Client, contents: Sequence[bytes]) -> list[str]:
    urls = []
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
    found |= {
        f"{name}_turns_mb_per_s": [rate / 1e6 for rate in way.rates] for name, way in ways.items()
    }
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
