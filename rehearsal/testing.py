"""`./estate test`: one pytest process over the layers, linters and type checker among its tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from rehearsal import paths, tools
from rehearsal.errors import UsageError
from rehearsal.progress import ToolBars

LAYERS = ("unit", "contract", "browser", "state")
_ENGINE = (
    "pulumi",
    "pulumi-resource-kubernetes",
    "kubectl",
    "promtool",
    "kubeconform",
    "kube-score",
)
_TOOLS = {
    "tests/contract": (*_ENGINE, "registry"),
    "tests/state": _ENGINE,
    "tests/browser": ("tusd",),
}
"""What the tests of a folder run and do not build."""


def run(*, layers: Sequence[str], args: Sequence[str]) -> NoReturn:
    """Become pytest, so that its closing line and its exit code are those of the run.

    Args:
        layers: names from LAYERS; none means all, in that order.
        args: further arguments for pytest. A path among them is run instead of the layers.
    """
    os.chdir(paths.root())
    folders = selection(layers, args)
    command = [sys.executable, "-P", "-m", "pytest", *folders, *args]
    env = {**os.environ, "PYTHONPATH": str(paths.root())}
    env |= with_tools(env, folders)
    sys.stdout.flush()
    os.execve(sys.executable, command, env)


def with_tools(env: Mapping[str, str], folders: Sequence[str]) -> dict[str, str]:
    """Have the tools that these folders' tests run, built where they lack; say where they are.

    Without them those tests would be skipped, and a test that is skipped everywhere shows nothing.
    With those of the state, all of a rehearsal too: built in one go, they share what Go compiles.
    """
    names = {name for folder in folders for name in _TOOLS.get(folder, ())}
    if not names:
        return {}
    with ToolBars() as bars:
        found = tools.ensure(list(tools.catalogue()) if "tests/state" in folders else names, bars)
    on_path = sorted({str(found[name].parent) for name in names - {"pulumi"}})
    told = {"PATH": os.pathsep.join([*on_path, env.get("PATH", os.defpath)])}
    return {**told, "ESTATE_PULUMI": str(found["pulumi"])} if "pulumi" in names else told


def selection(layers: Sequence[str], args: Sequence[str]) -> list[str]:
    """Return the folders that pytest gets; none where `args` name a path themselves."""
    wanted = [part for layer in layers for part in layer.split(",") if part]
    for layer in wanted:
        if layer not in LAYERS:
            raise UsageError("--layer", repr(layer), f"use one of {', '.join(LAYERS)}")
    root = paths.root()
    if not wanted and any((root / arg.partition("::")[0]).exists() for arg in args if arg):
        return []
    chosen = [f"tests/{layer}" for layer in LAYERS if layer in wanted or not wanted]
    return [folder for folder in chosen if (root / folder).exists()]
