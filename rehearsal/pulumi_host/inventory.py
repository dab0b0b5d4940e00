"""What one Python interpreter has installed, as JSON on standard output.

A script of the standard library alone: the language host runs it under the interpreter that the
project chose, which need not be its own.
"""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def normalized(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def plugin_of(name: str, version: str, folder: Path) -> dict[str, Any] | None:
    """The resource plugin that the distribution `name` in `folder` needs, and its parameterization.

    Read from `<module>/pulumi-plugin.json`, where providers state it; None without one. Name and
    version default to the distribution's own, as in the official host; a version that is no plain
    `N.N.N` says nothing about the plugin's and gives None. Raises ValueError for a broken file.
    """
    path = folder / name.replace("-", "_") / "pulumi-plugin.json"
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): reinstall {name}") from error
    number = stated.get("version") or (version if re.fullmatch(r"\d+\.\d+\.\d+", version) else "")
    if not stated.get("resource") or not number:
        return None
    return {
        "plugin": {
            "name": stated.get("name") or re.sub(r"^pulumi[-_]", "", name),
            "version": number if number.startswith("v") else f"v{number}",
            "server": stated.get("server") or "",
        },
        "parameterization": stated.get("parameterization"),
    }


def inventory() -> dict[str, Any]:
    """Executable, version and distributions of the running interpreter."""
    found: dict[str, dict[str, Any]] = {}
    required: set[str] = set()
    for distribution in metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version
        # No name: left by a broken removal. Known already: shadowed on sys.path.
        if not name or normalized(name) in found:
            continue
        folder = Path(str(distribution.locate_file("")))
        plugin = plugin_of(name, version, folder)
        found[normalized(name)] = {"name": name, "version": version, "plugin": plugin}
        for requirement in distribution.requires or []:
            match = re.match(r"[\w.-]+", requirement)
            if match and "extra ==" not in requirement:
                required.add(normalized(match[0]))
    return {
        "executable": sys.executable,
        "version": sys.version.split()[0],
        "distributions": [found[key] | {"direct": key not in required} for key in sorted(found)],
    }


if __name__ == "__main__":
    try:
        json.dump(inventory(), sys.stdout)
    except ValueError as error:
        sys.exit(str(error))
