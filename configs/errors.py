"""One exception for everything an operator can get wrong in configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence

_USER_INFO = re.compile(r"(?<=://)[^\s'\"]*@")


class ConfigError(Exception):
    """`lines` has one line per problem: file, key path, value, and what is allowed."""

    def __init__(self, lines: str | Sequence[str]) -> None:
        given = [lines] if isinstance(lines, str) else lines
        # Addresses are quoted in many places, and each may have a password in it.
        self.lines = [_USER_INFO.sub("", line) for line in given]
        super().__init__("\n".join(self.lines))
