"""A project and the real engine with this language host, for the contract tests.

Needs a `pulumi`, by the variable ESTATE_PULUMI or on PATH; the state is a folder of the test's own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import pytest

from rehearsal.pulumi_host import install

PULUMI = os.environ.get("ESTATE_PULUMI") or shutil.which("pulumi")
needs_pulumi = pytest.mark.skipif(PULUMI is None, reason="no pulumi: ESTATE_PULUMI or PATH")

PROGRAM = """
import pulumi
from components.thing import Thing

config = pulumi.Config()
Thing("thing")
print("first line")
pulumi.export("plain", "value")
pulumi.export("password", config.get_secret("password"))
pulumi.export("stack", pulumi.get_stack())
pulumi.export("organization", pulumi.get_organization())
"""

COMPONENT = """
import pulumi

class Thing(pulumi.ComponentResource):
    def __init__(self, name, opts=None):
        super().__init__("estate:test:Thing", name, None, opts)
        self.register_outputs({})
"""


@dataclass(frozen=True)
class Project:
    """A project with the layout of the estate's (`main: stacks`) and a stack `dev`."""

    root: Path
    bin: Path
    environment: dict[str, str] = field(repr=False)

    def write(self, program: str) -> None:
        (self.root / "stacks" / "__main__.py").write_text(program)

    def pulumi(self, *arguments: str, code: int = 0) -> str:
        """Output of one command, both streams; its exit code must be 0 exactly if `code` is."""
        done = subprocess.run(
            [self.bin / "pulumi", *arguments, "--non-interactive", "--color=never"],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
            check=False,
        )
        assert bool(done.returncode) == bool(code), done.stdout
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.bin / "pulumi", *arguments, "--non-interactive", "--color=never"],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the engine and this host, where no official host can be found beside it."""
    folder = tmp_path_factory.mktemp("bin")
    real = os.path.realpath(str(PULUMI))
    try:
        os.link(real, folder / "pulumi")
    except OSError:
        shutil.copy2(real, folder / "pulumi")
    install(folder, Path(sys.executable))
    return folder


@pytest.fixture
def project(tmp_path: Path, tools: Path) -> Project:
    root, state = tmp_path / "project", tmp_path / "state"
    for folder in (root / "stacks", root / "components", state):
        folder.mkdir(parents=True)
    (root / "Pulumi.yaml").write_text("name: demo\nruntime: python\nmain: stacks\n")
    (root / "components" / "thing.py").write_text(COMPONENT)
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    environment = kept | {
        "PATH": f"{tools}:{os.defpath}",
        "PULUMI_HOME": str(tmp_path / "home"),
        "PULUMI_BACKEND_URL": state.as_uri(),
        "PULUMI_CONFIG_PASSPHRASE": "test",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
    }
    made = Project(root, tools, environment)
    made.write(PROGRAM)
    made.pulumi("stack", "init", "dev")
    return made


@pytest.fixture
def kubernetes(project: Project) -> str:
    """The real provider's version, installed for the project; skips where there is none."""
    beside = Path(os.path.realpath(str(PULUMI))).with_name("pulumi-resource-kubernetes")
    provider = beside if beside.is_file() else shutil.which("pulumi-resource-kubernetes")
    if not provider:
        pytest.skip("no pulumi-resource-kubernetes beside pulumi or on PATH")
    number = metadata.version("pulumi-kubernetes")
    project.pulumi("plugin", "install", "resource", "kubernetes", number, "--file", str(provider))
    return number
