"""Objects of S3, all versions and delete markers: into a backup, back into buckets, compared.

What S3 makes by itself is new after a restore: version ids, ETags and times. All else is as it was:
content, headers, metadata, tags, and the order of versions. Buckets, policies and lifecycles are
declared, not backed up; multipart uploads under way are no objects yet.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from services.backup import BackupError
from services.backup.folder import Progress, Writer, blob, read_lines

Client = Any
T = TypeVar("T")
R = TypeVar("R")
AT_A_TIME = 8
_CHUNK = 1 << 20
HEADERS = (
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "WebsiteRedirectLocation",
)


def listed(s3: Client, bucket: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Keys in order, each with its versions and delete markers, the oldest first.

    All names of a bucket are held in memory: versions and markers of a key come apart.
    """
    found = itertools.chain.from_iterable(
        [
            *({**one, "marker": False} for one in page.get("Versions", ())),
            *({**one, "marker": True} for one in page.get("DeleteMarkers", ())),
        ]
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket)
    )
    waiting: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        waiting.setdefault(one["Key"], []).append(one)
    for key in sorted(waiting):
        versions = list(enumerate(waiting[key]))
        # S3 lists the newest first; of two in the same moment the one listed later is older.
        versions.sort(key=lambda pair: (pair[1]["LastModified"], pair[1]["IsLatest"], -pair[0]))
        yield key, [one for _, one in versions]


def described(
    s3: Client, bucket: str, version: Mapping[str, Any], keep: Callable[[Iterator[bytes]], Any]
) -> dict[str, Any]:
    """One version as a backup has it; `keep` takes its content and returns digest and length."""
    if version["marker"]:
        return {"key": version["Key"], "marker": True}
    named = {"Bucket": bucket, "Key": version["Key"]}
    if version.get("VersionId"):
        named["VersionId"] = version["VersionId"]
    got = s3.get_object(**named)
    sha256, size = keep(got["Body"].iter_chunks(_CHUNK))
    if size != got["ContentLength"]:
        raise BackupError(
            f"object {bucket}/{version['Key']}",
            f"{size} of {got['ContentLength']} bytes came",
            "run the same command again",
        )
    tags = s3.get_object_tagging(**named)["TagSet"]
    return {
        "key": version["Key"],
        "sha256": sha256,
        "size": size,
        "headers": {key: got[key] for key in HEADERS if got.get(key)},
        "metadata": dict(sorted(got.get("Metadata", {}).items())),
        "tags": sorted([tag["Key"], tag["Value"]] for tag in tags),
    }


def _digest(chunks: Iterator[bytes]) -> tuple[str, int]:
    sha256, size = hashlib.sha256(), 0
    for chunk in chunks:
        sha256.update(chunk)
        size += len(chunk)
    return sha256.hexdigest(), size


def size_of(s3: Client, bucket: str) -> int:
    """Bytes of all versions."""
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=bucket)
    return sum(int(one["Size"]) for page in pages for one in page.get("Versions", ()))


def is_empty(s3: Client, bucket: str) -> bool:
    """Whether there is no object, version or marker in it."""
    found = s3.list_object_versions(Bucket=bucket, MaxKeys=1)
    return not found.get("Versions") and not found.get("DeleteMarkers")


# -- into a backup ---------------------------------------------------------------------------------


def save(buckets: Mapping[str, Client], writer: Writer, progress: Progress) -> dict[str, Any]:
    """All buckets, each by its owner's client; returns the manifest's part."""
    total = sum(size_of(s3, bucket) for bucket, s3 in buckets.items())
    found: dict[str, Any] = {}
    done = 0
    blobs: dict[str, int] = {}
    for bucket, s3 in buckets.items():
        name = f"objects/{bucket}.jsonl.gz"
        counted: dict[str, Any] = {"index": name, "objects": 0, "versions": 0, "bytes": 0}

        def one_key(
            pair: tuple[str, list[dict[str, Any]]], bucket: str = bucket, s3: Client = s3
        ) -> list[dict[str, Any]]:
            return [described(s3, bucket, version, writer.blob) for version in pair[1]]

        with writer.lines(name) as write, ThreadPoolExecutor(AT_A_TIME) as pool:
            for versions in _in_order(pool, one_key, listed(s3, bucket)):
                counted["objects"] += 1
                for version in versions:
                    write(version)
                    counted["versions"] += 1
                    if "sha256" in version:
                        blobs[version["sha256"]] = version["size"]
                        counted["bytes"] += version["size"]
                        done += version["size"]
                progress(bucket, done, max(done, total))
        found[bucket] = counted
    return {"buckets": found, "blob_bytes": sum(blobs.values()), "blobs": len(blobs)}


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T]
) -> Iterator[R]:
    """Results in the order of the items, of which a few are under way at a time."""
    waiting: list[Any] = []
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * AT_A_TIME:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()


