"""The object store: buckets with usage, and the bytes of images."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError
from pydantic import BaseModel, Field

from services.console.backends import answering
from services.console.problems import NotFound
from services.console.settings import Objects, secret

NAME = "objects"
_CHUNK = 1 << 18
_MISSING = ("NoSuchKey", "NoSuchBucket", "404", "NotFound")
_REFUSED = ("AccessDenied", "403", "Forbidden")


class Quota(BaseModel):
    """What may be stored at most; null: no limit, or one that this user is not told of."""

    bytes: int | None
    objects: int | None
    owner_bytes: int | None = Field(description="declared: of all buckets of its owner together")


class Bucket(BaseModel):
    """A bucket as the console's user may see it; null is what the store does not tell him."""

    name: str
    readable: bool
    objects: int | None = Field(description="versions included")
    bytes: int | None = Field(description="of all objects")
    quota: Quota
    versioning: bool | None
    lifecycle_rules: int | None


class ObjectLake:
    """The store by one client, which is made anew when its keys change."""

    name = NAME

    def __init__(self, settings: Objects, trust: str | None, timeout_s: float) -> None:
        self._settings, self._timeout = settings, timeout_s
        self._trust: str | None = trust
        self._lock = threading.Lock()
        self._made: tuple[tuple[str, str], Any] | None = None

    def client(self) -> Any:
        """An S3 client with the keys as they are now."""
        keys = secret(self._settings.access_key), secret(self._settings.secret_key)
        with self._lock:
            if self._made is None or self._made[0] != keys:
                self._made = keys, self._connect(*keys)
            return self._made[1]

    def _connect(self, access_key: str, secret_key: str) -> Any:
        made: Any = botocore.session.Session().create_client(
            "s3",
            endpoint_url=self._settings.endpoint,
            region_name=self._settings.region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            verify=self._trust if self._settings.endpoint.startswith("https") else None,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                connect_timeout=self._timeout,
                read_timeout=self._timeout,
                retries={"total_max_attempts": 2, "mode": "standard"},
                max_pool_connections=32,
            ),
        )
        # Newer releases of radosgw count only when they are asked to.
        made.meta.events.register("before-sign.s3.HeadBucket", _with_statistics)
        return made

    def ping(self) -> None:
        """It has the bucket of images, and lets the user see it."""
        self.client().head_bucket(Bucket=self._settings.images)

    def names(self) -> list[str]:
        """The buckets that are declared, by name."""
        return sorted(self._settings.buckets)

    def bucket(self, name: str) -> Bucket:
        """A declared bucket. Raises NotFound."""
        if name not in self._settings.buckets:
            raise NotFound(f"no bucket is called {name}")
        with answering(NAME):
            client = self.client()
            try:
                head = client.head_bucket(Bucket=name)
            except ClientError as error:
                if _code(error) in _MISSING:
                    raise NotFound(f"no bucket is called {name}") from None
                if _code(error) not in _REFUSED:
                    raise
                return self._closed(name)
            headers = head["ResponseMetadata"]["HTTPHeaders"]
            return Bucket(
                name=name,
                readable=True,
                objects=_count(headers, "x-rgw-object-count"),
                bytes=_count(headers, "x-rgw-bytes-used"),
                quota=Quota(
                    bytes=_count(headers, "x-rgw-quota-bucket-size"),
                    objects=_count(headers, "x-rgw-quota-bucket-objects"),
                    owner_bytes=self._settings.buckets[name],
                ),
                versioning=_versioned(client, name),
                lifecycle_rules=_rules(client, name),
            )

    def _closed(self, name: str) -> Bucket:
        return Bucket(
            name=name,
            readable=False,
            objects=None,
            bytes=None,
            quota=Quota(bytes=None, objects=None, owner_bytes=self._settings.buckets[name]),
            versioning=None,
            lifecycle_rules=None,
        )

    # -- objects -------------------------------------------------------------------------------

    def get(self, bucket: str, key: str, longest: int | None = None) -> bytes:
        """An object, or as much of it as `longest` and one byte more. Raises NotFound."""
        with answering(NAME):
            found = self._found(bucket, key)
            body = found["Body"]
            return bytes(body.read() if longest is None else body.read(longest + 1))

    def stream(self, bucket: str, key: str) -> tuple[int, str, Iterator[bytes]]:
        """Length, content type and the bytes. Raises NotFound before the first of them."""
        with answering(NAME):
            found = self._found(bucket, key)
        kind = str(found.get("ContentType", "application/octet-stream"))
        return int(found["ContentLength"]), kind, found["Body"].iter_chunks(_CHUNK)

    def _found(self, bucket: str, key: str) -> Any:
        try:
            return self.client().get_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if _code(error) in _MISSING:
                raise NotFound(f"bucket {bucket} has no object {key}") from None
            raise

    def link(self, bucket: str, key: str, lifetime_s: int) -> str:
        """An address that hands the object to whoever has it, for a while."""
        with answering(NAME):
            return str(
                self.client().generate_presigned_url(
                    "get_object", {"Bucket": bucket, "Key": key}, ExpiresIn=lifetime_s
                )
            )

    def keys(self, bucket: str, prefix: str = "") -> Iterable[str]:
        """The keys of a prefix, in order."""
        with answering(NAME):
            pages = self.client().get_paginator("list_objects_v2")
            return [
                str(item["Key"])
                for page in pages.paginate(Bucket=bucket, Prefix=prefix)
                for item in page.get("Contents", [])
            ]

    @property
    def images(self) -> str:
        """The bucket of images."""
        return self._settings.images

    @property
    def datasets(self) -> str:
        """The bucket of dataset versions."""
        return self._settings.datasets


def _with_statistics(request: Any, **_: Any) -> None:
    if "read-stats" not in request.url:  # a request that is tried again is signed again
        request.url += "?read-stats=true"


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code"))


def _count(headers: dict[str, str], name: str) -> int | None:
    value = headers.get(name)
    return int(value) if value is not None and int(value) >= 0 else None


def _versioned(client: Any, bucket: str) -> bool | None:
    try:
        return bool(client.get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled")
    except ClientError as error:
        if _code(error) in _REFUSED:
            return None
        raise


def _rules(client: Any, bucket: str) -> int | None:
    try:
        return len(client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"])
    except ClientError as error:
        if _code(error) == "NoSuchLifecycleConfiguration":
            return 0
        if _code(error) in _REFUSED:
            return None
        raise
