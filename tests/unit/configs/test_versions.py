from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from configs import versions
from configs.errors import ConfigError

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
NAMES = '[images]\nkafka = { repository = "docker.io/apache/kafka", tag = "4.4.0" }\n'


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    names, lock = tmp_path / "versions.toml", tmp_path / "images.json"
    names.write_text(NAMES, encoding="utf-8")
    return lock, names


def _lock(file: Path, **changes: str) -> None:
    entry = {"repository": "docker.io/apache/kafka", "tag": "4.4.0", "digest": DIGEST} | changes
    file.write_text(json.dumps({"kafka": {**entry, "archive": "x"}}), encoding="utf-8")


def test_a_rehearsed_image_is_pinned_by_the_digest_that_was_built(files: tuple[Path, Path]) -> None:
    _lock(files[0])
    assert versions.rehearsal(*files)["kafka"].ref == f"docker.io/apache/kafka:4.4.0@{DIGEST}"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tag": "4.3.0"}, "versions.toml names docker.io/apache/kafka:4.4.0"),
        ({"digest": "latest"}, "kafka.digest: 'latest' is not allowed"),
    ],
)
def test_another_version_or_digest_is_refused(
    files: tuple[Path, Path], changes: dict[str, str], expected: str
) -> None:
    _lock(files[0], **changes)
    with pytest.raises(ConfigError, match=expected):
        versions.rehearsal(*files)


def test_a_missing_lock_says_what_makes_it(files: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="estate up builds it"):
        versions.rehearsal(*files)


def test_an_image_without_a_digest_is_named(files: tuple[Path, Path]) -> None:
    found = versions.pulled(path=files[1])
    with pytest.raises(KeyError, match=r"'kafka' has no digest.*name it in images\.digests\.kafka"):
        found.images["kafka"]
    assert found.unpinned["kafka"].ref.startswith("docker.io/apache/kafka:4.4.0@sha256:")


def test_an_environments_own_digest_goes_before(files: tuple[Path, Path]) -> None:
    files[1].write_text(f'[images.kafka]\nrepository = "r"\ntag = "t"\ndigest = "{OTHER}"\n')
    assert versions.pulled(path=files[1]).images["kafka"].ref == f"r:t@{OTHER}"
    assert versions.pulled(None, {"kafka": DIGEST}, files[1]).images["kafka"].ref == f"r:t@{DIGEST}"


def test_what_is_made_here_lies_in_the_environments_registry(files: tuple[Path, Path]) -> None:
    own = 'repository = "docker.io/estate/tusd"\ntag = "v2"\nown = true\n'
    files[1].write_text(f"{NAMES}\n[images.tusd]\n{own}")
    found = versions.pulled("registry.example.com/lake", {"tusd": DIGEST}, files[1])
    assert found.images["tusd"].ref == f"registry.example.com/lake/tusd:v2@{DIGEST}"
    assert found.unpinned["kafka"].repository == "docker.io/apache/kafka"
    with pytest.raises(ConfigError, match=r"images\.registry: missing; images\.digests\.tusd"):
        versions.pulled(None, {"tusd": DIGEST}, files[1])


def test_a_digest_of_no_image_is_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match=r"images\.digests\.kafak: no image .*did you mean kafka"):
        versions.pulled(None, {"kafak": DIGEST}, files[1])


def test_placeholders_have_every_image_and_pass_as_a_lock(tmp_path: Path) -> None:
    found = versions.placeholders()
    assert set(found) == set(versions.declared())
    lock = tmp_path / "images.json"
    lock.write_text(json.dumps(found), encoding="utf-8")
    images = versions.rehearsal(lock)
    name = f"{found['kafka']['repository']}:{found['kafka']['tag']}"
    assert images["kafka"].ref == f"{name}@sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def test_broken_toml_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    broken = tmp_path / "versions.toml"
    broken.write_text("[[[")
    with pytest.raises(ConfigError, match=r"/versions\.toml: not TOML: .*line 1.*; mend that line"):
        versions.declared(broken)


def test_the_tag_that_is_built_may_differ_from_upstreams(files: tuple[Path, Path]) -> None:
    files[1].write_text(
        '[images.kafka]\nrepository = "docker.io/apache/kafka"\ntag = "4.5.0"\nbuilt = "4.4.0"\n'
        f'digest = "{DIGEST}"\n'
    )
    pulled = versions.pulled(path=files[1]).images
    assert pulled["kafka"].ref == f"docker.io/apache/kafka:4.5.0@{DIGEST}"
    _lock(files[0])
    assert versions.rehearsal(*files)["kafka"].tag == "4.4.0"
    assert versions.placeholders(files[1])["kafka"]["tag"] == "4.4.0"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('digset = "x"', "versions.toml: kafka.digset: unknown key; did you mean digest?"),
        ('digest = "sha256:1"', "versions.toml: kafka.digest: 'sha256:1' is not allowed"),
    ],
)
def test_a_mistyped_entry_names_its_key(files: tuple[Path, Path], line: str, expected: str) -> None:
    files[1].write_text(f'[images.kafka]\nrepository = "r"\ntag = "t"\n{line}\n')
    with pytest.raises(ConfigError, match=expected):
        versions.declared(files[1])


RECIPES = {"kafka": ("docker.io/apache/kafka", "4.4.0")}


def test_versions_that_the_recipes_build_are_taken(files: tuple[Path, Path]) -> None:
    versions.agree(RECIPES, files[1])
    pulled = f'repository = "r"\ntag = "t"\ndigest = "{DIGEST}"\n'
    files[1].write_text(f"{NAMES}\n[images.other]\n{pulled}")
    versions.agree(RECIPES, files[1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NAMES.replace("kafka =", "kafak ="), "images.kafka: missing; the rehearsal builds"),
        (NAMES.replace("kafka =", "kafak ="), "images.kafak: no recipe builds it .*mean kafka"),
        (NAMES.replace("4.4.0", "9.9.9"), r"images.kafka: .*9\.9\.9 is not what .*4\.4\.0\)"),
        (NAMES.replace("images", "image"), "image: unknown table; did you mean images"),
    ],
)
def test_what_no_recipe_builds_is_named(files: tuple[Path, Path], text: str, expected: str) -> None:
    files[1].write_text(text)
    with pytest.raises(ConfigError, match=expected):
        versions.agree(RECIPES, files[1])
