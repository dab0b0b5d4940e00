"""Inside the sandbox: what the lake has of a drill's images, read from the catalogue and stores."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from botocore.exceptions import BotoCoreError, ClientError
from psycopg import sql
from pymongo import MongoClient

from components.datalake.mongodb_config import PORT as MONGODB_PORT
from components.datalake.mongodb_config import VERIFY_USER
from components.datalake.pipeline_config import CATALOGUE, READER
from components.datalake.transfer_config import BUCKET
from rehearsal.access import Access
from services.pipeline.buckets import Bucket, client
from services.transfer.store import RECEIPTS, UPLOADS

REGION = "us-east-1"
_IMAGES, _DATABASE = "images", "lake"


def take_away(access: Access, uploads: Iterable[str]) -> None:
    """Delete what was sent only to be measured or killed: the store of a rehearsal is small.

    Their events and rows stay; a pipeline that comes later finds no bytes and says so. Raises the
    errors of botocore.
    """
    with tempfile.TemporaryDirectory(prefix="estate-s3-") as folder:
        authority = Path(folder) / "ca.crt"
        authority.write_text(access.ca)
        s3 = client(
            access.s3_endpoint,
            REGION,
            access_key=access.s3_access_key,
            secret_key=access.s3_secret_key,
            trust=authority,
        )
        for name in uploads:
            for key in (f"{UPLOADS}{name}", f"{UPLOADS}{name}.info", f"{RECEIPTS}{name}.json"):
                s3.delete_object(Bucket=BUCKET, Key=key)


@dataclass(frozen=True)
class Receipt:
    """What the catalogue says became of something; `image` is the digest of what is stored."""

    name: str
    source: str
    sha256: str
    state: str
    reason: str | None
    image: str | None


@dataclass(frozen=True)
class Row:
    """An image of the catalogue, by the digest of its stored bytes."""

    sha256: str
    source: str
    name: str


@dataclass
class Found:
    """What there is of a run. `rows` are its own images, `named` all that its receipts name.

    `elsewhere` says of digests what S3 or the documents lack; `extra` are objects and documents
    that no image of the catalogue has.
    """

    receipts: list[Receipt]
    rows: list[Row]
    named: list[Row]
    elsewhere: dict[str, str] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)

    def json_object(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def of(cls, value: dict[str, Any]) -> Found:
        """The inverse of `json_object`."""
        return cls(
            [Receipt(**one) for one in value["receipts"]],
            [Row(**one) for one in value["rows"]],
            [Row(**one) for one in value["named"]],
            value["elsewhere"],
            value["extra"],
        )


class Lake:
    """Reads as those do who may read all of it. `folder` takes the authority's certificate.

    Methods raise the errors of psycopg, botocore and pymongo.
    """

    def __init__(self, access: Access, folder: Path) -> None:
        self._access, self._authority = access, folder / "ca.crt"
        self._authority.write_text(access.ca)
        self._images = Bucket(
            client(
                access.s3_endpoint,
                REGION,
                access_key=access.reader_access_key,
                secret_key=access.reader_secret_key,
                trust=self._authority,
            ),
            _IMAGES,
        )

    def catalogue(self) -> psycopg.Connection[Any]:
        """A session that may read the catalogue."""
        return psycopg.connect(
            host=self._access.primary_host,
            port=self._access.primary_port,
            dbname=CATALOGUE,
            user=READER,
            password=self._access.reader_password,
            sslmode="verify-full",
            sslrootcert=str(self._authority),
            autocommit=True,
            connect_timeout=5,
        )

    def documents(self) -> MongoClient[dict[str, Any]]:
        """A client of the documents."""
        return MongoClient[dict[str, Any]](
            self._access.mongodb_host,
            MONGODB_PORT,
            username=VERIFY_USER,
            password=self._access.mongodb_password,
            tls=True,
            tlsCAFile=str(self._authority),
            serverSelectionTimeoutMS=10_000,
        )

    def unnamed(self) -> set[str]:
        """Objects of the bucket that no image of the catalogue names."""
        keys = set(self._images.keys())
        with self.catalogue() as session:
            return keys - {str(key) for (key,) in session.execute("SELECT sha256 FROM images")}

    def missing(self, digests: Collection[str]) -> dict[str, str]:
        """Digest -> what S3 or the documents do not have of it, or have otherwise."""
        wrong = {}
        with self.documents() as documents:
            asked = {"_id": {"$in": list(digests)}}
            there = documents[_DATABASE]["images"].find(asked, {"_id": 1})
            described = {str(one["_id"]) for one in there}
        for digest in digests:
            try:
                content = self._images.get(digest)
            except (LookupError, BotoCoreError, ClientError) as error:
                wrong[digest] = f"S3: {error}"
                continue
            if hashlib.sha256(content).hexdigest() != digest:
                wrong[digest] = f"S3 has other bytes than {digest}"
            elif digest not in described:
                wrong[digest] = f"no document {digest}"
        return wrong

    def described(self, device: str) -> set[str]:
        """The digests of all documents of a device."""
        with self.documents() as documents:
            found = documents[_DATABASE]["images"].find({"device": device}, {"_id": 1})
            return {str(one["_id"]) for one in found}


def count(session: psycopg.Connection[Any], device: str) -> int:
    """How many receipts a device has."""
    query = "SELECT count(*) FROM receipts WHERE device = %s"
    row = session.execute(query, (device,)).fetchone()
    return int(row[0]) if row else 0


def found(session: psycopg.Connection[Any], device: str) -> Found:
    """What the catalogue has of a device's images."""
    receipts = session.execute(
        "SELECT name, source, sha256, state, reason, image FROM receipts WHERE device = %s",
        (device,),
    ).fetchall()
    named = {one[5] for one in receipts if one[5] is not None}
    return Found(
        [Receipt(*one) for one in receipts],
        _rows(session, sql.SQL("device = %s"), device),
        _rows(session, sql.SQL("sha256 = ANY (%s)"), sorted(named)),
    )


def _rows(
    session: psycopg.Connection[Any], condition: sql.SQL, value: str | Iterable[str]
) -> list[Row]:
    query = sql.SQL("SELECT sha256, source, name FROM images WHERE {}").format(condition)
    return [Row(*one) for one in session.execute(query, (value,)).fetchall()]
