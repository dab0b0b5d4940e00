"""What the language host runs: which interpreter, with which arguments and environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent


class HostError(Exception):
    """Something that the user can put right; the message names it and the way out."""


def engine_address(argv: list[str]) -> str:
    """The engine's `host:port` in the host's arguments, or "".

    The engine puts it last. Flags are ignored: what older engines say there (-root, -virtualenv,
    -typechecker, -use-executor, ...) comes with each call; logging and tracing are not offered.
    """
    last = argv[-1] if argv else ""
    return last if re.fullmatch(r"\[?[\w.:-]+\]?:\d+", last) else ""


def interpreter(root: Path, options: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The Python that `runtime.options` of the project in `root` ask for, and its environment.

    In this order: the option `virtualenv`; `.venv` for the option `toolchain: uv`; the variable
    PULUMI_PYTHON_CMD; the interpreter of this host. Raises HostError for what cannot be met.
    """
    environment = dict(os.environ)
    folder, toolchain = options.get("virtualenv"), options.get("toolchain", "pip")
    if toolchain == "uv":
        folder = folder or os.environ.get("UV_PROJECT_ENVIRONMENT") or ".venv"
    elif toolchain != "pip" and not folder:
        raise HostError(
            f"runtime option toolchain: {toolchain!r} is neither pip nor uv: set the option "
            "virtualenv to the environment's folder, or install Pulumi's release"
        )
    if folder:
        venv = root / str(folder)
        python = venv / "bin" / "python"
        if not python.is_file():
            raise HostError(
                f"runtime option virtualenv: {str(folder)!r} holds no interpreter ({python} is "
                f"missing): run `python3 -m venv {venv}` and install the requirements there, or "
                "remove the option"
            )
        environment.pop("PYTHONHOME", None)
        environment["VIRTUAL_ENV"] = str(venv)
        environment["PATH"] = f"{python.parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
        return str(python), environment
    named = os.environ.get("PULUMI_PYTHON_CMD")
    if not named:
        return sys.executable, environment
    found = shutil.which(named)
    if not found:
        raise HostError(f"PULUMI_PYTHON_CMD: {named!r} is no command on PATH: correct or unset it")
    return found, environment


def debug_wanted(command: Sequence[str], environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a pulumi with this command line shows or logs debug lines; the engine does not say.

    `-v` asks for a log, which has them too.
    """
    asked = any(re.fullmatch(r"--debug(=true)?|-[a-z]*d|(--verbose|-v)=?\d*", w) for w in command)
    return asked or environ.get("PULUMI_OPTION_DEBUG", "").lower() in ("1", "true")


def program_arguments(engine: str, request: Any, *, debug: bool = False) -> list[str]:
    """Arguments to Python for the program of a RunRequest: what of it is public, so no config."""
    values = {
        "monitor": request.monitor_address,
        "engine": engine,
        "project": request.project,
        "stack": request.stack,
        "root_directory": request.info.root_directory,
        "pwd": request.pwd,
        "dry_run": "true" if request.dryRun else "false",
        "debug": "true" if debug else "",
        "parallel": str(request.parallel),
        "organization": request.organization,
    }
    flags = [f"--{name}={value}" for name, value in values.items() if value]
    entry = Path(request.info.program_directory, request.info.entry_point or ".")
    # -u: output must reach the terminal when it is printed, not when the program ends.
    return ["-u", str(_HERE / "executor.py"), *flags, str(entry), *request.args]


def program_configuration(request: Any) -> dict[str, str]:
    """Environment that hands the program its configuration, whose secrets must not be in argv."""
    return {
        "PULUMI_CONFIG": json.dumps(dict(request.config)),
        "PULUMI_CONFIG_SECRET_KEYS": json.dumps(list(request.configSecretKeys)),
    }


def plugin_arguments(kind: str, folder: Path, arguments: list[str]) -> list[str]:
    """Arguments to Python for the plugin in `folder`: a policy pack (kind analyzer), or a provider.

    A provider is a folder with `__main__.py`, or else a package whose components the SDK serves.
    """
    # -u: the port that a plugin prints must not wait in a buffer.
    if kind == "analyzer":
        return ["-u", "-m", "pulumi.policy", *arguments, str(folder)]
    if (folder / "__main__.py").is_file():
        return ["-u", str(folder), *arguments]
    project = folder / "pyproject.toml"
    try:
        name = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["name"]
    except (OSError, KeyError, ValueError) as error:
        raise HostError(
            f"plugin {folder}: neither __main__.py nor a project.name in pyproject.toml ({error})"
        ) from error
    return ["-u", "-m", "pulumi.run.plugin", str(name), *arguments]
