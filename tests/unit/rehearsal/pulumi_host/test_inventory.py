from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from rehearsal.pulumi_host.inventory import inventory, normalized, plugin_of


def state(folder: Path, module: str, text: str) -> None:
    (folder / module).mkdir()
    (folder / module / "pulumi-plugin.json").write_text(text)


@pytest.mark.parametrize(
    ("name", "version", "stated", "expected"),
    [
        (
            "pulumi-thing",
            "1.0.0",
            {
                "resource": True,
                "name": "thing",
                "version": "2.3.4",
                "server": "https://example.org",
            },
            {"name": "thing", "version": "v2.3.4", "server": "https://example.org"},
        ),
        ("pulumi_thing", "1.0.0", {"resource": True}, {"name": "thing", "version": "v1.0.0"}),
        ("acme-thing", "1.0.0", {"resource": True}, {"name": "acme-thing", "version": "v1.0.0"}),
        ("pulumi-thing", "1.0.0a1", {"resource": True, "version": "v1.0.0-alpha.1"}, None),
        ("pulumi-thing", "1.0.0a1", {"resource": True}, "none"),
        ("pulumi-policy", "1.0.0", {"resource": False}, "none"),
    ],
    ids=["all stated", "defaults", "foreign name", "stated v", "pre-release", "no resource"],
)
def test_plugins_are_read_from_the_package(
    tmp_path: Path,
    name: str,
    version: str,
    stated: dict[str, object],
    expected: dict[str, str] | str | None,
) -> None:
    state(tmp_path, name.replace("-", "_"), json.dumps(stated))
    found = plugin_of(name, version, tmp_path)
    if expected == "none":
        assert found is None
        return
    assert found is not None
    whole = {"name": "thing", "version": "v1.0.0-alpha.1", "server": ""}
    assert found["plugin"] == whole | (expected if isinstance(expected, dict) else {})
    assert found["parameterization"] is None


def test_a_package_without_the_file_needs_no_plugin(tmp_path: Path) -> None:
    assert plugin_of("pulumi-thing", "1.0.0", tmp_path) is None


def test_a_parameterization_is_passed_on(tmp_path: Path) -> None:
    base = {"name": "thing", "version": "0.1.0", "value": "e30="}
    state(tmp_path, "pulumi_thing", json.dumps({"resource": True, "parameterization": base}))
    found = plugin_of("pulumi-thing", "1.0.0", tmp_path)
    assert found is not None
    assert found["parameterization"] == base


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    state(tmp_path, "pulumi_thing", "{")
    with pytest.raises(ValueError, match=r"pulumi-plugin\.json is not valid JSON.*reinstall"):
        plugin_of("pulumi-thing", "1.0.0", tmp_path)


def test_this_interpreters_packages() -> None:
    found = {normalized(item["name"]): item for item in inventory()["distributions"]}
    assert found["pulumi"]["version"] == metadata.version("pulumi")
    assert found["pulumi"]["plugin"] is None
    kubernetes = found["pulumi-kubernetes"]
    assert kubernetes["plugin"]["plugin"] == {
        "name": "kubernetes",
        "version": f"v{metadata.version('pulumi-kubernetes')}",
        "server": "",
    }
    assert kubernetes["direct"]
    assert not found["pulumi"]["direct"]  # pulumi-kubernetes requires it
