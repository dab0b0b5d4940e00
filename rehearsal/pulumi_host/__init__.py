"""Python language host for Pulumi, for machines without the official `pulumi-language-python`.

The official host is part of Pulumi's release archive and exists as no package, so a Pulumi that
was built from its Go module has none. `install` puts launchers beside such a `pulumi`; with an
official Pulumi nothing here is used.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

__all__ = ["LAUNCHERS", "install"]

_HERE = Path(__file__).resolve().parent
_MARK = "# estate: launcher of rehearsal/pulumi_host"

# The names the engine looks for. The second serves dynamic providers, which the official archive
# bundles too (kind resource, name pulumi-python).
LAUNCHERS = ("pulumi-language-python", "pulumi-resource-pulumi-python")


def _scripts(python: Path) -> dict[str, str]:
    quoted = shlex.quote(str(python))
    host = shlex.quote(str(_HERE / "__main__.py"))
    dynamic = (
        'if [ -n "${PULUMI_RUNTIME_VIRTUALENV:-}" ]; then\n'
        '  exec "$PULUMI_RUNTIME_VIRTUALENV/bin/python" -u -m pulumi.dynamic "$@"\n'
        "fi\n"
        f'exec {quoted} -u -m pulumi.dynamic "$@"\n'
    )
    # -I: the caller's PYTHONPATH must not change the host; the program still sees it.
    bodies = (f'exec {quoted} -I {host} "$@"\n', dynamic)
    return {
        name: f"#!/bin/sh\n{_MARK}\n{body}" for name, body in zip(LAUNCHERS, bodies, strict=True)
    }


def install(bin_dir: Path, python: Path) -> None:
    """Write the launchers into `bin_dir`, to run under the interpreter `python`.

    `bin_dir` must be the folder of the real `pulumi` file (symbolic links resolved): only there
    does the engine take the host as its own, without a warning. `python` must have the `pulumi`
    package; it also runs the programs, unless a project names another one. Its path is kept as
    given, for resolving it would lead out of a virtual environment. Repeating changes nothing.

    Raises FileExistsError where a launcher's name is taken by a file that is not ours (an official
    host), and FileNotFoundError where `python` is no file.
    """
    python = Path(os.path.abspath(python))
    if not python.is_file():
        raise FileNotFoundError(
            f"python for the Pulumi language host: {python} is no file; "
            "name the interpreter of the estate's virtual environment"
        )
    scripts = _scripts(python)
    for name in scripts:
        path = bin_dir / name
        if path.exists() and _MARK.encode() not in path.read_bytes()[:256]:
            raise FileExistsError(
                f"{path} exists and is not the estate's: use the Pulumi it belongs to, "
                "or choose another folder"
            )
    bin_dir.mkdir(parents=True, exist_ok=True)
    for name, text in scripts.items():
        # Written beside and renamed: an engine that starts meanwhile finds the old or the new one.
        partial = bin_dir / f".{name}.{os.getpid()}"
        partial.write_text(text)
        partial.chmod(0o755)
        partial.replace(bin_dir / name)
