"""What `model promote` says beside the diff, and asks for before it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_repo import declared_commands
from model_repo.commands import REGISTRY_VARIABLE, Where, WhereOptions
from tests.unit.model_repo.site import MODEL, Site


@pytest.fixture
def two(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A registry with versions 1 and 2, whoever's it is."""
    monkeypatch.setenv("ESTATE_STATE", str(tmp_path / "state"))
    monkeypatch.delenv(REGISTRY_VARIABLE, raising=False)
    monkeypatch.setattr(Where, "open", lambda *_, **__: site.repository)
    for number in (1, 2):
        site.add(number)
    return site


def promote(site: Site, *environments: str, registry: str | None = None) -> None:
    place: WhereOptions = {"name": "one", "registry": registry, "ca": None, "trust": []}
    code = declared_commands.promote_(
        "digits", "2", environments, [], False, False, site.folder, False, **place
    )
    assert code == 0


def test_a_rehearsals_digest_for_another_environment_is_told(
    two: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(two, "local", "onprem")
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("!")]
    assert "digest for environment onprem is of the registry of rehearsal one: theirs" in line
    promote(two, "local", "onprem")
    assert "!" not in capsys.readouterr().err, "nothing was written"


def test_no_warning_where_the_digest_is_meant(
    two: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(two, "local")
    two.file.write_text(MODEL)
    promote(two, "onprem", registry="https://registry.example")
    two.file.write_text(MODEL)
    monkeypatch.setenv(REGISTRY_VARIABLE, "https://registry.example")
    promote(two, "onprem")
    assert "registry of rehearsal" not in capsys.readouterr().err
