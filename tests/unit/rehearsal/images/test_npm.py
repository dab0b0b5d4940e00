"""Layers of npm packages: the lock, what was installed against it, the bill of materials."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from rehearsal.images import npm, recipe
from rehearsal.images.errors import ImageError
from rehearsal.images.sbom import Component, spdx

HASH = "sha512-" + base64.b64encode(b"\x01" * 64).decode()
OTHER = "sha512-" + base64.b64encode(b"\x02" * 64).decode()


def layer(**values: Any) -> recipe.NpmLayer:
    return recipe.NpmLayer(kind="npm", project="page", into="usr/share/page", **values)


def package(integrity: str = HASH, **values: Any) -> dict[str, Any]:
    return {"version": "1.2.3", "integrity": integrity, **values}


def write_lock(folder: Path, **packages: dict[str, Any]) -> None:
    (folder / "page").mkdir(exist_ok=True)
    places = {f"node_modules/{name}": value for name, value in packages.items()}
    document = {"lockfileVersion": 3, "packages": {"": {"name": "page"}, **places}}
    (folder / "page" / "package-lock.json").write_text(json.dumps(document))


def install(folder: Path, **packages: dict[str, Any]) -> Path:
    modules = folder / "page" / "node_modules"
    modules.mkdir(parents=True)
    places = {f"node_modules/{name}": value for name, value in packages.items()}
    (modules / ".package-lock.json").write_text(json.dumps({"packages": places}))
    return folder / "page"


def test_a_lock_without_a_hash_is_refused_with_the_package(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"page/package-lock\.json"):
        npm.read_lock(layer(), tmp_path)
    write_lock(tmp_path, react={"version": "1.2.3"})
    with pytest.raises(ImageError, match="node_modules/react has no version or no integrity"):
        npm.read_lock(layer(), tmp_path)
    write_lock(tmp_path, react=package())
    assert list(npm.read_lock(layer(), tmp_path)) == ["node_modules/react"]


def test_another_lock_is_another_layer(tmp_path: Path) -> None:
    write_lock(tmp_path, react=package())
    first = npm.described(layer(), tmp_path)
    assert npm.described(layer(name="another"), tmp_path) == first
    write_lock(tmp_path, react=package(OTHER))
    assert npm.described(layer(), tmp_path) != first
    assert npm.described(layer(output="dist"), tmp_path)["output"] == "dist"


def test_the_source_is_the_version_that_the_toolchain_pins() -> None:
    found = recipe.load()
    (web,) = [one for one in found.images["prometheus"].layers if isinstance(one, recipe.NpmLayer)]
    tag = found.images["prometheus"].tag  # v3.13.1 is v0.313.1 as a module
    major, minor, patch = tag.removeprefix("v").split(".")
    module = f"github.com/prometheus/prometheus@v0.{major}{int(minor):02}.{patch}"
    assert npm.described(web, found.folder)["module"] == module


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        (
            {"react": package(OTHER)},
            "installed node_modules/react 1.2.3 sha512-AgIC.*, the lock has 1.2.3 sha512-AQEB",
        ),
        ({"react": package(), "more": package()}, "node_modules/more 1.2.3 .*, the lock has none"),
        ({}, "node_modules/react of the lock was not installed"),
    ],
)
def test_what_differs_from_the_lock_is_refused(
    tmp_path: Path, installed: dict[str, Any], words: str
) -> None:
    project = install(tmp_path, **installed)
    lock = {"node_modules/react": package()}
    with pytest.raises(ImageError, match=words):
        npm.verified(project, lock)


def test_optional_packages_of_other_platforms_may_be_missing(tmp_path: Path) -> None:
    project = install(tmp_path, react=package())
    lock = {"node_modules/react": package(), "node_modules/arm": package(optional=True)}
    assert npm.verified(project, lock) == ["node_modules/react"]


def test_the_bill_names_a_scoped_package_with_its_hash() -> None:
    part = Component("npm", "@mantine/core", "9.3.1", "", sha512="01" * 64)
    document = spdx("x:1", "sha256:" + "0" * 64, [part], epoch=0)
    found = document["packages"][1]
    assert found["externalRefs"][0]["referenceLocator"] == "pkg:npm/%40mantine/core@9.3.1"
    assert found["checksums"] == [{"algorithm": "SHA512", "checksumValue": "01" * 64}]
