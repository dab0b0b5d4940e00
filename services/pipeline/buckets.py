"""Buckets of S3, for the services that keep images and datasets in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError

_ANSWER_S = 60


def client(endpoint: str, region: str, *, access_key: str, secret_key: str, trust: Path) -> Any:
    """A client of the object store, which `trust` verifies; nothing is asked of it yet."""
    config = Config(
        region_name=region,
        s3={"addressing_style": "path"},
        retries={"mode": "standard", "max_attempts": 5},
        connect_timeout=5,
        read_timeout=_ANSWER_S,
        # Checksums in trailers: radosgw knows them from a later release on.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return botocore.session.Session().create_client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        verify=str(trust),
        config=config,
    )


class Bucket:
    """A bucket of S3. Methods raise botocore's errors when it does not answer."""

    def __init__(self, client: Any, name: str) -> None:
        self._client, self.name = client, name

    def put(self, key: str, content: bytes, content_type: str) -> None:
        """Store it under its key."""
        self._client.put_object(Bucket=self.name, Key=key, Body=content, ContentType=content_type)

    def get(self, key: str) -> bytes:
        """The content. Raises LookupError when there is no such key."""
        return read_object(self._client, self.name, key)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys of a prefix, in order."""
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.name, Prefix=prefix):
            for item in page.get("Contents", []):
                yield str(item["Key"])


def read_object(client: Any, bucket: str, key: str, range_: str | None = None) -> bytes:
    """An object, or a range of it (`bytes=0-9`). Raises LookupError when it is not there."""
    extra = {"Range": range_} if range_ else {}
    try:
        found = client.get_object(Bucket=bucket, Key=key, **extra)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code")
        if code in ("NoSuchKey", "404", "NotFound", "InvalidRange"):
            raise LookupError(f"s3://{bucket}/{key}: {code}") from None
        raise
    return bytes(found["Body"].read())
