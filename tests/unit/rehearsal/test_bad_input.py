"""What `up` refuses: one line with the thing, its value and the way out, and nothing half done."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from rehearsal import cli, doctor, paths, tools
from rehearsal.images import Apt
from rehearsal.images.errors import ImageError
from rehearsal.ports import PORTS
from rehearsal.rehearsal import Rehearsal
from tests.unit.rehearsal.conftest import Folders
from tests.unit.rehearsal.test_tools_build import GOOD, real_go, toolchain

__all__ = ["real_go"]  # the fixture

BASE = 31_600  # off the range that rehearsals take first
WHY = "rights: user id 1000, not root"

Up = Callable[..., str]
Change = Callable[[dict[str, dict[str, object]]], object]


@pytest.fixture
def up(folders: Folders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Up:
    """Run `up`, which must fail with one line, and return the line."""
    monkeypatch.setattr(doctor, "containers_possible", lambda: (False, WHY))

    def run(*arguments: str) -> str:
        before = tree(folders.state)
        assert cli.main(["up", *arguments]) == 1
        assert tree(folders.state) == before
        said = capsys.readouterr().err.strip().splitlines()
        lines = [line for line in said if line.startswith("estate: ")]
        assert lines == said[-1:]
        return lines[0]

    return run


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its inode and content; the lock between commands does not count."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


@pytest.fixture(params=["none yet", "an estate"])
def before(request: pytest.FixtureRequest, folders: Folders) -> None:
    """Without an estate, and beside one, that must stay as it is."""
    if request.param == "an estate":
        made = Rehearsal("local")
        made.prepare("simulated", WHY, BASE)
        (made.folder / "images.json").write_text("{}")


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield int(other.getsockname()[1])


@pytest.mark.usefixtures("before")
@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda v: v["kafka"].update(brokerz=3),
            ["kafka.brokerz: unknown key", "did you mean kafka.brokers?"],
        ),
        (
            lambda v: v["kafka"].update(brokers=2),
            ["kafka.brokers: 2 is not allowed", "at least replication_factor (3)"],
        ),
        (
            lambda v: v["postgres"].update(instances=-1, databas="x"),
            ["postgres.instances: -1 is not allowed", "and 1 more", "postgres.databas"],
        ),
        (
            lambda v: v.update(images={"source": "upstream"}),
            ["images.source: 'upstream' is not allowed here", "write rehearsal"],
        ),
    ],
)
def test_a_wrong_configuration(
    up: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, parts: list[str]
) -> None:
    document = yaml.safe_load((paths.root() / "configs" / "Pulumi.local.yaml").read_text())
    change(document["config"]["estate:environment"])
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "Pulumi.local.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    line = up()
    assert line.startswith("estate: configuration: configs/Pulumi.local.yaml: ")
    assert line.endswith("; mend the file and run again")
    for part in parts:
        assert part in line


def test_a_port_in_use(up: Up, folders: Folders, taken: int) -> None:
    line = up("--port-base", str(taken))
    assert line == (
        f"estate: port {taken}: in use by another program on 127.0.0.1; "
        f"end that program, or choose other ports: ./estate up --port-base {taken + 1000}"
    )
    assert not (folders.state / "local").exists()


def test_other_ports_than_those_it_has(up: Up, folders: Folders) -> None:
    Rehearsal("local").prepare("simulated", WHY, BASE)
    line = up("--port-base", str(BASE + PORTS))
    assert f"rehearsal local has its ports from {BASE}; run ./estate down" in line


@pytest.mark.parametrize(("possible", "needed"), [(True, 6), (False, 2)])
def test_no_memory(
    up: Up, monkeypatch: pytest.MonkeyPatch, folders: Folders, possible: bool, needed: int
) -> None:
    monkeypatch.setattr(doctor, "containers_possible", lambda: (possible, WHY))
    monkeypatch.setattr(doctor, "memory", lambda: (3 * 2**29, 2**35))
    assert up().startswith(f"estate: memory: 1.5 GiB available; the core needs {needed} GiB: ")
    assert not (folders.state / "local").exists()


@pytest.mark.parametrize("full", ["cache", "state"])
def test_no_disk(up: Up, monkeypatch: pytest.MonkeyPatch, folders: Folders, full: str) -> None:
    folder = getattr(folders, full)

    def usage(asked: Path) -> SimpleNamespace:
        return SimpleNamespace(free=2**28 if Path(asked) == folder else 2**40)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    line = up()
    assert line.startswith(f"estate: disk of {folder}: 0.2 GiB free; 2 GiB are needed")
    assert line.endswith(f"set ESTATE_{full.upper()}")
    assert not (folders.state / "local").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write(
    up: Up, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    monkeypatch.setenv("ESTATE_CACHE", str(tmp_path / "closed" / "cache"))
    assert "set ESTATE_CACHE and ESTATE_STATE" in up()


@pytest.mark.usefixtures("before", "real_go")
def test_a_broken_build_names_the_tool(
    up: Up, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bad = GOOD.replace('"it runs"', "undefinedName")
    monkeypatch.setattr(tools, "HERE", toolchain(tmp_path / "tc", {"bad": bad}))
    line = up()
    assert line.startswith("estate: build of bad 1.0.0: ./main.go:3:23: undefined: undefinedName; ")
    assert line.endswith("run the command again")


@pytest.mark.usefixtures("before", "real_go")
@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("http://127.0.0.1:9", "connection refused"),
        ("off", "module lookup disabled by GOPROXY=off"),
    ],
)
def test_a_module_proxy_that_does_not_answer(
    up: Up, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxy: str, said: str
) -> None:
    source = 'package main\n\nimport _ "example.test/lib"\n\nfunc main() {}\n'
    made = toolchain(tmp_path / "tc", {"far": source})
    with (made / "modules" / "far" / "go.mod").open("a") as file:
        file.write("\nrequire example.test/lib v1.0.0\n")
    checksum = "h1:" + "A" * 43 + "="
    (made / "modules" / "far" / "go.sum").write_text(
        f"example.test/lib v1.0.0 {checksum}\nexample.test/lib v1.0.0/go.mod {checksum}\n"
    )
    monkeypatch.setattr(tools, "HERE", made)
    monkeypatch.setenv("GOPROXY", proxy)
    line = up()
    assert line.startswith(f"estate: Go module proxy {proxy}: does not answer: {said}; mend ")


@pytest.mark.usefixtures("before", "real_go")
def test_a_damaged_module_file_is_named(
    up: Up, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = toolchain(tmp_path / "tc", {"bad": GOOD})
    file = made / "modules" / "bad" / "go.mod"
    file.write_text(file.read_text().replace("go 1", "gooo 1"))
    monkeypatch.setattr(tools, "HERE", made)
    line = up()
    assert "errors parsing go.mod: " in line and "unknown directive: gooo" in line
    assert "; restore " in line and line.count("modules/bad/go.mod") >= 1


def test_an_archive_that_does_not_answer(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("apt-get is Debian's")
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    with pytest.raises(ImageError) as caught:
        Apt(folders.cache / "apt").resolve(["runc"])
    line = str(caught.value)
    assert "apt" in line and "127.0.0.1" in line and "\n" not in line


def test_without_root_it_says_what_is_simulated_and_why(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "containers_possible", lambda: (False, WHY))
    assert cli.main(["up", "--offline", "--port-base", str(BASE)]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"all nodes are simulated: {WHY}." in said
    assert "no container runs" in said
    assert "not in the cache; run once without --offline" in said
    assert not (folders.state / "local").exists()


def test_a_rehearsal_of_another_environment_is_not_touched(up: Up, folders: Folders) -> None:
    Rehearsal("rehearse-onprem").prepare("simulated", WHY, BASE, "onprem")
    line = up("--name", "rehearse-onprem")
    assert "rehearsal rehearse-onprem: is one of stack onprem, not of local; " in line


def test_rehearse_takes_no_other_rehearsal_away(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Rehearsal("rehearse-onprem")
    made.prepare("simulated", WHY, BASE)
    assert cli.main(["rehearse", "onprem"]) == 1
    assert "is one of stack local, not of onprem; " in capsys.readouterr().err
    assert made.folder.exists()
