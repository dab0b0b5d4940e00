"""The language host against the real engine: programs, errors, secrets, interrupts, options."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.contract.engine import PROGRAM, Project, needs_pulumi

pytestmark = needs_pulumi

SECRET = "hunter2-correct-horse"

LATE_ERROR = """import pulumi
def late(value):
    raise KeyError(value)
pulumi.Output.all('x').apply(late)
"""


def diagnostics(shown: str) -> str:
    """The engine's summary of messages: above it, the display repeats them as they come."""
    return shown.partition("Diagnostics:")[2].partition("Resources:")[0]


def wait_until(what: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def started(project: Project, text: str) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """An `up` of a program that prints `text` and sleeps, with all processes below the engine."""
    project.write(f"import time\nprint({text!r})\ntime.sleep(120)\n")
    engine = project.start("up", "--yes", "--skip-preview")
    assert engine.stdout is not None
    assert any(text in line for line in engine.stdout), "the program did not start"
    children = psutil.Process(engine.pid).children(recursive=True)
    commands = [" ".join(child.cmdline()) for child in children]
    assert any("executor.py" in command for command in commands), commands
    return engine, children


def test_up_twice_output_and_destroy(project: Project) -> None:
    project.pulumi("config", "set", "--secret", "password", SECRET)
    shown = project.pulumi("up", "--yes", "--skip-preview")
    assert "first line" in shown
    assert SECRET not in shown
    assert "warning" not in shown
    assert re.search(r"\+ 2 created", shown)

    outputs = json.loads(project.pulumi("stack", "output", "--json"))
    assert outputs == {
        "plain": "value",
        "password": "[secret]",
        "stack": "dev",
        "organization": "organization",
    }
    assert project.pulumi("stack", "output", "password", "--show-secrets").strip() == SECRET
    assert SECRET not in project.pulumi("stack", "export")

    assert re.search(r"2 unchanged", project.pulumi("preview", "--expect-no-changes"))
    project.pulumi("refresh", "--yes", "--skip-preview")
    assert re.search(r"- 2 deleted", project.pulumi("destroy", "--yes", "--skip-preview"))


def test_debug_lines_are_there_when_asked_for(project: Project) -> None:
    project.write('import pulumi\npulumi.log.debug("my own line")\npulumi.export("a", 1)\n')
    assert "my own line" not in project.pulumi("preview")
    shown = project.pulumi("preview", "--debug")
    assert "my own line" in shown
    assert "resource registration successful" in shown, "the SDK's own lines"


def test_stack_reference(project: Project) -> None:
    project.pulumi("up", "--yes", "--skip-preview")
    project.write(
        "import pulumi\n"
        "other = pulumi.StackReference('organization/demo/dev')\n"
        "pulumi.export('seen', other.require_output('plain'))\n"
    )
    project.pulumi("stack", "init", "second")
    project.pulumi("up", "--yes", "--skip-preview")
    assert project.pulumi("stack", "output", "seen").strip() == "value"


def test_secrets_are_on_no_command_line_and_not_inherited(project: Project) -> None:
    project.pulumi("config", "set", "--secret", "password", SECRET)
    project.write(
        "import glob, os, pulumi\n"
        "secret = b'hunter2-' + b'correct-horse'\n"
        "lines = []\n"
        "for path in glob.glob('/proc/[0-9]*/cmdline'):\n"
        "    try:\n"
        "        lines.append(open(path, 'rb').read())\n"
        "    except OSError:\n"
        "        pass\n"
        "pulumi.export('self', any(b'executor.py' in line for line in lines))\n"
        "pulumi.export('argv', any(secret in line for line in lines))\n"
        "pulumi.export('environment', secret.decode() in str(dict(os.environ)))\n"
        "password = pulumi.Config().require_secret('password')\n"
        "pulumi.export('right', password.apply(lambda p: p.encode() == secret))\n"
    )
    project.pulumi("up", "--yes", "--skip-preview")
    outputs = json.loads(project.pulumi("stack", "output", "--json", "--show-secrets"))
    assert outputs == {"self": True, "argv": False, "environment": False, "right": True}


@pytest.mark.parametrize(
    ("program", "line", "message"),
    [
        ("import pulumi\n\nraise ValueError('boom')\n", 3, "ValueError: boom"),
        ("import nosuchthing\n", 1, "ModuleNotFoundError: No module named 'nosuchthing'"),
        ("x = 1\ny = = 2\n", 2, "SyntaxError: invalid syntax"),
        (
            LATE_ERROR,
            3,
            "KeyError: ['x']",
        ),
        (
            "from components.thing import Thing\nThing('a', opts='none')\n",
            2,
            "TypeError: Expected resource options to be a ResourceOptions instance",
        ),
    ],
    ids=["raise", "import", "syntax", "apply", "sdk"],
)
def test_program_error_shows_the_users_lines_once(
    project: Project, program: str, line: int, message: str
) -> None:
    project.write(program)
    shown = diagnostics(project.pulumi("preview", code=1))
    where = f'File "{project.root}/stacks/__main__.py", line {line}'
    assert shown.count(where) == 1, shown
    assert shown.count(message) == 1, shown
    assert shown.count("error:") == 1, shown
    for machinery in ("runpy", "executor.py", "asyncio", "site-packages"):
        assert machinery not in shown


def test_run_error_is_one_line(project: Project) -> None:
    project.write("import pulumi\nraise pulumi.RunError('brokers: 2 is below replication 3')\n")
    shown = diagnostics(project.pulumi("preview", code=1))
    assert [line.strip() for line in shown.splitlines() if line.strip()][1:] == [
        "error: brokers: 2 is below replication 3"
    ]


def test_exit_codes_and_signals_of_the_program(project: Project) -> None:
    project.write("import sys\nfrom components.thing import Thing\nThing('a')\nsys.exit(3)\n")
    shown = project.pulumi("preview", code=1)
    assert "program exited with non-zero exit code: 3" in shown
    assert "never awaited" not in shown

    project.write("import os\nos.kill(os.getpid(), 9)\n")
    assert "ended by the signal SIGKILL" in project.pulumi("preview", code=1)

    project.write("import sys\nfrom components.thing import Thing\nThing('a')\nsys.exit(0)\n")
    assert re.search(r"\+ 2 to create", project.pulumi("preview"))

    (project.root / "stacks" / "__main__.py").unlink()
    assert "no `__main__.py` in" in project.pulumi("preview", code=1)


def test_output_arrives_while_the_program_runs(project: Project) -> None:
    before = time.monotonic()
    engine, _ = started(project, "still at work")
    assert time.monotonic() - before < 30  # the program itself sleeps for 120 s
    engine.send_signal(signal.SIGINT)
    engine.communicate(timeout=30)


def test_interrupt_is_quiet_and_leaves_nothing(project: Project) -> None:
    engine, children = started(project, "ready for the interrupt")
    engine.send_signal(signal.SIGINT)
    before = time.monotonic()
    rest, _ = engine.communicate(timeout=30)
    assert time.monotonic() - before < 10
    assert engine.returncode != 0
    for noise in ("Traceback", "KeyboardInterrupt", "Exception ignored", "executor.py"):
        assert noise not in rest, rest
    assert wait_until(lambda: not any(child.is_running() for child in children), 5)
    # The interrupted update released its lock: the next one just runs.
    project.write(PROGRAM)
    project.pulumi("up", "--yes", "--skip-preview")


def test_the_engines_death_ends_host_and_program(project: Project) -> None:
    engine, children = started(project, "ready for the kill")
    engine.kill()
    engine.communicate(timeout=30)
    assert wait_until(lambda: not any(child.is_running() for child in children), 10), children


def test_about_names_interpreter_and_packages(project: Project) -> None:
    about = json.loads(project.pulumi("about", "--json"))
    assert about["runtime"]["language"] == "python"
    assert about["runtime"]["executable"] == sys.executable
    assert about["runtime"]["version"] == sys.version.split()[0]
    names = {item["name"] for item in about["dependencies"]}
    assert "pulumi_policy" in names or "pulumi-policy" in names
    assert "grpcio" not in names  # required by another
    project.pulumi("plugin", "ls")


def test_runtime_options_choose_the_interpreter(project: Project, tmp_path: Path) -> None:
    venv = tmp_path / "env"
    (venv / "bin").mkdir(parents=True)
    site = Path(sys.prefix, "lib", f"python{sys.version_info.major}.{sys.version_info.minor}")
    (venv / "lib").mkdir()
    (venv / "lib" / site.name).symlink_to(site)
    (venv / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix, 'bin')}\n")
    (venv / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    project.write(
        "import os, sys, pulumi\npulumi.export('e', [sys.prefix, os.environ['VIRTUAL_ENV']])"
    )
    head = "name: demo\nmain: stacks\nruntime:\n  name: python\n  options:\n"
    (project.root / "Pulumi.yaml").write_text(f"{head}    virtualenv: ../env\n")
    project.pulumi("up", "--yes", "--skip-preview")
    prefix, variable = json.loads(project.pulumi("stack", "output", "e", "--json"))
    assert os.path.realpath(prefix) == os.path.realpath(variable) == str(venv)

    (project.root / "Pulumi.yaml").write_text(f"{head}    virtualenv: nowhere\n")
    shown = project.pulumi("preview", code=1)
    assert "virtualenv: 'nowhere' holds no interpreter" in shown
    assert "python3 -m venv" in shown


def test_a_file_can_be_the_program(project: Project) -> None:
    (project.root / "Pulumi.yaml").write_text("name: demo\nruntime: python\nmain: stacks/one.py\n")
    (project.root / "stacks" / "two.py").write_text("answer = 2\n")
    (project.root / "stacks" / "one.py").write_text(
        "import os, pulumi, two\nfrom components.thing import Thing\n"
        "pulumi.export('answer', two.answer)\npulumi.export('folder', os.getcwd())\n"
    )
    project.pulumi("up", "--yes", "--skip-preview")
    outputs = json.loads(project.pulumi("stack", "output", "--json"))
    assert outputs == {"answer": 2, "folder": str(project.root / "stacks")}


def test_typechecker_comes_first(project: Project) -> None:
    project.write("x: int = 'not a number'\n")
    options = "runtime:\n  name: python\n  options:\n    typechecker: mypy\n"
    (project.root / "Pulumi.yaml").write_text(f"name: demo\nmain: stacks\n{options}")
    shown = project.pulumi("preview", code=1)
    assert "Incompatible types in assignment" in shown
    assert "typechecker: mypy failed" in shown


def test_install_says_what_to_do(project: Project) -> None:
    assert "installs nothing" in project.pulumi("install", "--no-plugins")
