"""Digests of the versions that a rehearsal serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from model_repo import commands, declared_commands, signing
from model_repo.oci import Registry
from model_repo.repository import Repository
from rehearsal import models, serving_state
from rehearsal.errors import EstateError
from rehearsal.rehearsal import Rehearsal
from tests.unit.model_repo.registry import MemoryRegistry
from tests.unit.model_repo.site import MODEL, Site
from tests.unit.model_repo.test_repository import COMMIT, KEY
from tests.unit.rehearsal.conftest import Folders

HERE: commands.WhereOptions = {"name": "one", "registry": None, "ca": None, "trust": []}


@pytest.fixture
def server() -> Iterator[MemoryRegistry]:
    made = MemoryRegistry()
    yield made
    made.close()


@pytest.fixture
def site(tmp_path: Path, server: MemoryRegistry) -> Site:
    repository = Repository(Registry(f"{server.url}/estate"), [KEY.public_key()])
    return Site(tmp_path / "clone", repository)


def test_the_versions_that_the_rehearsal_declares(site: Site, tmp_path: Path) -> None:
    digest = site.add(1)
    wanted = models.wanted(site.folder)
    found = models.digests(site.repository, wanted)
    assert (wanted, found) == ({"digits": 1}, {"digits": {1: digest}})
    file = models.write(tmp_path, found)
    assert json.loads(file.read_text()) == {"digits": {"1": digest}}


def test_what_another_environment_declares_is_not_asked_for(site: Site) -> None:
    site.file.write_text(MODEL.replace("local", "onprem"))
    assert models.wanted(site.folder) == {}


def test_what_is_not_there_is_left_out(site: Site) -> None:
    digest = site.add(1)
    assert models.digests(site.repository, {"digits": 1, "other": 4}) == {"digits": {1: digest}}


def test_one_that_nobody_signed_is_no_version(site: Site, server: MemoryRegistry) -> None:
    digest = site.add(1)
    del server.manifests["estate/models/digits", signing.tag_of(digest)]
    with pytest.raises(EstateError, match="is not signed"):
        models.digests(site.repository, {"digits": 1})


def test_a_file_that_is_wrong(site: Site) -> None:
    site.file.write_text("colour: red")
    with pytest.raises(EstateError, match=r"model\.yaml: colour \(red\)"):
        models.wanted(site.folder)


# -- what a plain `pulumi up` knows ---------------------------------------------------------------


@pytest.fixture
def running(
    site: Site, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Rehearsal:
    """A rehearsal whose registry is the one in memory, and serves version 1."""
    monkeypatch.delenv(commands.REGISTRY_VARIABLE, raising=False)
    found = Rehearsal("one")
    found.prepare("node", "", None)
    found.required().routes = {"models-read": "a:5001"}
    found._save()
    public = tmp_path / "signing.pub"
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(KEY.public_key().public_bytes(encoding, form))
    wanted = models.wanted
    monkeypatch.setattr(models, "wanted", lambda: wanted(site.folder))
    monkeypatch.setattr(models, "registry", lambda *_, **__: site.repository.registry)
    monkeypatch.setattr(models, "trusted", lambda _: [public])
    monkeypatch.setattr(serving_state, "uses", lambda _: {})
    models.write(found.folder, {"digits": {1: site.add(1)}})
    return found


def noted(rehearsal: Rehearsal) -> list[str]:
    return list(json.loads((rehearsal.folder / models.FILE).read_text())["digits"])


def test_what_was_promoted_is_known_at_once(running: Rehearsal, site: Site) -> None:
    digest = site.add(2)
    assert noted(running) == ["1"]
    environments, groups = ["local"], list[str]()
    to = (environments, groups, False, False, site.folder, True)
    assert declared_commands.promote_("digits", "2", *to, **HERE) == 0
    assert models._known(running)["digits"][2] == digest
    assert noted(running) == ["1", "2"]


def test_what_was_declared_first_is_known_once_it_was_added(
    running: Rehearsal, site: Site, tmp_path: Path
) -> None:
    site.commit(MODEL.replace("version: 1", "version: 2"))
    site.add(3)
    key = tmp_path / "signing.pem"
    form, secret = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key.write_bytes(KEY.private_bytes(serialization.Encoding.PEM, form, secret))
    folder = site.root.with_name("version-3")
    assert commands.add(folder, 2, key, None, COMMIT, True, **HERE) == 0
    assert noted(running) == ["1", "2"]


def test_what_hinders_it_is_no_failure_of_what_was_done(
    running: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses() -> dict[str, int]:
        raise EstateError("model.yaml", "colour (red)", "mend the file")

    monkeypatch.setattr(models, "wanted", refuses)
    commands.Where(**HERE).note()
    assert noted(running) == ["1"]


def test_another_registry_than_the_rehearsals_tells_it_nothing(
    running: Rehearsal, site: Site
) -> None:
    site.add(2)
    site.commit(MODEL.replace("version: 1", "version: 2"))
    where = commands.Where("one", "https://registry.example", None, [])
    where.note()
    where.forget([("digits", 1)])
    assert noted(running) == ["1"]


@pytest.mark.parametrize("yes", [False, True])
def test_what_was_deleted_is_known_no_more(running: Rehearsal, site: Site, yes: bool) -> None:
    known = {1: models._known(running)["digits"][1]}
    models.write(running.folder, {"digits": known | {n: site.add(n) for n in (2, 3)}})
    assert declared_commands.gc(["digits"], 1, yes, site.folder, True, **HERE) == 0
    # 1 is declared, 3 the last number.
    assert noted(running) == (["1", "3"] if yes else ["1", "2", "3"])


def test_a_model_of_which_nothing_is_left_is_still_known_of(running: Rehearsal) -> None:
    models.forget(running, [("digits", 1)])
    assert noted(running) == []


def test_a_file_of_digests_that_is_broken_is_written_anew(running: Rehearsal) -> None:
    (running.folder / models.FILE).write_text("{")
    models.look(running)
    assert noted(running) == ["1"]
