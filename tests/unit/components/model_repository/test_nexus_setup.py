"""Nexus' setup against an HTTP double: what it makes, what it leaves, what it does not decide."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from components.model_repository import nexus_setup
from components.model_repository.config import NexusConfig
from components.model_repository.nexus_files import settings
from components.model_repository.nexus_setup import Refused, make
from tests.doubles.nexus import Nexus, running

PASSWORDS = {"admin": "of-the-admin", "publisher": "of-the-publisher", "reader": "of-the-reader"}
HOSTED = "/v1/repositories/docker/hosted"


@pytest.fixture
def nexus() -> Iterator[Nexus]:
    with running(Nexus({"admin": PASSWORDS["admin"]})) as found:
        yield found
    assert found.unknown == []


def declared(nexus: Nexus, **more: Any) -> dict[str, Any]:
    values = {"admin": {"file": "models/admin"}, "accept_eula": True, "keep_days": 30, **more}
    found: dict[str, Any] = json.loads(settings(NexusConfig.model_validate(values), nexus.url))
    return found


def run(nexus: Nexus, passwords: dict[str, str] | None = None, **more: Any) -> list[str]:
    return make(declared(nexus, **more), passwords or PASSWORDS, patience_s=0.5)


def test_a_new_one_becomes_what_is_declared(nexus: Nexus) -> None:
    assert run(nexus) == [
        "licence: accepted",
        "anonymous: shut out",
        "cleanup policy models-unused: created",
        "repository models: created",
        "role models-publisher: created",
        "user publisher: created",
        "role models-reader: created",
        "user reader: created",
    ]
    made = nexus.things[HOSTED]["models"]
    assert made["storage"]["writePolicy"] == "ALLOW_ONCE", "a tag is given once"
    assert made["docker"] == {"v1Enabled": False, "forceBasicAuth": True, "httpPort": 5080}
    assert made["cleanup"] == {"policyNames": ["models-unused"]}
    assert nexus.things[nexus.policies]["models-unused"]["criteriaLastDownloaded"] == 30
    assert nexus.passwords == PASSWORDS
    assert not nexus.anonymous["enabled"]
    rights = nexus.things["/v1/security/roles"]["models-reader"]["privileges"]
    assert {right.rpartition("-")[2] for right in rights} == {"browse", "read"}


def test_again_it_changes_nothing(nexus: Nexus) -> None:
    run(nexus)
    nexus.changes.clear()
    assert run(nexus) == []
    assert nexus.changes == []


def test_what_somebody_changed_is_put_back(nexus: Nexus) -> None:
    run(nexus)
    nexus.things[HOSTED]["models"]["storage"]["writePolicy"] = "ALLOW"
    nexus.users["reader"]["roles"] = ["nx-admin"]
    nexus.passwords["publisher"] = "another"
    assert run(nexus) == [
        "repository models: changed",
        "user publisher: another password",
        "user reader: changed",
    ]
    assert nexus.things[HOSTED]["models"]["storage"]["writePolicy"] == "ALLOW_ONCE"
    assert nexus.users["reader"]["roles"] == ["models-reader"]
    assert nexus.passwords == PASSWORDS


def test_a_user_whose_name_begins_alike_is_another(nexus: Nexus) -> None:
    nexus.users["reader-of-others"] = {"userId": "reader-of-others", "roles": []}
    assert "user reader: created" in run(nexus)
    assert nexus.users["reader-of-others"]["roles"] == []


def test_the_licence_is_not_accepted_unasked(nexus: Nexus) -> None:
    with pytest.raises(Refused, match=r"model_repository\.nexus\.accept_eula: true"):
        run(nexus, accept_eula=False)
    assert nexus.changes == [] and nexus.eula is not None and not nexus.eula["accepted"]


def test_with_a_pro_licence_there_is_none_to_accept(nexus: Nexus) -> None:
    nexus.eula, nexus.policies = None, "/v1/cleanup-policies"
    changed = run(nexus, accept_eula=False)
    assert "licence: accepted" not in changed
    assert "cleanup policy models-unused: created" in changed


def test_nothing_is_cleaned_up_unless_it_is_declared(nexus: Nexus) -> None:
    run(nexus, keep_days=0)
    assert nexus.things[nexus.policies] == {}
    assert nexus.things[HOSTED]["models"]["cleanup"] == {"policyNames": []}


def test_an_admin_with_another_password_is_told_and_the_password_is_not(nexus: Nexus) -> None:
    with pytest.raises(Refused, match="declare the one that he has now") as caught:
        run(nexus, passwords={**PASSWORDS, "admin": "mistaken"})
    assert "mistaken" not in str(caught.value)


def test_one_that_does_not_answer_is_waited_for_and_named() -> None:
    silent = Nexus(PASSWORDS, url="http://127.0.0.1:9")
    with pytest.raises(Refused, match="does not answer"):
        run(silent)


def test_the_job_ends_with_one_line(
    nexus: Nexus, tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssl.create_default_context", lambda cafile: None)
    (tmp_path / "settings.json").write_text(json.dumps(declared(nexus, accept_eula=False)))
    for user, password in PASSWORDS.items():
        (tmp_path / user).write_text(f"{password}\n")
    arguments = [str(tmp_path / "settings.json"), "ca.crt", str(tmp_path)]
    assert nexus_setup.main(arguments) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    (tmp_path / "settings.json").write_text(json.dumps(declared(nexus)))
    assert nexus_setup.main(arguments) == 0
    out = capsys.readouterr().out
    assert "user reader: created" in out and PASSWORDS["reader"] not in out
