"""`./estate test`: one pytest process over the layers, linters and type checker among its tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from rehearsal import paths
from rehearsal.errors import UsageError

LAYERS = ("unit", "contract", "state")


def run(*, layers: Sequence[str], args: Sequence[str]) -> NoReturn:
    """Become pytest, so that its closing line and its exit code are those of the run.

    Args:
        layers: names from LAYERS; none means all, in that order.
        args: further arguments for pytest. A path among them is run instead of the layers.
    """
    os.chdir(paths.root())
    command = [sys.executable, "-P", "-m", "pytest", *selection(layers, args), *args]
    sys.stdout.flush()
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": str(paths.root())})


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
