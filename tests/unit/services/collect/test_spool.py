from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path

import pytest

from services.collect import spool as module
from services.collect.spool import Entry, Spool, Stream


def entry(id_: int, size: int = 100) -> Entry:
    return Entry(id_, Stream(f"d{id_ % 3}", 1 << 52), id_, 1_700_000_000_000 + id_, b"x" * size)


def entries(first: int, last: int) -> list[Entry]:
    return [entry(id_) for id_ in range(first, last + 1)]


def ids(found: list[Entry]) -> list[int]:
    return [one.id for one in found]


def test_what_was_appended_comes_back_whole_and_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20, segment=500)
    dead = Entry(7, Stream("d", 0), 0, 5, b"\x00letter")
    assert spool.append(entries(1, 6)) == 6
    assert spool.append([dead]) == 1
    assert [*spool.read(4), *spool.read(10)] == [*entries(1, 6), dead]
    assert spool.read(10) == [] and dead.dead
    spool.append(entries(8, 9))
    assert ids(spool.read(10)) == [8, 9]
    spool.close()
    assert list(Spool(tmp_path, 1 << 20)) == [*entries(1, 6), dead, *entries(8, 9)]


def test_what_is_not_needed_goes_with_its_segment(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20, segment=300)
    for id_ in range(1, 10):
        spool.append([entry(id_)])
    size = spool.size
    spool.advance(6)
    assert 0 < spool.size < size
    assert ids(list(spool)) == [6, 7, 8, 9]
    spool.advance(10)
    assert spool.size == 0 and not list(tmp_path.glob("*.segment"))
    # Ids are not used again, though no entry tells of them.
    spool.close()
    assert Spool(tmp_path, 1 << 20).last == 9


def test_it_holds_no_more_than_it_may(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 700)
    assert spool.append(entries(1, 9)) == 4
    assert spool.append(entries(5, 5)) == 0 and spool.size <= 700
    spool.advance(5)
    assert spool.append(entries(5, 9)) == 4


def test_a_full_disk_is_a_full_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, 1 << 20)
    spool.append(entries(1, 2))

    def full(file: int, data: bytes) -> None:
        os.write(file, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, "_write", full)
        assert spool.append(entries(3, 4)) == 0
    assert spool.append(entries(3, 4)) == 2
    spool.close()
    again = Spool(tmp_path, 1 << 20)
    assert ids(list(again)) == [1, 2, 3, 4] and not again.torn


def test_a_disk_that_fails_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, 1 << 20)

    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(OSError, match="Input/output"):
        spool.append(entries(1, 1))


def test_an_unfinished_write_is_cut_off_at_any_byte(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    spool = Spool(whole, 1 << 20)
    spool.append(entries(1, 2))
    kept = spool.size
    spool.append([entry(3)])
    spool.close()
    (name,) = (path.name for path in whole.glob("*.segment"))
    for length in range(kept, (whole / name).stat().st_size):
        folder = tmp_path / str(length)
        shutil.copytree(whole, folder)
        os.truncate(folder / name, length)
        again = Spool(folder, 1 << 20)
        assert ids(list(again)) == [1, 2]
        assert (again.torn, again.size) == (length - kept, kept)
        assert again.append([entry(3)]) == 1
        again.close()
        third = Spool(folder, 1 << 20)
        assert ids(list(third)) == [1, 2, 3] and not third.damaged


@pytest.mark.parametrize("seed", range(10))
def test_what_a_power_cut_wrote_instead_is_no_entry(seed: int, tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    spool.append(entries(1, 5))
    spool.close()
    chance = random.Random(seed)
    (path,) = tmp_path.glob("*.segment")
    rest = chance.choice([b"\0" * 4096, chance.randbytes(300), b"\xff" * 64])
    with path.open("ab") as file:
        file.write(rest)
    assert ids(list(Spool(tmp_path, 1 << 20))) == [1, 2, 3, 4, 5]


def test_damage_is_told_and_what_is_left_of_it_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20, segment=300)
    for id_ in range(1, 7):
        spool.append([entry(id_)])
    spool.close()
    first = min(tmp_path.glob("*.segment"))
    with first.open("r+b") as file:
        file.seek(200)
        file.write(b"\xff\xff\xff")
    again = Spool(tmp_path, 1 << 20, segment=300)
    assert (again.damaged, again.torn) == (1, 0)
    assert ids(list(again)) == [1, 4, 5, 6]
    again.advance(7)
    assert len(list(tmp_path.glob("*.damaged"))) == 1


def test_an_empty_head_costs_repetitions_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    spool.append(entries(1, 3))
    spool.advance(3)
    spool.close()
    (tmp_path / "head").write_text("")
    assert ids(list(Spool(tmp_path, 1 << 20))) == [1, 2, 3]


def test_a_folder_has_one_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    with pytest.raises(BlockingIOError):
        Spool(tmp_path, 1 << 20)
    spool.close()
    Spool(tmp_path, 1 << 20)
