"""Digests of the versions that a rehearsal serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_repo import signing
from model_repo.oci import Registry
from model_repo.repository import Repository
from rehearsal import models
from rehearsal.errors import EstateError
from tests.unit.model_repo.registry import MemoryRegistry
from tests.unit.model_repo.site import MODEL, Site
from tests.unit.model_repo.test_repository import KEY


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
