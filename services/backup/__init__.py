"""Backups that describe themselves: a folder of digested files, and what goes into it and back.

Nothing here knows of a rehearsal: clients are handed in, so that the same code runs in a process of
the command line and in a pod.
"""

from __future__ import annotations


class BackupError(Exception):
    """What somebody can act on: the thing, its value or state, the way out."""

    def __init__(self, thing: str, value: object, way_out: str) -> None:
        """Keep the three parts; `str()` joins them."""
        super().__init__(f"{thing}: {value}; {way_out}")
        self.thing, self.value, self.way_out = thing, str(value), way_out
