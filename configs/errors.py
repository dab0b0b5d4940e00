"""One exception for everything an operator can get wrong in configuration."""

from __future__ import annotations

from collections.abc import Sequence


class ConfigError(Exception):
    """`lines` has one line per problem: file, key path, value, and what is allowed."""

    def __init__(self, lines: str | Sequence[str]) -> None:
        self.lines = [lines] if isinstance(lines, str) else list(lines)
        super().__init__("\n".join(self.lines))
