"""Profiles: which parts, images and tools a rehearsal has."""

from __future__ import annotations

import pytest

from configs.schema import ConfigError, Environment, load
from rehearsal import doctor, images, parts, paths, up
from rehearsal.errors import EstateError, UsageError
from rehearsal.rehearsal import CORE, LOCAL, Rehearsal
from tests.unit.rehearsal.conftest import Folders

LOCAL_FILE = paths.root() / "configs" / f"Pulumi.{LOCAL}.yaml"


def test_the_same_profiles_everywhere() -> None:
    declared = load(LOCAL_FILE).profiles
    assert {CORE, *declared} == set(parts.PROFILES)
    recipes = images.recipes()
    of_images = {
        name for recipe in recipes.images.values() for name in (recipe.profile, *recipe.shared_with)
    }
    assert of_images <= {*parts.PROFILES, ""}
    for profile in ("lake", "serving"):
        assert "haproxy" in recipes.of_profiles([profile]), "an image may be of two profiles"
    assert "haproxy" not in recipes.of_profiles([CORE])


def test_parts_of_other_profiles_are_left_out() -> None:
    environment = load(
        {
            "profiles": {"lake": ["pgpool"]},
            "postgres": {"owner": {"name": "estate", "password": {"file": "a"}},
                         "roles": [{"name": "monitor", "password": {"file": "b"}}],
                         "storage": {"size_gib": 1}},
            "pgpool": {},
        }
    )  # fmt: skip
    assert environment.with_profiles([CORE, "lake"]) == environment
    core = environment.with_profiles([CORE])
    assert core.pgpool is None and core.postgres == environment.postgres


def test_every_choice_of_profiles_is_a_valid_environment() -> None:
    environment = load(LOCAL_FILE)
    for chosen in ([CORE], [CORE, *environment.profiles]):
        values = environment.with_profiles(chosen).model_dump(exclude={"profiles"})
        Environment.model_validate(values)


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(ConfigError, match=r"profiles\.lake\.0: 'kafak' is not allowed: no part"):
        load({"profiles": {"lake": ["kafak"]}})


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(UsageError, match="choose from: core"):
        up.up("local", ["leak"], False, None, True)


def test_a_rehearsal_keeps_its_profiles(folders: Folders) -> None:
    made = Rehearsal("one")
    made.prepare("simulated", "no root", None)
    assert made.variables()["ESTATE_PROFILES"] == CORE
    made.add_profiles([CORE, "lake"])
    made.add_profiles(["lake"])
    assert Rehearsal("one").required().profiles == [CORE, "lake"]
    assert made.variables()["ESTATE_PROFILES"] == "core,lake"


def test_room_is_that_of_the_new_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "memory", lambda: (5 * 2**30, ""))
    with pytest.raises(EstateError, match=r"memory: 5.0 GiB available; the core needs 6"):
        up._enough_room("node", [CORE])
