from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pulumi.runtime.proto import language_pb2

from rehearsal.pulumi_host import launch


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["127.0.0.1:4000"], "127.0.0.1:4000"),
        (["--logtostderr", "-v=9", "--tracing", "file:x", "localhost:1"], "localhost:1"),
        (["-root=/p", "-virtualenv", "venv", "-typechecker=mypy", "127.0.0.1:2"], "127.0.0.1:2"),
        (["-use-executor", "/bin/exec", "[::1]:3"], "[::1]:3"),
        ([], ""),
        (["-root", "/p"], ""),
        (["--tracing=http://host:1"], ""),
    ],
)
def test_the_engines_address_is_the_last_argument(argv: list[str], expected: str) -> None:
    assert launch.engine_address(argv) == expected


def make_venv(folder: Path) -> Path:
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    return python


def test_the_hosts_own_interpreter_is_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PULUMI_PYTHON_CMD", raising=False)
    assert launch.interpreter(tmp_path, {})[0] == sys.executable
    assert launch.interpreter(tmp_path, {"toolchain": "pip"})[0] == sys.executable


def test_the_variable_names_a_command_on_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = make_venv(tmp_path)
    monkeypatch.setenv("PATH", str(python.parent))
    monkeypatch.setenv("PULUMI_PYTHON_CMD", "python")
    assert launch.interpreter(tmp_path, {})[0] == str(python)
    monkeypatch.setenv("PULUMI_PYTHON_CMD", "python9")
    with pytest.raises(launch.HostError, match=r"PULUMI_PYTHON_CMD: 'python9' is no command"):
        launch.interpreter(tmp_path, {})


@pytest.mark.parametrize(
    ("options", "folder"),
    [({"virtualenv": "env"}, "env"), ({"toolchain": "uv"}, ".venv")],
)
def test_a_virtual_environment_comes_before_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, str], folder: str
) -> None:
    monkeypatch.setenv("PULUMI_PYTHON_CMD", "python9")
    monkeypatch.setenv("PYTHONHOME", "/elsewhere")
    monkeypatch.delenv("UV_PROJECT_ENVIRONMENT", raising=False)
    python = make_venv(tmp_path / folder)
    chosen, environment = launch.interpreter(tmp_path, options)
    assert chosen == str(python)
    assert environment["VIRTUAL_ENV"] == str(tmp_path / folder)
    assert environment["PATH"].startswith(f"{python.parent}:")
    assert "PYTHONHOME" not in environment


def test_options_that_cannot_be_met_say_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(launch.HostError, match=r"'env' holds no interpreter.*python3 -m venv"):
        launch.interpreter(tmp_path, {"virtualenv": "env"})
    with pytest.raises(launch.HostError, match=r"toolchain: 'poetry'.*virtualenv"):
        launch.interpreter(tmp_path, {"toolchain": "poetry"})


def test_configuration_goes_by_environment_only() -> None:
    request = language_pb2.RunRequest(
        monitor_address="127.0.0.1:1",
        project="demo",
        stack="dev",
        pwd="/p/stacks",
        dryRun=True,
        parallel=8,
        organization="organization",
        args=["one"],
        config={"demo:password": "hunter2"},
        configSecretKeys=["demo:password"],
        info=language_pb2.ProgramInfo(
            root_directory="/p", program_directory="/p/stacks", entry_point="."
        ),
    )
    arguments = launch.program_arguments("127.0.0.1:2", request)
    assert "hunter2" not in " ".join(arguments)
    assert arguments[0] == "-u"
    assert arguments[2:] == [
        "--monitor=127.0.0.1:1",
        "--engine=127.0.0.1:2",
        "--project=demo",
        "--stack=dev",
        "--root_directory=/p",
        "--pwd=/p/stacks",
        "--dry_run=true",
        "--parallel=8",
        "--organization=organization",
        "/p/stacks",
        "one",
    ]
    assert launch.program_configuration(request) == {
        "PULUMI_CONFIG": '{"demo:password": "hunter2"}',
        "PULUMI_CONFIG_SECRET_KEYS": '["demo:password"]',
    }


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("pulumi up --yes --skip-preview --parallel 128", False),
        ("pulumi up --diff -s dev", False),
        ("pulumi up --debug", True),
        ("pulumi up -yd", True),
        ("pulumi preview -v=9 --logtostderr", True),
        ("pulumi preview --verbose 9", True),
    ],
)
def test_debug_lines_are_sent_to_whom_asks(words: str, wanted: bool) -> None:
    assert launch.debug_wanted(words.split(), {}) is wanted
    assert launch.debug_wanted(words.split(), {"PULUMI_OPTION_DEBUG": "true"})


def test_the_program_is_told_of_debug() -> None:
    request = language_pb2.RunRequest()
    assert "--debug=true" in launch.program_arguments("", request, debug=True)


def test_plugins_are_policy_packs_folders_or_packages(tmp_path: Path) -> None:
    with pytest.raises(launch.HostError, match=r"neither __main__\.py nor"):
        launch.plugin_arguments("resource", tmp_path, [])
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "my-box"\n')
    expected = ["-u", "-m", "pulumi.run.plugin", "my-box", "host:1"]
    assert launch.plugin_arguments("resource", tmp_path, ["host:1"]) == expected
    (tmp_path / "__main__.py").touch()
    expected = ["-u", str(tmp_path), "host:1"]
    assert launch.plugin_arguments("resource", tmp_path, ["host:1"]) == expected
    expected = ["-u", "-m", "pulumi.policy", "host:1", str(tmp_path)]
    assert launch.plugin_arguments("analyzer", tmp_path, ["host:1"]) == expected
