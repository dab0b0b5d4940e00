"""The registry of a running rehearsal for `./estate model`: door, user, keys, what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_repo.commands import REGISTRY_VARIABLE, Where
from rehearsal import access, credentials, models
from rehearsal.errors import EstateError, UsageError
from rehearsal.rehearsal import Rehearsal
from tests.unit.rehearsal.conftest import Folders


@pytest.fixture
def made(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    """A rehearsal with its registry's links and secrets, as `up` leaves it."""
    monkeypatch.delenv(REGISTRY_VARIABLE, raising=False)
    found = Rehearsal("one")
    found.prepare("node", "", None)
    record = found.required()
    record.routes = {"models-publish": "a:5000", "models-read": "a:5001", "prometheus": "b:1"}
    names = ["models/publisher", "models/reader", "models/signing.pub"]
    credentials.ensure(found.folder / "secrets", names)
    found._save()
    monkeypatch.setattr(access, "authority", lambda _: "the authority")
    return found


def test_each_door_has_its_port_and_its_user(made: Rehearsal) -> None:
    for writes, link, user in (
        (True, "models-publish", "publisher"),
        (False, "models-read", "reader"),
    ):
        registry = models.registry(made, writes=writes)
        assert registry.host == f"127.0.0.1:{made.pages[link]}"
        secret = (made.folder / "secrets" / "models" / user).read_text().strip()
        assert registry._credentials == (user, secret)
    assert (made.folder / "ca.crt").read_text() == "the authority"


def test_keys_are_the_rehearsals_unless_others_are_named(made: Rehearsal, tmp_path: Path) -> None:
    where = Where(name="one", registry=None, ca=None, trust=[])
    folder = made.folder / "secrets" / "models"
    assert where.signing_key(None) == folder / "signing"
    assert models.trusted(made) == [folder / "signing.pub"]
    assert len(where.open().trusted) == 1
    assert where.signing_key(tmp_path / "other") == tmp_path / "other"


def test_a_registry_that_is_named_wants_its_own_keys(made: Rehearsal) -> None:
    where = Where(name="one", registry="https://registry.example", ca=None, trust=[])
    with pytest.raises(UsageError, match="--key"):
        where.signing_key(None)
    with pytest.raises(UsageError, match="--trust"):
        where.open()


def test_a_rehearsal_without_the_profile_says_how_to_get_it(made: Rehearsal) -> None:
    made.required().routes = {}
    with pytest.raises(EstateError, match=r"no model registry.*up --profile serving --name one"):
        models.registry(made)


def test_a_secret_that_is_gone_is_named(made: Rehearsal) -> None:
    (made.folder / "secrets" / "models" / "signing").unlink()
    with pytest.raises(EstateError, match="no secret models/signing"):
        models.signing_key(made)
