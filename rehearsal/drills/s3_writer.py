"""Inside the sandbox: a client that puts objects while something is broken."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from components.datalake.ceph_buckets import client
from components.datalake.ceph_config import REGION, VERIFY_BUCKET, VERIFY_USER
from rehearsal import paths
from rehearsal.access import Access
from rehearsal.drills.record import Record

_OBJECT = bytes(range(256)) * 256  # 64 KiB
_SETTLE_S = 60.0


class S3Writer(threading.Thread):
    """Puts one object of 64 KiB after the other; what botocore retries by itself is no error."""

    def __init__(self, access: Access, folder: Path, run: str) -> None:
        super().__init__(name="s3-writer", daemon=True)
        self.record = Record("s3")
        self._authority = folder / "ca.crt"
        self._prefix = f"drill-{run}/"
        self._asked = threading.Event()
        self.trust(access.ca)
        self._s3 = client(
            access.s3_endpoint, REGION, str(self._authority), VERIFY_USER, access.s3_verify_key
        )

    def trust(self, pem: str) -> None:
        """Connections made from now on read it."""
        paths.replace(self._authority, pem)

    def run(self) -> None:
        """Write until asked to stop."""
        while not self._asked.wait(0.01):
            number = self.record.attempts
            self.record.attempts += 1
            try:
                self._s3.put_object(
                    Bucket=VERIFY_BUCKET, Key=f"{self._prefix}{number}", Body=_OBJECT
                )
            except (BotoCoreError, ClientError) as error:
                self.record.error(type(error).__name__)
                time.sleep(0.05)
            else:
                self.record.acknowledge(number)

    def stop(self) -> dict[str, Any]:
        """List all objects, and delete them."""
        self._asked.set()
        self.join(timeout=60)
        deadline = time.monotonic() + _SETTLE_S
        while True:
            try:
                found = dict(self._listed())
                stored = {
                    int(key.rpartition("/")[2]) for key, n in found.items() if n == len(_OBJECT)
                }
                for key in found:
                    self._s3.delete_object(Bucket=VERIFY_BUCKET, Key=key)
                return self.record.summary(stored)
            except (BotoCoreError, ClientError) as error:
                if time.monotonic() > deadline:
                    raise OSError(f"S3: {error}") from None
                time.sleep(0.5)

    def _listed(self) -> Iterator[tuple[str, int]]:
        pages = self._s3.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=VERIFY_BUCKET, Prefix=self._prefix):
            for one in page.get("Contents", ()):
                yield one["Key"], one["Size"]
