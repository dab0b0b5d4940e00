"""Progress of long work on the screen: a bar per tool and per image, in a log a line per event."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from rich.progress import TaskID

from rehearsal import console


class _Bars:
    """A Rich display of named rows; where stderr is no terminal, a line when a row ends."""

    def __init__(self) -> None:
        self._bars = console.bars()
        self._rows: dict[str, TaskID] = {}
        self._terminal = console.err.is_terminal
        self._guard = threading.Lock()

    def __enter__(self) -> Self:
        if self._terminal:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal:
            self._bars.stop()

    def _show(self, row: str, note: str, done: int, total: int) -> None:
        with self._guard:
            if row not in self._rows:
                self._rows[row] = self._bars.add_task(row, total=total, note=note)
            self._bars.update(self._rows[row], completed=done, total=total, note=note)

    def _line(self, text: str) -> None:
        if not self._terminal:
            console.say(f"  {text}")


class ToolBars(_Bars):
    """Progress of `rehearsal.tools.ensure`."""

    def __call__(self, tool: str, phase: str, done: int, total: int) -> None:
        """Show one step of one tool's build."""
        first = tool not in self._rows
        self._show(tool, f"{phase} {done}/{total}" if phase == "compile" else phase, done, total)
        if phase == "download":
            self._line(f"{tool}: building")
        elif phase == "waiting":
            self._line(f"{tool}: waiting for another command that builds it")
        elif phase in ("done", "failed") and not (first and phase == "done"):
            self._line(f"{tool}: {phase}")


class ImageBars(_Bars):
    """Progress of `rehearsal.images.build`."""

    def __init__(self) -> None:
        super().__init__()
        self._layers: dict[str, tuple[int, int]] = {}

    def started(self, image: str, layers: int) -> None:
        """An image's build begins."""
        self._layers[image] = (0, layers)

    def advanced(self, image: str, layer: str, built: bool) -> None:
        """A layer is there, made now (`built`) or found."""
        done, total = self._layers[image]
        self._layers[image] = (done + 1, total)
        if built:
            self._show(f"image {image}", layer, done + 1, total)

    def finished(self, image: str, digest: str, built: int) -> None:
        """An image is complete; `built` of its layers were made now."""
        if built:
            self._show(f"image {image}", digest[:19], 1, 1)
            self._line(f"image {image}: {digest[:19]} ({built} new layers)")


_IN_BYTES = ("digests", "objects", "objects read back")
"""Parts of a backup whose progress is counted in bytes."""


class BackupBars(_Bars):
    """Progress of `rehearsal.backup`: a row per part; in a log a line when a part ends."""

    def __init__(self) -> None:
        super().__init__()
        self._ended: set[str] = set()

    def __call__(self, row: str, done: int, total: int) -> None:
        """Show how far `part: what is under way` is."""
        part, _, what = row.partition(": ")
        now = f" (now {what})" if what else ""
        scale, unit = (1e6, " MB") if part in _IN_BYTES else (1, "")
        so_far, all_ = (f"{count / scale:.{1 if unit else 0}f}" for count in (done, total))
        self._show(part, f"{what} {so_far}/{all_}{unit}".strip(), done, total)
        if done >= total and row not in self._ended:
            self._ended.add(row)
            self._line(f"{part}{now}: {all_}{unit} in all")
