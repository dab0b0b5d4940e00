"""What the estate consists of, what of it is real in a rehearsal, and the profiles of `up`.

The data is parts.toml; README.md's table is made from it (`python -m rehearsal.parts`).
"""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["real", "simulated", "declared"]
NOT_REHEARSED = (
    ("containers", "no image is pulled, nothing of it runs"),
    ("operators", "custom resources are stored, nobody acts on them; placeholder pods stand in"),
    ("webhooks", "registered with nobody behind, so they are empty here"),
    ("network policies", "stored and judged by the policies; nothing enforces them"),
    ("secrets", "placeholders; whether the real ones exist is not looked at"),
)
"""What `rehearse` of another environment leaves out, and why."""

_DATA = tomllib.loads((Path(__file__).parent / "parts.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Part:
    """One part: its state on a real node, without one, and a plain sentence on how."""

    name: str
    node: State
    without_node: State
    how: str


@dataclass(frozen=True)
class Profile:
    """What one profile of `up` brings, and its budget on two cores with a warm cache."""

    minutes: int
    memory_gib: int
    disk_gib: int
    parts: str


PARTS = tuple(Part(**part) for part in _DATA["part"])
PROFILES = {name: Profile(**profile) for name, profile in _DATA["profile"].items()}


def table_rows(mode: str) -> list[tuple[str, str, str]]:
    """Rows of part, state and how, for a rehearsal of this mode ("node" or "simulated")."""
    return [(p.name, p.node if mode == "node" else p.without_node, p.how) for p in PARTS]


def markdown() -> str:
    """The parts and the profiles as Markdown tables."""
    lines = ["| part | with a real node | without | how |", "| --- | --- | --- | --- |"]
    lines += [f"| {p.name} | {p.node} | {p.without_node} | {p.how} |" for p in PARTS]
    lines += ["", "| profile | brings | minutes | adds memory | adds disk |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {name} | {p.parts} | {p.minutes} | {p.memory_gib} GiB | {p.disk_gib} GiB |"
        for name, p in PROFILES.items()
    ]
    return "\n".join(lines)


def inserted(readme: str) -> str:
    """README.md's text with the tables between its markers."""
    block = f"<!-- parts:begin -->\n{markdown()}\n<!-- parts:end -->"
    return re.sub(r"<!-- parts:begin -->.*<!-- parts:end -->", lambda _: block, readme, flags=re.S)


if __name__ == "__main__":
    file = Path(sys.argv[1] if len(sys.argv) > 1 else "README.md")
    file.write_text(inserted(file.read_text(encoding="utf-8")), encoding="utf-8")
