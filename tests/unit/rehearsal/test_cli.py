"""The application: its commands, its exit codes, and one line for every error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rehearsal import cli, paths, testing
from rehearsal.errors import EstateError, UsageError

OF_A_REHEARSAL = (
    *("up", "preview", "status", "down", "logs", "env"),
    *("verify", "demo", "drill", "bench"),
)
COMMANDS = (*OF_A_REHEARSAL, "test", "tools", "images", "doctor")


@pytest.fixture
def implementation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Put a module in the place of the commands'; tests give it the function they need."""
    module = ModuleType("rehearsal.up")
    for name in ("rehearsal.up", "rehearsal.commands"):
        monkeypatch.setitem(sys.modules, name, module)
    return module


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert f" {command} " in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Usage: estate {command}" in out
    assert ("--name" in out) == (command in OF_A_REHEARSAL)


@pytest.mark.parametrize(
    "command",
    ["add", "list", "show", "verify", "pull", "promote", "rollback", "declared", "gc"],
)
def test_every_command_of_models_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Rich reads markup in it: a bracket too many and there is none."""
    assert cli.main(["model", command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Usage: estate model {command}" in out and "--registry" in out


def test_help_imports_no_implementation() -> None:
    code = (
        "import sys\nfrom rehearsal import cli\ncli.main(['up', '--help'])\n"
        "heavy = {'pulumi', 'kubernetes', 'psutil', 'pytest', 'rehearsal.up'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=paths.root(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_up_passes_what_was_asked(implementation: ModuleType) -> None:
    got: dict[str, Any] = {}
    implementation.up = got.update  # type: ignore[attr-defined]
    line = "up -n second --profile lake,serving --profile edge --port-base 30000 --offline"
    assert cli.main(line.split()) == 0
    assert got == {
        "name": "second",
        "profiles": ["lake", "serving", "edge"],
        "all_": False,
        "port_base": 30000,
        "offline": True,
    }


def test_preview_hands_options_to_pulumi(implementation: ModuleType) -> None:
    got: dict[str, Any] = {}
    implementation.preview = got.update  # type: ignore[attr-defined]
    assert cli.main(["preview", "--diff", "--target", "urn"]) == 0
    assert got == {"name": "local", "args": ["--diff", "--target", "urn"]}


@pytest.mark.parametrize("name", ["Local", "9", "", "a_b", "-x", "a" * 17, "../x", "a b"])
def test_a_name_that_cannot_be(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", f"--name={name}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"estate: --name: {name!r}; use 1 to 16 of a-z")


@pytest.mark.parametrize("line", ["up --nmae x", "nosuch", "up --port-base 80", "demo --rate x"])
def test_wrong_use_is_two(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_error_is_one_line(
    implementation: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def down(name: str) -> None:
        raise EstateError("port 30443", "in use by\npid 12", "choose another with --port-base")

    implementation.down = down  # type: ignore[attr-defined]
    assert cli.main(["down"]) == 1
    expected = "estate: port 30443: in use by pid 12; choose another with --port-base\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_the_exit_code_is_the_commands(
    implementation: ModuleType, returned: int | None, code: int
) -> None:
    implementation.status = lambda **_: returned  # type: ignore[attr-defined]
    assert cli.main(["status"]) == code


def test_an_interrupt_is_130(
    implementation: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def env(name: str) -> None:
        raise KeyboardInterrupt

    implementation.env = env  # type: ignore[attr-defined]
    assert cli.main(["env"]) == 130
    assert capsys.readouterr().err.strip().startswith("estate: interrupted")


def test_an_unexpected_error_is_kept_in_a_file(
    implementation: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def env(name: str) -> None:
        raise ZeroDivisionError(f"seldom: {name}")

    implementation.env = env  # type: ignore[attr-defined]
    monkeypatch.setenv("ESTATE_CACHE", str(tmp_path))
    assert cli.main(["env"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("estate: ZeroDivisionError: seldom: local; please report it with ")
    assert err.count("\n") == 1
    log = Path(err.strip().rpartition(" ")[2])
    assert "in env" in log.read_text()


def test_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("ESTATE_CACHE", "ESTATE_STATE", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.cache() == tmp_path / ".cache/estate"
    assert paths.state("local") == tmp_path / ".local/state/estate/local"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification says: ignore it
    assert paths.cache() == tmp_path / ".cache/estate"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("XDG_STATE_HOME", "/y")
    assert (paths.cache(), paths.state("a")) == (Path("/x/estate"), Path("/y/estate/a"))
    monkeypatch.setenv("ESTATE_CACHE", "/own")
    monkeypatch.setenv("ESTATE_STATE", "/ours")
    assert (paths.cache(), paths.state("a")) == (Path("/own"), Path("/ours/a"))
    with pytest.raises(UsageError):
        paths.state("../a")


@pytest.mark.parametrize("folder", ["/a b", "/a#b", "/a?b", "/a%20b", "/a\nb", "/a'b"])
def test_a_state_folder_that_programs_cut_is_refused(
    monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setenv("ESTATE_STATE", folder)
    with pytest.raises(UsageError, match=r"state folder: .*; set ESTATE_STATE to a folder whose"):
        paths.state("local")


def test_no_home_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ESTATE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    # What expanduser does for a user without HOME and without an entry in the user database.
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(EstateError, match=r"HOME: not set.*set HOME or XDG_CACHE_HOME"):
        paths.cache()


def test_a_folder_that_cannot_be_made() -> None:
    with pytest.raises(EstateError, match="state: /dev/null/x: Not a directory; set ESTATE_CACHE"):
        paths.ensure(Path("/dev/null/x"), "state")


def test_layers_of_the_tests() -> None:
    unit, contract = "tests/unit", "tests/contract"
    assert testing.selection([], [])[:2] == [unit, contract]
    assert testing.selection(["contract,unit"], ["-x"]) == [unit, contract]
    assert testing.selection(["browser"], []) == ["tests/browser"]
    assert testing.selection([], ["tests/unit/rehearsal/test_cli.py::test_folders"]) == []
    with pytest.raises(UsageError, match="--layer: 'units'; use one of unit, contract, browser"):
        testing.selection(["units"], [])


@pytest.mark.parametrize("subject", ["", " "])
def test_a_token_speaks_for_somebody(subject: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["token", "--subject", subject]) == 2
    assert f"--subject: {subject!r}; name whom" in capsys.readouterr().err
