"""Locks between processes: files that the kernel unlocks when their holder dies."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_S = 0.1


class Busy(Exception):
    """The lock is held by another process, and the caller does not want to wait (any longer)."""


def _always() -> bool:
    return True


@contextmanager
def locked(
    path: Path,
    *,
    shared: bool = False,
    wait: Callable[[], bool] = _always,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[int]:
    """Hold a lock between processes (and threads); yields the descriptor of the lock's file.

    A child that inherits the descriptor holds the lock too, until it ends.

    Args:
        path: the lock's file, made when missing and never removed: whoever waits has it open.
        shared: several may hold it at once, all of them shared.
        wait: asked again and again while another holds the lock; false gives up.
        waiting: called once when the lock is not free.

    Raises:
        Busy: `wait` said no.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.open("a") as handle:
        told = False
        while True:
            try:
                # Asked for again and again: a thread that sleeps in flock() can't be interrupted.
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not wait():
                    raise Busy(str(path)) from None
                if not told:
                    waiting()
                    told = True
                time.sleep(_POLL_S)
        yield handle.fileno()
