"""The catalogue of images in PostgreSQL, read by role `console`; the pipeline writes it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from psycopg import errors, sql
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool
from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field

from services.console.backends import answering
from services.console.pages import Text
from services.console.problems import Away, NotFound, Refused
from services.console.settings import Catalogue, secret

NAME = "catalogue"
DIGEST = r"^[0-9a-f]{64}$"
PHASH = r"^[0-9a-f]{16}$"
_COLUMNS = """
    sha256 bucket key name device received_at stored_at content_type bytes width height
    original_type original_bytes original_width original_height phash mean std sharpness entropy
    model
""".split()  # noqa: SIM905
_SELECTED = sql.SQL(", ").join(sql.Identifier("images", one) for one in _COLUMNS)


def _written(value: object) -> object:
    """Pydantic takes numbers for seconds, or for milliseconds where they are large."""
    if isinstance(value, str) and value.replace(".", "").lstrip("+-").isdigit():
        raise ValueError("a time with its zone, 2026-01-31T12:00:00Z")
    return value


_Time = Annotated[AwareDatetime, BeforeValidator(_written)]


class Image(BaseModel):
    """A stored image: what the catalogue has of it, its embedding left out."""

    sha256: str
    bucket: str
    key: str
    name: str
    device: str | None
    received_at: datetime
    stored_at: datetime
    content_type: str
    bytes: int
    width: int
    height: int
    original_type: str
    original_bytes: int
    original_width: int
    original_height: int
    phash: str = Field(description="64 bits as hexadecimal digits")
    mean: float
    std: float
    sharpness: float
    entropy: float
    model: str = Field(description="digest of the model that made the embedding")


class Similar(Image):
    """An image beside another: `distance` counts bits (phash), or is 1 - cosine (embedding)."""

    distance: float


class Search(BaseModel):
    """What an image must be like; what is unset is not looked at."""

    name: Text | None = Field(default=None, description="how its name begins")
    device: Text | None = None
    received_from: _Time | None = None
    received_before: _Time | None = None
    original_type: Text | None = Field(default=None, description="image/jpeg, for one")
    min_bytes: int | None = Field(default=None, ge=0, le=1 << 50)
    max_bytes: int | None = Field(default=None, ge=0, le=1 << 50)
    min_width: int | None = Field(default=None, ge=0, le=1 << 30)
    min_height: int | None = Field(default=None, ge=0, le=1 << 30)
    phash: str | None = Field(default=None, pattern=PHASH)
    within: int = Field(default=8, ge=0, le=64, description="bits that may differ from `phash`")

    def conditions(self) -> tuple[list[sql.Composable], dict[str, Any]]:
        """SQL conditions, and the parameters in them."""
        clauses = {
            "name": r"name LIKE %(name)s",
            "device": "device = %(device)s",
            "received_from": "received_at >= %(received_from)s",
            "received_before": "received_at < %(received_before)s",
            "original_type": "original_type = %(original_type)s",
            "min_bytes": "bytes >= %(min_bytes)s",
            "max_bytes": "bytes <= %(max_bytes)s",
            "min_width": "width >= %(min_width)s",
            "min_height": "height >= %(min_height)s",
            "phash": "bit_count((phash # %(phash)s)::bit(64)) <= %(within)s",
        }
        values = {key: value for key in clauses if (value := getattr(self, key)) is not None}
        found: list[sql.Composable] = [sql.SQL(clauses[key]) for key in values]
        if self.name is not None:
            values["name"] = _literally(self.name) + "%"
        if self.phash is not None:
            values |= {"phash": _signed(self.phash), "within": self.within}
        return found, values


class ImageCatalogue:
    """Read-only connections to the catalogue, made when they are needed."""

    name = NAME

    def __init__(self, settings: Catalogue, trust: str | None, timeout_s: float) -> None:
        def options() -> dict[str, Any]:
            return {
                "host": settings.host,
                "port": settings.port,
                "dbname": settings.database,
                "user": settings.user,
                # As it is when a connection is made: it may have been replaced.
                "password": secret(settings.password),
                "connect_timeout": max(int(timeout_s), 2),
                "application_name": "estate-console",
                "autocommit": True,
                "row_factory": dict_row,
                "options": f"-c statement_timeout={int(timeout_s * 1000)} "
                "-c default_transaction_read_only=on",
                **({"sslmode": "verify-full", "sslrootcert": trust} if trust else {}),
            }

        self._pool: ConnectionPool[Any] = ConnectionPool(
            kwargs=options,
            min_size=0,
            max_size=settings.connections,
            timeout=timeout_s,
            max_idle=120,
            max_waiting=64,
            reconnect_timeout=timeout_s,
            check=ConnectionPool.check_connection,
            open=False,
        )
        self._pool.open(wait=False)

    def close(self) -> None:
        """End all connections."""
        self._pool.close()

    def ping(self) -> None:
        """It has the table of images, and lets this role read it."""
        self._rows("SELECT 1 FROM images LIMIT 1")

    def image(self, digest: str) -> Image:
        """An image by its digest. Raises NotFound."""
        query = sql.SQL("SELECT {} FROM images WHERE sha256 = %(digest)s").format(_SELECTED)
        rows = self._rows(query, {"digest": digest})
        if not rows:
            raise NotFound(f"no image has the digest {digest}")
        return Image(**_shown(rows[0]))

    def search(
        self, search: Search, limit: int, cursor: str | None
    ) -> tuple[list[Image], str | None]:
        """A page, newest first, and the cursor of the next one."""
        conditions, values = search.conditions()
        if cursor is not None:
            values["at"], values["digest"] = _position(cursor)
            conditions.append(sql.SQL("(received_at, sha256) < (%(at)s, %(digest)s)"))
        where = sql.SQL("WHERE {}").format(sql.SQL(" AND ").join(conditions or [sql.SQL("true")]))
        query = sql.SQL(
            "SELECT {} FROM images {} ORDER BY received_at DESC, sha256 DESC LIMIT %(limit)s"
        ).format(_SELECTED, where)
        rows = self._rows(query, {**values, "limit": limit + 1})
        images = [Image(**_shown(row)) for row in rows[:limit]]
        more = len(rows) > limit
        return images, _cursor(images[-1]) if more else None

    def similar(
        self, digest: str, by: Literal["phash", "embedding"], most: float | None, limit: int
    ) -> list[Similar]:
        """The images nearest to one, itself left out, nearest first. Raises NotFound.

        `most` is the greatest distance. Every image is looked at: that is a fraction of a second
        for a hundred thousand of them, and ends with 503 where it takes too long.
        """
        self.image(digest)
        query = sql.SQL(_NEAREST).format(
            columns=_SELECTED, distance=sql.SQL(_DISTANCES[by]), alike=sql.SQL(_ALIKE[by])
        )
        rows = self._rows(query, {"digest": digest, "most": most, "limit": limit})
        return [Similar(**_shown(row)) for row in rows]

    def _rows(
        self, query: str | sql.Composable, values: Mapping[str, Any] | None = None
    ) -> Sequence[dict[str, Any]]:
        with answering(NAME):
            try:
                with self._pool.connection() as connection:
                    found: list[dict[str, Any]] = connection.execute(query, values).fetchall()
                    return found
            except errors.UndefinedTable:
                text = "the catalogue is empty: the pipeline has not made its tables yet"
                raise Away(NAME, text) from None
            except errors.QueryCanceled:
                raise Away(NAME, "the search takes too long; narrow it") from None


_DISTANCES = {
    "phash": "bit_count((images.phash # one.phash)::bit(64))::float8",
    "embedding": "1 - (SELECT sum(a::float8 * b) FROM unnest(images.embedding, one.embedding) "
    "AS both_(a, b))",
}
# Vectors of two models have nothing to do with each other.
_ALIKE = {"phash": "true", "embedding": "images.model = one.model"}
_NEAREST = """
SELECT * FROM (
  SELECT {columns}, {distance} AS distance
  FROM images, (SELECT phash, embedding, model FROM images WHERE sha256 = %(digest)s) AS one
  WHERE images.sha256 <> %(digest)s AND {alike}
) AS found
WHERE distance <= coalesce(%(most)s::float8, 'Infinity')
ORDER BY distance, sha256 LIMIT %(limit)s
"""


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "phash": f"{row['phash'] & (1 << 64) - 1:016x}"}


def _signed(phash: str) -> int:
    value = int(phash, 16)
    return value - (1 << 64) if value >= 1 << 63 else value


def _literally(text: str) -> str:
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


def _cursor(last: Image) -> str:
    text = json.dumps([last.received_at.isoformat(), last.sha256], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[datetime, str]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        at, digest = json.loads(base64.urlsafe_b64decode(padded))
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None or not isinstance(digest, str) or len(digest) != 64:
            raise ValueError
        int(digest, 16)
    except (ValueError, TypeError, RecursionError, OverflowError):
        raise Refused(422, "query.cursor: not one that this console gave") from None
    return moment, digest
