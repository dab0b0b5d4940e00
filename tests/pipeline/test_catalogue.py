from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from services.pipeline.catalogue import MIGRATIONS, Catalogue, bands, signed
from services.pipeline.ports import Prepared
from tests.pipeline.conftest import received


def prepared(number: int, phash: int, **values: Any) -> Prepared:
    event = received(f"bytes {number}".encode(), **({"upload_id": f"u{number}"} | values))
    return Prepared(event, b"", f"{number:064x}", phash, 8, 8, 8, 8)


@pytest.fixture
def role(server: str) -> Iterator[str]:
    with psycopg.connect(f"{server} dbname=postgres", autocommit=True) as session:
        session.execute("CREATE ROLE console LOGIN")
        yield "console"
        session.execute("DROP ROLE console")


def test_migrations_are_applied_once_and_readers_read(dsn: str, role: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as session:
        catalogue = Catalogue(session)
        assert catalogue.migrate([role, "nobody-yet"]) == [one.stem for one in MIGRATIONS.glob("*")]
        assert catalogue.migrate([role]) == []
        with psycopg.connect(f"{dsn} user=console", autocommit=True) as reader:
            for table in ("images", "receipts", "claims"):
                assert reader.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute("DELETE FROM images")
        session.execute("DROP OWNED BY console")


@pytest.mark.parametrize("flipped", [0, 1, 2, 3, 4, 8])
def test_three_bits_apart_is_the_same_and_four_are_not(catalogue: Catalogue, flipped: int) -> None:
    one = 0xF0F0_1234_5678_9ABC
    # Spread over the four parts: the worst case of the index.
    other = one ^ sum(1 << (17 * place % 64) for place in range(flipped))
    mine, _ = catalogue.claim([prepared(1, one)], 3)
    assert len(mine) == 1
    mine, duplicates = catalogue.claim([prepared(2, other)], 3)
    assert (len(mine), len(duplicates)) == ((0, 1) if flipped <= 3 else (1, 0))
    if duplicates:
        assert duplicates[0].of == f"{1:064x}"


def test_the_same_bytes_are_a_duplicate_and_the_same_source_is_not(catalogue: Catalogue) -> None:
    first = prepared(1, 7)
    again = Prepared(received(b"bytes 1", upload_id="u9"), b"", first.sha256, 7, 8, 8, 8, 8)
    mine, duplicates = catalogue.claim([first, again], 3)
    assert (mine, [one.detail for one in duplicates]) == ([first], ["the same bytes"])
    assert catalogue.claim([first], 3) == ([first], [])


def test_two_that_claim_at_once_get_one_claim_between_them(dsn: str, catalogue: Catalogue) -> None:
    won: list[int] = []

    def claim(number: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as session:
            for round_ in range(20):
                phash = round_ * 0x0101_0F0F_3333_5555 % (1 << 64)
                mine, _ = Catalogue(session).claim([prepared(number * 100 + round_, phash)], 0)
                won.extend(round_ for _ in mine)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(20))


def test_64_bits_fit_and_parts_name_their_place() -> None:
    assert signed((1 << 64) - 1) == -1
    assert signed(5) == 5
    assert bands(0xAAAA_BBBB_CCCC_DDDD) == [0xDDDD, 0x1CCCC, 0x2BBBB, 0x3AAAA]
