"""What tusd keeps in the bucket, read: finished uploads and what their senders said; receipts.

tusd's S3 store has `uploads/<id>` when an upload is finished, `uploads/<id>.info` from its
beginning on, and `uploads/<id>.part` between two requests. Identifiers begin with the time, so that
a listing from some key on is a listing of what is newer.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError

from services.events import Reason
from services.transfer.settings import Settings, secret

UPLOADS, RECEIPTS = "uploads/", "receipts/"
TAG = "estate-quarantine"
_SUFFIXES = (".info", ".part")
TIME_DIGITS = 11
"""Of a name: how many letters are the time."""


def new_id(now: float | None = None, *, home: str = "0") -> str:
    """A name for an upload: milliseconds since 1970 in hexadecimal, `home`, 96 random bits.

    `home` is the ordinal of the replica where it begins: proxies lead what goes on to it.
    """
    moment = int((time.time() if now is None else now) * 1000)
    return f"{moment:0{TIME_DIGITS}x}-{home}-{secrets.token_hex(12)}"


def first_id(at: float) -> str:
    """What sorts before all names made at this time or later."""
    return f"{max(0, int(at * 1000)):0{TIME_DIGITS}x}"


@dataclass(frozen=True)
class Finished:
    """A finished upload."""

    id: str
    modified: datetime
    length: int


@dataclass(frozen=True)
class Upload:
    """An upload as its sender declared it, and where tusd has put it."""

    id: str
    bucket: str
    key: str
    declared_length: int
    metadata: dict[str, str]


class Store:
    """The bucket. All methods raise botocore's errors when it does not answer."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client, self.bucket = client, bucket

    def uploads(self, since: str) -> tuple[list[Finished], list[str]]:
        """The uploads whose names are not before `since`: finished ones, and unfinished names."""
        finished: dict[str, Finished] = {}
        unfinished = []
        for item in self._listed(UPLOADS, since):
            name = item["Key"].removeprefix(UPLOADS)
            if not name.endswith(_SUFFIXES):
                finished[name] = Finished(name, item["LastModified"], item["Size"])
            elif name.endswith(".info") and name.removesuffix(".info") not in finished:
                # An object's name comes before that of its description.
                unfinished.append(name.removesuffix(".info"))
        return list(finished.values()), unfinished

    def receipts(self, since: str) -> Iterator[str]:
        """The names of uploads with a receipt, in their order."""
        for item in self._listed(RECEIPTS, since):
            yield item["Key"].removeprefix(RECEIPTS).removesuffix(".json")

    def _listed(self, prefix: str, since: str) -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix, StartAfter=prefix + since
        )
        for page in pages:
            yield from page.get("Contents", [])

    def upload(self, upload_id: str) -> Upload | None:
        """What was declared; None when there is no such upload."""
        text = self._text(f"{UPLOADS}{upload_id}.info")
        if text is None:
            return None
        info = json.loads(text)
        return Upload(
            id=upload_id,
            bucket=self.bucket,
            key=f"{UPLOADS}{upload_id}",
            declared_length=info["Size"],
            metadata=info.get("MetaData") or {},
        )

    def stat(self, upload_id: str) -> Finished | None:
        """The finished upload; None when it is not finished."""
        try:
            found = self._client.head_object(Bucket=self.bucket, Key=f"{UPLOADS}{upload_id}")
        except ClientError as error:
            if _missing(error):
                return None
            raise
        return Finished(upload_id, found["LastModified"], found["ContentLength"])

    def complete(self, upload_id: str, before: float) -> bool:
        """Complete an upload whose last byte came before a time, and whose tusd died then.

        tusd itself says of such a one that all is there, and never completes it. Whether it did.
        """
        text = self._text(f"{UPLOADS}{upload_id}.info")
        info = json.loads(text) if text else {}
        _, _, multipart = str(info.get("ID", "")).partition("+")
        if not multipart or not info.get("Size"):
            return False
        where = {
            "Bucket": self.bucket,
            "Key": f"{UPLOADS}{upload_id}",
            "UploadId": multipart,
        }
        try:
            pages = self._client.get_paginator("list_parts").paginate(**where)
            parts = [part for page in pages for part in page.get("Parts", [])]
        except ClientError as error:
            if _missing(error):
                return False
            raise
        whole = [part for number, part in enumerate(parts, 1) if part["PartNumber"] == number]
        if sum(part["Size"] for part in whole) != info["Size"] or any(
            part["LastModified"].timestamp() > before for part in parts
        ):
            return False
        listed = [{"PartNumber": part["PartNumber"], "ETag": part["ETag"]} for part in whole]
        self._client.complete_multipart_upload(**where, MultipartUpload={"Parts": listed})
        return True

    def open(self, key: str) -> Any:
        """The stored bytes as a stream: `read(n)` and `close()`."""
        return self._client.get_object(Bucket=self.bucket, Key=key)["Body"]

    def quarantine(self, key: str, reason: Reason) -> None:
        """Mark an object; it stays where it is."""
        tags = {"TagSet": [{"Key": TAG, "Value": reason}]}
        self._client.put_object_tagging(Bucket=self.bucket, Key=key, Tagging=tags)

    def receipt(self, upload_id: str) -> str | None:
        """The receipt of an upload as JSON; None when it has none yet."""
        return self._text(f"{RECEIPTS}{upload_id}.json")

    def write_receipt(self, upload_id: str, text: str) -> None:
        """Write the receipt: what it tells of is in Kafka."""
        self._client.put_object(
            Bucket=self.bucket,
            Key=f"{RECEIPTS}{upload_id}.json",
            Body=text.encode(),
            ContentType="application/json",
        )

    def _text(self, key: str) -> str | None:
        try:
            found = self._client.get_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if _missing(error):
                return None
            raise
        return str(found["Body"].read().decode())


def _missing(error: ClientError) -> bool:
    return error.response.get("Error", {}).get("Code") in (
        *("404", "NoSuchKey", "NoSuchUpload", "NotFound"),
    )


def connect(settings: Settings) -> Store:
    """The store of these settings; nothing is asked of it yet."""
    config = Config(
        region_name=settings.region,
        s3={"addressing_style": "path"},
        retries={"mode": "standard", "max_attempts": 4},
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=settings.workers + 8,
        # Checksums in trailers: radosgw knows them from a later release on.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = botocore.session.Session().create_client(
        "s3",
        endpoint_url=settings.endpoint,
        aws_access_key_id=secret(settings.access_key),
        aws_secret_access_key=secret(settings.secret_key),
        verify=str(settings.trust),
        config=config,
    )
    return Store(client, settings.bucket)
