"""Secrets: made once, readable by their owner alone, never written again."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from model_repo import signing
from rehearsal import credentials


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_each_is_random_and_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert credentials.ensure(folder, ["kafka", "postgres/admin"]) == ["kafka", "postgres/admin"]
    assert mode(folder) == mode(folder / "postgres") == 0o700
    values = [(folder / name).read_text() for name in ("kafka", "postgres/admin")]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{32}\n", value) for value in values)
    assert len(set(values)) == 2
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert files == [folder / "kafka", folder / "postgres" / "admin"], "no half file stays"
    assert {mode(path) for path in files} == {0o600}


def test_a_second_run_makes_only_what_is_missing(tmp_path: Path) -> None:
    credentials.ensure(tmp_path, ["one"])
    before = (tmp_path / "one").read_text(), (tmp_path / "one").stat().st_mtime_ns
    assert credentials.ensure(tmp_path, ["one", "two"]) == ["two"]
    assert ((tmp_path / "one").read_text(), (tmp_path / "one").stat().st_mtime_ns) == before
    assert credentials.ensure(tmp_path, ["one", "two"]) == []


def test_a_file_without_content_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "one").touch(mode=0o644)
    assert credentials.ensure(tmp_path, ["one"]) == ["one"]
    assert (tmp_path / "one").stat().st_size == 33
    assert mode(tmp_path / "one") == 0o600


def test_a_secret_that_the_user_wrote_stays(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("my own")
    assert credentials.ensure(tmp_path, ["one"]) == []
    assert (tmp_path / "one").read_text() == "my own"


def test_a_key_that_signs_is_made_with_its_public_half(tmp_path: Path) -> None:
    assert credentials.ensure(tmp_path, ["models/signing.pub"]) == ["models/signing.pub"]
    private = signing.private_key((tmp_path / "models" / "signing").read_bytes())
    public = signing.public_key((tmp_path / "models" / "signing.pub").read_bytes())
    assert private.public_key().public_numbers() == public.public_numbers()
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert {mode(path) for path in files} == {0o600} and len(files) == 2


def test_a_public_half_that_was_lost_is_of_the_same_key(tmp_path: Path) -> None:
    credentials.ensure(tmp_path, ["signing.pub"])
    before = [(tmp_path / name).read_bytes() for name in ("signing", "signing.pub")]
    (tmp_path / "signing.pub").unlink()
    assert credentials.ensure(tmp_path, ["signing.pub"]) == ["signing.pub"]
    assert [(tmp_path / name).read_bytes() for name in ("signing", "signing.pub")] == before
