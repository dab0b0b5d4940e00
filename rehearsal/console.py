"""What a person sees: two Rich consoles, and the few shapes that every command prints.

Results go to stdout, so that they can be piped; progress and remarks go to stderr.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table


def _console(*, stderr: bool) -> Console:
    """Make a console; a log or a pipe has no width, so nothing in it is folded early."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = 200
    return made


out = _console(stderr=False)
err = _console(stderr=True)

# One colour per word of state, so that a column reads the same in every command.
_STYLES = {
    "ok": "green",
    "passed": "green",
    "real": "green",
    "running": "green",
    "limited": "yellow",
    "simulated": "yellow",
    "skipped": "yellow",
    "declared": "cyan",
    "missing": "red",
    "failed": "red",
    "stopped": "red",
}


def say(text: str) -> None:
    """Print a remark on stderr; Rich markup is on."""
    err.print(text)


def step(text: str) -> None:
    """Print on stderr what begins now, as one line."""
    err.print(f"[bold cyan]>[/] {escape(text)}")


def warn(text: str) -> None:
    """Print on stderr what the user should know, but which does not stop the command."""
    err.print(f"[yellow]![/] {escape(text)}")


def state(word: str) -> str:
    """Return `word` with the markup of its state (ok, limited, missing, real, failed, ...)."""
    style = _STYLES.get(word)
    return f"[{style}]{escape(word)}[/]" if style else escape(word)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, to: Console = out
) -> None:
    """Print a table; a cell that is a word of state gets its colour, other text stays as it is."""
    grid = Table(title=title or None, title_justify="left", header_style="bold", show_edge=False)
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(state(str(cell)) for cell in row))
    to.print(grid)


def emit_json(value: Any) -> None:
    """Print `value` on stdout as JSON, sorted, for programs."""
    print(json.dumps(value, indent=2, sort_keys=True, default=str))


def bars() -> Progress:
    """Return a progress display on stderr: one row per task, with its bar and time."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=err,
    )
