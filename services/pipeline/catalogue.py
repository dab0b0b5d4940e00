"""The catalogue in PostgreSQL: who claims an image, what is stored, what became of everything."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from services.pipeline.ports import Described, Duplicate, Prepared, Receipt, source_of
from services.pipeline.preprocess import CONTENT_TYPE

MIGRATIONS = Path(__file__).with_name("migrations")
_MIGRATING, _CLAIMING = 0x6573746174650001, 0x6573746174650002
"""Advisory locks: `estate`, and a number."""

VERIFY_DEVICE = "estate-verify"
"""The sender of images that checks send."""

Connection = psycopg.Connection[Any]


class Catalogue:
    """One connection, in autocommit; every method is one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @contextmanager
    def _transaction(self, lock: int | None = None) -> Iterator[Connection]:
        with self._connection.transaction():
            if lock is not None:
                self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (lock,))
            yield self._connection

    # -- the schema ----------------------------------------------------------------------------

    def migrate(self, readers: Sequence[str] = ()) -> list[str]:
        """Apply what is not applied yet, and let `readers` select; returns what was applied.

        A reader who has no role yet is left out: the next migration lets him read.
        """
        applied = []
        with self._transaction(_MIGRATING) as session:
            session.execute(
                "CREATE TABLE IF NOT EXISTS migrations "
                "(name text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
            )
            done = {str(name) for (name,) in session.execute("SELECT name FROM migrations")}
            for file in sorted(MIGRATIONS.glob("*.sql")):
                if file.stem in done:
                    continue
                session.execute(file.read_bytes())
                session.execute("INSERT INTO migrations (name) VALUES (%s)", (file.stem,))
                applied.append(file.stem)
            known = session.execute(
                "SELECT rolname FROM pg_roles WHERE rolname = ANY (%s)", (list(readers),)
            ).fetchall()
            for (reader,) in known:
                grant = sql.SQL("GRANT SELECT ON claims, images, receipts, migrations TO {}")
                session.execute(grant.format(sql.Identifier(reader)))
        return applied

    # -- what a batch asks ---------------------------------------------------------------------

    def known(self, sources: Collection[str]) -> set[str]:
        """Those of `sources` that have a receipt."""
        rows = self._connection.execute(
            "SELECT source FROM receipts WHERE source = ANY (%s)", (list(sources),)
        )
        return {str(source) for (source,) in rows}

    def claim(
        self, images: Sequence[Prepared], near_bits: int
    ) -> tuple[list[Prepared], list[Duplicate]]:
        """Claim what is new, in order; the rest are duplicates of what was claimed before.

        What this source claimed in a run that ended half-way is its own again. One batch at a time
        claims, so that two that look alike never both do.
        """
        mine, duplicates = [], []
        with self._transaction(_CLAIMING) as session:
            for image in images:
                if (of := _claimed(session, image, near_bits)) is None:
                    mine.append(image)
                else:
                    duplicates.append(of)
        return mine, duplicates

    def save(self, described: Sequence[Described], receipts: Sequence[Receipt], bucket: str) -> int:
        """Add images and receipts in one transaction; returns how many receipts were new."""
        with self._transaction() as session, session.cursor() as cursor:
            cursor.executemany(_INSERT_IMAGE, [_image_row(one, bucket) for one in described])
            new = 0
            for receipt in receipts:
                cursor.execute(_INSERT_RECEIPT, vars(receipt))
                new += cursor.rowcount
        return new

    # -- what others ask -----------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """State -> how many receipts; every state is there."""
        rows = self._connection.execute("SELECT state, count(*) FROM receipts GROUP BY state")
        return {"stored": 0, "duplicate": 0, "quarantined": 0} | {
            str(state): int(count) for state, count in rows
        }

    def reasons(self) -> dict[str, int]:
        """Reason -> how many were quarantined for it."""
        rows = self._connection.execute(
            "SELECT reason, count(*) FROM receipts WHERE state = 'quarantined' GROUP BY reason"
        )
        return {str(reason): int(count) for reason, count in rows}

    def receipts(self) -> dict[str, tuple[str, str | None]]:
        """Source -> state and the image's digest, of everything."""
        rows = self._connection.execute("SELECT source, state, image FROM receipts")
        return {str(source): (str(state), image) for source, state, image in rows}

    def images(self, where: str = "", parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The images that a condition over the table's columns admits, in order of their digests.

        `where` is SQL of the program's own; what users say goes in as parameters.
        """
        condition = sql.SQL("WHERE " + where if where else "")
        query = sql.SQL("SELECT * FROM images {} ORDER BY sha256").format(condition)
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, list(parameters)).fetchall()

    def for_dataset(
        self, conditions: Sequence[str] = (), parameters: Sequence[Any] = ()
    ) -> list[dict[str, Any]]:
        """The images that meet all conditions (as in `images`), without those of checks."""
        where = " AND ".join(["device IS DISTINCT FROM %s", *conditions])
        return self.images(where, [VERIFY_DEVICE, *parameters])


def signed(value: int) -> int:
    """64 bits as PostgreSQL's bigint has them."""
    return value - (1 << 64) if value >= 1 << 63 else value


def bands(phash: int) -> list[int]:
    """The four parts of a hash, each with its place: what an index finds near hashes by."""
    return [(place << 16) | (phash >> (16 * place)) & 0xFFFF for place in range(4)]


def _claimed(session: Connection, image: Prepared, near_bits: int) -> Duplicate | None:
    """None when the image is its source's now; otherwise of what it is a duplicate."""
    event, source = image.event, source_of(image.event)
    row = session.execute(
        "SELECT source, sha256 FROM claims WHERE source_sha256 = %s OR source = %s",
        (event.sha256, source),
    ).fetchone()
    values = {
        "source_sha256": event.sha256,
        "sha256": image.sha256,
        "source": source,
        "phash": signed(image.phash),
        "bands": bands(image.phash),
    }
    if row is not None and row[0] == source:
        # Of a run that ended half-way; another release may have normalised it differently.
        session.execute(
            "UPDATE claims SET sha256 = %(sha256)s, phash = %(phash)s, bands = %(bands)s "
            "WHERE source = %(source)s",
            values,
        )
        return None
    if row is not None:
        return Duplicate(event, row[1], "the same bytes")
    near = session.execute(
        "SELECT sha256, bit_count((phash # %(phash)s)::bit(64)) AS apart FROM claims "
        "WHERE bands && %(bands)s AND bit_count((phash # %(phash)s)::bit(64)) <= %(near)s "
        "ORDER BY apart, claimed_at, sha256 LIMIT 1",
        values | {"near": near_bits},
    ).fetchone()
    if near is not None:
        return Duplicate(event, near[0], f"looks the same: {near[1]} of 64 bits differ")
    session.execute(
        "INSERT INTO claims (source_sha256, sha256, source, phash, bands) VALUES "
        "(%(source_sha256)s, %(sha256)s, %(source)s, %(phash)s, %(bands)s)",
        values,
    )
    return None


def row_of(one: Described, bucket: str) -> dict[str, Any]:
    """An image as the catalogue and the documents describe it."""
    image, event = one.image, one.image.event
    return {
        "sha256": image.sha256,
        "source_sha256": event.sha256,
        "source": source_of(event),
        "bucket": bucket,
        "key": image.sha256,
        "name": event.name,
        "device": event.device,
        "received_at": event.received_at,
        "content_type": CONTENT_TYPE,
        "bytes": len(image.content),
        "width": image.width,
        "height": image.height,
        "original_type": event.content_type,
        "original_bytes": event.length,
        "original_width": image.original_width,
        "original_height": image.original_height,
        **one.statistics,
        "embedding": one.embedding,
        "model": one.model,
    }


def _image_row(one: Described, bucket: str) -> dict[str, Any]:
    return row_of(one, bucket) | {"phash": signed(one.image.phash)}


_COLUMNS = [
    "sha256",
    "source_sha256",
    "source",
    "bucket",
    "key",
    "name",
    "device",
    "received_at",
    "content_type",
    "bytes",
    "width",
    "height",
    "original_type",
    "original_bytes",
    "original_width",
    "original_height",
    "phash",
    "mean",
    "std",
    "sharpness",
    "entropy",
    "embedding",
    "model",
]
_INSERT_IMAGE = sql.SQL("INSERT INTO images ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
    sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)),
    sql.SQL(", ").join(map(sql.Placeholder, _COLUMNS)),
)
_INSERT_RECEIPT = (
    "INSERT INTO receipts (source, sha256, name, device, content_type, length, received_at, state, "
    "image, reason, detail) VALUES (%(source)s, %(sha256)s, %(name)s, %(device)s, "
    "%(content_type)s, %(length)s, %(received_at)s, %(state)s, %(image)s, %(reason)s, %(detail)s) "
    "ON CONFLICT (source) DO NOTHING"
)
