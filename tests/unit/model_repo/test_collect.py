"""What `gc` deletes: nothing that anybody declares, or could go back to."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_repo import collect, signing
from model_repo.oci import OciError, canonical
from rehearsal.errors import EstateError
from tests.unit.model_repo.registry import MemoryRegistry
from tests.unit.model_repo.site import MODEL, Site

NAME = "estate/models/digits"


def declare(number: int, more: str = "") -> str:
    return MODEL.replace("version: 1", f"version: {number}") + more


def going(site: Site, keep: int = 1) -> list[int]:
    found = collect.plan(site.repository, site.folder, [], keep)
    return [one.number for one in found.going]


def test_what_nothing_refers_to_goes(site: Site, server: MemoryRegistry) -> None:
    digests = {number: site.add(number) for number in range(1, 7)}
    for number in (2, 4, 5):
        site.commit(declare(number))
    found = collect.plan(site.repository, site.folder, [], 2)
    assert {one.number: one.kept.split(" in ")[0] for one in found.versions} == {
        1: "",
        2: "",
        3: "",
        4: "declared",
        5: "declared for environment local",
        6: "one of the last 2",
    }
    assert len(server.manifests) == 4 * 6, "a plan deletes nothing"
    collect.delete(site.repository, found)
    assert site.repository.numbers("digits") == [4, 5, 6]
    for number, digest in digests.items():
        signed = (NAME, signing.tag_of(digest)) in server.manifests
        assert signed == (number >= 4) == ((NAME, digest) in server.manifests)
    assert len(server.manifests) == 4 * 3, "each by tag and by digest, and so its signatures"
    again = collect.plan(site.repository, site.folder, [], 2)
    assert not again.going and not again.orphans
    collect.delete(site.repository, found)
    assert site.repository.verify("digits", "5"), "what another deleted meanwhile is no error"


def test_a_place_that_was_never_changed_since(site: Site) -> None:
    digests = {number: site.add(number) for number in range(1, 9)}
    more = f"  onprem: {{version: 2, digest: {digests[2]}}}\n"
    for number in (4, 5, 6, 7, 8):
        site.commit(declare(number, more))
    assert going(site) == [1, 3, 4, 5, 6, 7]
    site.file.write_text(declare(8))
    site.git("add", "-A")
    assert going(site) == [1, 3, 4, 5, 6, 7], "the last commit still has it"
    site.commit()
    assert going(site) == [1, 2, 3, 4, 5, 6, 7]


def test_what_is_not_committed_counts(site: Site) -> None:
    for number in range(1, 6):
        site.add(number)
    site.commit(declare(5))
    site.file.write_text(declare(3, "edge_groups: {press: {version: 2}}\n"))
    assert going(site) == [1, 4]


def test_what_another_branch_declares_counts(site: Site) -> None:
    for number in range(1, 6):
        site.add(number)
    site.git("checkout", "-b", "mine")
    site.commit(declare(3))
    site.git("checkout", "main")
    for number in (4, 5):
        site.commit(declare(number))
    assert going(site) == [1, 2, 4]
    site.git("checkout", "--detach", "HEAD~1")
    assert going(site) == [1, 2], "whatever is checked out"


def test_a_number_that_leads_to_a_version_that_is_kept(site: Site, server: MemoryRegistry) -> None:
    """Deleted is by digest: with number 2 version 3 would go."""
    for number in range(1, 5):
        site.add(number)
    site.commit(declare(3))
    server.manifests[NAME, "2"] = server.manifests[NAME, "3"]
    found = collect.plan(site.repository, site.folder, [], 1)
    assert [one.number for one in found.going] == [1]
    assert [one.kept for one in found.versions if one.number == 2] == ["is also version 3"]


def test_a_digest_that_is_declared_counts_whatever_its_number(
    site: Site, server: MemoryRegistry
) -> None:
    digests = {number: site.add(number) for number in range(1, 5)}
    site.commit(declare(4, f"  onprem: {{version: 9, digest: {digests[2]}}}\n"))
    assert going(site) == [1, 3]


def test_interrupted_it_leaves_signatures_that_the_next_one_finds(
    site: Site, server: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {number: site.add(number) for number in (1, 2)}
    site.commit(declare(2))
    found = collect.plan(site.repository, site.folder, [], 1)
    put = site.repository.registry.delete_manifest

    def once(repository: str, digest: str) -> None:
        put(repository, digest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(site.repository.registry, "delete_manifest", once)
        with pytest.raises(KeyboardInterrupt):
            collect.delete(site.repository, found)
    assert site.repository.numbers("digits") == [2]
    found = collect.plan(site.repository, site.folder, [], 1)
    assert not found.going and list(found.orphans["digits"]) == [signing.tag_of(digests[1])]
    collect.delete(site.repository, found)
    assert not collect.plan(site.repository, site.folder, [], 1).orphans
    assert site.repository.verify("digits", "2")


def test_a_version_that_is_just_being_added_keeps_its_signature(
    site: Site, server: MemoryRegistry
) -> None:
    digest = site.add(1)
    content = canonical({"layers": [], "config": {}})
    server.manifests[NAME, digest] = server.manifests[NAME, "1"]
    del server.manifests[NAME, "1"]
    server.manifests[NAME, "latest"] = content
    assert not collect.plan(site.repository, site.folder, [], 1).orphans


def test_a_registry_that_deletes_nothing(site: Site, server: MemoryRegistry) -> None:
    site.add(1)
    site.add(2)
    site.commit(declare(2))
    found = collect.plan(site.repository, site.folder, [], 1)
    server.deletes = False
    with pytest.raises(OciError, match="405") as refused:
        collect.delete(site.repository, found)
    assert refused.value.status == 405
    assert site.repository.numbers("digits") == [1, 2]


def test_a_token_for_deleting_is_asked_for(site: Site, server: MemoryRegistry) -> None:
    digest = site.add(1)
    server.token = "t0k3n"
    server.asked = []
    site.repository.registry.delete_manifest("models/digits", digest)
    scopes = [path for _, path, _ in server.asked if path.startswith("/token")]
    assert len(scopes) == 1 and scopes[0].endswith("%3Adelete")


def test_models_that_were_never_added_and_only_some(site: Site) -> None:
    other = site.folder / "other"
    other.mkdir()
    (other / "model.yaml").write_text("{}")
    site.add(1)
    site.add(2)
    site.commit(declare(2))
    assert going(site) == [1]
    assert not collect.plan(site.repository, site.folder, ["other"], 1).versions


def test_without_the_whole_history_nothing_goes(site: Site, tmp_path: Path) -> None:
    site.add(1)
    site.commit()
    shallow = tmp_path / "shallow"
    site.git("clone", "--depth=1", f"file://{site.root}", str(shallow))
    with pytest.raises(EstateError, match=r"shallow\); run: git fetch --unshallow"):
        collect.plan(site.repository, shallow / "models", [], 1)
