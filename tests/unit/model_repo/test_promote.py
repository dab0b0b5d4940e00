"""Promotion and the way back: what is verified first, and what is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from model_repo import promote, signing
from model_repo.declared import Place
from model_repo.oci import NotThere, OciError, digest_of
from model_repo.repository import Repository
from rehearsal.errors import EstateError
from tests.unit.model_repo.registry import MemoryRegistry
from tests.unit.model_repo.site import MODEL, Site

LOCAL, ONPREM = Place("environments", "local"), Place("environments", "onprem")
PRESS = Place("edge_groups", "press")


def go(
    site: Site,
    reference: str,
    *places: Place,
    new_contract: bool = False,
    new_group: bool = False,
) -> promote.Edit:
    made = promote.promoted(
        site.repository,
        site.folder,
        "digits",
        reference,
        places,
        new_contract=new_contract,
        new_group=new_group,
    )
    made.write()
    return made


def back(site: Site, *places: Place, to: int | None = None) -> promote.Edit:
    made = promote.rolled_back(site.repository, site.folder, "digits", places, to=to)
    made.write()
    return made


def refused(site: Site, words: str, what: Callable[[], object]) -> None:
    """One line with these words, and a file that is as it was."""
    before = site.file.read_bytes() if site.file.is_file() else None
    with pytest.raises((EstateError, OciError)) as found:
        what()
    assert words in str(found.value) and "\n" not in str(found.value)
    assert (site.file.read_bytes() if site.file.is_file() else None) == before
    leftovers = [one.name for one in site.file.parent.iterdir() if one.name != "model.yaml"]
    assert not leftovers


def test_the_rehearsal_takes_a_number_and_the_others_a_digest(site: Site) -> None:
    site.add(1)
    digest = site.add(2)
    made = go(site, "2", LOCAL)
    assert site.text == MODEL.replace("version: 1", "version: 2")
    assert "-  local: {version: 1}  # of the rehearsal\n+  local: {version: 2}" in made.diff
    assert go(site, "2", LOCAL).diff == "", "the same again changes nothing"
    go(site, digest, ONPREM, PRESS, new_group=True)
    assert f"  onprem: {{version: 2, digest: {digest}}}\n" in site.text
    assert site.text.endswith(f"edge_groups:\n  press: {{version: 2, digest: {digest}}}\n")
    assert not go(site, "2", LOCAL, ONPREM, PRESS).changes


def test_a_digest_that_somebody_wrote_for_the_rehearsal_is_kept_up(site: Site) -> None:
    first, second = site.add(1), site.add(2)
    site.file.write_text(MODEL.replace("version: 1", f"version: 1, digest: {first}"))
    go(site, "2", LOCAL)
    assert f"local: {{version: 2, digest: {second}}}  # of the rehearsal" in site.text


def test_mode_and_link_stay(site: Site, tmp_path: Path) -> None:
    site.add(1)
    site.add(2)
    site.file.chmod(0o640)
    elsewhere = tmp_path / "elsewhere.yaml"
    site.file.rename(elsewhere)
    site.file.symlink_to(elsewhere)
    go(site, "2", LOCAL)
    assert site.file.is_symlink() and elsewhere.stat().st_mode & 0o777 == 0o640
    assert "version: 2" in elsewhere.read_text()


def test_who_edits_meanwhile_is_not_overwritten(site: Site) -> None:
    site.add(1)
    site.add(2)
    made = promote.promoted(site.repository, site.folder, "digits", "2", [LOCAL])
    site.file.write_text(MODEL + "# mine\n")
    refused(site, "was edited meanwhile", made.write)


def test_what_is_not_in_the_registry(site: Site) -> None:
    site.add(1)
    refused(site, "MANIFEST", lambda: go(site, "7", LOCAL))
    refused(site, "MANIFEST", lambda: go(site, "sha256:" + "a" * 64, LOCAL))
    refused(site, "neither a tag nor a digest", lambda: go(site, "a b", LOCAL))


@pytest.mark.parametrize("name", ["nothing", "../digits", "", ".", "/etc"])
def test_models_that_are_not_declared(site: Site, name: str) -> None:
    site.add(1)
    with pytest.raises(EstateError, match="choose one that is declared: digits"):
        promote.promoted(site.repository, site.folder, name, "1", [LOCAL])
    with pytest.raises(EstateError, match="choose one that is declared: digits"):
        promote.rolled_back(site.repository, site.folder, name, [LOCAL])


def test_an_environment_that_nobody_has(site: Site) -> None:
    site.add(1)
    places = Place("environments", "onpren")
    refused(site, "choose from: ", lambda: go(site, "1", places))
    refused(site, "has no version of this model", lambda: back(site, ONPREM))


def test_an_edge_group_that_is_mistyped_begins_none(site: Site) -> None:
    site.add(1)
    site.add(2)
    refused(
        site,
        "--edge-group: 'press'; the file has none; or begin that group by --new-group",
        lambda: go(site, "1", PRESS),
    )
    go(site, "1", PRESS, Place("edge_groups", "oven"), new_group=True)
    refused(
        site,
        "--edge-group: 'pres'; choose from: oven, press; or begin that group by --new-group",
        lambda: go(site, "2", LOCAL, Place("edge_groups", "pres")),
    )
    go(site, "2", PRESS)
    assert go(site, "2", PRESS, new_group=True).diff == "", "it may be there"


@pytest.mark.parametrize(
    "text", ["a: [", "- a", "colour: red", "environments: {}\nenvironments: {}\n", ""]
)
def test_a_file_that_is_wrong_already(site: Site, text: str) -> None:
    site.add(1)
    site.file.write_text(text)
    refused(site, "model.yaml", lambda: go(site, "1", LOCAL))
    refused(site, "model.yaml", lambda: back(site, LOCAL))


def test_a_version_that_nobody_signed(site: Site, server: MemoryRegistry) -> None:
    site.add(1)
    digest = site.add(2)
    del server.manifests["estate/models/digits", signing.tag_of(digest)]
    refused(site, "is not signed", lambda: go(site, "2", LOCAL))


def test_a_version_of_which_a_byte_is_another(site: Site, server: MemoryRegistry) -> None:
    site.add(1)
    site.add(2)
    server.blobs["estate/models/digits", digest_of(b"graph 2")] = b"graph 3"
    refused(site, "the registry's copy is damaged", lambda: go(site, "2", LOCAL))


def test_a_number_that_leads_elsewhere(site: Site, server: MemoryRegistry) -> None:
    site.add(1)
    digest = site.add(2)
    name = "estate/models/digits"
    del server.manifests[name, "2"]
    refused(site, "that number leads to nothing", lambda: go(site, digest, LOCAL))


def test_a_version_that_is_another_one_elsewhere(site: Site) -> None:
    site.add(1)
    site.add(2)
    other = "sha256:" + "a" * 64
    site.file.write_text(f"{MODEL}  onprem: {{version: 2, digest: {other}}}\n")
    words = f"in this registry, environment onprem has {other}"
    refused(site, words, lambda: go(site, "2", LOCAL))
    refused(site, words, lambda: go(site, "2", ONPREM))


def test_a_version_without_a_golden_set(site: Site) -> None:
    site.add(1)
    site.add(2, golden=False)
    refused(site, "golden.json: is not there", lambda: go(site, "2", LOCAL))


def test_another_contract_is_agreed_to(site: Site) -> None:
    site.add(1)
    site.add(2, outputs=[{"name": "scores", "datatype": "FP64", "shape": [-1, 10]}], golden=False)
    stored = site.repository.show("digits", "2")
    assert "golden.json" not in stored.files
    site.add(3, metrics={"accuracy": 0.99})
    go(site, "3", LOCAL)

    # What is served now has other tensors than version 3.
    site.file.write_text(MODEL.replace("version: 1", "version: 2"))
    words = "output scores is FP32 [-1, 10], not FP64 [-1, 10]"
    refused(site, words, lambda: go(site, "3", LOCAL))
    go(site, "3", LOCAL, new_contract=True)
    assert "version: 3" in site.text


def test_a_version_whose_predecessor_is_gone(site: Site) -> None:
    site.add(2)
    refused(site, "cannot be compared with version 2", lambda: go(site, "2", LOCAL))
    go(site, "2", LOCAL, new_contract=True)
    assert "version: 2" in site.text


def test_the_golden_set_is_read_without_the_rest(site: Site, server: MemoryRegistry) -> None:
    site.add(1)
    stored = site.repository.show("digits", "1")
    server.asked = []
    assert site.repository.golden(stored).examples == 2
    assert len(server.asked) == 1
    server.blobs["estate/models/digits", stored.files["golden.json"].digest] = b"{}"
    with pytest.raises(OciError, match="damaged"):
        site.repository.golden(stored)
    site.add(2, golden=False)
    with pytest.raises(NotThere, match=r"version 2: golden\.json: is not there"):
        site.repository.golden(site.repository.show("digits", "2"))


def test_a_golden_set_of_another_model_is_not_added(site: Site, server: MemoryRegistry) -> None:
    with pytest.raises(OciError, match=r"version-1/golden\.json: outputs.scores: FP32, it is FP64"):
        site.add(1, outputs=[{"name": "scores", "datatype": "FP64", "shape": [-1, 10]}])
    assert not server.asked


# -- the way back ----------------------------------------------------------------------------------


def test_back_to_what_was_committed_before(site: Site) -> None:
    for number in (1, 2, 3):
        site.add(number)
    for number in (2, 3):
        go(site, str(number), LOCAL)
        site.commit()
    assert "+  local: {version: 2}" in back(site, LOCAL).diff
    assert back(site, LOCAL).diff == "", "until it is committed, the same again changes nothing"
    site.commit()
    back(site, LOCAL)
    assert site.text == MODEL, "a second step goes further back, not forth again"
    site.commit()
    refused(site, "had no version before 1", lambda: back(site, LOCAL))
    go(site, "3", LOCAL)
    site.commit()
    back(site, LOCAL)
    assert "version: 2" in site.text


def test_back_from_what_was_not_committed(site: Site) -> None:
    for number in (1, 2, 3):
        site.add(number)
    go(site, "2", LOCAL)
    site.commit()
    go(site, "3", LOCAL)
    back(site, LOCAL)
    assert "version: 2" in site.text


def test_back_to_one_that_is_named(site: Site) -> None:
    for number in (1, 2, 3, 4):
        site.add(number)
    for number in (2, 3):
        go(site, str(number), LOCAL)
        site.commit()
    refused(site, "environment local never had it", lambda: back(site, LOCAL, to=4))
    back(site, LOCAL, to=1)
    assert site.text == MODEL
    assert back(site, LOCAL, to=1).diff == ""


def test_back_where_each_place_came_from(site: Site) -> None:
    digests = {number: site.add(number) for number in (1, 2, 3)}
    go(site, "2", ONPREM)
    go(site, "1", PRESS, new_group=True)
    site.commit()
    go(site, "3", LOCAL, ONPREM, PRESS)
    site.commit()
    back(site, ONPREM, PRESS)
    assert "local: {version: 3}" in site.text
    assert f"onprem: {{version: 2, digest: {digests[2]}}}" in site.text
    assert f"press: {{version: 1, digest: {digests[1]}}}" in site.text


def test_what_was_replaced_within_one_merge_request_was_never_declared(site: Site) -> None:
    for number in (1, 2, 3):
        site.add(number)
    site.git("checkout", "-b", "mine")
    for number in (2, 3):
        go(site, str(number), LOCAL)
        site.commit()
    site.git("checkout", "main")
    site.git("merge", "--no-ff", "-m", "merged", "mine")
    back(site, LOCAL)
    assert site.text == MODEL


def test_a_version_that_was_replaced_in_the_registry(site: Site, server: MemoryRegistry) -> None:
    site.add(1)
    site.add(2)
    other = "sha256:" + "a" * 64
    site.commit(f"{MODEL}  onprem: {{version: 1, digest: {other}}}\n")
    go(site, "2", ONPREM, new_contract=True)
    site.commit()
    refused(site, "in the registry, environment onprem had", lambda: back(site, ONPREM))


def test_history_that_nobody_can_read_is_passed_over(site: Site) -> None:
    site.add(1)
    site.add(2)
    for text in ("a: [", "- a", "environments: [1]", "environments: {local: 7}"):
        site.commit(text)
    site.commit(MODEL.replace("version: 1", "version: 2"))
    back(site, LOCAL)
    assert site.text == MODEL


def test_without_git_or_its_history(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add(1)
    site.add(2)
    site.commit(MODEL.replace("version: 1", "version: 2"))
    shallow = tmp_path / "shallow"
    site.git("clone", "--depth=1", f"file://{site.root}", str(shallow))
    with pytest.raises(EstateError, match="in the part of the history that is here"):
        promote.rolled_back(site.repository, shallow / "models", "digits", [LOCAL])
    shutil.rmtree(site.root / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(site.root.parent))
    refused(site, "run it in a clone of the repository", lambda: back(site, LOCAL))
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(site, "git: No such file", lambda: back(site, LOCAL))


def test_only_what_is_trusted(site: Site) -> None:
    site.add(1)
    site.add(2)
    stranger = Repository(site.repository.registry)
    with pytest.raises(signing.Unsigned, match="no trusted key was given"):
        promote.promoted(stranger, site.folder, "digits", "2", [LOCAL])