# -- and back --------------------------------------------------------------------------------------


def fits(part: Mapping[str, Any], buckets: Iterable[str]) -> None:
    """Refuse a backup with a bucket that is not there. Raises BackupError."""
    known = sorted(buckets)
    for bucket in part["buckets"]:
        if bucket not in known:
            raise BackupError(
                f"bucket {bucket}",
                f"is in the backup and not here (there are: {', '.join(known) or 'none'})",
                "declare it in ceph.buckets, run up, then restore again",
            )


def empty(s3: Client, bucket: str) -> None:
    """Delete every version and marker."""

    def delete(pair: tuple[str, list[dict[str, Any]]]) -> None:
        for one in pair[1]:
            named = {"VersionId": one["VersionId"]} if one.get("VersionId") else {}
            s3.delete_object(Bucket=bucket, Key=pair[0], **named)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for _ in _in_order(pool, delete, listed(s3, bucket)):
            pass


def versions_of(folder: Path, index: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Keys of a bucket in a backup, each with its versions, the oldest first."""
    for key, versions in itertools.groupby(read_lines(folder / index), lambda one: one["key"]):
        yield str(key), list(versions)


def restore(
    buckets: Mapping[str, Client], folder: Path, part: Mapping[str, Any], progress: Progress
) -> None:
    """Put everything into buckets that are empty, a key's versions one after the other."""
    total = sum(one["bytes"] for one in part["buckets"].values())
    done = 0
    for bucket, kept in part["buckets"].items():

        def put(
            pair: tuple[str, list[dict[str, Any]]],
            bucket: str = bucket,
            s3: Client = buckets[bucket],
        ) -> int:
            return sum(_put(s3, bucket, folder, version) for version in pair[1])

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for size in _in_order(pool, put, versions_of(folder, kept["index"])):
                done += size
                progress(bucket, done, total)


def _put(s3: Client, bucket: str, folder: Path, version: Mapping[str, Any]) -> int:
    key = version["key"]
    if version.get("marker"):
        s3.delete_object(Bucket=bucket, Key=key)
        return 0
    with blob(folder, version["sha256"]).open("rb") as body:
        put = s3.put_object(
            Bucket=bucket,
            Key=key,
            Body=body,
            Metadata=version["metadata"],
            **version["headers"],
        )
    if version["tags"]:
        named = {"VersionId": put["VersionId"]} if put.get("VersionId") else {}
        tags = [{"Key": name, "Value": value} for name, value in version["tags"]]
        s3.put_object_tagging(Bucket=bucket, Key=key, Tagging={"TagSet": tags}, **named)
    return int(version["size"])


def compare(
    buckets: Mapping[str, Client], folder: Path, part: Mapping[str, Any], progress: Progress
) -> list[str]:
    """Every version of a backup with what is there, its content read back; what differs."""
    wrong: list[str] = []
    total = sum(one["bytes"] for one in part["buckets"].values())
    done = 0
    for bucket, kept in part["buckets"].items():
        due = dict(versions_of(folder, kept["index"]))

        def look(
            pair: tuple[str, list[dict[str, Any]]],
            bucket: str = bucket,
            s3: Client = buckets[bucket],
        ) -> tuple[str, list[dict[str, Any]]]:
            return pair[0], [described(s3, bucket, one, _digest) for one in pair[1]]

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for key, found in _in_order(pool, look, listed(buckets[bucket], bucket)):
                wrong += _different(f"object {bucket}/{key}", due.pop(key, None), found)
                done += sum(one.get("size", 0) for one in found)
                progress(bucket, done, max(done, total))
        wrong += [f"object {bucket}/{key}: is missing" for key in due]
    return wrong


def _different(
    what: str, due: list[dict[str, Any]] | None, found: list[dict[str, Any]]
) -> list[str]:
    if due is None:
        return [f"{what}: is in no backup"]
    if len(due) != len(found):
        return [f"{what}: has {len(found)} versions, not {len(due)}"]
    wrong = []
    for number, (old, new) in enumerate(zip(due, found, strict=True)):
        keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        if keys:
            wrong.append(f"{what}: version {number} has another {', '.join(keys)}")
    return wrong
