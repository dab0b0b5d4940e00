"""What `model add` refuses, and what it says of a version that is stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from model_repo import commands
from model_repo.commands import REGISTRY_VARIABLE, Where, WhereOptions
from model_repo.repository import Repository
from rehearsal.errors import UsageError
from tests.unit.model_repo.site import Site
from tests.unit.model_repo.test_golden import values
from tests.unit.model_repo.test_repository import ABOUT, COMMIT, KEY


@pytest.fixture
def folder(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A version's files, for a registry that trusts one key."""
    monkeypatch.setenv("ESTATE_STATE", str(tmp_path / "state"))
    monkeypatch.delenv(REGISTRY_VARIABLE, raising=False)
    monkeypatch.setattr(Where, "open", lambda *_, **__: site.repository)
    made = tmp_path / "files"
    made.mkdir()
    (made / "version.yaml").write_text(yaml.safe_dump(ABOUT))
    (made / "model.onnx").write_bytes(b"graph")
    (made / "golden.json").write_text(json.dumps(values()))
    return made


def pem(folder: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    file = folder.with_name("signing.pem")
    form = serialization.PrivateFormat.PKCS8
    encoding = serialization.Encoding.PEM
    file.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return file


def add(folder: Path, key: ec.EllipticCurvePrivateKey = KEY, revision: str | None = COMMIT) -> int:
    where: WhereOptions = {"name": "one", "registry": None, "ca": None, "trust": []}
    return commands.add(folder, 1, pem(folder, key), None, revision, False, **where)


@pytest.mark.parametrize("revision", ["abcdef0", "HEAD", COMMIT.upper(), COMMIT + "\n"])
def test_a_revision_that_is_no_whole_commit_is_the_options_fault(
    folder: Path, site: Site, revision: str
) -> None:
    with pytest.raises(
        UsageError, match=r"--revision: .*; give the commit's 40 hex digits"
    ) as refused:
        add(folder, revision=revision)
    assert "version.yaml" not in str(refused.value) and "\n" not in str(refused.value)
    add(folder)
    assert site.repository.numbers("digits") == [1]


def test_a_key_that_nobody_trusts_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "! no key that rehearsal one trusts has signed it"
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert add(folder, stranger) == 0
    said = capsys.readouterr().err
    assert "stored and signed" in said
    assert [one.startswith(words) for one in said.splitlines()].count(True) == 1
    add(folder)
    add(folder, stranger)
    assert words not in capsys.readouterr().err, "a trusted key signed it, too"


def test_where_no_trusted_keys_are_known_nothing_is_said(
    folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = Repository(site.repository.registry)
    monkeypatch.setattr(Where, "open", lambda *_, **__: named)
    add(folder, ec.generate_private_key(ec.SECP256R1()))
    assert "trusts" not in capsys.readouterr().err
