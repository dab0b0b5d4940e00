"""Which mirrors and keys the host uses for its release: read, never changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from rehearsal.images.errors import ImageError

_HOST = Path("/etc/apt")


def host_codename(os_release: Path = Path("/etc/os-release")) -> str:
    """``VERSION_CODENAME`` of the host.

    :raises ImageError: the host names no release.
    """
    try:
        text = os_release.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    match = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', text, re.MULTILINE)
    if match is None:
        raise ImageError(
            f"{os_release} has no VERSION_CODENAME",
            "Images are built on Debian and its derivatives: run there, or pull images",
        )
    return match[1]


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """Stanzas of a deb822 file, comments left out, keys in lower case."""
    bare = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for block in re.split(r"\n\s*\n", bare):
        fields = {
            key.lower(): value.strip()
            for key, value in re.findall(r"^([A-Za-z-]+):(.*(?:\n[ \t].*)*)", block, re.MULTILINE)
        }
        if fields:
            yield fields


def _lines(text: str) -> Iterator[dict[str, str]]:
    """One-line entries (``deb [signed-by=...] URI SUITE COMPONENT...``) as stanzas."""
    pattern = r"^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#\n]+)"
    for options, uri, suite, components in re.findall(pattern, text, re.MULTILINE):
        fields = {"types": "deb", "uris": uri, "suites": suite, "components": components.strip()}
        for option in options.split():
            key, _, value = option.partition("=")
            fields[{"arch": "architectures"}.get(key, key)] = value
        yield fields


def release_sources(codename: str | None = None, host: Path = _HOST) -> str:
    """A deb822 list of the host's sources for its own release, component main only.

    Sources of other vendors are left out, so that an image never depends on what else a host
    installs from; so are sources whose signature the host does not check.

    :raises ImageError: the host has no such source.
    """
    codename = codename or host_codename()
    stanzas: list[dict[str, str]] = []
    for path in [host / "sources.list", *sorted((host / "sources.list.d").glob("*"))]:
        if path.suffix in (".list", ".sources") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            stanzas.extend(_lines(text) if path.suffix == ".list" else _stanzas(text))
    blocks = []
    for fields in stanzas:
        suites = [
            suite
            for suite in fields.get("suites", "").split()
            if suite == codename or suite.startswith((f"{codename}-", f"{codename}/"))
        ]
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "0")
        if (
            not suites
            or not enabled
            or "deb" not in fields.get("types", "").split()
            or "main" not in fields.get("components", "").split()
            or fields.get("trusted", "no").lower() in ("yes", "true", "1")
        ):
            continue
        block = ["Types: deb", f"URIs: {fields['uris']}", f"Suites: {' '.join(suites)}"]
        block.append("Components: main")
        if "signed-by" in fields:
            block.append(f"Signed-By: {fields['signed-by']}")
        if "\n".join(block) not in blocks:
            blocks.append("\n".join(block))
    if not blocks:
        raise ImageError(
            f"no signed source of {codename!r} with component 'main' in {host}",
            f"Add Debian's own source for {codename} to {host}/sources.list.d",
        )
    return "\n\n".join(blocks) + "\n"
