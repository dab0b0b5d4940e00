"""Errors meant for a person: one line that names the thing, its value and the way out.

Standard library only, because the launcher uses it before any package is installed.
"""

from __future__ import annotations


class EstateError(Exception):
    """Something the user can act on.

    Args:
        thing: what is wrong, named as the user knows it (an option, a file, a tool).
        value: the value or state that was found.
        way_out: what to do next, as an imperative.

    `estate` prints it as one line on stderr and exits with `exit_code`.
    """

    exit_code = 1

    def __init__(self, thing: str, value: object, way_out: str) -> None:
        """Keep the three parts; `str()` joins them into the one line."""
        super().__init__(thing, value, way_out)
        self.thing = thing
        self.value = str(value)
        self.way_out = way_out

    def __str__(self) -> str:
        """Return the line, with line breaks inside a part folded to spaces."""
        return " ".join(f"{self.thing}: {self.value}; {self.way_out}".split())


class UsageError(EstateError):
    """A wrong argument: exit code 2, as for any option the command does not know."""

    exit_code = 2
