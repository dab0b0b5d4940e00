"""Locks between processes: exclusive, shared, given up, inherited."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rehearsal.locking import Busy, locked


def taken(path: Path, *, shared: bool = False) -> bool:
    try:
        with locked(path, shared=shared, wait=lambda: False):
            return False
    except Busy:
        return True


def test_an_exclusive_lock_keeps_all_others_out_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with locked(path):
        assert taken(path) and taken(path, shared=True)
    assert not taken(path)


def test_shared_locks_go_together_and_keep_an_exclusive_one_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, shared=True):
        assert not taken(path, shared=True)
        assert taken(path)


def test_who_waits_is_told_once_and_may_give_up(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    told: list[str] = []
    patience = iter([True, True, False])
    with (
        locked(path),
        pytest.raises(Busy),
        locked(path, wait=lambda: next(patience), waiting=lambda: told.append("waiting")),
    ):
        pass
    assert told == ["waiting"]


def test_a_child_that_inherits_it_holds_it_to_its_own_end(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path) as descriptor:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    try:
        assert taken(path)
    finally:
        child.kill()
        child.wait()
    assert not taken(path)


def test_an_error_inside_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), locked(path):
        _ = 1 / 0
    assert not taken(path)
